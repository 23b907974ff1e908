"""Small words: numbers with their nouns, lists that end, units."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import pandas as pd

from medsam2.results.collect.study import COUNTED
from medsam2.results.compare import notes
from medsam2.results.compare.comparison import DISTANCES, FREE, Board


def count(number: int, noun: str) -> str:
    """`1 seed`, `3 seeds`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def count_states(left_out: pd.DataFrame) -> str:
    """`5 failed, 1 running, 2 finished but repeated or not comparable`."""
    states = Counter(str(state) for state in left_out["state"])
    words = {COUNTED: f"{COUNTED} but repeated or not comparable"}
    return ", ".join(f"{number} {words.get(state, state)}" for state, number in states.most_common())


def listing(names: Iterable[object], most: int) -> str:
    """Names one after the other; of many, the first."""
    known = [str(name) for name in names]
    return ", ".join(known[:most]) + (f" and {len(known) - most} more" if len(known) > most else "")


def unit_of(board: Board, metric: str) -> str:
    """mm or px for a distance, else nothing."""
    return notes.unit_of(board.cases) if metric.removeprefix(FREE) in DISTANCES else ""


def name_metric(board: Board, metric: str) -> str:
    """`dice`, `hd95 (mm)`."""
    unit = unit_of(board, metric)
    return f"{metric} ({unit})" if unit else metric
