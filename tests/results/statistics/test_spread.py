"""The variance of crossed seeds and patients, and limits that hold the truth whichever part prevails."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy import stats

from medsam2.results.statistics import Clusters, Draws
from medsam2.results.statistics.spread import Spread

PAIR = np.array([[0, 1]])


def arm_of(table: np.ndarray, seeds: tuple[int, ...] | None = None) -> Clusters:
    """An arm of R×P scores, one case each."""
    return Clusters(table[..., None], np.ones((*table.shape, 1)), seeds or tuple(range(len(table))))


def test_variance_is_that_of_obuchowski_and_rockette() -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.random((3, 20)) + rng.random(20) + rng.normal(0, 0.3, (3, 1)) for _ in range(2))
    spread = Draws([arm_of(a), arm_of(b)], 10).spread(PAIR)
    d = a - b
    covariance = np.cov(d)[~np.eye(3, dtype=bool)].mean() / 20
    assert spread.estimate[0] == pytest.approx(d.mean())
    assert spread.seeds[0] == pytest.approx([d.mean(1).var(ddof=1) / 3, 0])
    assert spread.patients[0] == pytest.approx(max(covariance, 0))
    assert spread.freedom[0, 0] == 2


def test_variance_is_unbiased_over_studies() -> None:
    rng = np.random.default_rng(1)
    found = []
    for _ in range(400):
        table = 0.1 * rng.normal(size=40) + 0.02 * rng.normal(size=(3, 1)) + 0.05 * rng.normal(size=(3, 40))
        found.append(Draws([arm_of(table)], 1)._arms.singles().error[0] ** 2)
    assert np.mean(found) == pytest.approx(0.01 / 40 + 0.0004 / 3 + 0.0025 / 120, rel=0.1)


def test_seeds_that_differ_are_taken_as_welch_does() -> None:
    rng = np.random.default_rng(2)
    a, b, lone = rng.random((3, 30)), rng.random((2, 30)), rng.random((1, 30))
    arms = [arm_of(a), arm_of(b, (5, 6)), arm_of(lone, (9,))]
    spread = Draws(arms, 10).spread(np.array([[0, 1], [0, 2], [2, 0]]))
    of_a, of_b = a.mean(1).var(ddof=1), b.mean(1).var(ddof=1)
    assert spread.seeds[0] == pytest.approx([of_a / 3, of_b / 2])
    assert spread.freedom[0].tolist() == [2, 1]
    assert spread.seeds[1] == pytest.approx([of_a / 3, of_a])  # one seed: the other's scatter
    assert spread.seeds[2] == pytest.approx([of_a, of_a / 3])
    assert spread.freedom[1].tolist() == [2, 2]
    welch = stats.ttest_ind(a.mean(1), b.mean(1), equal_var=False)
    assert spread.seeds_freedom[0] == pytest.approx(welch.df)


def test_one_seed_leaves_patients_alone() -> None:
    a, b = np.random.default_rng(3).random((2, 25))
    spread = Draws([arm_of(a[None]), arm_of(b[None])], 10).spread(PAIR)
    assert spread.seeds[0].tolist() == [0, 0]
    assert spread.error[0] == pytest.approx(stats.sem(a - b))
    assert Draws([arm_of(a[None]), arm_of(b[None])], 10).p_values(PAIR)[0] == pytest.approx(
        stats.ttest_rel(a, b).pvalue, rel=0.01
    )


def test_seeds_alone_are_a_t_test() -> None:
    table = np.repeat([[0.1], [0.25], [0.2]], 12, axis=1)
    p = Draws([arm_of(table), arm_of(np.zeros((3, 12)))], 10).p_values(PAIR)[0]
    assert p == pytest.approx(stats.ttest_1samp([0.1, 0.25, 0.2], 0).pvalue, rel=0.01)


def simulate(rng: np.random.Generator, seeds: int, share: float, strength: float, number: int) -> Spread:
    """Estimates of 0; patients' variance is 1 - share, seeds' strength² + share, of which only a sample is known."""
    variance = strength**2 + share
    estimate = rng.normal(0, np.sqrt(1 - share + variance), number)
    scatter = variance * rng.chisquare(seeds - 1, number) / (seeds - 1)
    parts = np.stack([scatter, np.zeros(number)], 1)
    return Spread(estimate, np.full(number, 1 - share), parts, np.full((number, 2), seeds - 1.0))


@pytest.mark.parametrize(("seeds", "least", "most"), [(2, 0.928, 0.972), (3, 0.946, 0.970), (5, 0.946, 0.966)])
def test_limits_hold_the_truth_whichever_part_prevails(seeds: int, least: float, most: float) -> None:
    rng, number = np.random.default_rng(seeds), 30_000  # ± 0.3 %
    of_patients = np.full(number, stats.norm.ppf(0.975))
    of_seeds = np.full(number, stats.t.ppf(0.975, seeds - 1))
    for share, strength in product((0, 0.2, 0.6, 0.95), (0, 0.25, 0.5, 1, 2, 4, 8, 30)):
        made = simulate(rng, seeds, share, strength, number)
        held = np.abs(made.estimate) <= made.critical(of_patients, of_seeds) * made.error
        assert least < held.mean() < most, (share, strength)


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_p_values_err_no_more_often_than_they_say(seeds: int) -> None:
    rng = np.random.default_rng(seeds)
    for share, strength in product((0, 0.6), (0, 0.5, 2, 8)):
        p = simulate(rng, seeds, share, strength, 5000).p_values(10**6)
        for level in (0.2, 0.05, 0.005):
            assert (p < level).mean() < level + 3 * np.sqrt(level / 5000), (share, strength)
