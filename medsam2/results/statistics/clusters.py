"""What one arm scored in one metric, per seed, patient and structure: the unit of all statistics is the patient.

A patient's cases (eyes, slices, visits) resemble each other, so they enter together: a patient is a sum and a count
per structure, and an arm's mean is a ratio of sums. Its standard error comes from leaving patients out one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Clusters:
    """Scores of an arm in one metric.

    Args:
        sums: R×P×K, seeds × patients × structures: the sum over the patient's cases that have a value.
        counts: R×P×K, how many those are; 0: none.
        seeds: R, which seeds (or any other name of a repetition: two arms are paired where the names agree).

    Raises:
        ValueError: shapes that do not fit, a sum that is no number, a negative count, a seed that comes twice.
    """

    sums: Floats
    counts: Floats
    seeds: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.sums.ndim != 3 or self.sums.shape != self.counts.shape or len(self.seeds) != len(self.sums):
            shapes = f"sums {self.sums.shape}, counts {self.counts.shape}, {len(self.seeds)} seeds"
            raise ValueError(f"Clusters: {shapes} do not fit; give sums and counts as seeds × patients × structures.")
        if not np.isfinite(self.sums).all() or (self.counts < 0).any():
            raise ValueError("Clusters: sums must be finite and counts at least 0; leave undefined cases out of both.")
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"Clusters: seeds {self.seeds} name one twice; count a repeated run once.")

    def cell_means(self) -> Floats:
        """R×K: mean over cases, NaN where a seed has no value of a structure."""
        return cell_means(self.sums, self.counts)

    def seed_means(self) -> Floats:
        """R: mean over cases within structure, then over the structures that have a value; NaN if none has."""
        return mean_of_defined(self.cell_means(), axis=-1)

    def patient_means(self) -> Floats:
        """P: mean over the patient's cases, then over seeds, then over structures; NaN where nothing is defined."""
        return patient_means(self.sums, self.counts)

    def influence(self) -> Floats:
        """R×P: by how much each seed's mean rests on each patient, scaled so that squares sum to its variance.

        Jackknife of a ratio over unequal clusters: what leaving the patient out changes (Efron & Tibshirani 1993, An
        Introduction to the Bootstrap, section 11.5). Products of two rows sum to the covariance of two means. NaN
        where a structure is seen in a single patient only: nothing tells how others would vary.
        """
        return influence(self.sums, self.counts)


def stack(arms: Sequence[Clusters]) -> tuple[Floats, Floats]:
    """Sums and counts of all arms, A×R×P×K; of an arm with fewer seeds than others the last have no case."""
    seeds = max(len(arm.seeds) for arm in arms)
    sums, counts = (np.zeros((len(arms), seeds, *arms[0].sums.shape[1:])) for _ in range(2))
    for i, arm in enumerate(arms):
        sums[i, : len(arm.seeds)], counts[i, : len(arm.seeds)] = arm.sums, arm.counts
    return sums, counts


def cell_means(sums: Floats, counts: Floats) -> Floats:
    """…×K of …×P×K, as `Clusters.cell_means`, of any number of arms."""
    return _ratio(sums.sum(-2), counts.sum(-2))


def seed_means(sums: Floats, counts: Floats) -> Floats:
    """… of …×P×K, as `Clusters.seed_means`, of any number of arms."""
    return mean_of_defined(cell_means(sums, counts), axis=-1)


def patient_means(sums: Floats, counts: Floats) -> Floats:
    """…×P of …×R×P×K, as `Clusters.patient_means`, of any number of arms."""
    return mean_of_defined(mean_of_defined(_ratio(sums, counts), axis=-3), axis=-1)


def influence(sums: Floats, counts: Floats) -> Floats:
    """…×P of …×P×K, as `Clusters.influence`, of any number of arms."""
    total, means = counts.sum(-2, keepdims=True), cell_means(sums, counts)
    seen = (counts > 0).sum(-2, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        change = (sums - np.nan_to_num(means)[..., None, :] * counts) / (total - counts)
        change *= np.where(seen == 1, np.nan, np.sqrt((seen - 1) / seen))
    change[counts == 0] = 0
    return change.sum(-1) / np.maximum(np.isfinite(means).sum(-1), 1)[..., None]


def _ratio(sums: Floats, counts: Floats) -> Floats:
    return np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)


def mean_of_defined(values: Floats, axis: int) -> Floats:
    """Mean of the values that are defined."""
    defined = np.isfinite(values)
    return _ratio(np.where(defined, values, 0).sum(axis), defined.sum(axis).astype(float))
