"""The tables of one board: scores, other metrics, structures, paired differences, how steady the ranking is."""

from __future__ import annotations

import pandas as pd

from medsam2.results.compare.comparison import MEAN, Board, Comparison
from medsam2.results.report.grid import Cell, Column, Grid, Part, Row, build, filled, interval, make_cell, one, text
from medsam2.results.report.sheet import Sheet
from medsam2.results.report.words import name_metric

MOST_PAIRS = 200  # rows of a table in the page; files have all
MOST_ROWS = 600
SHARED = "Arms that share a letter are not told apart: an adjusted test, or the interval, does not allow it."
SPREAD = "mean ± standard deviation over runs"
ONE_RUN = "one run: no spread over seeds"
TESTS = (
    ("p_permutation", "permutation p", "sign-flip permutation test over patients"),
    ("p_joint", "joint p", "of new patients and new seeds"),
    ("p_wilcoxon", "Wilcoxon p", "signed-rank test over patients"),
)
COUNTS = [
    one("runs", "runs", "count", "runs averaged"),
    one("seeds", "seeds", "count"),
    one("folds", "folds", "count"),
    one("patients", "patients", "count"),
    one("cases", "cases", "count"),
    one("undefined", "undefined", "count", "rows without a value of this metric; they are in no mean"),
    one("missed", "missed", "count", "structure there, prediction empty"),
    one("false_positives", "false positives", "count", "structure absent, prediction not empty"),
]
ALWAYS = ("mean", "low", "seeds", "patients", "cases", "undefined", "missed", "false_positives")


def score_columns(heading: str) -> list[Column]:
    """The columns of a table of scores, the mean under `heading`."""
    spread = Part("sd", "spread", "± ", why=ONE_RUN)
    return [
        Column(heading, (Part("mean", why="undefined in every case"), spread), SPREAD),
        interval(),
        text("letters", "group", SHARED),
        *COUNTS,
        one("zero_shot", "zero-shot", title="the model as it came, before training", why="no such score is stored"),
        one("ceiling", "raters' ceiling", title="what raters score against each other", why="fewer than two raters"),
    ]


def score_sheets(comparison: Comparison, number: int) -> list[Sheet]:
    """The scores of a board: the main table, the other metrics, the structures, and all rows."""
    board, metric = comparison.boards[number], comparison.metric
    scores = _with_letters(board, metric)
    mean = scores["structure"] == board.headline
    main = scores[mean & (scores["metric"] == metric)]
    inner = scores[~mean & (scores["metric"] == metric)]
    title, about = board.setting.title, ("arm", "metric", "structure")
    named = [text("structure", "structure"), text("arm", "arm")]
    heading = name_metric(board, metric)
    columns = _columns(main, heading)
    sheets = [Sheet(build(main, f"scores-{number}", metric, [named[1], *columns], about, of=title), scores)]
    whole = scores[scores["structure"] == MEAN]
    others = _metrics(board, whole, metric, number)
    if others:
        sheets.append(Sheet(others, whole[whole["metric"] != metric]))
    if inner["structure"].nunique() > 1:
        inside = [*named, *_columns(inner, heading)]
        grid = build(inner, f"structures-{number}", f"{metric} per structure", inside, about, 2, of=title)
        sheets.append(Sheet(grid, inner))
    if len(scores) > len(main) + len(inner):
        every = [text("metric", "metric"), *named, *_columns(scores, "mean")]
        caption = "All metrics and structures"
        sheets.append(Sheet(build(scores, f"all-{number}", caption, every, about, 3, MOST_ROWS, of=title), scores))
    return sheets


def _columns(scores: pd.DataFrame, heading: str) -> list[Column]:
    columns = filled(scores, score_columns(heading), ALWAYS)
    return [c for c in columns if c.parts[0].key != "folds" or scores["folds"].max() > 1]


def _with_letters(board: Board, metric: str) -> pd.DataFrame:
    scores = board.scores.reset_index(drop=True)
    main = (scores["metric"] == metric) & (scores["structure"] == board.headline)
    return scores.assign(letters=scores["arm"].map(dict(board.letters)).where(main))


def _metrics(board: Board, scores: pd.DataFrame, metric: str, number: int) -> Grid | None:
    """A column per metric, as the main metric orders the arms."""
    metrics = [name for name in scores["metric"].unique() if name != metric]
    found = scores.set_index(["arm", "metric"])
    order = [*scores.loc[scores["metric"] == metric, "arm"], *scores["arm"]]
    parts = Part("mean", why="undefined in every case"), Part("sd", "spread", "± ", why=ONE_RUN)
    columns = (text("arm", "arm"), *(Column(name_metric(board, name), parts, SPREAD) for name in metrics))
    rows = []
    for arm in dict.fromkeys(order):
        cells = (make_cell(arm, columns[0].parts[0]),), *(_pair(found, arm, name, parts) for name in metrics)
        rows.append(Row({"arm": arm, "structure": MEAN}, cells))
    of = board.setting.title
    return (
        Grid(f"metrics-{number}", "Other metrics", columns, tuple(rows), total=len(rows), of=of)
        if metrics and rows
        else None
    )


def _pair(found: pd.DataFrame, arm: str, metric: str, parts: tuple[Part, ...]) -> tuple[Cell, ...]:
    there = (arm, metric) in found.index
    return tuple(make_cell(found.at[(arm, metric), p.key] if there else None, p, metric=metric) for p in parts)


def pair_columns(metric: str) -> list[Column]:
    """The columns of a table of paired differences."""
    decided = "decided already, or nothing to go by"
    return [
        one("difference", f"Δ {metric}", "difference", "mean of a − mean of b, over the same cases"),
        interval(kind="difference"),
        text("verdict", "a is"),
        *(one(f"{key}_holm", f"{name}, Holm", "p", f"{title}, adjusted", "no test") for key, name, title in TESTS),
        one("effect_dz", "d_z", "effect", "mean difference / its standard deviation", "no spread between patients"),
        one("effect_rank", "rank-biserial", "effect", "signed ranks in favour of a − against it", "no differences"),
        one("share_better", "a better in", "share", "share of patients in which a scores better"),
        one("more_seeds", "more seeds", "need", "further seeds that would decide it (power 0.8)", decided),
        one("more_patients", "more patients", "need", "further patients that would decide it (power 0.8)", decided),
    ]


def detail_columns(pairs: pd.DataFrame) -> list[Column]:
    """What stands behind each pair; p before adjustment where it is another than after, as it is of several pairs."""
    changed = any(not pairs[f"{key}_holm"].equals(pairs[key]) for key, _, _ in TESTS if key in pairs)
    raw = [one(key, name, "p", f"{title}, not adjusted", "no test") for key, name, title in TESTS if changed]
    return [*raw, *(one(key, key, "count") for key in ("patients", "cases", "seeds"))]


def pair_sheets(comparison: Comparison, number: int) -> list[Sheet]:
    """The paired differences of a board: of the mean, of each structure, and what stands behind them all."""
    board, metric = comparison.boards[number], comparison.metric
    if board.pairs.empty:
        return []
    mean = board.pairs["structure"] == board.headline
    named, about = [text("a", "a"), text("b", "b")], ("a", "b", "structure", "metric")
    caption, of = f"Paired differences in {metric}", board.setting.title
    first = _smallest_p(board.pairs[mean])
    columns = [*named, *filled(first, pair_columns(metric), ALWAYS)]
    sheets = [Sheet(build(first, f"pairs-{number}", caption, columns, about, 2, MOST_PAIRS, of=of), board.pairs)]
    inner = _smallest_p(board.pairs[~mean])
    if inner["structure"].nunique() > 1:
        inside = [text("structure", "structure"), *named, *filled(inner, pair_columns(metric), ALWAYS)]
        grid = build(
            inner, f"structure-pairs-{number}", f"{caption} per structure", inside, about, 3, MOST_PAIRS, of=of
        )
        sheets.append(Sheet(grid, inner))
    every = [text("structure", "structure"), *named, *filled(board.pairs, detail_columns(board.pairs))]
    caption = f"What the differences in {metric} rest on"
    grid = build(_smallest_p(board.pairs), f"pairs-all-{number}", caption, every, about, 3, MOST_ROWS, of=of)
    return [*sheets, Sheet(grid, board.pairs)]


def _smallest_p(pairs: pd.DataFrame) -> pd.DataFrame:
    """Where not all are shown, those that say most come first."""
    return pairs if len(pairs) <= MOST_PAIRS else pairs.sort_values("p_permutation_holm", kind="stable")


def stability_sheet(comparison: Comparison, number: int) -> list[Sheet]:
    """How the arms would rank on other patients and seeds."""
    board = comparison.boards[number]
    columns = [
        text("arm", "arm"),
        one("mean_rank", "mean rank", "rank"),
        one("first", "best in", "share", "share of the resamples in which the arm is best"),
        interval("rank_low", "rank_high", "about"),
    ]
    if len(board.stability) < 2:
        return []
    caption = "Rank stability under the bootstrap"
    grid = build(board.stability, f"stability-{number}", caption, columns, of=board.setting.title)
    return [Sheet(grid, board.stability)]
