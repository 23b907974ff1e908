"""Trained on one dataset, tested on another: means of the main metric."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from medsam2.results.compare.comparison import Board

UNKNOWN = "unknown"
HERE = "here"  # how a setting calls it that its runs were trained on the dataset that they were tested on


def build_matrix(boards: Sequence[Board], metric: str, runs: pd.DataFrame) -> pd.DataFrame | None:
    """(arm, trained_on) × dataset tested on, NaN where there is no run; None unless one was tested elsewhere.

    Columns differ in what was tested: they are not to be averaged. A dataset with several splits, prompts, definitions
    or structures has a column for each. Of masks of others, and of networks as they came, training is unknown.
    """
    if all(_origin(board) == HERE for board in boards):
        return None
    names = _name_columns(boards)
    cells: dict[tuple[str, str], dict[str, float]] = {}
    for board, name in zip(boards, names, strict=True):
        origins = runs.loc[list(board.setting.run_ids)].groupby("arm")["trained_on"].max()
        lines = board.scores[(board.scores["metric"] == metric) & (board.scores["structure"] == board.headline)]
        for arm, mean in zip(lines["arm"], lines["mean"], strict=True):
            cells.setdefault((arm, origins[arm] or UNKNOWN), {})[name] = float(mean)
    frame = pd.DataFrame(list(cells.values()), columns=list(dict.fromkeys(names)), dtype=float)
    frame.index = pd.MultiIndex.from_tuples(list(cells), names=["arm", "trained_on"])
    return frame.rename_axis(columns="dataset").sort_index()


def _origin(board: Board) -> str:
    return board.setting.key.get("trained_on", HERE)


def _name_columns(boards: Sequence[Board]) -> list[str]:
    """What was tested, as boards that differ only in where was trained have it in common.

    A number stands behind it only where other prompts or splits are the same in short.
    """
    shorts = {_tested(board): board.setting.tested for board in boards}
    words = list(shorts.values())
    before = [words[:i].count(short) for i, short in enumerate(words)]
    names = {
        what: f"{short} ({number + 1})" if number else short
        for (what, short), number in zip(shorts.items(), before, strict=True)
    }
    return [names[_tested(board)] for board in boards]


def _tested(board: Board) -> tuple[str, ...]:
    return tuple(value for key, value in sorted(board.setting.key.items()) if key != "trained_on")
