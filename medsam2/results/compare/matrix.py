"""Trained on one dataset, tested on another: means of the main metric."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from medsam2.results.compare.comparison import Board

HERE = "here"  # how a setting calls it that its runs were trained on the dataset that they were tested on


def build_matrix(boards: Sequence[Board], metric: str) -> pd.DataFrame | None:
    """(arm, trained_on) × dataset tested on, NaN where there is no run; None unless one was tested elsewhere.

    Columns differ in what was tested: they are not to be averaged. A dataset with several splits, prompts, definitions
    or structures has a column for each.
    """
    if all(_origin(board) == HERE for board in boards):
        return None
    names = _name_columns(boards)
    cells: dict[tuple[str, str], dict[str, float]] = {}
    for board, name in zip(boards, names, strict=True):
        origin = board.setting.key["dataset"] if _origin(board) == HERE else _origin(board)
        lines = board.scores[(board.scores["metric"] == metric) & (board.scores["structure"] == board.headline)]
        for arm, mean in zip(lines["arm"], lines["mean"], strict=True):
            cells.setdefault((arm, origin), {})[name] = float(mean)
    frame = pd.DataFrame(list(cells.values()), columns=list(dict.fromkeys(names)), dtype=float)
    frame.index = pd.MultiIndex.from_tuples(list(cells), names=["arm", "trained_on"])
    return frame.rename_axis(columns="dataset").sort_index()


def _origin(board: Board) -> str:
    return board.setting.key.get("trained_on", HERE)


def _name_columns(boards: Sequence[Board]) -> list[str]:
    """The dataset of each board; with a number where boards of a dataset differ in more than in where was trained."""
    tested = [tuple(v for k, v in sorted(board.setting.key.items()) if k != "trained_on") for board in boards]
    numbers: dict[str, list[tuple[str, ...]]] = {}
    for board, what in zip(boards, tested, strict=True):
        known = numbers.setdefault(board.setting.key["dataset"], [])
        known += [] if what in known else [what]
    names = []
    for board, what in zip(boards, tested, strict=True):
        dataset = board.setting.key["dataset"]
        several = len(numbers[dataset]) > 1
        names.append(
            f"{dataset}, {board.setting.key['budget']} ({numbers[dataset].index(what) + 1})" if several else dataset
        )
    return names
