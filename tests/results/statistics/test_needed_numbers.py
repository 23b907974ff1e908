"""How many patients or seeds decide: against statsmodels, and at the edges."""

from __future__ import annotations

import numpy as np
import pytest

from medsam2.results.statistics import needed_patients, needed_seeds

EFFECTS = np.array([0.05, 0.2, 0.35, 0.8, 1.5, 3.0])


@pytest.mark.slow  # for statsmodels is slow to import
@pytest.mark.parametrize(("alpha", "power"), [(0.05, 0.8), (0.05, 0.95), (0.001, 0.8)])
def test_numbers_are_those_of_statsmodels(alpha: float, power: float) -> None:
    peer = pytest.importorskip("statsmodels.stats.power").TTestPower()
    for n, effect in zip(needed_patients(0.1 * EFFECTS, 0.1, alpha, power), EFFECTS, strict=True):
        expected = np.nan_to_num(peer.power(effect, np.array([n - 1, n]), alpha), nan=1)  # its tail runs out at times
        assert expected[1] >= power
        assert n == 2 or expected[0] < power or effect == 3


def test_cohens_example() -> None:
    assert needed_patients(0.5, 1.0) == 34  # d_z of 0.5, alpha 0.05 two-sided, power 0.8
    assert needed_seeds(-0.5, 1.0) == 34


@pytest.mark.parametrize(
    ("difference", "spread", "rest", "expected"),
    [(0.0, 0.1, 0.0, np.inf), (0.1, 0.0, 0.0, 2), (0.1, 0.1, 0.05, np.inf), (np.nan, 0.1, 0.0, np.nan)],
)
def test_edges(difference: float, spread: float, rest: float, expected: float) -> None:
    assert needed_patients(difference, spread, rest=rest) == pytest.approx(expected, nan_ok=True)


def test_what_does_not_shrink_asks_for_more() -> None:
    few, more = needed_patients(0.1, 0.5), needed_patients(0.1, 0.5, rest=0.03)
    assert 1.5 * few < more < np.inf
    assert needed_patients(np.full((2, 3), 0.1), 0.2).shape == (2, 3)
