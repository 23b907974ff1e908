"""Slices of volumes: which there are, what they hold, what is remembered, and each mistake by its kind."""

from __future__ import annotations

import json
import os
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from helpers_releases import fails
from numpy.typing import NDArray
from trees_volumes import CODES, INTENSITY, REGIONS, as_shown, organs, save_volume, scan, write_nnunet

from medsam2.data.intensity import Percentiles, Range, Window
from medsam2.data.records import DatasetError, Record, of_split
from medsam2.data.releases.base import Volume
from medsam2.data.releases.nnunet import NNUNet
from medsam2.data.splits import save_split
from medsam2.data.volume_checks import check_label, count_values
from medsam2.data.volume_dataset import VolumeDataset

FIRST = "heart01_t1"


class Counting(NNUNet):
    """Remembers what was read, and looks whether the volume before is gone by then."""

    def __init__(self) -> None:
        super().__init__(patient_pattern="(heart[0-9]+)")
        self._read: list[str] = []
        self._watched: weakref.ref[Any] | None = None

    def read_image(self, root: Path, record: Record) -> Volume:
        assert self._watched is None or self._watched() is None, "the volume before is still in memory"
        self._read.append(f"image {record.volume or record.case_id}")
        return super().read_image(root, record)

    def read_label(self, root: Path, record: Record) -> Volume:
        self._read.append(f"label {record.volume or record.case_id}")
        return super().read_label(root, record)


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_nnunet(tmp_path_factory.mktemp("clean") / "set")


@pytest.fixture
def root(clean: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(clean, tmp_path / "set"))


def open_set(root: Path, release: Any = None, **settings: Any) -> VolumeDataset:
    release = release or NNUNet(patient_pattern="(heart[0-9]+)")
    return VolumeDataset(root, release, **{"intensity": INTENSITY, "name": "hearts", **settings})


# ------------------------------------------------------------------------------------------------- slices


def test_labelled_slices_are_those_that_show_something(clean: Path) -> None:
    records = open_set(clean).records()
    assert [r.case_id for r in records[:5]] == [*(f"{FIRST}_z{z:03d}" for z in (1, 2, 3, 4)), "heart01_t2_z001"]
    assert len(records) == 40
    first = records[0]
    assert (first.volume, first.index, first.patient_id, first.modality) == (FIRST, 1, "heart01", "ct")
    assert first.files == (f"imagesTr/{FIRST}_0000.nii.gz", f"labelsTr/{FIRST}.nii.gz")
    assert len(open_set(clean, slices="all").records()) == 60


def test_a_structure_counts_from_min_pixels_on(clean: Path) -> None:
    assert len(open_set(clean, min_pixels=12).records()) == 40
    with pytest.raises(DatasetError, match="no slice shows left_atrium, lv, rv with 13 pixels or more") as error:
        open_set(clean, min_pixels=13).records()
    assert error.value.kind == "empty volume"


def test_areas_are_pixels_of_each_slice(clean: Path) -> None:
    dataset = open_set(clean, structures=["lv"])
    assert dataset.slice_areas(dataset.listing().records[0]) == (6, {"lv": [0, 12, 12, 12, 12, 0]})
    coronal = open_set(clean, structures="lv", plane="coronal")
    count, areas = coronal.slice_areas(coronal.listing().records[0])
    assert (count, sum(areas["lv"]), max(areas["lv"])) == (20, 48, 12)


def test_a_slice_is_shown_as_the_phantom_lies(clean: Path) -> None:
    """Through six grids: grey by the window, structures by their values, spacing of rows and columns."""
    dataset = open_set(clean, slices="all")
    for number in range(len(CODES)):
        case = dataset.load(dataset.records()[6 * number + 2])
        label = organs(number, 3)
        hu = as_shown(scan(number, label))[2]
        assert case.image.dtype == np.float32
        assert case.image[..., 0] == pytest.approx((hu + 160) / 400, abs=1e-6)
        for value, structure in enumerate(("left_atrium", "lv", "rv"), start=1):
            assert np.array_equal(case.labels[structure], as_shown(label)[2] == value)
            assert np.array_equal(case.raters[structure], case.labels[structure][None])
        assert case.spacing == pytest.approx((0.8, 0.9))
        assert case.thickness == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("plane", "shape", "spacing"),
    [
        ("coronal", (6, 24), (0.8, 3.0, 0.9)),
        ("sagittal", (6, 20), (0.9, 3.0, 0.8)),
        ("acquired", (20, 24), (3.0, 0.8, 0.9)),
    ],
)
def test_planes(clean: Path, plane: str, shape: tuple[int, int], spacing: tuple[float, float, float]) -> None:
    dataset = open_set(clean, plane=plane)
    for record in dataset.records()[::9]:
        case = dataset.load(record)
        assert case.image.shape == (*shape, 1)
        assert case.spacing is not None
        assert (case.thickness, *case.spacing) == pytest.approx(spacing)
        assert any(mask.any() for mask in case.labels.values())


def test_three_channels_and_regions(tmp_path: Path) -> None:
    root = write_nnunet(tmp_path, count=6, channels=("T1", "T2", "FLAIR"), labels=REGIONS)
    dataset = open_set(root, NNUNet(channels=[2, 0, 1], patient_pattern="(heart[0-9]+)"), slices="all")
    assert dataset.structures == ("edge", "whole", "core")
    assert not dataset.exclusive  # the core is in the whole
    assert open_set(root, structures=["edge", "core"]).exclusive
    case = dataset.load(dataset.records()[1])
    label = as_shown(organs(0, 3))[1]
    hu = as_shown(scan(0, organs(0, 3)))
    assert case.image.shape == (20, 24, 3)
    for channel, offset in enumerate((200, 0, 100)):
        low, high = np.percentile((hu + offset)[hu + offset != 0], [0.5, 99.5])
        expected = ((hu[1] + offset - low) / (high - low)).clip(0, 1)
        assert case.image[..., channel] == pytest.approx(expected, abs=1e-5)
    assert np.array_equal(case.labels["whole"], np.isin(label, [1, 2, 3]))
    assert np.array_equal(case.labels["core"], np.isin(label, [2, 3]))
    assert np.array_equal(case.labels["edge"], label == 1)
    count, areas = dataset.slice_areas(dataset.listing().records[0])
    assert (count, areas["whole"], areas["core"]) == (6, [0, 36, 36, 36, 36, 0], [0, 24, 24, 24, 24, 0])


# ------------------------------------------------------------------------------------------ what is remembered


def test_a_volume_is_decoded_once_and_one_is_kept(clean: Path) -> None:
    release = Counting()
    dataset = open_set(clean, release)
    a, b = dataset.records()[:4], dataset.records()[4:8]
    release._read.clear()
    for record in a:
        dataset.load(record)
    assert release._read == [f"image {FIRST}", f"label {FIRST}"]
    release._watched = weakref.ref(dataset.open(a[0]).image.base)
    dataset.load(b[0])
    assert release._watched() is None
    release._watched = None
    dataset.load(a[0])
    assert release._read[2:] == ["image heart01_t2", "label heart01_t2", f"image {FIRST}", f"label {FIRST}"]
    volume = dataset.listing().records[0]
    assert dataset.open(volume) is dataset.open(a[1])


def test_label_counts_are_remembered_as_long_as_the_file_stays(root: Path, tmp_path: Path) -> None:
    def labels_read(**settings: Any) -> list[str]:
        release = Counting()
        open_set(root, release, cache_dir=str(tmp_path / "cache"), **settings).records()
        return release._read

    assert len(labels_read()) == 10
    assert labels_read() == []
    assert labels_read(structures="lv", min_pixels=5, slices="all") == []
    assert len(labels_read(plane="coronal")) == 10
    file = root / "labelsTr" / f"{FIRST}.nii.gz"
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))
    assert labels_read() == [f"label {FIRST}"]


def test_what_decides_a_decoded_slice(clean: Path) -> None:
    base = open_set(clean).decoding()
    assert base == open_set(clean, min_pixels=3, val_fraction=0.3, name="other").decoding()
    assert base["labels"] == {"left_atrium": (1,), "lv": (2,), "rv": (3,)}
    for settings in (
        {"plane": "coronal"},
        {"structures": ["lv"]},
        {"intensity": {"ct": Window(40, 401)}},
        {"intensity": {"ct": Range()}},
        {"release": NNUNet(channels=[0])},
    ):
        assert open_set(clean, **settings).decoding() != base, settings


# -------------------------------------------------------------------------------------------------- splits


def test_a_patient_is_in_one_split_with_all_slices(clean: Path) -> None:
    records = open_set(clean).records()
    splits = {r.patient_id: r.split for r in records}
    assert all(splits[r.patient_id] == r.split for r in records)
    assert [len(of_split(records, split)) for split in ("train", "val", "test")] == [24, 8, 8]
    folds = [{r.patient_id for r in of_split(open_set(clean, fold=k).records(), "test")} for k in range(5)]
    assert sorted(p for fold in folds for p in fold) == [f"heart{n:02d}" for n in range(1, 6)]


def test_a_saved_split_gives_the_same_again(clean: Path, tmp_path: Path) -> None:
    records = open_set(clean).records()
    file = str(save_split(records, tmp_path / "split.csv"))
    assert open_set(clean, split_file=file, split_seed=7).records() == records
    fewer = open_set(clean, split_file=file, structures="lv", plane="axial").records()
    assert [(r.case_id, r.split) for r in fewer] == [(r.case_id, r.split) for r in records]
    half = str(save_split(records[::2], tmp_path / "half.csv"))
    assert [r.case_id for r in open_set(clean, split_file=half, slices="all").records()] == [
        r.case_id for r in records[::2]
    ]


def test_nnunet_s_own_splits(clean: Path, tmp_path: Path) -> None:
    cases = [f"heart{n:02d}_t{t}" for n in range(1, 6) for t in (1, 2)]
    splits = [{"train": cases[2:], "val": cases[:2]}, {"train": cases[:8], "val": cases[8:]}]
    (tmp_path / "splits_final.json").write_text(json.dumps(splits))
    records = open_set(clean, split_file=str(tmp_path / "splits_final.json"), fold=1).records()
    assert {r.volume for r in of_split(records, "test")} == {"heart05_t1", "heart05_t2"}  # the fold's val
    assert len({r.patient_id for r in of_split(records, "val")}) == 1
    assert [len(of_split(records, split)) for split in ("train", "val")] == [24, 8]


def test_the_fingerprint_follows_the_files(root: Path) -> None:
    before = open_set(root).fingerprint()
    assert before == open_set(root).fingerprint() != open_set(root, structures="lv").fingerprint()
    save_volume(root / "imagesTr" / f"{FIRST}_0000.nii.gz", scan(77, organs(1, 3)), CODES[0])
    assert open_set(root).fingerprint() != before


# ------------------------------------------------------------------------------------------------ mistakes


def load_first(root: Path) -> Any:
    dataset = open_set(root)
    return dataset.load(dataset.records()[0])


def change(path: Path, edit: Callable[[NDArray[Any]], NDArray[Any]], affine: Any = None) -> None:
    """A file with other voxels, and the same place or another."""
    image = nibabel.load(path)
    array = edit(np.asarray(image.dataobj))
    place = image.affine if affine is None else affine(image.affine)
    nibabel.save(nibabel.Nifti1Image(array, place, dtype=array.dtype), path)


def put(value: float, dtype: Any = None) -> Callable[[NDArray[Any]], NDArray[Any]]:
    def edit(array: NDArray[Any]) -> NDArray[Any]:
        array = array.astype(dtype or array.dtype)
        array[3, 2, 1] = value
        return array

    return edit


def mirrored(affine: NDArray[Any]) -> NDArray[Any]:
    return affine @ np.diag([-1.0, 1, 1, 1])


def moved(mm: float) -> Callable[[NDArray[Any]], NDArray[Any]]:
    def move(affine: NDArray[Any]) -> NDArray[Any]:
        affine = affine.copy()
        affine[2, 3] += mm
        return affine

    return move


@pytest.mark.parametrize(
    ("value", "dtype", "shown"),
    [
        (7, np.uint8, "value 7 ([7] found"),
        (-1, np.int16, "value -1 ([-1] found"),
        (4, np.float32, "value 4 ([4] found"),
    ],
)
def test_an_undeclared_value(root: Path, value: float, dtype: Any, shown: str) -> None:
    change(root / "labelsTr" / f"{FIRST}.nii.gz", put(value, dtype))
    fails(open_set(root).records, "undeclared value", f"labelsTr/{FIRST}.nii.gz: label", shown, "declared [0, 1, 2, 3]")


@pytest.mark.parametrize(("value", "shown"), [(0.5, "0.5"), (np.nan, "nan"), (np.inf, "inf"), (1e12, "1e+12")])
def test_a_label_that_was_interpolated(root: Path, value: float, shown: str) -> None:
    change(root / "labelsTr" / f"{FIRST}.nii.gz", put(value, np.float64))
    fails(
        open_set(root).records, "undeclared value", f"labelsTr/{FIRST}.nii.gz", f"no whole number, {shown}", "nearest"
    )


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_image_that_is_not_finite(root: Path, value: float) -> None:
    change(root / "imagesTr" / f"{FIRST}_0000.nii.gz", put(value, np.float32))
    fails(lambda: load_first(root), "not finite", f"imagesTr/{FIRST}_0000.nii.gz: holds NaN or infinite values")


def test_image_and_label_of_other_grids(root: Path) -> None:
    change(root / "labelsTr" / f"{FIRST}.nii.gz", lambda array: array[:-1])
    fails(
        lambda: load_first(root), "size mismatch", "_0000.nii.gz is 24×20×6", f"{FIRST}.nii.gz is 23×20×6", "Resample"
    )


@pytest.mark.parametrize("affine", [mirrored, moved(0.9)])
def test_image_and_label_in_other_places(root: Path, affine: Any) -> None:
    change(root / "labelsTr" / f"{FIRST}.nii.gz", np.asarray, affine)
    fails(
        lambda: load_first(root), "orientation", "lie in different places", f"labelsTr/{FIRST}.nii.gz", " mm from that"
    )


def test_rounding_is_no_other_place(root: Path) -> None:
    change(root / "labelsTr" / f"{FIRST}.nii.gz", np.asarray, moved(0.05))
    assert load_first(root).labels["lv"].sum() == 12


def test_an_affine_without_three_directions(root: Path) -> None:
    path = root / "labelsTr" / f"{FIRST}.nii.gz"
    image = nibabel.load(path)
    image.header["sform_code"], image.header["qform_code"], image.header["srow_x"] = 1, 0, 0
    nibabel.save(nibabel.Nifti1Image(image.dataobj, None, image.header), path)
    fails(open_set(root).records, "non-invertible affine", f"labelsTr/{FIRST}.nii.gz: its affine is not invertible")


def test_an_unknown_orientation(root: Path) -> None:
    path = root / "labelsTr" / f"{FIRST}.nii.gz"
    image = nibabel.load(path)
    image.header["sform_code"] = image.header["qform_code"] = 0
    nibabel.save(nibabel.Nifti1Image(image.dataobj, None, image.header), path)
    fails(open_set(root).records, "orientation", f"{FIRST}.nii.gz: says nothing about its orientation")


def test_a_volume_without_any_label_has_no_slices(root: Path) -> None:
    change(root / "labelsTr" / f"{FIRST}.nii.gz", lambda array: array * 0)
    assert FIRST not in {r.volume for r in open_set(root).records()}
    assert sum(r.volume == FIRST for r in open_set(root, slices="all").records()) == 6
    for path in (root / "labelsTr").glob("heart*"):
        change(path, lambda array: array * 0)
    fails(open_set(root).records, "empty volume", "dataset=hearts: no slice shows left_atrium, lv, rv")


def test_a_label_of_no_voxels() -> None:
    fails(
        lambda: check_label(np.zeros((0, 3, 4), np.uint8), {0}, Path("a.nii")), "empty volume", "a.nii: label of 0×3×4"
    )


def test_labels_of_every_type() -> None:
    slices = np.array([[[0, 1], [3, 3]], [[0, 0], [0, 0]]])
    for dtype in (np.uint8, np.int16, ">i2", np.uint32, np.int64, np.uint64, np.float32, np.float64):
        label = check_label(slices.astype(dtype), {0, 1, 3}, Path("a.nii"))
        assert np.array_equal(label, slices)
        assert count_values(label).tolist() == [[1, 1, 0, 2], [4, 0, 0, 0]]
        assert label.dtype == np.uint8  # kept in memory, however wide its file is
    assert check_label(slices == 3, {0, 1}, Path("a.nii")).sum() == 2
    assert check_label(slices * 100, {0, 100, 300}, Path("a.nii")).max() == 300
    fails(lambda: check_label(slices, {0, 3}, Path("a.nii")), "undeclared value", "undeclared value 1 ([1] found")


def test_a_modality_without_an_intensity_is_named_before_anything_is_read(clean: Path) -> None:
    release = Counting()
    dataset = open_set(clean, release, intensity={"mr": Percentiles()})
    fails(dataset.records, "unreadable", "dataset.intensity says nothing about 'ct'", "it knows mr")
    assert release._read == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"plane": "oblique"}, "dataset.plane='oblique' is not one of axial, coronal, sagittal, acquired"),
        ({"slices": "some"}, "dataset.slices='some' must be labelled or all"),
        ({"min_pixels": 0}, "dataset.min_pixels=0 must be 1 or more"),
        ({"val_fraction": 2}, "dataset.val_fraction=2"),
    ],
)
def test_bad_settings(clean: Path, settings: dict[str, Any], message: str) -> None:
    fails(lambda: open_set(clean, **settings), "unreadable", message)


def test_too_few_patients(root: Path) -> None:
    for path in root.rglob("heart0[2-5]*"):
        path.unlink()
    fails(open_set(root).records, "too few cases", "dataset.test_fraction=0.2 of 1 training patients")
