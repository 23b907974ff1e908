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
    columns = np.ones((1, len(order)), dtype=np.float32)  # 1: order[i] has this letter
    for i in range(len(order)):
        for j in range(i + 1, len(order)):
            if differ(order[i], order[j]):
                columns = _split(columns, i, j)
                if len(columns) > LIMIT:
                    return [""] * len(order)
    if len(columns) > len(ascii_letters):
        return [""] * len(order)
    named = list(zip(ascii_letters, sorted((columns > 0).tolist(), reverse=True), strict=False))
    return ["".join(letter for letter, column in named if column[i]) for i in range(len(order))]


def _split(columns: NDArray[np.float32], i: int, j: int) -> NDArray[np.float32]:
    """No column holds both i and j any more (insert), none is part of another (absorb).

    As none was part of another before, a half can only be part of a column that was not split.
    """
    both = (columns[:, i] > 0) & (columns[:, j] > 0)
    kept, halves = columns[~both], np.repeat(columns[both], 2, axis=0)
    halves[::2, i] = halves[1::2, j] = 0
    outside = halves @ (1 - kept).T  # how many arms of a half a column lacks
    return np.concatenate([kept, halves[(outside > 0).all(1)]])
