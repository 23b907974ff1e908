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


def why_not_across(boards: Sequence[Board], metric: str) -> list[str]:
    """Why there is no test although there are several datasets."""
    datasets = list(dict.fromkeys(board.setting.key["dataset"] for board in boards))
    if len(datasets) < 2:
        return []
    there = list(_by_dataset(boards, metric))
    if len(there) < 2:
        return [f"no test across datasets: of {', '.join(datasets)} only {', '.join(there) or 'none'} has {metric}"]
    return [f"no test across datasets: {', '.join(there)} do not have two arms in common"]


def _choose(boards: Sequence[Board], metric: str) -> tuple[dict[str, Board], list[str]]:
    """A board for each dataset: of several the one that leaves the most arms that all datasets have."""
    found = _by_dataset(boards, metric)
    arms = {id(board): set(_read(board, metric).index) for board in boards}

    def around(one: Board) -> dict[str, Board]:
        """The nearest boards to one; of equals that with the most arms, rather of runs that were trained there."""
        return {
            dataset: max(some, key=lambda b: (len(arms[id(b)] & arms[id(one)]), len(arms[id(b)]), _at_home(b)))
            for dataset, some in found.items()
        }

    def worth(chosen: dict[str, Board]) -> tuple[int, int, int]:
        sets = [arms[id(board)] for board in chosen.values()]
        return len(set.intersection(*sets)), sum(map(len, sets)), sum(map(_at_home, chosen.values()))

    chosen = max((around(board) for some in found.values() for board in some), key=worth, default={})
    notes = [
        f"{dataset} has {len(some)} boards; {chosen[dataset].name} counts here, which has the most arms in common "
        "with other datasets"
        for dataset, some in found.items()
        if len(some) > 1
    ]
    return chosen, notes


def _by_dataset(boards: Sequence[Board], metric: str) -> dict[str, list[Board]]:
    """Those that have the metric."""
    found: dict[str, list[Board]] = {}
    for board in boards:
        if len(_read(board, metric)):
            found.setdefault(board.setting.key["dataset"], []).append(board)
    return found


def _at_home(board: Board) -> bool:
    return board.setting.key.get("trained_on", "here") == "here"


def _read(board: Board, metric: str) -> pd.Series[float]:
    """The means by arm."""
    lines = board.scores[(board.scores["metric"] == metric) & (board.scores["structure"] == board.headline)]
    return lines.set_index("arm")["mean"].dropna()
