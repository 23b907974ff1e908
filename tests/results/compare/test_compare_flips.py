"""Sign flips of many pairs at once, and tails finer than flips."""

from __future__ import annotations

import numpy as np
import pytest

from medsam2.results.compare.flips import find_tails, permute_pairs
from medsam2.results.statistics import permute

RNG = np.random.default_rng(4)


@pytest.mark.parametrize("units", [14, 17])
@pytest.mark.parametrize("shape", ["normal", "skewed", "heavy"])
def test_tails_are_those_of_all_patterns(units: int, shape: str) -> None:
    noise = {
        "normal": RNG.normal(size=(8, units)),
        "skewed": RNG.exponential(size=(8, units)) - 1,
        "heavy": RNG.standard_t(3, (8, units)),
    }[shape]
    d = noise + np.linspace(0.4, 1.2, 8)[:, None]
    exact = permute(d, resamples=2**units)
    found = find_tails(d)
    rare = exact < 0.01
    assert rare.any()
    assert np.all(np.abs(np.log(found[rare] / exact[rare])) < np.log(1.3))
    assert np.array_equal(find_tails(-d), found)
    assert np.allclose(find_tails(1e-9 * d), found, rtol=1e-6)


def test_tails_at_the_ends() -> None:
    d = np.stack([np.full(20, 0.3), np.r_[np.ones(10), np.zeros(10)], np.zeros(20), np.r_[np.ones(10), -np.ones(10)]])
    assert find_tails(d).tolist() == [2.0**-19, 2.0**-9, 1.0, 1.0]


def test_many_pairs_are_as_one_by_one() -> None:
    scores = RNG.normal(0.8, 0.1, (6, 30)) + np.linspace(0, 0.08, 6)[:, None]
    pairs = np.array([(a, b) for a in range(6) for b in range(a)])
    expected = permute(scores[pairs[:, 0]] - scores[pairs[:, 1]], resamples=100_000)
    found = permute_pairs(scores, pairs)
    assert np.abs(found - expected).max() < 0.02
    small = expected < 0.01
    assert small.any()
    assert np.allclose(found[small], expected[small], rtol=0.2, atol=1e-3)
    assert np.array_equal(found, permute_pairs(scores, pairs[:, ::-1]))


def test_few_units_are_counted_out_and_gaps_are_left_out() -> None:
    scores = RNG.normal(size=(3, 8))
    pairs = np.array([[0, 1], [1, 2]])
    assert np.array_equal(permute_pairs(scores, pairs), permute(scores[[0, 1]] - scores[[1, 2]]))
    gaps = np.concatenate([RNG.normal(1, 1, (2, 20)), np.full((2, 5), np.nan)], axis=1)
    alone = permute_pairs(np.nan_to_num(gaps)[:, :20], pairs[:1])
    assert permute_pairs(gaps, pairs[:1]) == pytest.approx(alone, abs=0.02)


def test_thousands_of_pairs_can_be_told_apart() -> None:
    scores = RNG.normal(0, 0.01, (2, 60)) + np.array([[0.05], [0]])
    (p,) = permute_pairs(scores, np.array([[0, 1]]))
    assert 2.0**-59 <= p < 1e-10


def test_a_unit_without_a_value_is_left_out_of_the_far_tail_too() -> None:
    rng = np.random.default_rng(5)
    of_units = rng.normal(0.8, 0.05, 40) + np.array([[0.0], [0.05]]) + rng.normal(0, 0.01, (2, 40))
    lacking = of_units.copy()
    lacking[:, 7] = np.nan
    pairs = np.array([[0, 1]])
    expected = permute_pairs(np.delete(of_units, 7, axis=1), pairs)
    assert expected[0] < 1e-6
    assert permute_pairs(lacking, pairs) == pytest.approx(expected, rel=1e-6)
