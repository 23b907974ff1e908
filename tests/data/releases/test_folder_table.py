"""Own cases as a CSV file."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers_releases import case_of, dataset, fails, same, splits_of
from trees_flat import blob
from trees_folder import write_labels, write_table

from medsam2.data.releases.folder import Folder

TABLE, LINES = "tables/cases.csv", "tables/lines.csv"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_table(tmp_path_factory.mktemp("table"))


def write(root: Path, *lines: str) -> Folder:
    (root / LINES).write_text("\n".join(lines), encoding="utf-8")
    return Folder(table=LINES)


def row(number: int, *more: str) -> str:
    return ",".join((f"../data/images/{number}.tif", f"../data/masks/cup/a/{number}.bmp", *more))


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_everything_in_a_table(tmp_path: Path, delimiter: str) -> None:
    data = dataset(Folder(table=TABLE), write_table(tmp_path, delimiter=delimiter))
    assert data.structures == ("cup", "disc")
    case = case_of(data, "eye 3")
    assert same(case.raters["cup"], blob(3, -3), blob(3, -1))
    assert same(case.raters["disc"], blob(3))
    assert case.record.patient_id == "P1"
    assert case.record.labels[1] == ("disc", ("tables/../data/masks/disc/a/3.bmp",))
    found = splits_of(data)
    assert found["test"] == ["eye 10", "eye 11", "eye 8", "eye 9"]
    assert {split: len(cases) for split, cases in found.items()} == {"train": 6, "val": 2, "test": 4}


def test_only_image_and_mask(root: Path) -> None:
    data = dataset(write(root, "image,mask", *map(row, range(10))), root)
    assert data.structures == ("object",)
    assert case_of(data, "7").record.patient_id == "7"
    assert same(case_of(data, "7").raters["object"], blob(7, -3))
    assert {split: len(cases) for split, cases in splits_of(data).items()} == {"train": 7, "val": 1, "test": 2}


@pytest.mark.parametrize("twin", ["../data/images", "../tables/../data/images"])
def test_the_lines_of_an_image_are_of_one_patient(root: Path, twin: str) -> None:
    lines = [row(n, f"{n}a") for n in range(10)] + [
        f"{twin}/{n}.tif,../data/masks/cup/a/{n}.bmp,{n}b" for n in range(10)
    ]
    for seed in range(3):
        data = dataset(write(root, "image,mask,case", *lines), root, split_seed=seed)
        assert {r.case_id: r.patient_id for r in data.records()} == {
            f"{n}{x}": f"{n}a" for n in range(10) for x in "ab"
        }
        assert {split: len(cases) for split, cases in splits_of(data).items()} == {"train": 14, "val": 2, "test": 4}


def test_a_line_without_a_patient_takes_that_of_its_image(root: Path) -> None:
    lines = [row(n, f"{n}a", f"P{n}") for n in range(10)] + [row(0, "0b", "")]
    assert case_of(dataset(write(root, "image,mask,case,patient", *lines), root), "0b").record.patient_id == "P0"


def test_a_pattern_is_not_asked_where_a_patient_is_given(root: Path) -> None:
    (root / LINES).write_text("\n".join(["image,mask,patient", *(row(n, f"P{n}") for n in range(10))]))
    data = dataset(Folder(table=LINES, patient_pattern="(none)"), root)
    assert case_of(data, "3").record.patient_id == "P3"


def test_values_of_one_mask(tmp_path: Path) -> None:
    write_labels(tmp_path)
    lines = [
        f"images/{p.name},masks/{p.name},,{'test' * (i > 9)}"
        for i, p in enumerate(sorted((tmp_path / "images").iterdir()))
    ]
    (tmp_path / "cases.csv").write_text("\n".join(["image,mask,patient,split", *lines, "", ""]))
    release = Folder({"cup": 2, "disc": [1, 2]}, table="cases.csv", patient_pattern="(P[0-9]+)_")
    data = dataset(release, tmp_path)
    assert same(case_of(data, "P01_R").raters["disc"], blob(3))
    assert case_of(data, "P01_R").record.patient_id == "P01"
    assert splits_of(data)["test"] == ["P05_L", "P05_R"]


def test_files_may_lie_anywhere(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    data = root / "data"
    lines = [f"{data}/images/{n}.tif,{data}/masks/cup/a/{n}.bmp" for n in range(10)]
    (elsewhere / "cases.csv").write_text("\n".join(["image,mask", *lines]))
    release = Folder(table=str(elsewhere / "cases.csv"))
    assert same(case_of(dataset(release, elsewhere), "2").raters["object"], blob(2, -3))
    assert case_of(dataset(release, root), "2").record.image == "data/images/2.tif"


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("image,label", "has the columns image, label,"),
        ("file,mask", "has the columns file, mask,"),
        ("image,mask,mask_cup", "has the columns image, mask, mask_cup,"),
        ("", "has the columns (none),"),
    ],
)
def test_columns_that_are_not_there(root: Path, header: str, found: str) -> None:
    fails(dataset(write(root, header), root).records, "table", LINES, found, "needs image, and either mask or mask_<")


def test_files_that_are_not_there(root: Path) -> None:
    lines = ["image,mask", row(0), row(99), f"{row(1)};../data/masks/cup/c/1.bmp", ",", "../data/images/2.tif,", row(3)]
    lines[6] = "../data/images/3.tif;../data/images/4.tif,../data/masks/cup/a/3.bmp"
    fails(
        dataset(write(root, *lines), root).records,
        "missing image",
        "5 problems",
        "lines.csv: line 3 names tables/../data/images/99.tif, which is not there",
        "lines.csv: line 4 names tables/../data/masks/cup/c/1.bmp, which is not there",
        "lines.csv: line 6 has no mask; where a structure is not to be seen, give a mask of zeros",
        "lines.csv: line 7 names 2 images, expected one",
    )


ERRORS = {
    "cells": (["image,mask", row(0), row(1, "x")], "table", "line 3 has 3 cells, the first line 2"),
    "split": (["image,mask,split", row(0, "train"), row(1, "dev")], "table", "line 3 has split='dev'"),
    "case": (
        ["image,mask,case", row(0, "a"), row(1, "b"), row(2, "a")],
        "duplicate id",
        "lines 2 and 4 are both case a",
    ),
    "two patients": (
        ["image,mask,case,patient", row(0, "a", "P1"), row(1, "b", "P1"), row(0, "c", "P2")],
        "table",
        "line 4 gives ../data/images/0.tif to patient P2, a line before it to P1",
    ),
    "a patient too late": (
        ["image,mask,case,patient", row(0, "a", ""), row(0, "c", "P2")],
        "table",
        "line 3 gives ../data/images/0.tif to patient P2, a line before it to a",
    ),
    "no case": (["image,mask", row(0), row(0)], "duplicate id", "lines 2 and 3 are both case 0"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_lines_that_are_wrong(root: Path, name: str) -> None:
    lines, kind, message = ERRORS[name]
    fails(dataset(write(root, *lines), root).records, kind, LINES, message)


def test_the_table_itself(root: Path) -> None:
    fails(
        dataset(Folder(table="cases.csv"), root).records, "missing", "cases.csv: no such file", "dataset.release.table"
    )
    (root / LINES).write_bytes("image,mask\nbild_ä.png,x".encode("latin-1"))
    fails(dataset(Folder(table=LINES), root).records, "table", LINES, "UTF-8")
    fails(dataset(write(root, "image,mask"), root).records, "missing", "no cases")


def test_labels_beside_columns_of_structures(root: Path) -> None:
    release = Folder({"cup": 1}, table=TABLE)
    fails(dataset(release, root).records, "table", "a column for each structure (cup, disc)", "dataset.release.labels")
