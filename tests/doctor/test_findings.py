"""What errors become: a place, a text, a remedy; and how many of them are shown together."""

from __future__ import annotations

from pathlib import Path

import pytest

from medsam2.data.records import DatasetError, Record
from medsam2.data.releases.base import Problem
from medsam2.doctor.findings import (
    REMEDIES,
    UNEXPECTED,
    Finding,
    from_error,
    from_problem,
    group,
    make_finding,
    split_remedy,
    to_csv,
    unique,
)

ROOT = Path("/data/eyes")
RECORD = Record("e1", "e1", "train", "images/e1.png", (("cup", ("masks/e1.png", "masks/e1_b.png")),))


@pytest.mark.parametrize(
    ("message", "text", "remedy"),
    [
        (
            "a.png: label with an undeclared value 7 (0, 7 found, declared {0, 1}). Was it resized? Use the original.",
            "a.png: label with an undeclared value 7 (0, 7 found, declared {0, 1})",
            "Was it resized? Use the original.",
        ),
        (
            "a.png cannot be decoded (bad: data): unpack or download it again",
            "a.png cannot be decoded (bad: data)",
            "unpack or download it again",
        ),
        (
            "a.png is a colour image, expected a grey mask: export the labels as grey values",
            "a.png is a colour image, expected a grey mask",
            "export the labels as grey values",
        ),
        ("a.png has no remedy", "a.png has no remedy", ""),
    ],
)
def test_a_message_is_what_and_what_to_do(message: str, text: str, remedy: str) -> None:
    assert split_remedy(message) == (text, remedy)


@pytest.mark.parametrize(
    ("message", "where"),
    [
        ("/data/eyes/masks/e1_b.png: wrong", "masks/e1_b.png"),
        ("/data/eyes/images/e1.png is 3×4, /data/eyes/masks/e1.png is 4×3", "masks/e1.png"),
        ("/data/eyes/images/e1.png cannot be decoded", "images/e1.png"),
        ("dataset.intensity says nothing", "e1"),
    ],
)
def test_the_place_of_an_error(message: str, where: str) -> None:
    found = from_error(DatasetError(message, kind="sort"), RECORD, ROOT)
    assert (found.severity, found.kind, found.where) == ("error", "sort", where)
    assert "/data" not in found.text


def test_an_error_that_nobody_expected() -> None:
    found = from_error(KeyError("x"), RECORD, ROOT)
    assert found == Finding("error", "unreadable", "e1", "e1: KeyError while it was read: 'x'", UNEXPECTED)


def test_a_problem_of_a_listing() -> None:
    found = from_problem(Problem("missing mask", "images/e1.png: no mask e1.* in masks"), ROOT)
    assert found.where == "images/e1.png"
    assert found.text == "images/e1.png: no mask e1.* in masks"
    assert found.remedy == REMEDIES["missing mask"]
    assert from_problem(Problem("a kind of its own", "x: y"), ROOT).remedy == REMEDIES["missing"]


ONE = Finding("error", "unreadable", "b.png", "b.png cannot be read", "download it again")
FINDINGS = [
    make_finding("warning", "unused label", "cup", "no case shows cup"),
    ONE,
    Finding("error", "unreadable", "a.png", "a.png cannot be read", "download it again"),
    Finding("error", "channels", "c.nii", "c.nii: four axes", "choose one"),
    Finding("error", "channels", "d.nii", "d.nii: four axes", "choose another"),
    make_finding("warning", "unused label", "disc", "no case shows disc"),
    make_finding("warning", "unused label", "rim", "no case shows rim"),
    ONE,
]


def test_groups_are_errors_first_then_the_most_frequent() -> None:
    groups = group(unique(FINDINGS))
    assert [(g.severity, g.kind, g.places) for g in groups] == [
        ("error", "unreadable", ("a.png", "b.png")),
        ("error", "channels", ("c.nii",)),
        ("error", "channels", ("d.nii",)),
        ("warning", "unused label", ("cup", "disc", "rim")),
    ]
    assert (groups[0].text, groups[0].remedy) == ("a.png cannot be read", "download it again")


def test_each_finding_is_a_line_of_the_table() -> None:
    lines = to_csv(unique(FINDINGS)).splitlines()
    assert lines[0] == "severity,kind,where,text,remedy"
    assert lines[3] == "error,unreadable,a.png,a.png cannot be read,download it again"
    assert len(lines) == 8
