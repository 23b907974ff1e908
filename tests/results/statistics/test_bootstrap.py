"""Intervals of means and differences, and ranks, by joint draws of patients."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from medsam2.results.statistics import Clusters, Draws


def arm_of(table: np.ndarray, seeds: tuple[int, ...] | None = None) -> Clusters:
    """An arm of R×P scores, one case each."""
    return Clusters(table[..., None], np.ones((*table.shape, 1)), seeds or tuple(range(len(table))))


def many_arms(size: int, seed: int = 0) -> list[Clusters]:
    """Arms of three seeds, 40 patients of unequal numbers of cases, two structures."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 4, (1, 40, 2)).repeat(3, 0).astype(float)
    base = rng.beta(9, 1, (1, 40, 2))
    return [Clusters(counts * (base + rng.normal(0, 0.05, (3, 40, 2))), counts, (0, 1, 2)) for _ in range(size)]


def test_interval_of_normal_scores_is_that_of_student() -> None:
    table = stats.norm.ppf(np.linspace(0.005, 0.995, 100))[None]
    low, high = Draws([arm_of(table)], 20_000).interval(0)
    expected = stats.t.ppf(0.975, 99) * stats.sem(table[0])
    assert (low, high) == pytest.approx((-expected, expected), rel=0.05)


def test_interval_follows_skewness() -> None:
    scores = stats.beta.ppf(np.linspace(0.02, 0.98, 25), 4, 0.5)[None]
    low, high = Draws([arm_of(scores)], 4000).interval(0)
    assert scores.mean() - low > 1.3 * (high - scores.mean())


def test_draws_are_studentised_as_written_out() -> None:
    """The matrices against a loop over draws: ratio, influence about it, weights."""
    arms = many_arms(2)
    draws = Draws(arms, 50)
    pivots = draws._pivots(np.array([[0, 1]]))[0]
    used = (arms[0].counts > 0).any((0, 2))
    arms = [Clusters(arm.sums[:, used], arm.counts[:, used], arm.seeds) for arm in arms]
    for weights, pivot in zip(draws._drawn[:10].astype(float), pivots, strict=False):
        means, influences = zip(*(_one_draw(arm, weights) for arm in arms), strict=True)
        moved = means[0] - means[1] - (arms[0].seed_means().mean() - arms[1].seed_means().mean())
        variance = (weights * (influences[0] - influences[1]) ** 2).sum() * len(weights) / (len(weights) - 1)
        assert pivot == pytest.approx(moved / np.sqrt(variance), rel=1e-3, abs=1e-4)


def _one_draw(arm: Clusters, weights: np.ndarray) -> tuple[float, np.ndarray]:
    total = (weights[:, None] * arm.counts).sum(1)
    cells = (weights[:, None] * arm.sums).sum(1) / total
    influence = (arm.sums - cells[:, None] * arm.counts) / total[:, None]
    return float(cells.mean()), influence.mean((0, 2))


def test_many_pairs_are_each_alone() -> None:
    arms = many_arms(5)
    pairs = np.array([[0, 1], [3, 2], [4, 4], [1, 0]])
    together = Draws(arms).differences(pairs)
    for (a, b), limits in zip(pairs, together, strict=True):
        assert Draws(arms).difference(int(a), int(b)) == pytest.approx(tuple(limits), rel=1e-3, abs=1e-9)
    assert together[2].tolist() == [0, 0]
    assert together[3] == pytest.approx(-together[0][::-1], rel=1e-3)
    assert Draws(arms[:2]).differences(pairs[:1]) == pytest.approx(together[:1], rel=1e-3)


def test_equal_seeds_give_equal_intervals_and_levels_are_nested() -> None:
    draws = Draws(many_arms(3), seed=5)
    assert np.array_equal(draws.intervals(), Draws(many_arms(3), seed=5).intervals())
    narrow, wide = draws.intervals(0.8), draws.intervals(0.99)
    assert (wide[:, 0] < narrow[:, 0]).all()
    assert (narrow[:, 1] < wide[:, 1]).all()
    assert draws.interval(1) == pytest.approx(tuple(draws.intervals()[1]))


def test_pairing_by_patient_narrows_a_difference() -> None:
    rng = np.random.default_rng(0)
    patient = rng.normal(0, 0.2, 60)
    a, b = (arm_of(patient[None] + rng.normal(0, 0.01, (1, 60))) for _ in range(2))
    draws = Draws([a, b])
    single, difference = np.diff(draws.interval(0))[0], np.diff(draws.difference(0, 1))[0]
    assert difference < single / 8


def test_two_seeds_that_disagree_are_wide() -> None:
    rng = np.random.default_rng(0)
    table = rng.normal(0.8, 0.01, (2, 50)) + np.array([[-0.05], [0.05]])
    low, high = Draws([arm_of(table)]).interval(0)
    assert (high - low) / 2 == pytest.approx(12.706 * 0.05, rel=0.05)  # t with one degree of freedom


@pytest.mark.parametrize("patients", [1, 2, 4])
def test_few_patients(patients: int) -> None:
    table = np.linspace(0.5, 0.9, patients)[None]
    low, high = Draws([arm_of(table)]).interval(0)
    if patients == 1:
        assert np.isnan([low, high]).all()
        assert np.isnan(Draws([arm_of(table), arm_of(table)]).p_values(np.array([[0, 1]]))).all()
    else:
        half = stats.t.ppf(0.975, patients - 1) * stats.sem(table[0])
        assert (low, high) == pytest.approx((0.7 - half, 0.7 + half))


def test_patients_and_structures_without_values_change_nothing() -> None:
    arms = many_arms(2)
    more = [
        Clusters(np.pad(arm.sums, ((0, 0), (0, 3), (0, 1))), np.pad(arm.counts, ((0, 0), (0, 3), (0, 1))), arm.seeds)
        for arm in arms
    ]
    pairs = np.array([[0, 1]])
    assert Draws(more).patients == Draws(arms).patients
    assert Draws(more).intervals() == pytest.approx(Draws(arms).intervals(), rel=1e-5)
    assert Draws(more).p_values(pairs) == pytest.approx(Draws(arms).p_values(pairs), rel=1e-5)


def test_a_structure_of_one_patient_leaves_no_interval() -> None:
    counts = np.ones((1, 10, 2))
    counts[0, 1:, 1] = 0
    arm = Clusters(counts * 0.5, counts, (0,))
    assert np.isnan(Draws([arm]).interval(0)).all()


def test_an_arm_without_values_is_nan_and_disturbs_no_other() -> None:
    arms = many_arms(2)
    empty = Clusters(np.zeros((3, 40, 2)), np.zeros((3, 40, 2)), (0, 1, 2))
    draws = Draws([*arms, empty])
    assert np.isnan(draws.interval(2)).all()
    assert np.isnan(draws.difference(0, 2)).all()
    assert draws.difference(0, 1) == pytest.approx(Draws(arms).difference(0, 1), rel=1e-3)


def test_equal_scores_have_an_interval_of_no_width() -> None:
    same = arm_of(np.full((3, 20), 0.75))
    draws = Draws([same, same])
    assert draws.interval(0) == pytest.approx((0.75, 0.75))
    assert draws.difference(0, 1) == (0, 0)
    assert draws.p_values(np.array([[0, 1]])).tolist() == [1]


def test_ranks_tell_the_best_arm_and_how_surely() -> None:
    rng = np.random.default_rng(0)
    patient = rng.beta(9, 1, 50)
    arms = [arm_of(patient + shift + rng.normal(0, 0.02, (3, 50))) for shift in (0.0, 0.1, 0.0)]
    ranks = Draws(arms, 1000).ranks()
    assert ranks.shape == (1000, 3)
    assert (ranks.sum(1) == 6).all()
    assert (ranks[:, 1] == 1).mean() > 0.95
    assert 0.05 < (ranks[:, 0] == 2).mean() < 0.95
    alike = arm_of(patient[None])
    assert (Draws([alike, alike], 100).ranks() == 1.5).all()
    assert (Draws([alike], 100).ranks() == 1).all()


def test_seeds_that_scatter_make_ranks_unsure() -> None:
    patient = np.random.default_rng(0).beta(9, 1, 50)
    better = np.array([[0.01], [0.02], [0.03]])
    steady = [arm_of(np.tile(patient, (3, 1))), arm_of(patient + 0.02 + 0 * better)]
    unsure = [arm_of(np.tile(patient, (3, 1))), arm_of(patient + 10 * (better - 0.02) + 0.02)]
    assert (Draws(steady, 500).ranks()[:, 1] == 1).all()
    assert 0.5 < (Draws(unsure, 500).ranks()[:, 1] == 1).mean() < 0.9


def test_arms_of_other_patients_are_refused() -> None:
    with pytest.raises(ValueError, match="one shape"):
        Draws([arm_of(np.zeros((1, 3))), arm_of(np.zeros((1, 4)))])
    with pytest.raises(ValueError, match="one or more"):
        Draws([])
