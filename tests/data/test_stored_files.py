"""Masks of others: found, brought onto the grid of the case, and refused by name where they do not fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK
from numpy.typing import NDArray
from PIL import Image

from medsam2.data.intensity import Window
from medsam2.data.phantom_volumes import PhantomVolumes
from medsam2.data.records import Case, DatasetError, Record, compute_consensus
from medsam2.data.releases.nnunet import NNUNet
from medsam2.data.stored import MaskFiles, StoredPrompt, find_files
from medsam2.data.volume_dataset import VolumeDataset

SHAPE = (20, 30)  # height, width: not square, so that a swap shows


class Pair:
    """Two images with two structures, without files."""

    name, structures, allow_shared_patient, exclusive = "pair", ("cup", "disc"), False, False
    root = Path()

    def __init__(self, *structures: str) -> None:
        self.structures = structures or ("cup", "disc")  # type: ignore[assignment]

    def records(self) -> list[Record]:
        return [Record(name, name, "test") for name in ("a", "b")]

    def load(self, record: Record) -> Case:
        raise NotImplementedError

    def fingerprint(self) -> str:
        return ""

    def decoding(self) -> dict[str, Any]:
        return {}


A, B = Pair().records()


def masks(seed: int = 0) -> dict[str, NDArray[np.bool_]]:
    rng, disc = np.random.default_rng(seed), np.zeros(SHAPE, bool)
    disc[3:15, 5:25] = True
    return {"cup": disc & (rng.random(SHAPE) < 0.4), "disc": disc}


def label_map(cup: int = 1, disc: int = 2) -> NDArray[np.uint8]:
    found = masks()
    return np.where(found["cup"], cup, np.where(found["disc"], disc, 0)).astype(np.uint8)


def save(path: Path, array: NDArray[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array) if path.suffix == ".npy" else Image.fromarray(array).save(path)


def own(found: dict[str, NDArray[np.bool_]]) -> dict[str, NDArray[np.bool_]]:
    """As a label map can say it: the disc is what is left of it beside the cup."""
    return {"cup": found["cup"], "disc": found["disc"] & ~found["cup"]}


@pytest.mark.parametrize("ending", [".png", ".tif", ".npy"])
def test_label_maps_count_from_one_in_the_order_of_the_structures(tmp_path: Path, ending: str) -> None:
    save(tmp_path / f"a{ending}", label_map())
    found = MaskFiles(tmp_path, Pair()).load(A, SHAPE)
    for name, mask in own(masks()).items():
        assert np.array_equal(found[name], mask), name
    turned = MaskFiles(tmp_path, Pair("disc", "cup")).load(A, SHAPE)
    assert np.array_equal(turned["disc"], found["cup"])


@pytest.mark.parametrize("said_by", ["labels", "dataset.json"])
def test_values_that_are_said(tmp_path: Path, said_by: str) -> None:
    save(tmp_path / "a.png", label_map(cup=6, disc=9))
    said = {"cup": 6, "disc": [6, 9]}
    if said_by == "dataset.json":
        (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "Cup": 6, "disc": [6, 9]}}))
    files = MaskFiles(tmp_path, Pair(), said if said_by == "labels" else None)
    for name, mask in masks().items():  # the disc is a union of two
        assert np.array_equal(files.load(A, SHAPE)[name], mask), name
    one = MaskFiles(tmp_path, Pair("cup"), said if said_by == "labels" else None)  # of a structure less
    assert np.array_equal(one.load(A, SHAPE)["cup"], masks()["cup"])


@pytest.mark.parametrize("white", [1, 255])
@pytest.mark.parametrize("ending", [".png", ".npy"])
def test_a_folder_per_structure(tmp_path: Path, white: int, ending: str) -> None:
    for name, mask in masks().items():
        save(tmp_path / name / f"a{ending}", mask.astype(np.uint8) * np.uint8(white))
    found = MaskFiles(tmp_path, Pair()).load(A, SHAPE)
    for name, mask in masks().items():
        assert np.array_equal(found[name], mask), name


@pytest.mark.parametrize("white", [1, 255])
def test_one_structure_is_written_either_way(tmp_path: Path, white: int) -> None:
    save(tmp_path / "a.png", masks()["disc"].astype(np.uint8) * np.uint8(white))
    assert np.array_equal(MaskFiles(tmp_path, Pair("disc")).load(A, SHAPE)["disc"], masks()["disc"])


def check(folder: Path, dataset: Any, records: list[Record], **settings: Any) -> str:
    shape = (dataset.size, dataset.size) if isinstance(dataset, PhantomVolumes) else SHAPE
    with pytest.raises(DatasetError) as caught:
        MaskFiles(folder, dataset, **settings).check(records, lambda record: shape)
    return str(caught.value)


def test_every_case_without_a_mask_is_named(tmp_path: Path) -> None:
    save(tmp_path / "other.png", label_map())
    text = check(tmp_path, Pair(), [A, B])
    assert f"predictions={tmp_path} do not fit dataset=pair" in text
    assert "2 of 2 cases have no mask" in text
    assert "other.png" in text
    assert text.endswith("a, b")
    for structure, name in (("cup", "a"), ("disc", "a"), ("disc", "b")):
        save(tmp_path / structure / f"{name}.png", label_map(1, 0))
    text = check(tmp_path, Pair(), [A, B])
    assert "1 of 2 cases have no mask" in text
    assert str(tmp_path / "cup") in text
    assert text.endswith(": b")


WRONG = [
    (label_map().T, "is 20×30 pixels, b is 30×20: save it at the case's size"),
    (label_map(disc=7), "holds [7], declared are [0, 1, 2]"),
    (np.stack([label_map()] * 3), "is 3×20×30 (slice×row×column), and the image b is asked for"),
    (label_map() * 0.5, "no whole number"),
]


@pytest.mark.parametrize(("array", "text"), WRONG)
def test_a_mask_that_does_not_fit_is_found_before_anything_is_scored(
    tmp_path: Path, array: NDArray[Any], text: str
) -> None:
    save(tmp_path / "a.npy", label_map())
    save(tmp_path / "b.npy", array)
    said = check(tmp_path, Pair(), [A, B])
    assert text in said
    assert str(tmp_path / "b.npy") in said
    assert str(tmp_path / "a.npy") not in said


def test_the_cure_names_the_key_by_which_values_are_said_here(tmp_path: Path) -> None:
    for name in "ab":
        save(tmp_path / f"{name}.png", ((label_map() > 0) * 255).astype(np.uint8))
    said = check(tmp_path, Pair(), [A, B])
    assert "give it the value 255 in labels" in said
    assert "release" not in said


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ({"cup": 1}, r"labels: says nothing of disc of dataset.structures, it has cup; .* labels='\{disc: 1\}'"),
        ({"cup": 0, "disc": 2}, r"labels=\{cup: 0\}: give the value"),
        ({"cup": "one", "disc": 2}, r"labels=\{cup: one\}: give the value"),
    ],
)
def test_labels_that_do_not_say_what_is_needed(tmp_path: Path, said: dict[str, Any], text: str) -> None:
    with pytest.raises(DatasetError, match=text):
        MaskFiles(tmp_path, Pair(), said)


def test_folders_that_say_too_little(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text('{"labels": {"liver": 1}}')
    with pytest.raises(DatasetError, match=r"dataset\.json: says nothing of cup, disc .* it has liver"):
        MaskFiles(tmp_path, Pair())
    (tmp_path / "dataset.json").write_text("{}")
    with pytest.raises(DatasetError, match="no readable labels"):
        MaskFiles(tmp_path, Pair())
    (tmp_path / "cup").mkdir()
    with pytest.raises(DatasetError, match="has folders for cup, and none for disc"):
        MaskFiles(tmp_path, Pair())


# ------------------------------------------------------------------------------------------------- volumes


@pytest.fixture(scope="module")
def phantom() -> PhantomVolumes:
    return PhantomVolumes(volumes={"train": 0, "val": 0, "test": 2}, size=32, depth=8, structures=["lobe", "vessel"])


def draw(phantom: PhantomVolumes, volume: str) -> NDArray[np.uint8]:
    """slice×row×column, 1 lobe, 2 vessel."""
    raters = phantom.draw(volume).raters
    found = np.zeros((phantom.depth, phantom.size, phantom.size), np.uint8)
    for value, name in enumerate(phantom.structures, start=1):
        for z in range(phantom.depth):
            found[z][compute_consensus(raters[name][:, z])] = value
    return found


def to_nifti(path: Path, slices: NDArray[Any]) -> None:
    """As most scanners' files lie: x to the right, y to the front, so that both axes of a slice are turned."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = slices[:, ::-1, ::-1].transpose(2, 1, 0)
    nibabel.save(nibabel.Nifti1Image(np.ascontiguousarray(array), np.diag([1.0, 1.0, 3.0, 1.0])), path)  # type: ignore[no-untyped-call]


def to_mha(path: Path, slices: NDArray[Any]) -> None:
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(slices), str(path))  # to the left and back, as slices are shown


WAYS: dict[str, Callable[[Path, NDArray[Any]], None]] = {".nii.gz": to_nifti, ".mha": to_mha, ".npy": save}


@pytest.mark.parametrize("ending", WAYS)
def test_a_file_per_volume(tmp_path: Path, phantom: PhantomVolumes, ending: str) -> None:
    for volume in ("test00", "test01"):
        WAYS[ending](tmp_path / f"{volume}{ending}", draw(phantom, volume))
    files = MaskFiles(tmp_path, phantom)
    files.check(phantom.records(), lambda record: (32, 32))
    for record in phantom.records():
        found, case = files.load(record, (32, 32)), phantom.load(record)
        for name in phantom.structures:
            assert np.array_equal(found[name], case.labels[name]), record.case_id


def test_a_file_per_slice(tmp_path: Path, phantom: PhantomVolumes) -> None:
    for record in phantom.records():
        save(tmp_path / f"{record.case_id}.png", draw(phantom, record.volume)[record.index])
    files = MaskFiles(tmp_path, phantom)
    for record in phantom.records():
        assert np.array_equal(files.load(record, (32, 32))["lobe"], phantom.load(record).labels["lobe"])


def test_a_volume_that_is_too_short(tmp_path: Path, phantom: PhantomVolumes) -> None:
    for volume in ("test00", "test01"):
        save(tmp_path / f"{volume}.npy", draw(phantom, volume)[:4])
    text = check(tmp_path, phantom, phantom.records())
    assert text.count("is 4×32×32 (slice×row×column), and slice ") == 2  # once for each volume


@pytest.fixture
def scans(tmp_path: Path, phantom: PhantomVolumes) -> VolumeDataset:
    """The phantom's test volumes as a data set of nnU-Net, as files with a place in space."""
    root = tmp_path / "Dataset001_Phantom"
    for volume in ("test00", "test01"):
        to_nifti(root / "labelsTs" / f"{volume}.nii.gz", draw(phantom, volume))
        to_nifti(root / "imagesTs" / f"{volume}_0000.nii.gz", phantom.draw(volume).image)
    for part in ("imagesTr", "labelsTr"):
        (root / part).mkdir()
    labels = {"background": 0, "lobe": 1, "vessel": 2}
    described = {"channel_names": {"0": "MR"}, "labels": labels, "file_ending": ".nii.gz"}
    (root / "dataset.json").write_text(json.dumps(described))
    return VolumeDataset(
        root, NNUNet(), {"mr": Window(0.5, 1.0)}, name="scans", plane="coronal", split_file=_all_test(root)
    )


def _all_test(root: Path) -> str:
    (root / "split.csv").write_text("case_id,split\ntest00,test\ntest01,test\n")
    return str(root / "split.csv")


def test_output_of_nnunet(tmp_path: Path, scans: VolumeDataset, phantom: PhantomVolumes) -> None:
    folder = tmp_path / "predicted"
    for volume in ("test00", "test01"):
        to_nifti(folder / f"{volume}.nii.gz", draw(phantom, volume))
    (folder / "dataset.json").write_text((scans.root / "dataset.json").read_text())
    (folder / "plans.json").write_text("{}")
    files, records = MaskFiles(folder, scans), scans.records()
    assert {record.split for record in records} == {"test"}
    for record in records:
        case = scans.load(record)
        for name, mask in files.load(record, case.image.shape[:2]).items():  # type: ignore[arg-type]
            assert np.array_equal(mask, case.labels[name]), record.case_id
    assert [file.name for file in find_files(folder)] == ["dataset.json", "test00.nii.gz", "test01.nii.gz"]


def test_a_volume_that_lies_elsewhere(tmp_path: Path, scans: VolumeDataset, phantom: PhantomVolumes) -> None:
    folder = tmp_path / "predicted"
    to_nifti(folder / "test00.nii.gz", draw(phantom, "test00"))
    to_mha(folder / "test01.mha", draw(phantom, "test01"))
    files = MaskFiles(folder, scans)
    with pytest.raises(DatasetError, match="lie in different places") as caught:
        files.check(scans.records(), lambda record: scans.load(record).image.shape[:2])  # type: ignore[arg-type, return-value]
    assert "test01.mha" in str(caught.value)
    assert "test00" not in str(caught.value)


def test_the_prompt_costs_nothing() -> None:
    prompt = StoredPrompt()(np.zeros(SHAPE, bool), np.random.default_rng(0))
    assert (prompt.name, prompt.budget, len(prompt.points), StoredPrompt.needs_object) == ("stored", "none", 0, False)
