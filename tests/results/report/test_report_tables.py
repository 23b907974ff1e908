"""The same tables on disk: every digit as CSV, Markdown and LaTeX that need no mending."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest

from medsam2.results.compare.comparison import Comparison
from medsam2.results.report.grid import Column, Part, build, exact, interval, make_cell, one, show, text
from medsam2.results.report.markup import escape, to_latex, to_markdown
from medsam2.results.report.tables import make_sheets, save_tables

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("value", "kind", "shown"),
    [
        (0.97896, "score", "0.979"),
        (12.3456, "score", "12.35"),
        (1234.56, "score", "1,234.6"),
        (0.000141, "spread", "0.0001"),
        (0.0, "spread", "0.000"),
        (0.0177, "difference", "+0.018"),
        (-0.0177, "difference", "−0.018"),
        (0.00049, "p", "<0.001"),
        (0.03125, "p", "0.031"),
        (0.25, "share", "25 %"),
        (7.2, "need", "8"),
        (INF, "need", "∞"),
        (35.06, "seconds", "35.1 s"),
        (166.6, "seconds", "2 min 47 s"),
        (7260.0, "seconds", "2 h 01 min"),
        (2.0**31, "bytes", "2.00 GiB"),
        (9_790_000.0, "parameters", "9.79 M"),
        (1_790_000_000.0, "date", "2026-09-21 14:13"),
    ],
)
def test_numbers_read_well(value: float, kind: str, shown: str) -> None:
    assert show(value, kind) == shown


@pytest.mark.parametrize("value", [0.1 + 0.2, 1e-300, -1 / 3, INF])
def test_the_value_behind_a_number_is_exact(value: float) -> None:
    assert float(exact(value)) == value
    assert make_cell(value, Part("x")).value == exact(value)


@pytest.mark.parametrize("value", [NAN, None, pd.NA])
def test_a_missing_number_is_a_dash_with_a_reason(value: object) -> None:
    cell = make_cell(value, Part("sd", why="one run"))
    assert (cell.text, cell.value, cell.title, cell.shown) == ("–", None, "one run", "–")


FRAME = pd.DataFrame(
    {"arm": ["a|b_1", "[c] 5%"], "mean": [0.91, 0.5], "sd": [0.01, NAN], "low": [0.9, NAN], "high": [0.92, NAN]}
)
COLUMNS = [
    text("arm", "arm"),
    Column("dice", (Part("mean"), Part("sd", "spread", "± "))),
    interval(),
    one("absent", "not in the frame"),
]


def test_markdown_and_latex_are_what_a_paper_takes() -> None:
    grid = build(FRAME, "scores-0", "dice & more", COLUMNS)
    head, table = to_markdown(grid).split("\n\n")
    assert head == "dice & more"
    assert table.splitlines() == [
        "| arm | dice | 95\xa0%\xa0interval |",
        "| --- | ---: | ---: |",
        "| a\\|b_1 | 0.910 ± 0.010 | [0.900, 0.920] |",
        "| [c] 5% | 0.500 | – |",
    ]
    latex = to_latex(grid)
    assert r"\caption{dice \& more}" in latex
    assert r"\label{tab:scores-0}" in latex
    assert r"\begin{tabular}{lrr}" in latex
    assert r"a\textbar{}b\_1 & 0.910 $\pm$ 0.010 & {[}0.900, 0.920{]} \\" in latex
    assert r"{[}c{]} 5\% & 0.500 & -- \\" in latex
    for rule in ("toprule", "midrule", "bottomrule"):
        assert latex.count(rf"\{rule}") == 1


def test_latex_escapes_what_is_special() -> None:
    assert escape(r"\&%$#_{}~^") == (r"\textbackslash{}\&\%\$\#\_\{\}\textasciitilde{}\textasciicircum{}")


def test_every_table_is_there_in_three_formats(comparison: Comparison, tmp_path: Path) -> None:
    sheets = make_sheets(comparison)
    files = save_tables(sheets.values(), tmp_path)
    assert {file.name for file in files} == {f"{name}.{suffix}" for name in sheets for suffix in ("csv", "md", "tex")}
    for name, frame in (("scores-1", comparison.boards[1].scores), ("pairs-0", comparison.boards[0].pairs)):
        stored = pd.read_csv(tmp_path / f"{name}.csv", float_precision="round_trip")
        pd.testing.assert_frame_equal(stored[list(frame.columns)], frame, check_exact=True, check_dtype=False)
    for file in tmp_path.glob("*.tex"):
        body = file.read_text(encoding="utf-8").partition("\n")[2]
        assert not re.search(r"(?<!\\)[%#_]", body), file.name
        rows = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert len({len(re.findall(r"(?<!\\)&", row)) for row in rows}) == 1, file.name


def test_settings_are_listed(comparison: Comparison, tmp_path: Path) -> None:
    save_tables(make_sheets(comparison).values(), tmp_path)
    settings = pd.read_csv(tmp_path / "settings.csv")
    assert list(settings["dataset"]) == ["refuge", "papila"]
    assert list(settings["runs"]) == [6, 6]
    assert list(pd.read_csv(tmp_path / "fixed.csv", keep_default_na=False)["value"]) == ["256", "DiceCE", "null"]
