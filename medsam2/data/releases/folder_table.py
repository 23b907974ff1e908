"""Somebody's own cases as a CSV file: where files lie anyhow, or patients and splits are known.

Columns: ``image``; ``mask``, or ``mask_<structure>`` for each structure; as one likes ``case`` (else the image's
name), ``patient`` and ``split``. Files are named relative to the CSV; several raters stand in one cell, divided by
``;``. An image may stand in several lines, one per lesion say: they are of one patient. Other columns are not read.
Commas, semicolons or tabs divide the cells.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from medsam2.data.records import DatasetError, Record
from medsam2.data.releases.base import Listing, Problem
from medsam2.data.releases.folder_tree import SPLIT_NAMES, PatientPattern

MASK = "mask_"


class Row(NamedTuple):
    """One line of the file, cells by column."""

    line: int  # counted from 1, as an editor does
    cells: dict[str, str]


class Table:
    """The lines of a CSV file. Raises DatasetError if it cannot be read or lacks a column."""

    def __init__(self, path: Path) -> None:
        self.path = path
        text = _read_text(path)
        header = text.splitlines()[0] if text.strip() else ""
        delimiter = max(",;\t", key=header.count)
        reader = csv.reader(io.StringIO(text), delimiter=delimiter)
        self.columns = [name.strip().lower() for name in next(reader, [])]
        self.rows = [self._row(reader.line_num, cells) for cells in reader if any(cells)]
        self.structures = tuple(name.removeprefix(MASK) for name in self.columns if name.startswith(MASK))
        if "image" not in self.columns or ("mask" in self.columns) == bool(self.structures):
            raise DatasetError(
                f"{path}: has the columns {', '.join(self.columns) or '(none)'}, needs image, and either mask or "
                "mask_<structure> for each structure. Name them in its first line; case, patient and split may follow.",
                kind="table",
            )

    def _row(self, line: int, cells: list[str]) -> Row:
        if len(cells) != len(self.columns):
            raise DatasetError(
                f"{self.path}: line {line} has {len(cells)} cells, the first line {len(self.columns)}. Put a name that "
                "holds the dividing sign into quotes.",
                kind="table",
            )
        return Row(line, dict(zip(self.columns, (cell.strip() for cell in cells), strict=True)))

    def list_cases(self, root: Path, masks: dict[str, str], pattern: PatientPattern) -> Listing:
        """A record per line; ``masks`` is structure -> column. Raises DatasetError for unknown splits or equal ids.

        The lines of one image have one patient; an image of two patients is an error, too.
        """
        listing = Listing([])
        homes: dict[Path, str] = {}
        lines: dict[str, int] = {}
        for row in self.rows:
            files = {c: self._files(root, row.cells[c]) for c in dict.fromkeys(("image", *masks.values()))}
            problems = [problem for column, names in files.items() for problem in self._check(root, row, column, names)]
            listing.problems += problems
            if problems:
                continue
            case = row.cells.get("case") or _stem(files["image"][0])
            if case in lines:
                raise DatasetError(
                    f"{self.path}: lines {lines[case]} and {row.line} are both case {case}. Give each a name of its "
                    "own in the column case.",
                    kind="duplicate id",
                )
            lines[case] = row.line
            patient = self._patient(row, homes, root / files["image"][0], case, pattern)
            labels = tuple((structure, files[column]) for structure, column in masks.items())
            listing.records.append(Record(case, patient, self._split(row), files["image"][0], labels))
        return listing

    def _patient(self, row: Row, homes: dict[Path, str], image: Path, case: str, pattern: PatientPattern) -> str:
        """The one given, else found in the case's name, else that of the image's other lines, else the case."""
        given = row.cells.get("patient") or pattern.find(case)
        patient = homes.setdefault(image.resolve(), given or case)  # resolved: a file may be named in several ways
        if given and given != patient:
            raise DatasetError(
                f"{self.path}: line {row.line} gives {row.cells['image']} to patient {given}, a line before it to "
                f"{patient}. Name one patient in every line of an image.",
                kind="table",
            )
        return patient

    def _split(self, row: Row) -> str:
        given = row.cells.get("split", "").lower()
        if given and given not in SPLIT_NAMES:
            raise DatasetError(
                f"{self.path}: line {row.line} has split={given!r}. Write train, val or test, or leave all of them "
                "empty to have them drawn.",
                kind="table",
            )
        return SPLIT_NAMES.get(given, "")

    def _files(self, root: Path, cell: str) -> tuple[str, ...]:
        """The files a cell names, relative to the root where they lie below it."""
        paths = [self.path.parent / name.strip() for name in cell.replace("\\", "/").split(";") if name.strip()]
        return tuple((p.relative_to(root) if p.is_relative_to(root) else p.absolute()).as_posix() for p in paths)

    def _check(self, root: Path, row: Row, column: str, names: Sequence[str]) -> list[Problem]:
        kind, where = f"missing {'image' if column == 'image' else 'mask'}", f"{self.path.name}: line {row.line}"
        if not names:
            absent = "" if column == "image" else "; where a structure is not to be seen, give a mask of zeros"
            return [Problem(kind, f"{where} has no {column}{absent}")]
        if column == "image" and len(names) > 1:
            return [Problem(kind, f"{where} names {len(names)} images, expected one")]
        return [Problem(kind, f"{where} names {n}, which is not there") for n in names if not (root / n).exists()]


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise DatasetError(
            f"{path}: no such file. Give dataset.release.table relative to dataset.root, or absolute.", kind="missing"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: cannot be read ({error}). Save it as CSV in UTF-8.", kind="table") from error


def _stem(name: str) -> str:
    return Path(name).name.removesuffix(".gz").rpartition(".")[0] or Path(name).name
