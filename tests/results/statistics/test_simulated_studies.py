"""Made-up studies whose truth is known: intervals hold it, no claim is made of nothing, differences are found.

`python -m benchmarks.statistics` prints the whole table.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.statistics import Plan, measure_claims, measure_coverage
from medsam2.results.statistics import decide

SKEWED = Plan(beta=(4, 0.5), crowded=True)


@pytest.mark.parametrize(
    "plan",
    [Plan(seeds=1, patients=20), Plan(patients=20, seed_effect=0.03), replace(SKEWED, patients=30)],
    ids=["one seed", "strong seeds", "skewed"],
)
def test_intervals_hold_the_truth_in_some_studies(plan: Plan) -> None:
    mean, difference = measure_coverage(plan, 200, resamples=400)
    assert 0.905 < mean < 0.99  # 0.95 ± 3 standard errors of 200 studies
    assert 0.905 < difference < 0.99


def test_claims_in_some_studies() -> None:
    plan = Plan(patients=30, seed_effect=0.02)
    assert measure_claims(plan, 150, resamples=400)[0] <= 0.05
    found = measure_claims(replace(plan, seed_effect=0.003), 40, arms=2, effect=0.06, resamples=400)
    assert found[1] >= 0.9


def test_a_claim_needs_all_three() -> None:
    limits = np.array([[0.1, 0.3], [0.1, 0.3], [0.1, 0.3], [-0.1, 0.3], [-0.3, -0.1], [np.nan, np.nan]])
    ours, draws = np.full(6, 0.001), np.full(6, 0.001)
    ours[1], draws[2] = 0.2, 0.2
    difference = np.array([0.2, 0.2, 0.2, 0.1, -0.2, np.nan])
    assert decide(difference, limits, ours, draws).tolist() == [1, 0, 0, 0, -1, 0]
    assert decide(difference[:1], limits[:1], [0.04], [0.04]).tolist() == [1]
    assert decide(difference[:2], limits[:2], [0.04, 0.04], [0.01, 0.01]).tolist() == [0, 0]


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [1, 2, 3, 5])
@pytest.mark.parametrize("patients", [10, 40, 200])
@pytest.mark.parametrize("base", [Plan(interaction=0.05), SKEWED], ids=["dice", "skewed"])
def test_intervals_hold_the_truth(base: Plan, patients: int, seeds: int) -> None:
    check_coverage(replace(base, patients=patients, seeds=seeds))


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [2, 3])
@pytest.mark.parametrize("seed_effect", [0.0, 0.04])
@pytest.mark.parametrize("shared", [True, False], ids=["same seeds", "other seeds"])
def test_intervals_hold_the_truth_with_weak_and_strong_seeds(shared: bool, seed_effect: float, seeds: int) -> None:
    check_coverage(Plan(seeds=seeds, seed_effect=seed_effect, interaction=0, shared_seeds=shared))


def check_coverage(plan: Plan) -> None:
    for share in measure_coverage(plan, 1000):
        assert 0.93 - 0.016 < share < 0.97 + 0.011, plan  # two standard errors of 1,000 studies


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("seed_effect", [0.0, 0.02])
def test_nothing_is_claimed_of_nothing(seeds: int, seed_effect: float) -> None:
    false, _ = measure_claims(Plan(seeds=seeds, seed_effect=seed_effect), 1000, arms=3)
    assert false <= 0.05


@pytest.mark.slow
@pytest.mark.parametrize(("arms", "seeds", "least"), [(2, 3, 0.9), (2, 5, 0.95), (3, 5, 0.9)])
def test_planted_differences_are_found(arms: int, seeds: int, least: float) -> None:
    false, found = measure_claims(Plan(seeds=seeds, seed_effect=0.005), 1000, arms, effect=0.05)
    assert found >= least
    assert false <= 0.05
