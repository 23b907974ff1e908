"""Letters beside the rows of a table: two arms that share one do not differ."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from string import ascii_letters

import numpy as np
from numpy.typing import NDArray

LIMIT = 1000  # columns on the way; where this many are needed, letters say nothing


def compact_letters(order: Sequence[int], different: Callable[[int, int], bool] | NDArray[np.bool_]) -> list[str]:
    """The letters of order[0], order[1], …: insert and absorb (Piepho 2004, JCGS 13:456).

    Args:
        order: arms, best first; `a` goes to the first.
        different: whether two arms differ, as a function of two arms or as A×A.

    Returns:
        a string for each arm in `order`; all empty where more than 52 letters would be needed.
    """
    differ = different if callable(different) else lambda a, b: bool(different[a, b])
    columns = [(1 << len(order)) - 1]  # bit i: order[i] has this letter
    for i in range(len(order)):
        for j in range(i + 1, len(order)):
            if differ(order[i], order[j]):
                columns = _split(columns, i, j)
                if len(columns) > LIMIT:
                    return [""] * len(order)
    columns.sort(key=lambda column: [not column >> i & 1 for i in range(len(order))])
    if len(columns) > len(ascii_letters):
        return [""] * len(order)
    named = list(zip(ascii_letters, columns, strict=False))
    return ["".join(letter for letter, column in named if column >> i & 1) for i in range(len(order))]


def _split(columns: list[int], i: int, j: int) -> list[int]:
    """No column holds both i and j any more (insert), none is part of another (absorb)."""
    both = 1 << i | 1 << j
    kept = [column for column in columns if column & both != both]
    halves = [column & ~(1 << k) for column in columns if column & both == both for k in (i, j)]
    for half in halves:
        if not any(half & other == half for other in kept):
            kept = [other for other in kept if other & half != other] + [half]
    return kept
