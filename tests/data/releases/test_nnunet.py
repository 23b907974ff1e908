"""nnU-Net's raw format: names and regions from dataset.json, channels as files, test labels, other endings."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from helpers_releases import fails
from trees_volumes import REGIONS, as_shown, organs, read_label, save_volume, volumes, write_json, write_nnunet

from medsam2.data.records import of_split
from medsam2.data.releases.nnunet import NNUNet
from medsam2.data.volume_dataset import VolumeDataset

PATIENT = "(heart[0-9]+)"


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_nnunet(tmp_path_factory.mktemp("nnunet") / "Dataset001_Name", test=4)


@pytest.fixture
def root(clean: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(clean, tmp_path / "Dataset001_Name"))


def edit(root: Path, **changes: Any) -> None:
    described = json.loads((root / "dataset.json").read_text()) | changes
    write_json(root / "dataset.json", {key: value for key, value in described.items() if value is not None})


def test_cases_patients_and_splits(clean: Path) -> None:
    data = volumes(NNUNet(patient_pattern=PATIENT), clean)
    records = data.records()
    assert data.structures == ("left_atrium", "lv", "rv")
    assert {r.patient_id for r in of_split(records, "test")} == {"heart06", "heart07"}
    assert {r.patient_id for s in ("train", "val") for r in of_split(records, s)} == {
        f"heart{n:02d}" for n in range(1, 6)
    }
    assert {r.modality for r in records} == {"ct"}
    alone = volumes(NNUNet(), clean).records()
    assert all(r.patient_id == r.volume for r in alone)


def volumes_of(data: VolumeDataset) -> dict[str, set[str]]:
    records = data.records()
    return {split: {r.volume for r in of_split(records, split)} for split in ("train", "val", "test")}


def write_fold(root: Path, train: range, val: range) -> str:
    names = [f"heart{n // 2 + 1:02d}_t{n % 2 + 1}" for n in range(14)]
    write_json(root / "splits_final.json", [{"train": [names[n] for n in train], "val": [names[n] for n in val]}])
    return str(root / "splits_final.json")


def test_nnunet_s_fold_beside_labelled_test_cases(root: Path) -> None:
    found = volumes_of(volumes(NNUNet(), root, split_file=write_fold(root, range(6), range(6, 10))))
    assert found == {
        "train": {f"heart{n:02d}_t{t}" for n in (1, 2, 3) for t in (1, 2)},
        "val": {f"heart{n:02d}_t{t}" for n in (4, 5) for t in (1, 2)},
        "test": {f"heart{n:02d}_t{t}" for n in (6, 7) for t in (1, 2)},
    }


def test_nnunet_s_fold_without_test_cases(tmp_path: Path) -> None:
    root = write_nnunet(tmp_path, count=10)
    file = write_fold(root, range(6), range(6, 10))
    found = volumes_of(volumes(NNUNet(patient_pattern=PATIENT), root, split_file=file))
    assert found["test"] == {f"heart{n:02d}_t{t}" for n in (4, 5) for t in (1, 2)}
    assert found["train"] | found["val"] == {f"heart{n:02d}_t{t}" for n in (1, 2, 3) for t in (1, 2)}
    patients = [{name[:7] for name in found[split]} for split in ("train", "val", "test")]
    assert [len(each) for each in patients] == [2, 1, 2]
    assert len(set.union(*patients)) == 5


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha"])
def test_endings(tmp_path: Path, ending: str) -> None:
    root = write_nnunet(tmp_path, count=4, channels=("MRI",), ending=ending)
    data = volumes(NNUNet(), root, slices="all")
    records = data.records()
    assert records[0].files == (f"imagesTr/heart01_t1_0000{ending}", f"labelsTr/heart01_t1{ending}")
    assert {r.modality for r in records} == {"mr"}
    assert np.array_equal(read_label(data, "heart02_t1"), as_shown(organs(2, 3)))


def test_regions_and_the_ignore_label(tmp_path: Path) -> None:
    root = write_nnunet(tmp_path, count=4, labels=REGIONS)
    path = root / "labelsTr" / "heart01_t1.nii.gz"
    array = np.asarray(nibabel.load(path).dataobj).copy()
    array[0, 0, 2] = 4
    save_volume(path, array)
    data = volumes(NNUNet(), root, slices="all")
    assert data.structures == ("edge", "whole", "core")
    case = data.load(data.records()[2])
    assert {s: int(mask.sum()) for s, mask in case.labels.items()} == {"edge": 12, "whole": 36, "core": 24}
    fails(
        lambda: volumes(NNUNet(), root, structures="ignore").structures,
        "unreadable",
        "name one or more of edge, whole, core",
    )
    edit(root, labels={"background": 0, "whole": [1, 2, 3]})
    fails(volumes(NNUNet(), root).records, "undeclared value", "heart01_t1.nii.gz", "value 4")


def test_channels_are_files(tmp_path: Path) -> None:
    root = write_nnunet(tmp_path, count=4, channels=("T1", "T2", "FLAIR"))
    fails(volumes(NNUNet(), root).records, "channels", "0 T1, 1 T2, 2 FLAIR", "choose one ([0]) or three ([0, 1, 2])")
    one = volumes(NNUNet(channels=[1]), root).records()
    assert one[0].image == "imagesTr/heart01_t1_0001.nii.gz"
    assert one[0].others == ()
    data = volumes(NNUNet(channels=[0, 2, 2]), root)
    stored = data.release.read_image(root, data.records()[0])
    assert (stored.array[..., 1] - stored.array[..., 0] == 200).all()
    assert np.array_equal(stored.array[..., 1], stored.array[..., 2])
    save_volume(root / "imagesTr/heart01_t1_0002.nii.gz", organs(0, 3)[1:])
    fails(lambda: data.load(data.records()[0]), "size mismatch", "heart01_t1_0002.nii.gz is 23×20×6")
    (root / "imagesTr/heart01_t2_0002.nii.gz").unlink()
    fails(
        volumes(NNUNet(channels=[0, 1, 2]), root).records, "missing image", "heart01_t2.nii.gz: no image of heart01_t2"
    )


def test_half_unpacked(root: Path) -> None:
    (root / "labelsTs/heart06_t1.nii.gz").unlink()
    fails(volumes(NNUNet(), root).records, "missing mask", "imagesTs/heart06_t1_0000.nii.gz: no label of heart06_t1")
    shutil.rmtree(root / "imagesTs")
    fails(volumes(NNUNet(), root).records, "missing", "no folder imagesTs")


def test_a_dataset_json_that_cannot_be_used(root: Path) -> None:
    edit(root, file_ending=".png")
    fails(volumes(NNUNet(), root).records, "channels", "file_ending '.png' is no volume format", "dataset=folder")
    edit(root, file_ending=None)
    assert len({r.volume for r in volumes(NNUNet(), root).records()}) == 14
    edit(root, labels={"background": 0, "lv": "1.5"})
    fails(volumes(NNUNet(), root).records, "unreadable", "dataset.json: the label")
    edit(root, labels={"background": 0, "lv": 1, "rv": 2, "la": 3}, channel_names=None)
    fails(volumes(NNUNet(), root).records, "missing", "no channel_names", "dataset=msd")


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(heart", "is no regular expression"),
        ("heart", "has 0 groups, expected one"),
        ("(kidney)", "finds no patient in"),
    ],
)
def test_a_pattern_that_finds_no_patient(clean: Path, pattern: str, message: str) -> None:
    fails(lambda: volumes(NNUNet(patient_pattern=pattern), clean).records(), "unreadable", "patient_pattern", message)
