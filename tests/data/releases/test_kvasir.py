"""Kvasir-SEG: masks that are JPEG, cut at a grey value."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers_releases import case_of, dataset, fails, same, splits_of
from trees_flat import blob, photo_of, save_pixels, write_kvasir

from medsam2.data.releases.kvasir import KvasirSeg


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_kvasir(tmp_path / "Kvasir-SEG")


def test_values(root: Path) -> None:
    case = case_of(dataset(KvasirSeg(), root), "cju0003")
    assert same(case.raters["polyp"], blob(3))  # JPEG smears the edge; 128 restores it
    assert case.image.shape == (40, 48, 3)
    assert case.record.patient_id == "cju0003"


def test_splits_are_carved(root: Path) -> None:
    found = splits_of(dataset(KvasirSeg(), root))
    assert {split: len(cases) for split, cases in found.items()} == {"train": 9, "val": 1, "test": 2}
    assert found == splits_of(dataset(KvasirSeg(), root)) != splits_of(dataset(KvasirSeg(), root, split_seed=1))


def test_the_threshold_counts(root: Path) -> None:
    soft = np.where(blob(3), 200, 90).astype(np.uint8)
    save_pixels(root / "masks/cju0003.jpg", np.repeat(soft[..., None], 3, axis=-1))
    for threshold, expected in ((128, blob(3)), (60, blob(3) | True), (250, blob(3) & False)):
        assert same(case_of(dataset(KvasirSeg(threshold), root), "cju0003").raters["polyp"], expected)


@pytest.mark.parametrize("threshold", [0, 256])
def test_bad_thresholds(threshold: int) -> None:
    fails(lambda: KvasirSeg(threshold), "unreadable", f"dataset.release.threshold={threshold}")


def test_errors(root: Path) -> None:
    save_pixels(root / "masks/cju0004.jpg", photo_of(blob(4), 4))
    fails(lambda: case_of(dataset(KvasirSeg(), root), "cju0004"), "colour mask", "masks/cju0004.jpg is a colour image")
    (root / "images/cju0001.jpg").unlink()
    fails(dataset(KvasirSeg(), root).records, "missing image", "masks/cju0001.jpg: no image cju0001.jpg in images")
    shutil.rmtree(root / "masks")
    fails(dataset(KvasirSeg(), root).records, "missing", "masks missing", "masks/<id>.jpg", "datasets.simula.no")
