"""ACDC: frames of a heart are one patient, slices are thick, and the sform counts voxels."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers_releases import fails
from trees_volumes import as_shown, organs, read_label, volumes, write_acdc

from medsam2.data.records import of_split
from medsam2.data.releases.acdc import ACDC


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_acdc(tmp_path_factory.mktemp("acdc") / "ACDC", train=5, test=2)


@pytest.fixture
def root(clean: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(clean, tmp_path / "ACDC"))


@pytest.mark.parametrize("below", [".", "database"])
def test_cases_and_splits(clean: Path, below: str) -> None:
    records = volumes(ACDC(), clean / below, plane="acquired").records()
    assert {r.volume for r in records} == {
        f"patient{n:03d}_frame{frame}" for n in (1, 2, 3, 4, 5, 101, 102) for frame in ("01", "12")
    }
    assert all(r.patient_id == r.volume[:10] for r in records)
    assert all(r.modality == "mr" for r in records)
    assert {r.patient_id for r in of_split(records, "test")} == {"patient101", "patient102"}
    assert len({r.patient_id for r in of_split(records, "val")}) == 1
    assert len({r.volume for r in of_split(records, "val")}) == 2


@pytest.mark.parametrize("sform", [True, False])
def test_chambers_and_millimetres(clean: Path, tmp_path: Path, sform: bool) -> None:
    root = clean if sform else write_acdc(tmp_path / "ACDC", train=3, test=1, sform=False)
    data = volumes(ACDC(), root, plane="acquired", slices="all")
    assert data.structures == ("rv", "myocardium", "lv")
    for patient, frame in ((1, 1), (3, 12)):
        volume = f"patient{patient:03d}_frame{frame:02d}"
        assert np.array_equal(read_label(data, volume), as_shown(organs(patient - 1 + frame, 3)))
    case = data.load(data.records()[0])
    assert case.spacing == pytest.approx((1.4, 1.5))
    assert data.open(case.record).geometry.spacing == pytest.approx((10, 1.4, 1.5))


def test_testing_without_labels_is_left_out(root: Path) -> None:
    for path in (root / "database/testing").rglob("*_gt.nii.gz"):
        path.unlink()
    records = volumes(ACDC(), root, plane="acquired").records()
    assert {r.patient_id for r in records} == {f"patient{n:03d}" for n in range(1, 6)}
    assert len({r.patient_id for r in of_split(records, "test")}) == 1


def test_half_unpacked(root: Path) -> None:
    (root / "database/training/patient002/patient002_frame12_gt.nii.gz").unlink()
    (root / "database/testing/patient101/patient101_frame01.nii.gz").unlink()
    fails(
        volumes(ACDC(), root).records,
        "missing mask",
        "training/patient002/patient002_frame12.nii.gz: no label of patient002_frame12",
        "testing/patient101/patient101_frame01_gt.nii.gz: no image of patient101_frame01",
    )


def test_missing(root: Path) -> None:
    shutil.rmtree(root / "database/training")
    fails(
        volumes(ACDC(), root).records,
        "missing",
        "no folder training",
        "patient001_frame01_gt",
        "Found there: database/",
    )
