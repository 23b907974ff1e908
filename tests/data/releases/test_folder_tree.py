"""Where images and masks may lie, and who the patient is."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers_releases import fails

from medsam2.data.records import Record
from medsam2.data.releases.base import Listing
from medsam2.data.releases.folder import Folder
from medsam2.data.releases.folder_tree import PatientPattern, find_parts, in_split


def make(root: Path, *parts: str) -> Path:
    for part in parts:
        for name in ("images", "masks"):
            (root / part / name).mkdir(parents=True)
    return root


@pytest.mark.parametrize("names", ["train val test", "Training Validation Testing", "TRAIN valid test"])
def test_splits_under_the_names_people_use(tmp_path: Path, names: str) -> None:
    parts = find_parts(Folder(), make(tmp_path, *names.split(), "notes", ".test"))
    assert {path.name: split for path, split in parts} == dict(
        zip(names.split(), ("train", "val", "test"), strict=True)
    )


def test_the_root_itself(tmp_path: Path) -> None:
    assert find_parts(Folder(), make(tmp_path, "")) == [(tmp_path, "")]


def test_neither_and_both(tmp_path: Path) -> None:
    fails(lambda: find_parts(Folder(), tmp_path), "missing", "images and masks missing", "an empty folder")
    make(tmp_path, "test")
    (tmp_path / "test/masks").rmdir()
    fails(lambda: find_parts(Folder(), tmp_path), "missing", "test/masks missing")
    (tmp_path / "images").mkdir()
    fails(lambda: find_parts(Folder(), tmp_path), "unreadable", "holds images and test")


@pytest.mark.parametrize(
    ("pattern", "split", "case", "patient"),
    [
        (None, "", "P1_L", "P1_L"),
        (None, "val", "val_P1_L", "val_P1_L"),
        ("^([^_]+)", "", "P1_L", "P1"),
        ("^([^_]+)", "val", "val_P1_L", "P1"),
    ],
)
def test_names_of_cases_and_patients(pattern: str | None, split: str, case: str, patient: str) -> None:
    found = in_split(Listing([Record("P1_L", "P1_L")]), split, PatientPattern(pattern)).records[0]
    assert (found.case_id, found.patient_id, found.split) == (case, patient, split)
