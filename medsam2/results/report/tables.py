"""All tables of a comparison, and their files: CSV with every digit, Markdown and LaTeX as they are read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from medsam2.files import write_atomic
from medsam2.results.compare.comparison import Comparison
from medsam2.results.report import study_tables as study
from medsam2.results.report.board_tables import pair_sheets, score_sheets, stability_sheet
from medsam2.results.report.latex import to_latex
from medsam2.results.report.markup import to_markdown
from medsam2.results.report.sheet import Sheet

SUFFIXES = (".csv", ".md", ".tex")


def make_sheets(comparison: Comparison) -> dict[str, Sheet]:
    """Every table that has a row, by name: `scores-0`, `pairs-0` … of board 0, and those of the whole study."""
    sheets: list[Sheet] = []
    for number in range(len(comparison.boards)):
        sheets += score_sheets(comparison, number) + pair_sheets(comparison, number)
        sheets += stability_sheet(comparison, number)
    makers = (
        study.arm_sheets,
        study.setting_sheet,
        study.rater_sheet,
        study.calibration_sheets,
        study.across_sheets,
        study.interaction_sheets,
        study.cost_sheet,
        study.left_out_sheet,
        study.run_sheet,
    )
    sheets += [sheet for make in makers for sheet in make(comparison)]
    return {sheet.name: sheet for sheet in sheets if sheet.grid}


def save_tables(sheets: Iterable[Sheet], folder: Path) -> list[Path]:
    """Writes NAME.csv, NAME.md and NAME.tex of each table into `folder`; returns the files."""
    files = []
    for sheet in sheets:
        texts = sheet.frame.to_csv(index=False), to_markdown(sheet.grid), to_latex(sheet.grid)
        for suffix, written in zip(SUFFIXES, texts, strict=True):
            files.append(folder / f"{sheet.name}{suffix}")
            write_atomic(files[-1], written)
    return files
