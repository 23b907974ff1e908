"""ISIC 2018: three parts, of which those without ground truth are left out."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers_data import save_grey
from helpers_releases import case_of, dataset, fails, same, splits_of
from trees_flat import FLAT, blob, photo_of, write_isic

from medsam2.data.releases.isic import Isic2018

MASK = "ISIC2018_Task1_Training_GroundTruth/ISIC_0000002_segmentation.png"


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_isic(tmp_path_factory.mktemp("isic"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_isic(tmp_path / "ISIC2018")


def test_official_splits(clean: Path) -> None:
    found = splits_of(dataset(Isic2018(), clean))
    assert found["train"] == [f"ISIC_{n:07d}" for n in range(8)]
    assert found["val"] == ["ISIC_0000008", "ISIC_0000010"]
    assert found["test"] == ["ISIC_0000009", "ISIC_0000011"]


def test_values(clean: Path) -> None:
    case = case_of(dataset(Isic2018(), clean), "ISIC_0000009")
    assert same(case.raters["lesion"], blob(9))
    assert case.image == pytest.approx(photo_of(blob(9), 9) / 255, abs=0.25)  # as far as JPEG keeps noise
    assert case.record.patient_id == "ISIC_0000009"
    assert case.record.image == "ISIC2018_Task1-2_Test_Input/ISIC_0000009.jpg"


def test_parts_without_ground_truth_are_carved_from_training(tmp_path: Path) -> None:
    root = write_isic(tmp_path, ("Training",), count=18)
    found = splits_of(dataset(Isic2018(), root))
    assert {split: len(cases) for split, cases in found.items()} == {"train": 9, "val": 1, "test": 2}
    assert sorted(case for cases in found.values() for case in cases) == [f"ISIC_{n:07d}" for n in range(12)]


def test_training_alone_by_choice(clean: Path) -> None:
    found = splits_of(dataset(Isic2018(parts=["Training"]), clean))
    assert {split: len(cases) for split, cases in found.items()} == {"train": 5, "val": 1, "test": 2}


@pytest.mark.parametrize("parts", [[], ["Test"], ["Training", "Val"]])
def test_bad_parts(parts: list[str]) -> None:
    fails(lambda: Isic2018(parts=parts), "unreadable", "dataset.release.parts", "must name Training")


def test_missing_folders(root: Path, tmp_path: Path) -> None:
    data = dataset(Isic2018(), tmp_path / "nowhere", name="isic2018")
    fails(data.records, "missing", "nowhere", "no such folder", "paths.data_root", "<id>_segmentation.png")
    shutil.rmtree(root / "ISIC2018_Task1-2_Test_Input")
    fails(dataset(Isic2018(), root).records, "missing", "ISIC2018_Task1-2_Test_Input missing", "Found there: ISIC2018")
    shutil.rmtree(root / "ISIC2018_Task1_Training_GroundTruth")
    fails(dataset(Isic2018(), root).records, "missing", "ISIC2018_Task1_Training_GroundTruth missing")


def test_half_unpacked(root: Path) -> None:
    (root / MASK).unlink()
    (root / "ISIC2018_Task1-2_Test_Input/ISIC_0000009.jpg").unlink()
    fails(
        dataset(Isic2018(), root).records,
        "missing mask",
        "2 problems",
        "ISIC_0000002.jpg: no mask ISIC_0000002_segmentation.png in ISIC2018_Task1_Training_GroundTruth",
        "ISIC_0000009_segmentation.png: no image ISIC_0000009.jpg in ISIC2018_Task1-2_Test_Input",
    )


def test_bad_masks(root: Path) -> None:
    data = dataset(Isic2018(), root)
    save_grey(root / MASK, blob(2) * 200)
    fails(lambda: case_of(data, "ISIC_0000002"), "undeclared value", MASK, "undeclared value 200")
    save_grey(root / MASK, np.zeros(FLAT[::-1]))
    fails(lambda: case_of(data, "ISIC_0000002"), "size mismatch", "ISIC_0000002.jpg is 48×40", "is 40×48")
