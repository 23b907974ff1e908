"""Compact letters: two arms share one exactly if they do not differ."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medsam2.results.statistics import compact_letters

CHOSEN = st.sets(st.integers(0, 80))


def differ(size: int, *pairs: tuple[int, int]) -> np.ndarray:
    table = np.zeros((size, size), bool)
    for a, b in pairs:
        table[a, b] = table[b, a] = True
    return table


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ([], ["a"] * 4),
        ([(0, 3)], ["a", "ab", "ab", "b"]),
        ([(0, 1), (0, 2), (0, 3)], ["a", "b", "b", "b"]),
        ([(0, 2), (0, 3), (1, 3)], ["a", "ab", "bc", "c"]),
        ([(a, b) for a in range(4) for b in range(a)], ["a", "b", "c", "d"]),
    ],
)
def test_by_hand(pairs: list[tuple[int, int]], expected: list[str]) -> None:
    assert compact_letters(range(4), differ(4, *pairs)) == expected


def test_piephos_example() -> None:
    """The differences of the example in Piepho 2004: 1 differs from 7 and 8, 2 from 4 and 5, 3 from 5."""
    table = differ(8, (0, 6), (0, 7), (1, 3), (1, 4), (2, 4))
    letters = compact_letters(range(8), table)
    assert letters == ["abc", "ad", "abde", "bcef", "cf", "abcdef", "def", "def"]
    assert _shares(letters, table)


def _shares(letters: list[str], table: np.ndarray) -> bool:
    size = len(letters)
    return all(bool(set(letters[a]) & set(letters[b])) != table[a, b] for a in range(size) for b in range(a))


@given(st.integers(1, 9).flatmap(lambda n: st.tuples(st.just(n), st.permutations(range(n)), CHOSEN)))
@settings(max_examples=80, deadline=None)
def test_letters_are_shared_exactly_by_those_that_do_not_differ(made: tuple[int, list[int], set[int]]) -> None:
    size, order, chosen = made
    pairs = [(i % 9, i // 9) for i in chosen if i % 9 < i // 9 < size]
    table = differ(size, *pairs)
    letters = compact_letters(order, lambda a, b: bool(table[a, b]))
    assert _shares(letters, table[np.ix_(order, order)])
    assert letters[0].startswith("a")
    owners = {letter: {i for i, own in enumerate(letters) if letter in own} for letter in set("".join(letters))}
    assert not any(a < b for a in owners.values() for b in owners.values())  # none is superfluous


def test_letters_that_would_say_nothing_are_left_out() -> None:
    pairs = [(2 * i, 2 * i + 1) for i in range(12)]  # 4,096 groups
    assert compact_letters(range(24), differ(24, *pairs)) == [""] * 24
    many = compact_letters(range(60), differ(60, *[(a, b) for a in range(60) for b in range(a)]))
    assert many == [""] * 60
