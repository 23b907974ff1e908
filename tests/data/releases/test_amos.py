"""AMOS22: CT and MR by their numbers, validation scans as test, organs named as in BTCV."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers_releases import fails
from trees_volumes import as_shown, organs, read_label, scan, volumes, write_amos

from medsam2.data.records import of_split
from medsam2.data.releases.amos import AMOS
from medsam2.data.releases.btcv import BTCV

ORGANS = (
    *("spleen", "right_kidney", "left_kidney", "gallbladder", "esophagus", "liver", "stomach", "aorta", "ivc"),
    *("pancreas", "right_adrenal", "left_adrenal", "duodenum", "bladder", "prostate_uterus"),
)


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_amos(tmp_path_factory.mktemp("amos") / "amos22", train=6, val=2)


@pytest.fixture
def root(clean: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(clean, tmp_path / "amos22"))


def names(first: int, count: int) -> set[str]:
    return {f"amos_{number:04d}" for number in range(first, first + count)}


@pytest.mark.parametrize(
    ("modality", "train", "test"),
    [
        ("ct", names(1, 6), names(7, 2)),
        ("mr", names(507, 6), names(513, 2)),
        ("both", names(1, 6) | names(507, 6), names(7, 2) | names(513, 2)),
    ],
)
def test_cases_and_splits(clean: Path, modality: str, train: set[str], test: set[str]) -> None:
    records = volumes(AMOS(modality), clean, structures="liver").records()
    assert {r.volume for r in of_split(records, "test")} == test
    assert {r.volume for s in ("train", "val") for r in of_split(records, s)} == train
    assert len({r.volume for r in of_split(records, "val")}) == 1
    assert all(r.modality == ("ct" if int(r.volume[5:]) < 500 else "mr") for r in records)
    assert all(r.image.startswith("imagesVa" if r.split == "test" else "imagesTr") for r in records)


def test_organs_are_where_they_were_drawn(clean: Path) -> None:
    data = volumes(AMOS("both"), clean, slices="all")
    assert data.structures == ORGANS
    assert set(BTCV.labels) - set(ORGANS) == {"portal_splenic_vein"}
    for number in (2, 8, 509):
        assert np.array_equal(read_label(data, f"amos_{number:04d}"), as_shown(organs(number, 15)))


def test_mr_is_shown_by_its_percentiles(clean: Path) -> None:
    data = volumes(AMOS("mr"), clean, slices="all")
    values = as_shown(scan(507, organs(507, 15)))
    low, high = np.percentile(values[values != 0], [0.5, 99.5])
    expected = ((values[3] - low) / (high - low)).clip(0, 1)
    assert data.load(data.records()[3]).image[..., 0] == pytest.approx(expected, abs=1e-5)


def test_without_validation_labels_test_is_carved(root: Path) -> None:
    shutil.rmtree(root / "labelsVa")
    records = volumes(AMOS(), root, structures="liver").records()
    assert {r.volume for r in records} == names(1, 6)
    assert [len({r.volume for r in of_split(records, s)}) for s in ("train", "val", "test")] == [4, 1, 1]


def test_half_unpacked(root: Path) -> None:
    (root / "labelsVa/amos_0008.nii.gz").unlink()
    (root / "imagesTr/amos_0508.nii.gz").unlink()
    fails(
        volumes(AMOS("ct"), root).records,
        "missing mask",
        "1 problem",
        "imagesVa/amos_0008.nii.gz: no label of amos_0008",
    )
    fails(volumes(AMOS("mr"), root).records, "missing image", "labelsTr/amos_0508.nii.gz: no image of amos_0508")


def test_mistakes(root: Path, tmp_path: Path) -> None:
    fails(lambda: AMOS("pet"), "unreadable", "dataset.release.modality='pet' is not one of ct, mr, both")
    fails(volumes(AMOS(), tmp_path / "no").records, "missing", "no such folder", "imagesVa/amos_0008", "dataset.root")
    (root / "imagesTr/copy.nii.gz").touch()
    fails(volumes(AMOS(), root).records, "unreadable", "imagesTr/copy.nii.gz is not named as AMOS names its scans")
    (root / "imagesTr/copy.nii.gz").unlink()
    for file in root.rglob("amos_05*"):
        file.unlink()
    fails(volumes(AMOS("mr"), root).records, "missing", "no scans of dataset.release.modality=mr")
    shutil.rmtree(root / "labelsTr")
    fails(volumes(AMOS(), root).records, "missing", "no folders imagesTr and labelsTr", "dataset.json, imagesTr/")
