"""The board of a setting: its scores, its pairs, letters of what is not told apart, and how stable the ranks are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medsam2.results.compare import notes
from medsam2.results.compare.comparison import MEAN, Board, is_higher_better
from medsam2.results.compare.pairs import COLUMNS, Table, choose_pairs, compare_pairs
from medsam2.results.compare.scores import score
from medsam2.results.compare.threads import side_by_side
from medsam2.results.compare.view import Part, View, pick
from medsam2.results.statistics import Clusters, Draws, compact_letters

STABILITY = ("arm", "mean_rank", "first", "rank_low", "rank_high")


@dataclass(frozen=True)
class Question:
    """What is asked: the main metric, an arm that all others are compared with, and how much is drawn."""

    metric: str
    baseline: str | None
    resamples: int
    seed: int


def build_board(view: View, question: Question) -> Board:
    """The board of one setting."""
    scores = score(view, question.metric, question.resamples, question.seed)
    part, told = view.part_of(question.metric), [*view.notes, *notes.about_training(view.runs)]
    if part is None:
        words = [*told, f"no row of this setting has {question.metric}: there are no pairs"]
        pairs, stability = (pd.DataFrame(columns=list(columns)) for columns in (COLUMNS, STABILITY))
        return Board(view.setting, scores, pairs, {}, stability, view.cases, words, view.name)
    lines = scores[scores["metric"] == question.metric]
    ranked = lines[(lines["structure"] == part.structures[0]) & lines["mean"].notna()]["arm"].tolist()
    pairs, letters, words = _compare(view, part, ranked, question)
    words = [*told, *notes.about_board(part, lines, question.metric), *words]
    stability = _rank(part, ranked, question)
    return Board(
        view.setting, scores, pairs, letters, stability, view.cases, words, view.name, headline=part.structures[0]
    )


def _compare(
    view: View, part: Part, ranked: list[str], question: Question
) -> tuple[pd.DataFrame, dict[str, str], list[str]]:
    """Pairs of all structures, letters and notes; `ranked` are the arms that have a value, best first."""
    metric, cells = question.metric, part.cells
    order = [cells.arms.index(arm) for arm in ranked]
    baseline = question.baseline if question.baseline in ranked else None
    pairs, family = choose_pairs(order, cells.arms.index(baseline) if baseline else None)
    values, clusters = part.values(metric), part.clusters(metric)
    scored, lacking = (cells.present(cells.case, of) for of in (~np.isnan(values), np.isnan(values)))

    def table(structure: str) -> Table:
        k = [i for i, name in enumerate(cells.structures) if structure in (MEAN, name)]
        return Table(
            cells.arms, pick(clusters, cells.structures, structure), scored[:, :, k], ~lacking[:, :, k],
            lambda arm, kept: restrict(arm, kept, k, structure), pairs, family, structure, metric, view.where,
            cells.unit, notes.unit_of(part.frame), question.resamples, question.seed,
        )  # fmt: skip

    def restrict(arm: int, kept: NDArray[np.bool_], k: list[int], structure: str) -> Clusters:
        everywhere = np.zeros(scored.shape[1:], dtype=np.bool_)
        everywhere[:, k] = kept
        return pick([cells.restricted(arm, values, everywhere)], cells.structures, structure)[0]

    tables = side_by_side(lambda structure: compare_pairs(table(structure)), part.structures)
    letters = _give_letters(tables[0], ranked) if len(pairs) == family and not baseline else {}
    return pd.concat(tables, ignore_index=True), letters, notes.about_pairs(part, order, baseline, question.baseline)


def _give_letters(pairs: pd.DataFrame, ranked: list[str]) -> dict[str, str]:
    """Of arms in their order, best first; none for a single one."""
    if len(ranked) < 2:
        return {}
    number = {arm: i for i, arm in enumerate(ranked)}
    different = np.zeros((len(ranked), len(ranked)), dtype=np.bool_)
    decided = pairs[pairs["verdict"] != "undecided"]
    a, b = (decided[side].map(number).to_numpy(dtype=np.int64) for side in "ab")
    different[a, b] = different[b, a] = True
    return dict(zip(ranked, compact_letters(range(len(ranked)), different), strict=True))


def _rank(part: Part, ranked: list[str], question: Question) -> pd.DataFrame:
    """How the ranks of the arms vary from resample to resample, 1 being the best."""
    if len(ranked) < 2 or part.cells.shape[2] < 2:
        return pd.DataFrame(columns=list(STABILITY))
    clusters = dict(zip(part.cells.arms, part.clusters(question.metric), strict=True))
    sign = 1 if is_higher_better(question.metric) else -1
    signed = [Clusters(sign * clusters[arm].sums, clusters[arm].counts, clusters[arm].seeds) for arm in ranked]
    ranks = Draws(signed, question.resamples, question.seed).ranks()
    low, high = np.percentile(ranks, (2.5, 97.5), axis=0)
    first = (ranks == ranks.min(axis=1, keepdims=True)).mean(axis=0)
    columns = ranked, ranks.mean(axis=0), first, low, high
    return pd.DataFrame(dict(zip(STABILITY, columns, strict=True)))
