"""How far an arm's mean, or the difference of two, is uncertain: one part from patients, one from seeds.

The same patients are tested in every seed: the two are crossed, as readers and cases are in studies of radiologists,
and the variance is that of Obuchowski & Rockette (1995, Communications in Statistics, Simulation 24:285; Hillis 2014,
Statistics in Medicine 33:330):

    variance = (sd between seeds)² / R  +  covariance between seeds that share their patients

The first term holds all that changes with the seed, the noise of patient × seed included, and is known with R - 1
degrees of freedom; the second is what patients alone contribute, and never counts that noise twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from medsam2.results.statistics.clusters import Floats, influence, seed_means

LEVELS = np.geomspace(1, 1e-12, 600)


@dataclass(frozen=True)
class Spread:
    """Uncertainty of M means or differences.

    Args:
        estimate: M, the mean or the difference.
        patients: M, the variance that patients contribute.
        seeds: M×2, the variance that seeds contribute: of all pairs of seeds at once (second: 0), or of each arm.
        freedom: M×2, degrees of freedom of `seeds`.
    """

    estimate: Floats
    patients: Floats
    seeds: Floats
    freedom: Floats

    @property
    def error(self) -> Floats:
        """M: the standard error."""
        return np.sqrt(self.patients + self.seeds.sum(1))

    @property
    def seeds_freedom(self) -> Floats:
        """M: degrees of freedom of the seeds' parts together (Welch 1947, Biometrika 34:28)."""
        whole = self.seeds.sum(1) ** 2
        return np.divide(whole, (self.seeds**2 / self.freedom).sum(1), out=np.ones_like(whole), where=whole > 0)

    def critical(self, of_patients: Floats, of_seeds: Floats) -> Floats:
        """M: how many standard errors off the estimate a limit is, from the quantiles of the parts.

        A mean of the two, weighted with their variances as Cochran & Cox (1950, Experimental Designs, section 4.14) do,
        but to the power 1.4. With two seeds limits by their weights hold the truth up to 97.8 % of the time, by these
        93 to 97 %, whichever part prevails; with three and more 95 to 97 % (tests/results/statistics/test_spread.py).
        Satterthwaite's degrees of freedom, which Hillis uses, are far too many with two seeds.

        Args:
            of_patients: M, quantile of the patients' part over its standard error.
            of_seeds: M, of the seeds' part.
        """
        ours, theirs = self.patients**1.4, self.seeds.sum(1) ** 1.4
        whole = ours + theirs
        return np.divide(ours * of_patients + theirs * of_seeds, whole, out=np.zeros_like(whole), where=whole != 0)

    def p_values(self, patients_freedom: int) -> Floats:
        """M: p of "the estimate is 0", two-sided, by Student's t for either part; at least 1e-12.

        The level at which limits end at 0 whose squared distances are sums over the parts (MOVER: Zou & Donner 2008,
        Statistics in Medicine 27:1693): unlike `critical` never too small, at any level. 1 where the estimate is 0, NaN
        where the spread is unknown.
        """
        kinds, kind = np.unique(self.freedom, return_inverse=True)
        table, kind = stdtrit(kinds[:, None], 1 - LEVELS / 2) ** 2, kind.reshape(self.freedom.shape)
        of_patients, square = stdtrit(patients_freedom, 1 - LEVELS / 2) ** 2, self.estimate**2

        def reach(level: NDArray[np.intp]) -> Floats:  # M, rising with the level
            return self.patients * of_patients[level] + (self.seeds * table[kind, level[:, None]]).sum(1)

        above = _first(lambda level: reach(level) > square, np.ones(len(square), np.intp), len(LEVELS) - 1)
        start, end = reach(above - 1), reach(above)
        part = np.clip(np.divide(square - start, end - start, out=np.ones_like(start), where=end > start), 0, 1)
        p = LEVELS[above - 1] * (LEVELS[above] / LEVELS[above - 1]) ** part
        return np.where(np.isfinite(self.error), np.where(square == 0, 1, p), np.nan)


class Arms:
    """Seed means and patients' influence of arms that share patients, ready to be combined for any pair.

    Args:
        seeds: of each arm.
        sums, counts: A×R×P×K, from `clusters.stack`.
    """

    def __init__(self, seeds: Sequence[tuple[int, ...]], sums: Floats, counts: Floats):
        number = {name: t for t, name in enumerate(sorted(set().union(*seeds)))}
        arm, run, at = np.array([(i, r, number[s]) for i, own in enumerate(seeds) for r, s in enumerate(own)]).T
        means = np.full((len(seeds), len(number)), np.nan)
        changes = np.zeros((len(number), len(seeds), sums.shape[2]))
        means[arm, at], changes[at, arm] = seed_means(sums, counts)[arm, run], influence(sums, counts)[arm, run]
        self.present = np.isfinite(means)
        changes[~self.present.T] = 0
        self.runs = self.present.sum(1)
        safe = np.maximum(self.runs, 1)
        self.means = np.where(self.runs > 0, np.where(self.present, means, 0).sum(1) / safe, np.nan)
        self.deviations = np.where(self.present, means - self.means[:, None], 0)  # A×T, of seed means
        average = changes.sum(0) / safe[:, None]
        self._scatter = self.deviations @ self.deviations.T  # A×A: products over seeds
        self._within = (changes @ changes.transpose(0, 2, 1)).sum(0)  # the same of patients' influences
        self._joint = average @ average.T  # covariance over patients of the means over seeds

    def singles(self) -> Spread:
        """The spread of each arm's mean; one seed: of the patients alone."""
        arms = np.arange(len(self.means))
        seeds, noise, freedom = _one_part(self._between(arms), self.runs)
        patients = np.maximum(self._joint[arms, arms] - noise.sum(1), 0)
        return Spread(self.means, patients, seeds, freedom)

    def pairs(self, pairs: NDArray[np.intp]) -> Spread:
        """The spread of mean(a) - mean(b) for rows (a, b): seed by seed where both arms have the same seeds."""
        a, b = pairs[:, 0], pairs[:, 1]
        alike = (self.present[a] == self.present[b]).all(1)[:, None]
        together, apart = _one_part(self._between(a, b), self.runs[a]), self._apart(a, b)
        seeds, noise, freedom = (np.where(alike, x, y) for x, y in zip(together, apart, strict=True))
        patients = np.maximum(_contrast(self._joint, a, b) - noise.sum(1), 0)
        return Spread(self.means[a] - self.means[b], patients, seeds, freedom)

    def _between(self, a: NDArray[np.intp], b: NDArray[np.intp] | None = None) -> tuple[Floats, Floats]:
        """Variance over seeds of a, or of a - b, and the part of it that is noise of patient × seed; one seed: 0."""
        runs = self.runs[a]
        scatter, within, joint = (_contrast(table, a, b) for table in (self._scatter, self._within, self._joint))
        free = np.where(runs > 1, runs - 1, np.inf)
        return scatter / free, np.maximum(within - runs * joint, 0) / free

    def _apart(self, a: NDArray[np.intp], b: NDArray[np.intp]) -> tuple[Floats, Floats, Floats]:
        """Each arm's own seeds, as Welch does; an arm of one seed borrows the other's scatter."""
        parts = []
        for own, other in ((a, b), (b, a)):
            lone = self.runs[own] == 1
            lender = np.where(lone, other, own)
            scatter, noise = self._between(lender)
            runs = np.maximum(self.runs[own], 1)
            parts.append((scatter / runs, noise / runs, np.maximum(self.runs[lender] - 1, 1)))
        seeds, noises, freedom = (np.stack(part, 1) for part in zip(*parts, strict=True))
        return seeds, noises, freedom


def _first(
    holds: Callable[[NDArray[np.intp]], NDArray[np.bool_]], low: NDArray[np.intp], last: int
) -> NDArray[np.intp]:
    """M: by bisection the smallest number from `low` on for which it holds; `last` where it never does."""
    high = np.full_like(low, last)
    while (low < high).any():
        middle = (low + high) // 2
        enough = holds(middle)
        low, high = np.where(enough, low, np.minimum(middle + 1, high)), np.where(enough, middle, high)
    return low


def _contrast(table: Floats, a: NDArray[np.intp], b: NDArray[np.intp] | None) -> Floats:
    """From covariances of arms to the variance of a, or of a - b, never below 0."""
    if b is None:
        return table[a, a]
    return np.maximum(table[a, a] + table[b, b] - table[a, b] - table[b, a], 0)


def _one_part(between: tuple[Floats, Floats], runs: NDArray[np.int_]) -> tuple[Floats, Floats, Floats]:
    """Variance of the mean over seeds, its noise and degrees of freedom, each M×2, the second part empty."""
    count = np.maximum(runs, 1)
    nothing = np.zeros(len(runs))
    seeds, noise = (np.stack([variance / count, nothing], 1) for variance in between)
    return seeds, noise, np.stack([np.maximum(runs - 1, 1)] * 2, 1)
