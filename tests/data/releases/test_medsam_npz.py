"""Volumes prepared by MedSAM's script: spacing in the reverse order, labels that only the user knows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_releases import fails
from trees_volumes import organs, read_label, scan, volumes, write_medsam_npz

from medsam2.data.records import of_split
from medsam2.data.releases.medsam_npz import MedSAMNpz

LABELS = {"liver": 1, "right_kidney": 2, "spleen": 3}
FIRST = "MedSAM_train/CT_Abd/CT_Abd_FLARE22_Tr_0001.npz"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_medsam_npz(tmp_path / "npz")


def change(root: Path, **arrays: Any) -> None:
    with np.load(root / FIRST) as stored:
        merged = {**stored, **arrays}
    np.savez_compressed(root / FIRST, **{key: array for key, array in merged.items() if array is not None})


def test_cases_and_splits(root: Path, tmp_path: Path) -> None:
    records = volumes(MedSAMNpz(LABELS), root).records()
    assert [len({r.volume for r in of_split(records, s)}) for s in ("train", "val", "test")] == [7, 1, 3]
    assert records[0].case_id == "CT_Abd_FLARE22_Tr_0001_z000"
    assert records[0].files == (FIRST,)
    flat = volumes(MedSAMNpz(LABELS, "CT_Abd_(.*)"), write_medsam_npz(tmp_path / "flat", folders=False)).records()
    assert flat[0].patient_id == "FLARE22_Tr_0001"
    assert [len({r.volume for r in of_split(flat, s)}) for s in ("train", "val", "test")] == [8, 1, 2]


@pytest.mark.parametrize("plane", ["axial", "acquired"])
def test_arrays_are_shown_as_stored(root: Path, plane: str) -> None:
    data = volumes(MedSAMNpz(LABELS), root, plane=plane, slices="all")
    assert np.array_equal(read_label(data, "CT_Abd_FLARE22_Tr_0004"), organs(3, 3).T[1:5])
    case = data.load(data.records()[2])
    grey = ((scan(0, organs(0, 3)).T[3] + 160) / 400 * 255).clip(0, 255).astype(np.uint8)
    assert case.image[..., 0] == pytest.approx(grey / 255, abs=1e-6)
    assert case.spacing == pytest.approx((0.8, 0.9))
    assert data.open(case.record).geometry.spacing == pytest.approx((3.0, 0.8, 0.9))


def test_colour_and_merged_labels(root: Path) -> None:
    with np.load(root / FIRST) as stored:
        change(root, imgs=np.stack([stored["imgs"]] * 3, axis=-1))
    data = volumes(MedSAMNpz({"kidney": [2, 3], "liver": 1}), root)
    case = data.load(data.records()[0])
    assert case.image.shape == (20, 24, 3)
    assert case.labels["kidney"].sum() == 24


def test_without_labels_the_values_are_named(root: Path) -> None:
    fails(
        volumes(MedSAMNpz(), root).records,
        "undeclared value",
        "MedSAM_test/CT_Abd/CT_Abd_FLARE22_Tr_0009.npz holds the values [1, 2, 3]",
        "dataset.release.labels='{liver: 1, spleen: 3}'",
    )


def test_mistakes(root: Path) -> None:
    fails(lambda: MedSAMNpz({"liver": 0}), "unreadable", "dataset.release.labels={liver: 0}")
    data = volumes(MedSAMNpz(LABELS), root)
    first = data.records()[0]
    for spacing in ([0.9, 0.8], [0.9, 0.8, 0]):
        change(root, spacing=spacing)
        fails(lambda: data.load(first), "unreadable", f"{FIRST}: spacing is [0.9, 0.8", "expected three lengths")
    change(root, spacing=(0.9, 0.8, 3), imgs=np.zeros((20, 24), np.uint8))
    fails(lambda: data.load(first), "channels", f"{FIRST}: imgs is 20×24, expected three axes")
    change(root, imgs=np.zeros((3, 20, 24), np.uint8))
    fails(lambda: data.load(first), "size mismatch")
    change(root, imgs=None)
    fails(lambda: data.load(first), "unreadable", f"{FIRST}: has no array 'imgs', it has gts, spacing")
    change(root, gts=np.full((4, 20, 24), 9, np.uint8))
    fails(volumes(MedSAMNpz(LABELS), root).records, "undeclared value", FIRST, "value 9")
    (root / FIRST).write_bytes(b"PK")
    fails(volumes(MedSAMNpz(LABELS), root).records, "unreadable", f"{FIRST} cannot be read (")
    for path in root.rglob("*.npz"):
        path.unlink()
    fails(volumes(MedSAMNpz(LABELS), root).records, "missing", "no .npz files", "pre_CT_MR.py")
    fails(volumes(MedSAMNpz(), root).records, "missing", "no .npz files")
