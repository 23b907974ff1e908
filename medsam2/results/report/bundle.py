"""A report on disk: the page, its tables and its figures, each file written whole or not at all."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

from medsam2.files import write_atomic
from medsam2.results.compare.comparison import Comparison
from medsam2.results.figures import assign_looks
from medsam2.results.report.answer import Asked
from medsam2.results.report.blocks import Drawing
from medsam2.results.report.drawings import draw, photograph, save
from medsam2.results.report.page import render
from medsam2.results.report.sections import Page
from medsam2.results.report.tables import SUFFIXES, make_sheets, save_tables

PAGE = "report.html"
OURS = {"tables": SUFFIXES, "figures": (".svg", ".pdf", ".png")}


def write_report(comparison: Comparison, folder: Path, asked: Asked | None = None) -> Path:
    """Writes report.html, tables/NAME.{csv,md,tex} and figures/NAME.{svg,pdf} into `folder`; returns the page.

    The same comparison gives the same bytes. Tables and figures of an earlier report in this folder are replaced, or
    removed where this one has none of that name.

    Args:
        asked: what the page tells of how it came about; its date is the only thing that differs between two reports.
    """
    asked = asked or Asked()
    sheets = make_sheets(comparison)
    looks = assign_looks(comparison.arms)
    written = save_tables(sheets.values(), folder / "tables")
    drawings: dict[str, list[Drawing]] = defaultdict(list)
    drawn = (save(figure, folder) for figure in draw(comparison, looks))
    for place, drawing in chain(drawn, photograph(comparison, looks, folder)):
        drawings[place].append(drawing)
        written += [folder / path for path in drawing.files.values()]
    sections = Page(comparison, asked, sheets, drawings).sections()
    write_atomic(folder / PAGE, render(comparison, sections, looks))
    _remove_old(folder, written)
    return folder / PAGE


def _remove_old(folder: Path, written: Iterable[Path]) -> None:
    known = set(written)
    for name, suffixes in OURS.items():
        for file in (folder / name).glob("*"):
            if file.suffix in suffixes and file not in known:
                file.unlink()
