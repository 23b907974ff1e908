"""Bootstrap of patients, joint over arms, joined with what is known of seeds; see `spread` for the seeds.

Patients are drawn with replacement, all their cases, seeds and arms together, and each draw is studentised with its
own standard error: the bootstrap-t (Efron & Tibshirani 1993, An Introduction to the Bootstrap, section 12.5; Hall 1988,
Annals of Statistics 16:927). It follows the skewness of scores near 1 and of a ratio over unequal patients; percentiles
and Student's t hold the truth less often where patients are few. `python -m benchmarks.statistics` prints how often.

A draw is a product with how often each patient came, and the standard errors of all pairs of arms are one Gram matrix.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit
from scipy.stats import rankdata
from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

from medsam2.results.statistics.clusters import Clusters, Floats
from medsam2.results.statistics.spread import Arms, Spread

FEW = 4  # up to so many patients a draw repeats itself too often: Student's t instead
PAIRS_AT_ONCE = 5_000
AT_ONCE = 2_000_000  # numbers a block may hold


class Draws:
    """Joint bootstrap of arms that share P patients and K structures.

    Intervals are about new patients and new seeds; with one seed about these weights on new patients: training noise
    is not in them. One patient: (nan, nan). A structure that a single patient has: (nan, nan) for its mean with others.

    Args:
        arms: what is compared; patients and structures in the same order in all of them.
        resamples: how often patients are drawn.
        seed: of the draws; equal seeds give equal intervals.

    Raises:
        ValueError: no arm, or arms with different numbers of patients or structures.
    """

    def __init__(self, arms: Sequence[Clusters], resamples: int = 2000, seed: int = 0):
        shapes = {arm.sums.shape[1:] for arm in arms}
        if len(shapes) != 1:
            raise ValueError(f"Draws: arms of patients × structures {sorted(shapes)}; give one or more of one shape.")
        self.size, self.resamples = len(arms), resamples
        self._rng = np.random.default_rng(seed)
        self._arms = Arms(arms)
        used = np.any([(arm.counts > 0).any((0, 2)) for arm in arms], axis=0)
        self.patients = int(used.sum())
        self._sums, self._counts, self._weights = _pack(arms, used)
        picks = self._rng.integers(max(self.patients, 1), size=(resamples, self.patients))
        picks += np.arange(resamples)[:, None] * self.patients
        drawn = np.bincount(picks.ravel(), minlength=resamples * self.patients)
        self._drawn = drawn.reshape(resamples, self.patients).astype(np.float32)
        self._singles: NDArray[np.float32] | None = None

    def interval(self, arm: int, level: float = 0.95) -> tuple[float, float]:
        """Interval of one arm's mean."""
        low, high = self.intervals(level)[arm]
        return float(low), float(high)

    def intervals(self, level: float = 0.95) -> Floats:
        """A×2: the intervals of all arms' means."""
        if self._singles is None:
            self._singles = self._merged() if self._sums.shape[2] == 1 else self._general()
        return self._limits(self._arms.singles(), self._singles, level)

    def _general(self) -> NDArray[np.float32]:
        """A×resamples: studentised deviations of the means."""
        return np.concatenate([_divide(d, self._scale((f * f).sum(1))) for d, f, _ in self._blocks()], 1)

    def _merged(self) -> NDArray[np.float32]:
        """The same of a single column: its squares are products with the draws too."""
        sums, counts = self._sums[..., 0], self._counts[..., 0]
        whole, moved, squares, mixed, weight = (
            table @ self._drawn.T for table in (counts, sums, sums * sums, sums * counts, counts * counts)
        )
        mean = np.divide(moved, whole, out=np.zeros_like(whole), where=whole > 0)
        variance = squares - 2 * mean * mixed + mean * mean * weight
        share = np.divide(1, whole, out=np.zeros_like(whole), where=whole > 0)
        return _divide(mean, self._scale(variance * share * share))

    def difference(self, a: int, b: int, level: float = 0.95) -> tuple[float, float]:
        """Interval of mean(a) - mean(b), paired by patient, and by seed where both arms have the same seeds."""
        low, high = self.differences(np.array([[a, b]]), level)[0]
        return float(low), float(high)

    def differences(self, pairs: NDArray[np.intp], level: float = 0.95) -> Floats:
        """M×2: the intervals of the differences of M pairs (a, b)."""
        limits = [self._limits(self.spread(some), self._pivots(some), level) for some in _parts(pairs)]
        return np.concatenate([np.empty((0, 2)), *limits])

    def spread(self, pairs: NDArray[np.intp]) -> Spread:
        """The differences of M pairs and the variances that patients and seeds contribute to them."""
        return self._arms.pairs(np.asarray(pairs, dtype=np.intp).reshape(-1, 2))

    def p_values(self, pairs: NDArray[np.intp]) -> Floats:
        """M: p of "no difference on new patients and new seeds", two-sided, at least 1e-12; NaN where undefined.

        Of its own, not from the draws: a few thousand do not reach the levels that many pairs ask for.
        """
        return np.concatenate(
            [np.empty(0), *(self.spread(some).p_values(max(self.patients - 1, 1)) for some in _parts(pairs))]
        )

    def ranks(self) -> Floats:
        """resamples×A: the arms' ranks in each draw of patients and seeds, 1 the highest mean, ties shared."""
        means = np.concatenate([d for d, _, _ in self._blocks()], 1).T + self._arms.means
        arms = self._arms
        normal = self._rng.standard_normal((self.resamples, arms.deviations.shape[1])) @ arms.deviations.T
        for runs in set(arms.runs[arms.runs > 1]):
            mine = arms.runs == runs  # a t with R - 1 degrees of freedom, one draw for all arms of R seeds
            chance = np.sqrt(self._rng.chisquare(runs - 1, (self.resamples, 1)) * runs)
            means[:, mine] += normal[:, mine] / chance
        return rankdata(-means, axis=1)

    def _limits(self, spread: Spread, pivots: NDArray[np.float32], level: float) -> Floats:
        alpha = 1 - level
        if self.patients > FEW:
            low, high = np.quantile(pivots, [alpha / 2, 1 - alpha / 2], axis=1)
        else:
            high = np.full(len(pivots), stdtrit(max(self.patients - 1, 1), 1 - alpha / 2))
            low = -high
        of_seeds = stdtrit(spread.seeds_freedom, 1 - alpha / 2)
        below, above = spread.critical(high, of_seeds), spread.critical(-low, of_seeds)
        return np.stack([spread.estimate - below * spread.error, spread.estimate + above * spread.error], 1)

    def _blocks(self) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32], slice]]:
        """Blocks of draws: A×B deviations from the mean, and A×P×B influences times the root of the draws' counts."""
        # thousands of small products: BLAS threads would wait for each other longer than they work
        with _pools().limit(limits=1, user_api="blas"):
            yield from self._draw()

    def _draw(self) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32], slice]]:
        step = max(1, AT_ONCE // max(self._sums[..., 0].size, 1))
        weights = self._weights[:, None]
        for start in range(0, self.resamples, step):
            at = slice(start, start + step)
            drawn = self._drawn[at]
            counts = drawn @ self._counts
            share = np.divide(weights, counts, out=np.zeros_like(counts), where=counts > 0)
            moved = drawn @ self._sums
            deviation = (share * moved).sum(2)
            mean = np.divide(moved, counts, out=np.zeros_like(counts), where=counts > 0)
            influence = self._sums @ share.transpose(0, 2, 1) - self._counts @ (share * mean).transpose(0, 2, 1)
            yield deviation, influence * np.sqrt(drawn.T), at

    def _pivots(self, pairs: NDArray[np.intp]) -> NDArray[np.float32]:
        """M×resamples: studentised deviations of the differences."""
        a, b = pairs[:, 0], pairs[:, 1]
        pivots = np.empty((len(pairs), self.resamples), np.float32)
        for deviation, influence, at in self._blocks():
            influence -= influence.mean(0)  # what all arms share cancels in a difference: more digits are left
            rows = np.ascontiguousarray(influence.transpose(2, 0, 1))
            gram = (rows @ rows.transpose(0, 2, 1)).reshape(len(rows), -1)
            own = gram[:, :: self.size + 1]
            variance = own[:, a] + own[:, b] - 2 * gram[:, a * self.size + b]
            pivots[:, at] = _divide(deviation[a] - deviation[b], self._scale(variance.T))
        return pivots

    def _scale(self, variance: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.sqrt(np.maximum(variance, 0) * np.float32(self.patients / max(self.patients - 1, 1)))


@lru_cache(maxsize=1)
def _pools() -> ThreadpoolController:
    return ThreadpoolController()


def _parts(pairs: NDArray[np.intp]) -> Iterator[NDArray[np.intp]]:
    pairs = np.asarray(pairs, dtype=np.intp).reshape(-1, 2)
    for start in range(0, len(pairs), PAIRS_AT_ONCE):
        yield pairs[start : start + PAIRS_AT_ONCE]


def _pack(arms: Sequence[Clusters], used: NDArray[np.bool_]) -> tuple[NDArray[np.float32], ...]:
    """Sums about their means and counts, A×P×(R·K), and how much each seed and structure counts, A×(R·K)."""
    width = max(len(arm.seeds) for arm in arms)
    structures = arms[0].sums.shape[2]
    sums, counts = (np.zeros((len(arms), int(used.sum()), width, structures), np.float32) for _ in range(2))
    weights = np.zeros((len(arms), width, structures), np.float32)
    for i, arm in enumerate(arms):
        means, runs = arm.cell_means(), len(arm.seeds)
        defined = np.isfinite(means)
        centred = arm.sums - np.nan_to_num(means)[:, None] * arm.counts
        sums[i, :, :runs] = centred[:, used].transpose(1, 0, 2)
        counts[i, :, :runs] = arm.counts[:, used].transpose(1, 0, 2)
        weights[i, :runs] = defined / np.maximum(defined.sum(1, keepdims=True), 1)
        weights[i] /= max(defined.any(1).sum(), 1)
    flat = (len(arms), int(used.sum()), -1)
    return _merge(sums.reshape(flat), counts.reshape(flat), weights.reshape(len(arms), -1))


def _merge(
    sums: NDArray[np.float32], counts: NDArray[np.float32], weights: NDArray[np.float32]
) -> tuple[NDArray[np.float32], ...]:
    """The same with one column, where all seeds and structures of an arm have as many cases of each patient."""
    first = np.take_along_axis(counts, weights.argmax(1)[:, None, None], axis=2)
    if ((counts != first) & (weights[:, None] > 0)).any():
        return sums, counts, weights
    merged = sums @ weights[:, :, None]
    return merged, first, (weights.sum(1, keepdims=True) > 0).astype(np.float32)


def _divide(deviation: NDArray[np.float32], error: NDArray[np.float32]) -> NDArray[np.float32]:
    """Deviations over their errors; 0 where a draw has no spread, for it says nothing."""
    return np.divide(deviation, error, out=np.zeros_like(error), where=error > 1e-6 * error.max(initial=0))
