"""What only many cases tell: tables of reports, without files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from medsam2.data.files import FileFacts
from medsam2.data.records import Record
from medsam2.doctor.compare_cases import (
    duplicate_images,
    empty_splits,
    find_odd,
    label_gaps,
    mixed_axes,
    repeated_ids,
    shared_patients,
    uneven_raters,
    unused_labels,
)
from medsam2.doctor.inspect_cases import Report, Seen
from medsam2.doctor.summary import Summary


def report(
    case: str, split: str = "train", raters: tuple[int, ...] = (7, 7), areas: tuple[int, ...] = (5, 9)
) -> Report:
    record = Record(case, case, split, f"{case}.png")
    return Report(record, [record], [Seen(record, areas)], raters=raters, limits=(0.0, 1.0), digest=case.encode())


def summary(*reports: Report) -> Summary:
    return Summary("x", ("cup", "disc"), reports, {r.record.case_id: r.record.split for r in reports})


@pytest.mark.parametrize(
    ("values", "usual", "odd"),
    [
        ("aaab", "a", ["3"]),
        ("aab", "a", ["2"]),
        ("aabb", "a", []),
        ("ab", "", []),
        ("aaaaaaaabc", "a", ["8", "9"]),
        ("aaaaaaabcd", "a", []),
        ("aaaa", "a", []),
        ("", "", []),
    ],
)
def test_odd_ones_out_are_few(values: str, usual: str, odd: list[str]) -> None:
    assert find_odd({str(i): value for i, value in enumerate(values)}) == (usual, odd)


def test_raters_are_compared_within_a_released_split() -> None:
    test = [report(f"t{i}", "test", raters=(2, 2)) for i in range(4)]
    train = [report(f"r{i}") for i in range(4)]
    assert uneven_raters([*train, *test], ("cup", "disc")) == []
    (found,) = uneven_raters(
        [*train, replace(train[0], raters=(7, 6), record=Record("r9", "r9", "train")), *test], ("cup", "disc")
    )
    assert (found.severity, found.kind, found.where) == ("warning", "missing rater", "r9")
    assert found.text == "r9: raters 7 of cup, 6 of disc, where the rest has 7 of cup, 7 of disc"


def test_patients_and_ids() -> None:
    records = [Record("a", "p", "train"), Record("b", "p", "test"), Record("c", "q", "val"), Record("c", "q", "val")]
    assert [(f.where, f.text) for f in shared_patients(records)] == [("p", "patient p is in train and test")]
    assert [(f.where, f.text) for f in repeated_ids(records)] == [("c", "case c is listed 2 times")]


def test_empty_splits() -> None:
    assert [f.text for f in empty_splits(summary(report("a"), report("b", "test")))] == ["val has no cases"]
    unread = replace(report("c", "val"), cases=[], digest=b"")
    assert empty_splits(summary(report("a"), report("b", "test"), unread)) == []


def test_unused_labels_name_their_values() -> None:
    cases = [report(str(i), split, areas=(0, 4)) for i, split in enumerate(("train", "val", "test"))]
    found = unused_labels(summary(*cases), {"cup": (2, 3), "disc": (1,)})
    assert [f.text for f in found] == ["no case shows cup (value 2, 3), though there is 1"]
    found = unused_labels(summary(*cases, report("9", "val")), {})
    assert [f.text for f in found] == ["no case of train shows cup", "no case of test shows cup"]


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ({"cup": (1,), "disc": (3,)}, ["the declared label values 1, 3 leave out 2"]),
        ({"cup": (2, 5)}, ["the declared label values 2, 5 leave out 1, 3, 4"]),
        ({"cup": (2,), "disc": (1, 2)}, []),
        ({"cup": (128,), "disc": (255,)}, []),  # grey levels
        ({}, []),
    ],
)
def test_gaps_in_declared_values(values: dict[str, tuple[int, ...]], texts: list[str]) -> None:
    found = label_gaps(values, "eyes")
    assert [(f.severity, f.kind, f.where, f.text) for f in found] == [
        ("warning", "gap in label ids", "eyes", text) for text in texts
    ]


def test_axes() -> None:
    reports = [replace(report(str(i)), axes="RAS") for i in range(4)]
    assert mixed_axes(reports) == []
    (found,) = mixed_axes([*reports, replace(report("9"), axes="LPI")])
    assert (found.where, found.text) == ("9.png", "9.png: its axes are LPI, those of the rest RAS")


def copies(tmp_path: Path, *reports: Report) -> list[tuple[str, str]]:
    splits = {r.record.case_id: r.record.split for r in reports}
    return [(f.severity, f.text) for f in duplicate_images(reports, splits, tmp_path, FileFacts())]


def test_copies_in_one_file_of_many_images(tmp_path: Path) -> None:
    (tmp_path / "all.npz").write_bytes(b"x")
    records = [Record(f"c{i}", f"c{i}", split, "all.npz", index=i) for i, split in enumerate(("train", "val", "val"))]
    same = [replace(report("x"), record=record, parts=[record], digest=b"1") for record in records]
    assert copies(tmp_path, *same) == [("error", "c0 (train) = c1 (val) = c2 (val): the same pixels")]
    assert copies(tmp_path, *same[1:]) == [("warning", "c1 (val) = c2 (val): the same pixels")]
    assert copies(tmp_path, same[0], replace(same[1], digest=b"2")) == []


def test_black_slices_are_no_copies(tmp_path: Path) -> None:
    black = [replace(report(name), digest=b"1", limits=(0.0, 0.0)) for name in "ab"]
    for one in black:
        (tmp_path / one.record.image).write_bytes(one.record.case_id.encode())
    assert copies(tmp_path, *black) == [("warning", "a.png (train) = b.png (train): the same pixels")]
    assert copies(tmp_path, *(replace(b, record=replace(b.record, volume="v")) for b in black)) == []
