"""Friedman and Nemenyi against SciPy, scikit-posthocs and the example of Demšar (2006)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from medsam2.results.statistics import cliques, critical_difference, friedman, mean_ranks

# Demšar 2006, table 6: AUC of C4.5, with m, with cf, with both, on 14 datasets
DEMSAR = np.array(
    [
        [0.763, 0.768, 0.771, 0.798], [0.599, 0.591, 0.590, 0.569], [0.954, 0.971, 0.968, 0.967],
        [0.628, 0.661, 0.654, 0.657], [0.882, 0.888, 0.886, 0.898], [0.936, 0.931, 0.916, 0.931],
        [0.661, 0.668, 0.609, 0.685], [0.583, 0.583, 0.563, 0.625], [0.775, 0.838, 0.866, 0.875],
        [1.000, 1.000, 1.000, 1.000], [0.940, 0.962, 0.965, 0.962], [0.619, 0.666, 0.614, 0.669],
        [0.972, 0.981, 0.9751, 0.975], [0.957, 0.978, 0.946, 0.970],
    ]
)  # fmt: skip


def test_demsars_example() -> None:
    ranks = mean_ranks(DEMSAR)
    assert ranks == pytest.approx([3.143, 2.000, 2.893, 1.964], abs=5e-4)
    # he writes 9.28 from rounded ranks and without the correction for ties, which SciPy has as well
    assert friedman(DEMSAR)[0] == pytest.approx(stats.friedmanchisquare(*DEMSAR.T).statistic)
    assert critical_difference(4, 14, alpha=0.10) == pytest.approx(1.12, abs=5e-3)
    assert critical_difference(4, 14) == pytest.approx(1.25, abs=5e-3)


@pytest.mark.parametrize(
    ("arms", "q"),
    [(2, 1.960), (3, 2.343), (4, 2.569), (5, 2.728), (6, 2.850), (7, 2.949), (8, 3.031), (9, 3.102), (10, 3.164)],
)
def test_quantiles_are_those_of_demsars_table_5(arms: int, q: float) -> None:
    assert critical_difference(arms, 1) / np.sqrt(arms * (arms + 1) / 6) == pytest.approx(q, abs=1.5e-3)


@pytest.mark.slow  # for scikit-posthocs is slow to import
def test_friedman_and_nemenyi_are_those_of_peers() -> None:
    posthocs = pytest.importorskip("scikit_posthocs")
    scores = np.random.default_rng(0).integers(0, 8, (9, 5)) + np.arange(5) * 1.5
    expected = stats.friedmanchisquare(*scores.T)
    assert friedman(scores) == pytest.approx((expected.statistic, expected.pvalue))
    p = np.asarray(posthocs.posthoc_nemenyi_friedman(scores))
    ranks = mean_ranks(scores)
    apart = np.abs(ranks[:, None] - ranks)
    assert np.array_equal(p < 0.05, apart > critical_difference(5, 9))


@pytest.mark.parametrize(
    ("ranks", "cd", "expected"),
    [
        ([3.143, 2.0, 2.893, 1.964], 1.25, [[3, 1, 2, 0]]),
        ([3.143, 2.0, 2.893, 1.964], 1.0, [[3, 1, 2], [2, 0]]),
        ([1.0, 3.0, 2.0], 0.5, []),
        ([1.0, 2.0, 3.0], 1.0, [[0, 1], [1, 2]]),
        ([2.0, 2.0], 0.5, [[0, 1]]),
        ([1.0], 1.0, []),
    ],
)
def test_cliques(ranks: list[float], cd: float, expected: list[list[int]]) -> None:
    assert cliques(ranks, cd) == expected


@given(st.lists(st.floats(1, 9), min_size=1, max_size=9), st.floats(0.1, 4))
@settings(max_examples=60, deadline=None)
def test_two_arms_share_a_clique_exactly_if_they_are_near(ranks: list[float], cd: float) -> None:
    groups = cliques(ranks, cd)
    for i in range(len(ranks)):
        for j in range(i):
            near = max(ranks[i], ranks[j]) <= min(ranks[i], ranks[j]) + cd
            assert any(i in group and j in group for group in groups) == near
    assert not any(set(a) < set(b) for a in groups for b in groups)


def test_what_cannot_be_ranked() -> None:
    assert np.isnan(friedman([[0.1, 0.2, 0.3]])).all()
    assert friedman(np.ones((5, 3))) == (0, 1)
    with pytest.raises(ValueError, match="without gaps"):
        friedman([[0.1, np.nan], [0.2, 0.3]])
