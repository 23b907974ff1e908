"""The same arms on several datasets: Friedman's test and mean ranks, each dataset being one block.

Demšar 2006 (JMLR 7, sections 3.2.2 and 3.2.4). Scores of different datasets are ranked, never averaged.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from medsam2.results.compare.comparison import Across, Board, is_higher_better
from medsam2.results.statistics import cliques, critical_difference, friedman, mean_ranks

FEW = 5  # datasets: fewer can hardly show anything


def compare_across(boards: Sequence[Board], metric: str) -> Across | None:
    """The arms that were tested on all datasets; None where fewer than two datasets have two arms in common."""
    chosen, notes = _choose(boards, metric)
    columns = {dataset: _read(board, metric) for dataset, board in chosen.items()}
    scores = pd.DataFrame(columns).dropna()
    if scores.shape[0] < 2 or scores.shape[1] < 2:
        return None
    missing = sorted(set().union(*(column.index for column in columns.values())) - set(scores.index))
    if missing:
        notes.append(f"not tested on all of {', '.join(scores.columns)}, and left out: {', '.join(missing)}")
    if scores.shape[1] < FEW:
        notes.append(f"{scores.shape[1]} datasets: so few blocks can hardly show a difference between arms")
    signed = scores.to_numpy(dtype=np.float64).T * (1 if is_higher_better(metric) else -1)  # D×A
    statistic, p = friedman(signed) if scores.shape[0] > 2 else (np.nan, np.nan)
    ranks = np.asarray(mean_ranks(signed))
    order = np.argsort(ranks, kind="stable")
    difference = critical_difference(*scores.shape)
    names = scores.index[order].tolist()
    groups = [[names[i] for i in group] for group in cliques(ranks[order], difference)]
    return Across(
        mean_ranks=pd.Series(ranks[order], index=names, name="mean_rank"),
        statistic=float(statistic),
        p=float(p),
        critical_difference=float(difference),
        cliques=groups,
        datasets=list(map(str, scores.columns)),
        scores=scores,
        notes=notes,
    )


def _choose(boards: Sequence[Board], metric: str) -> tuple[dict[str, Board], list[str]]:
    """A board for each dataset: of several the one with the most arms, rather of runs that were trained there."""
    found: dict[str, list[Board]] = {}
    for board in boards:
        if (board.scores["metric"] == metric).any():
            found.setdefault(board.setting.key["dataset"], []).append(board)
    chosen = {dataset: max(some, key=_size) for dataset, some in found.items()}
    notes = [
        f"{dataset} has {len(some)} boards; {chosen[dataset].name} counts here, which has the most arms"
        for dataset, some in found.items()
        if len(some) > 1
    ]
    return chosen, notes


def _size(board: Board) -> tuple[int, bool]:
    return board.scores["arm"].nunique(), board.setting.key.get("trained_on", "here") == "here"


def _read(board: Board, metric: str) -> pd.Series[float]:
    """The means by arm."""
    lines = board.scores[(board.scores["metric"] == metric) & (board.scores["structure"] == board.headline)]
    return lines.set_index("arm")["mean"].dropna()
