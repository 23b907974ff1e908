"""Means of arms are those that runs print; what a mean rests on is the jackknife over patients."""

from __future__ import annotations

import numpy as np
import pytest

from medsam2.results.statistics import Clusters

SUMS = np.array([[[1.8, 0.5], [0.4, 0.0], [2.7, 0.0]], [[1.6, 0.7], [0.6, 0.0], [2.4, 0.0]]])
COUNTS = np.array([[[2, 1], [1, 0], [3, 0]], [[2, 1], [1, 0], [3, 0]]], float)
ARM = Clusters(SUMS, COUNTS, (0, 1))


def test_means_are_over_cases_then_structures_then_seeds() -> None:
    assert ARM.cell_means() == pytest.approx(np.array([[4.9 / 6, 0.5], [4.6 / 6, 0.7]]))
    assert ARM.seed_means() == pytest.approx([(4.9 / 6 + 0.5) / 2, (4.6 / 6 + 0.7) / 2])
    assert ARM.patient_means() == pytest.approx([(0.85 + 0.6) / 2, 0.5, 0.85])


def test_what_has_no_value_is_left_out() -> None:
    counts = COUNTS.copy()
    counts[1, :, 1] = 0
    arm = Clusters(np.where(counts > 0, SUMS, 0), counts, (0, 1))
    assert arm.seed_means() == pytest.approx([(4.9 / 6 + 0.5) / 2, 4.6 / 6])
    assert arm.patient_means()[0] == pytest.approx((0.85 + 0.5) / 2)
    nothing = Clusters(np.zeros((1, 2, 1)), np.zeros((1, 2, 1)), (0,))
    assert np.isnan(nothing.seed_means()).all()
    assert np.isnan(nothing.patient_means()).all()


def test_influence_is_that_of_leaving_a_patient_out() -> None:
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 5, (1, 6, 2)).astype(float)
    arm = Clusters(counts * rng.random((1, 6, 2)), counts, (7,))
    without = np.array([_without(arm, p) for p in range(6)])
    # the jackknife's variance: (P - 1) / P × sum of squares
    assert (arm.influence()[0] ** 2).sum() == pytest.approx(5 / 6 * ((without - arm.seed_means()) ** 2).sum())


def _without(arm: Clusters, patient: int) -> float:
    return float(
        Clusters(np.delete(arm.sums, patient, 1), np.delete(arm.counts, patient, 1), arm.seeds).seed_means()[0]
    )


def test_one_case_each_gives_the_standard_error_of_a_mean() -> None:
    values = np.random.default_rng(1).random(9)
    arm = Clusters(values[None, :, None], np.ones((1, 9, 1)), (0,))
    assert (arm.influence() ** 2).sum() == pytest.approx(values.var(ddof=1) / 9)
    rare = np.zeros((1, 50, 1))  # seen in nine of fifty patients: the same
    rare[0, :9, 0] = 1
    padded = np.zeros((1, 50, 1))
    padded[0, :9, 0] = values
    assert (Clusters(padded, rare, (0,)).influence() ** 2).sum() == pytest.approx(values.var(ddof=1) / 9)


def test_a_structure_of_a_single_patient_has_no_known_spread() -> None:
    assert np.isnan(ARM.influence()).any()


@pytest.mark.parametrize(
    ("sums", "counts", "seeds", "word"),
    [
        (np.zeros((2, 3)), np.zeros((2, 3)), (0, 1), "seeds × patients × structures"),
        (np.zeros((2, 3, 1)), np.zeros((2, 3, 1)), (0,), "1 seeds"),
        (np.full((1, 3, 1), np.nan), np.ones((1, 3, 1)), (0,), "finite"),
        (np.zeros((2, 3, 1)), np.ones((2, 3, 1)), (4, 4), "twice"),
    ],
)
def test_what_does_not_fit_is_refused(sums: np.ndarray, counts: np.ndarray, seeds: tuple[int, ...], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        Clusters(sums, counts, seeds)
