"""The page: every number is there in full precision, what is missing says why, and nothing comes from elsewhere."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import pytest

from medsam2.results.compare.comparison import Comparison
from medsam2.results.report import Asked, write_report
from tests.results.report.made_up import ARMS, make_comparison, strip
from tests.results.report.pages import PageReader, Row

SECTIONS = [
    "What was asked",
    "The answer",
    "Results: refuge, box prompts",
    "Results: papila, box prompts",
    "Raters",
    "Calibration",
    "Across datasets",
    "Trained here, tested there",
    "Interactive use",
    "Held fixed",
    "Cost",
    "Left out",
    "Provenance",
    "Make it again",
    "How the numbers are computed",
]


@pytest.fixture(scope="module")
def read(page: Path) -> PageReader:
    return PageReader(page.read_text(encoding="utf-8"))


def find(rows: list[Row], wanted: Mapping[str, object]) -> Row:
    (found,) = [row for row in rows if all(row.about[key] == str(value) for key, value in wanted.items())]
    return found


def check(rows: list[Row], frame: pd.DataFrame, keys: tuple[str, ...], columns: tuple[str, ...]) -> None:
    """Every number of these columns is on the page, to the last bit; NaN is a dash that says why."""
    assert len(rows) == len(frame)
    for record in frame.to_dict("records"):
        row = find(rows, {key.replace("_", "-"): record[key] for key in keys})
        for column in columns:
            shown = row.cells["", column]
            if math.isnan(record[column]):
                assert "data-value" not in shown
                assert shown["text"] == "–"
                assert shown["title"], column
            else:
                assert row.value(column) == record[column], (row.about, column)


SCORES = (
    *("mean", "sd", "low", "high", "runs", "seeds", "patients", "cases", "undefined", "missed", "false_positives"),
    *("zero_shot", "ceiling"),
)
PAIRS = (
    *("difference", "low", "high", "p_permutation_holm", "p_joint_holm", "p_wilcoxon_holm"),
    *("effect_dz", "effect_rank", "share_better"),
)


@pytest.mark.parametrize("number", [0, 1])
def test_every_number_of_a_board_is_on_the_page(comparison: Comparison, read: PageReader, number: int) -> None:
    board = comparison.boards[number]
    main = (board.scores["metric"] == "dice") & (board.scores["structure"] == "mean")
    about = ("arm", "metric", "structure")
    check(read.tables[f"scores-{number}"], board.scores[main], about, SCORES)
    inner = (board.scores["metric"] == "dice") & (board.scores["structure"] != "mean")
    check(read.tables[f"structures-{number}"], board.scores[inner], about, SCORES)
    check(read.tables[f"all-{number}"], board.scores, about, SCORES)
    mean = board.pairs["structure"] == "mean"
    check(read.tables[f"pairs-{number}"], board.pairs[mean], ("a", "b", "structure"), PAIRS)
    counts = ("patients", "cases", "seeds")
    check(read.tables[f"pairs-all-{number}"], board.pairs, ("a", "b", "structure"), counts)
    undecided = (*PAIRS, "more_seeds", "more_patients")
    check(read.tables[f"structure-pairs-{number}"], board.pairs[~mean], ("a", "b", "structure"), undecided)
    check(
        read.tables[f"stability-{number}"], board.stability, ("arm",), ("mean_rank", "first", "rank_low", "rank_high")
    )
    letters = {row.about["arm"]: row.cells["", "letters"]["text"] for row in read.tables[f"scores-{number}"]}
    assert letters == board.letters


def test_other_metrics_stand_beside_each_other(comparison: Comparison, read: PageReader) -> None:
    for row in comparison.boards[0].scores.query("structure == 'mean' and metric != 'dice'").to_dict("records"):
        shown = find(read.tables["metrics-0"], {"arm": row["arm"]})
        assert shown.value("mean", row["metric"]) == row["mean"]
        assert shown.value("sd", row["metric"]) == row["sd"]


def test_every_number_of_the_study_is_on_the_page(comparison: Comparison, read: PageReader) -> None:
    check(
        read.tables["clicks"], comparison.clicks_needed, ("arm", "dataset", "target"), ("mean", "low", "high", "failed")
    )
    curves = ("arm", "dataset", "axis", "level")
    check(read.tables["curves"], comparison.curves, curves, ("level", "mean", "low", "high", "patients", "seeds"))
    cost = ("seconds", "peak_memory", "parameters", "trained_parameters")
    check(read.tables["cost"], comparison.cost, ("arm", "dataset"), cost)
    assert comparison.matrix is not None
    check(read.tables["matrix"], comparison.matrix.reset_index(), ("arm", "trained_on"), ("refuge", "papila"))
    for row in comparison.raters.to_dict("records"):
        about = {key: row[key] for key in ("arm", "dataset", "structure")}
        assert find(read.tables["raters"], about).value(row["rater"]) == row["mean"]
    for row in comparison.rejection.to_dict("records"):
        about = {key: row[key] for key in ("arm", "dataset")}
        assert find(read.tables["rejection"], about).value(str(row["rejected"])) == row["mean"]
    across = comparison.across
    assert across is not None
    (friedman,) = read.tables["friedman"]
    told = [friedman.value(key) for key in ("statistic", "p", "critical_difference")]
    assert told == [across.statistic, across.p, across.critical_difference]
    ranks = {row.about["arm"]: row.value("mean_rank") for row in read.tables["ranks"]}
    assert ranks == across.mean_ranks.to_dict()


def test_what_is_missing_says_why_and_infinity_is_none_of_it(read: PageReader) -> None:
    cells = [(name, cell) for name, rows in read.tables.items() for row in rows for cell in row.cells.values()]
    assert not [cell for _, cell in cells if "nan" in cell.get("data-value", "").lower()]
    dashes = [(name, cell) for name, cell in cells if cell["text"] == "–"]
    assert dashes
    assert not [(name, cell["data-column"]) for name, cell in dashes if not cell.get("title")]
    (never,) = {c["text"] for n, c in cells if n == "structure-pairs-0" and c["data-column"] == "more_patients"}
    assert never == "∞"


def test_the_markup_is_sound_and_nothing_is_loaded(page: Path, read: PageReader) -> None:
    assert read.problems == []
    assert not [style for style in read.styles if "url(" in style or "@import" in style]
    local = [a for a in read.addresses if not a.startswith(("#", "data:"))]
    assert local
    assert {a.partition("/")[0] for a in local} == {"tables", "figures"}
    assert [a for a in local if not (page.parent / a).is_file()] == []
    assert {a[1:] for a in read.addresses if a.startswith("#")} <= set(read.ids)


def test_labels_are_text_whatever_is_in_them(page: Path, read: PageReader) -> None:
    text = page.read_text(encoding="utf-8")
    assert "<b>" not in text
    assert "&lt;memory&gt;" in text
    assert {row.about["arm"] for row in read.tables["scores-0"]} == set(ARMS)
    assert [row.cells["", "arm"]["text"] for row in read.tables["scores-0"]] == list(ARMS)


def test_sections_come_in_their_order(read: PageReader) -> None:
    assert [words for tag, words in read.headings if tag == "h2"] == SECTIONS


def test_the_answer_is_said(page: Path, comparison: Comparison) -> None:
    text = page.read_text(encoding="utf-8")
    best = comparison.boards[0].scores.iloc[0]
    assert (
        f"sam2_s has the highest dice: {best['mean']:.3f} (95 % interval {best['low']:.3f} to {best['high']:.3f}"
        in text
    )
    assert "It is better than model=sam2_t &lt;b&gt;" in text
    for words in (
        "one row is undefined",
        "these numbers are made up",
        "python run.py -m model=a,b",
        "83141e2f1b81 (12 runs)",
    ):
        assert words in text


def test_parts_without_content_leave_no_heading(tmp_path: Path) -> None:
    page = write_report(strip(make_comparison(ARMS[:1], ["refuge"], seeds=1)), tmp_path)
    read = PageReader(page.read_text(encoding="utf-8"))
    assert read.problems == []
    kept = ("What was asked", "The answer", SECTIONS[2], "Held fixed", "Provenance", "Make it again", SECTIONS[-1])
    assert [words for tag, words in read.headings if tag == "h2"] == list(kept)
    assert read.tables["scores-0"][0].cells["", "sd"]["title"] == "one run: no spread over seeds"
    assert "There is no other arm to compare it with." in page.read_text(encoding="utf-8")


def test_the_same_comparison_gives_the_same_bytes(tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder, day in zip(folders, ("Monday", "Tuesday"), strict=True):
        write_report(strip(make_comparison(datasets=["refuge"]), keep_boards=True), folder, Asked(made=day))
    files = [sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file()) for folder in folders]
    assert files[0] == files[1]
    contents = [
        [(folder / name).read_bytes().replace(b"Tuesday", b"Monday") for name in files[0]] for folder in folders
    ]
    assert contents[0] == contents[1]


def test_files_of_an_earlier_report_go_and_those_of_others_stay(tmp_path: Path) -> None:
    old = [tmp_path / "tables" / "scores-7.csv", tmp_path / "figures" / "boxes-7.svg"]
    mine = tmp_path / "tables" / "notes.txt"
    for file in (*old, mine):
        file.parent.mkdir(exist_ok=True)
        file.touch()
    write_report(strip(make_comparison(ARMS[:1], ["refuge"])), tmp_path)
    assert not any(file.exists() for file in old)
    assert mine.exists()
    assert {file.suffix for file in (tmp_path / "tables").iterdir()} == {".csv", ".md", ".tex", ".txt"}


def test_many_rows_are_cut_and_the_page_says_where_all_are(tmp_path: Path) -> None:
    arms = [f"arm{i:02d}" for i in range(22)]  # 231 pairs
    made = strip(make_comparison(arms, ["refuge"], seeds=1), keep_boards=True)
    text = write_report(made, tmp_path).read_text(encoding="utf-8")
    assert len(PageReader(text).tables["pairs-0"]) == 200
    assert re.search(r"The first 200 of 231 rows; tables/pairs-0\.csv has all", text)
    assert len(pd.read_csv(tmp_path / "tables" / "pairs-0.csv")) == 231 * 3
    assert "221 more pairs in the table" in text
