"""Paired tests against SciPy, statsmodels and enumeration."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from medsam2.results.statistics import holm, permute, wilcoxon

RNG = np.random.default_rng(0)
DIFFERENCES = {
    "exact": RNG.normal(0.3, 1, (6, 12)),
    "normal": RNG.normal(0.1, 1, (4, 80)),
    "ties": RNG.integers(1, 9, (4, 90)) * RNG.choice([-1.0, 1.0], (4, 90), p=[0.4, 0.6]),
    "ties and zeros": RNG.integers(-3, 5, (4, 90)).astype(float),
}


@pytest.mark.parametrize("name", DIFFERENCES)
def test_wilcoxon_is_that_of_scipy(name: str) -> None:
    d = DIFFERENCES[name]
    expected = [stats.wilcoxon(row, zero_method="pratt").pvalue for row in d]
    assert wilcoxon(d) == pytest.approx(expected, rel=1e-9)


def test_wilcoxon_by_hand_and_at_its_edges() -> None:
    # Hollander, Wolfe & Chicken, Nonparametric Statistical Methods, example 3.1: T+ = 5 of 9, one-sided p 0.020
    depression = [0.952, -0.147, 1.022, 0.430, 0.620, 0.590, 0.490, -0.080, 0.010]
    assert wilcoxon(depression)[0] == pytest.approx(0.0390625)
    assert wilcoxon([[0.0, 0, 0], [np.nan] * 3, [1.0, 2, 3]]) == pytest.approx([1, np.nan, 0.25], nan_ok=True)
    with_gaps = np.insert(DIFFERENCES["exact"], [2, 5], np.nan, axis=1)
    assert wilcoxon(with_gaps) == pytest.approx(wilcoxon(DIFFERENCES["exact"]))


def test_permutations_are_all_of_them_where_they_are_few() -> None:
    d = np.array([[0.3, 0.1, 0.5, -0.2, 0.4, 0.25, 0.1], [1, -1, 1, -1, 0, 0, 2.0]])
    for row, p in zip(d, permute(d), strict=True):
        sums = [abs(np.dot(signs, row)) for signs in product((-1, 1), repeat=7)]
        assert p == pytest.approx(np.mean([s >= abs(row.sum()) - 1e-9 for s in sums]))
    assert permute(np.ones(6))[0] == pytest.approx(2 / 2**6)
    assert permute(np.ones(5))[0] > 0.05


def test_random_permutations_agree_with_scipy() -> None:
    d = RNG.normal(0.25, 1, (3, 40))
    p = permute(d, resamples=20_000)
    for row, mine in zip(d, p, strict=True):
        peer = stats.permutation_test((row,), np.mean, permutation_type="samples", n_resamples=20_000, rng=1).pvalue
        assert mine == pytest.approx(peer, abs=0.012)
    assert permute(np.ones(100), resamples=999)[0] == 1 / 1000  # never 0
    assert permute(d, seed=3) == pytest.approx(permute(d, seed=3), abs=0)


def test_permutations_at_their_edges() -> None:
    rows = np.array([[0.0] * 4, [np.nan] * 4, [0.1, np.nan, 0.2, 0.1]])
    assert permute(rows) == pytest.approx([1, np.nan, 0.25], nan_ok=True)
    assert permute([[0.3]]).tolist() == [1]
    assert permute(np.empty((0, 5))).shape == (0,)


def test_chance_to_err_is_that_which_is_written() -> None:
    d = np.random.default_rng(7).normal(size=(4000, 20))
    for p in (wilcoxon(d), permute(d, 1000)):
        assert (p < 0.05).mean() == pytest.approx(0.05, abs=0.011)


@pytest.mark.slow  # for statsmodels is slow to import
@given(st.lists(st.floats(0, 1), max_size=30))
@settings(max_examples=40, deadline=None)
def test_holm_is_that_of_statsmodels(p: list[float]) -> None:
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    expected = multitest.multipletests(p, method="holm")[1] if p else []
    assert holm(p) == pytest.approx(np.asarray(expected))


def test_holm_by_hand_and_without_values() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.02, np.nan, 0.01]) == pytest.approx([0.02, np.nan, 0.02], nan_ok=True)
