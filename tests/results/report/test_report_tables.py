"""The same tables on disk: every digit as CSV, Markdown and LaTeX that need no mending."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from medsam2.results.collect.study import LEFT_OUT
from medsam2.results.compare.comparison import Comparison
from medsam2.results.report.grid import Column, Part, build, exact, interval, make_cell, one, show, text
from medsam2.results.report.latex import escape, to_latex
from medsam2.results.report.markup import to_markdown
from medsam2.results.report.tables import make_sheets, save_tables
from medsam2.results.report.terminal import print_answer
from tests.results.report.made_up import make_comparison

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
    assert r"\caption{Dice \& more. 95~\%~interval: 95 \% bootstrap interval over patients and seeds.}" in latex
    assert r"\label{tab:scores-0}" in latex
    assert r"\begin{tabular}{lrr}" in latex
    assert r"a\textbar{}b\_1 & 0.910 $\pm$ 0.010 & {[}0.900, 0.920{]} \\" in latex
    assert r"{[}c{]} 5\% & 0.500 & -- \\" in latex
    for rule in ("toprule", "midrule", "bottomrule"):
        assert latex.count(rf"\{rule}") == 1


def test_latex_escapes_what_is_special() -> None:
    assert escape(r"\&%$#_{}~^") == (r"\textbackslash{}\&\%\$\#\_\{\}\textasciitilde{}\textasciicircum{}")


COUNTED = pd.DataFrame(
    {"arm": ["a", "b"], "mean": [0.9, 0.8], "seeds": [3, 3], "patients": [40, 40], "cases": [120, 118],
     "missed": [0, 0], "undefined": [0, 2], "ceiling": [0.9, 0.9]}
)  # fmt: skip


def test_latex_for_a_paper_has_no_column_that_says_the_same_in_every_row() -> None:
    columns = [text("arm", "arm"), Column("hd95 (mm)", (Part("mean"),), "mean over runs")]
    columns += [one(key, key, "count") for key in ("seeds", "patients", "cases", "missed", "undefined")]
    grid = build(COUNTED, "scores-0", "rater_dice & iou", [*columns, one("ceiling", "raters’ ceiling")])
    latex = to_latex(grid)
    assert r"arm & HD95 (mm) & cases & undefined & raters' ceiling \\" in latex  # a score may well be the same
    assert r"a & 0.900 & 120 & 0 & 0.900 \\" in latex
    assert r"\begin{tabular}{lrrrr}" in latex
    assert r"\caption{rater Dice \& IoU. 3 seeds, 40 patients each. HD95 (mm): mean over runs.}" in latex
    assert "| seeds | patients | cases | missed |" in to_markdown(grid)  # notes have all


@pytest.mark.parametrize("letter", list(r"_&%#{}~^\\$<>|"))
def test_no_special_letter_of_a_label_reaches_latex(letter: str) -> None:
    latex = to_latex(build(pd.DataFrame({"arm": [f"x{letter}y"]}), "t", f"u{letter}v", [text("arm", f"h{letter}i")]))
    for left, right in ("xy", "uv", "hi"):
        written = re.search(rf"{left}(.*?){right}(?= \\\\|\.)", latex)
        assert written is not None
        assert written[1] in (rf"\{letter}", escape(letter))
        assert written[1] != letter


def test_tables_for_papers_are_ascii_and_explain_their_letters(comparison: Comparison) -> None:
    sheets = make_sheets(comparison)
    for sheet in sheets.values():
        assert to_latex(sheet.grid).isascii(), sheet.name
    latex = to_latex(sheets["scores-0"].grid)
    assert "group: Arms that share a letter are not told apart" in latex
    assert "3 runs" not in latex.replace("3 seeds", "")
    assert "12 patients, 12 cases each." in latex
    assert " & missed" in latex  # 2 in every row
    assert "false positives" not in latex.replace("missed, false positives", "")


def test_pairs_show_effects_first_and_p_before_adjustment_apart() -> None:
    made = make_comparison(("x", "y", "z"), ["refuge"])
    pairs = made.boards[0].pairs
    made.boards[0].pairs["p_joint"] = pairs["p_joint"] / 3
    sheets = make_sheets(made)
    headings = [column.heading for column in sheets["pairs-0"].grid.columns]
    assert headings == [
        *(
            "a",
            "b",
            "Δ dice",
            "95\xa0%\xa0interval",
            "a is",
            "permutation p, Holm",
            "joint p, Holm",
            "Wilcoxon p, Holm",
        ),
        *("d_z", "rank-biserial", "a better in"),
    ]
    details = sheets["pairs-all-0"]
    keys = [column.parts[0].key for column in details.grid.columns]
    assert keys == ["structure", "a", "b", "p_permutation", "p_joint", "p_wilcoxon", "patients", "cases", "seeds"]
    assert len(details.grid.rows) == 9
    single = make_sheets(make_comparison(datasets=["refuge"]))["pairs-all-0"]  # of one pair nothing is adjusted
    assert [column.heading for column in single.grid.columns][3:] == ["patients", "cases", "seeds"]


def test_clicks_that_never_suffice_count_with_the_limit(comparison: Comparison) -> None:
    note = "Cases that never reach the target count with the limit (20 clicks)."
    assert make_sheets(comparison)["clicks"].grid.note == note


def test_a_test_that_cannot_be_made_says_why(comparison: Comparison) -> None:
    across = replace(comparison.across, statistic=NAN, p=NAN)
    grid = make_sheets(replace(comparison, across=across))["friedman"].grid
    said = "No Friedman test: it ranks three arms or more, and 2 arms were tested on all datasets."
    assert grid.note == said
    assert [cell.title for cells in grid.rows[0].cells for cell in cells if cell.value is None] == [said, said]
    assert make_sheets(comparison)["friedman"].grid.note == ""


def test_folders_are_told_from_the_one_above_them(comparison: Comparison, tmp_path: Path) -> None:
    grid = make_sheets(comparison)["runs"].grid
    assert {row.cells[-1][0].text for row in grid.rows} == {"refuge", "papila"}
    assert grid.note == "Folders are below /r; runs.csv has them in full."
    sheet = make_sheets(comparison)["runs"]
    assert set(sheet.frame["folder"]) == {"/r/refuge", "/r/papila"}
    runs = comparison.study.runs
    elsewhere = runs.assign(folder=[f"/{i}/x" for i in range(len(runs))])
    apart = make_sheets(replace(comparison, study=replace(comparison.study, runs=elsewhere)))["runs"].grid
    assert apart.note == ""
    assert {"/0/x", "/1/x"} <= {row.cells[-1][0].text for row in apart.rows}


def test_the_terminal_has_the_letters_and_what_is_not_counted(
    comparison: Comparison, capsys: pytest.CaptureFixture[str]
) -> None:
    states = ["failed"] * 5 + ["running", "finished"]
    left = pd.DataFrame([("n", "id", state, "why") for state in states], columns=LEFT_OUT)
    print_answer(replace(comparison, left_out=left))
    said = capsys.readouterr().out
    assert (
        "not counted: 5 failed, 1 running, 1 finished but repeated or not comparable (see Left out in the page)" in said
    )
    head, first = next(line for line in said.splitlines() if "┃ arm" in line), said[said.index("│ sam2_s") :]
    names, cells = ([cell.strip() for cell in re.split("[┃│]", line)] for line in (head, first.splitlines()[0]))
    assert cells[names.index("group")] == "a"
    print_answer(replace(comparison, left_out=left.head(0)))
    assert "not counted" not in capsys.readouterr().out


def test_every_table_is_there_in_three_formats(comparison: Comparison, tmp_path: Path) -> None:
    sheets = make_sheets(comparison)
    files = save_tables(sheets.values(), tmp_path)
    assert {file.name for file in files} == {f"{name}.{suffix}" for name in sheets for suffix in ("csv", "md", "tex")}
    for name, frame in (("scores-1", comparison.boards[1].scores), ("pairs-0", comparison.boards[0].pairs)):
        stored = pd.read_csv(tmp_path / f"{name}.csv", float_precision="round_trip")
        pd.testing.assert_frame_equal(
            stored[list(frame.columns)], frame.replace("", NAN), check_exact=True, check_dtype=False
        )
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
