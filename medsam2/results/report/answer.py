"""What was asked and what came out, in words. Every number in them stands in a table too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pandas as pd

from medsam2.results.compare.comparison import Board, Comparison
from medsam2.results.report.grid import show
from medsam2.results.report.words import count, listing, name_metric

MOST_SENTENCES = 10


@dataclass(frozen=True)
class Asked:
    """How the comparison was asked for.

    Attributes:
        filters: which runs were looked for, such as `dataset: refuge`.
        command: what makes this report again.
        made: when, in words; empty to leave it out.
    """

    filters: Mapping[str, str] = field(default_factory=dict)
    command: str = ""
    made: str = ""


@dataclass(frozen=True)
class Finding:
    """The answer of one board: a headline, the pairs behind it, what to bear in mind."""

    title: str
    headline: str
    sentences: list[str]
    more: int
    notes: list[str]


def describe(comparison: Comparison, asked: Asked) -> dict[str, str]:
    """What was asked, as terms and their descriptions."""
    runs = comparison.study.runs
    better = "higher is better" if comparison.higher_is_better else "lower is better"
    filters = ", ".join(f"{key} {value}" for key, value in asked.filters.items())
    told = {
        "Compared": f"{count(len(comparison.arms), 'arm')}: {listing(comparison.arms, 12)}",
        "What varies": _varies(comparison),
        "Datasets": listing(dict.fromkeys(runs["dataset"].astype(str)), 20),
        "Metric": f"{comparison.metric} ({better})",
        "Runs": _runs(comparison),
        "Only": filters,
        "Source": comparison.study.source,
        "Begun": _when(runs["begun"]),
        "Report made": asked.made,
    }
    return {term: words for term, words in told.items() if words}


def _varies(comparison: Comparison) -> str:
    keys = [str(key) for key in comparison.varied.columns]
    named = list(comparison.by) or keys[:8]
    more = len([key for key in keys if key not in named])
    return listing(named, 8) + (f", and with it {count(more, 'setting')}" if named and more else "")


def _runs(comparison: Comparison) -> str:
    runs = comparison.study.runs
    seeds = ", ".join(str(seed) for seed in sorted(runs["seed"].dropna().unique()))
    left = f"; {len(comparison.left_out)} left out" if len(comparison.left_out) else ""
    return f"{len(runs)} finished, seeds {seeds}{left}"


def _when(begun: pd.Series) -> str:
    known = begun.dropna()
    if known.empty:
        return ""
    first, last = show(float(known.min()), "date"), show(float(known.max()), "date")
    return f"{first} UTC" if first == last else f"{first} to {last} UTC"


def find(comparison: Comparison, board: Board) -> Finding:
    """The answer of a board."""
    pairs = board.pairs
    if not pairs.empty:
        pairs = pairs[pairs["structure"] == board.headline]
    sentences = [_begin(str(words), comparison.arms) for words in pairs["sentence"]] if len(pairs) else []
    return Finding(
        board.setting.title,
        headline(comparison, board),
        sentences[:MOST_SENTENCES],
        max(0, len(sentences) - MOST_SENTENCES),
        list(dict.fromkeys([*board.setting.notes, *board.notes])),
    )


def _begin(sentence: str, arms: list[str]) -> str:
    """With a capital, unless it begins with an arm's name."""
    return sentence if sentence.startswith(tuple(arms)) else sentence[:1].upper() + sentence[1:]


def headline(comparison: Comparison, board: Board) -> str:
    """The best arm with its score, and from which others it is told apart."""
    rows = board.scores[(board.scores["structure"] == board.headline) & (board.scores["metric"] == comparison.metric)]
    rows = rows[rows["mean"].notna()]
    if rows.empty:
        return f"No arm has a value of {comparison.metric} here."
    best = rows.iloc[0]
    score = f"{name_metric(board, comparison.metric)}: {show(float(best['mean']))} ({_support(best)})"
    if len(rows) == 1:
        return f"{best['arm']} in {score}. There is no other arm to compare it with."
    leaders = [str(arm) for arm in rows.loc[rows["mean"] == best["mean"], "arm"]]
    most = "highest" if comparison.higher_is_better else "lowest"
    said = f"{leaders[0]} has" if len(leaders) == 1 else f"{' and '.join(leaders)} share"
    return " ".join([f"{said} the {most} {score}.", *_told_apart(leaders, board)])


def _support(row: pd.Series) -> str:
    there = [f"95 % interval {show(row['low'])} to {show(row['high'])}"] if row["low"] == row["low"] else []
    counts = ", ".join(count(int(row[key]), key.removesuffix("s")) for key in ("seeds", "patients", "cases"))
    return "; ".join([*there, counts])


def _told_apart(leaders: list[str], board: Board) -> list[str]:
    """From which others all leaders are told apart, and from which one of them is not."""
    if board.pairs.empty:
        return []
    pairs = board.pairs[board.pairs["structure"] == board.headline]
    won: dict[str, list[str]] = {}  # by the other arm, what is to be borne in mind
    level: dict[str, list[str]] = {}
    for a, b, verdict, caution in pairs[["a", "b", "verdict", "caution"]].itertuples(index=False):
        if (a in leaders) == (b in leaders):
            continue
        other = b if a in leaders else a
        if verdict == "undecided":
            level.setdefault(other, []).append("")
        elif (verdict == "better") == (a in leaders):
            won.setdefault(other, []).append(caution)
    one = len(leaders) == 1
    by_caution: dict[str, list[str]] = {}
    for arm, cautions in won.items():
        if len(cautions) == len(leaders):
            by_caution.setdefault(next(filter(None, cautions), ""), []).append(arm)
    better = [listing(arms, 6) + (f" ({caution})" if caution else "") for caution, arms in by_caution.items()]
    told = [f"{'It is' if one else 'They are'} better than {', and than '.join(better)}."] if better else []
    open_ = f"{'It is not' if one else 'They are not all'} told apart from {listing(level, 6)}."
    return [*told, open_] if level else told
