"""Bootstrap of patients, joint over arms, joined with what is known of seeds; see `spread` for the seeds.

Patients are drawn with replacement, all their cases, seeds and arms together, and each draw is studentised with its
own standard error: the bootstrap-t (Efron & Tibshirani 1993, An Introduction to the Bootstrap, section 12.5; Hall 1988,
Annals of Statistics 16:927). It follows the skewness of scores near 1 and of a ratio over unequal patients; percentiles
and Student's t hold the truth less often where patients are few. `python -m benchmarks.statistics` prints how often.

A draw is a product with how often each patient came. So are the squared standard errors, of pairs too, where seeds,
structures and arms have as many cases of each patient; else those of all pairs of arms are one Gram matrix per draw.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit
from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

from medsam2.results.statistics.clusters import Clusters, Floats, cell_means, stack
from medsam2.results.statistics.paired import rank_rows
from medsam2.results.statistics.spread import Arms, Spread

Floats32 = NDArray[np.float32]

FEW = 4  # up to so many patients a draw repeats itself too often: Student's t instead
PAIRS_AT_ONCE, MERGED_AT_ONCE = 5_000, 250  # the latter stay in the processor's cache
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
        sums, counts = stack(arms)
        self._arms = Arms([arm.seeds for arm in arms], sums, counts)
        used = counts.sum((0, 1, 3)) > 0
        self.patients = int(used.sum())
        self._sums, self._counts, self._weights = _pack(sums, counts, used)
        self._drawn, self._rng = _draw_patients(self.patients, resamples, seed)

    def interval(self, arm: int, level: float = 0.95) -> tuple[float, float]:
        """Interval of one arm's mean."""
        low, high = self.intervals(level)[arm]
        return float(low), float(high)

    def intervals(self, level: float = 0.95) -> Floats:
        """A×2: the intervals of all arms' means."""
        return self._limits(self._arms.singles(), self._singles, level)

    @cached_property
    def _singles(self) -> Floats32:
        """A×resamples: studentised deviations of the means."""
        if self._sums.shape[2] == 1:
            return self._merged()
        return np.concatenate([_divide(d, self._scale((f * f).sum(1))) for d, f, _ in self._blocks()], 1)

    @cached_property
    def _products(self) -> tuple[Floats32, Floats32, Floats32, Floats32]:
        """Of a single column: deviations and sums times counts, A×resamples; share and squares of the counts."""
        sums, counts = self._sums[..., 0], self._counts[..., 0]
        tables: list[Floats32] = [sums, sums * counts, counts, counts * counts]
        moved, mixed, whole, weight = (table @ self._drawn.T for table in tables)
        share = np.divide(1, whole, out=np.zeros_like(whole), where=whole > 0)
        return moved * share, mixed, share, weight

    def _merged(self, pairs: NDArray[np.intp] | None = None) -> Floats32:
        """Studentised deviations of a single column: of the arms, or of the differences of pairs that are `_alike`."""

        def contrast(table: Floats32) -> Floats32:
            return table if pairs is None else table[pairs[:, 0]] - table[pairs[:, 1]]

        deviation, mixed, share, weight = self._products
        sums, deviation, mixed = map(contrast, (self._sums[..., 0], deviation, mixed))
        squares = np.square(sums) @ self._drawn.T
        variance = squares + deviation * (deviation * weight - 2 * mixed)
        variance[variance < 1e-6 * squares] = 0  # the digits have cancelled: all that was drawn is alike
        return _divide(deviation, self._scale(variance) * share)

    @property
    def _alike(self) -> bool:
        """Whether there is a single column, and all arms have the same counts."""
        return self._counts.shape[::2] == (1, 1)

    def difference(self, a: int, b: int, level: float = 0.95) -> tuple[float, float]:
        """Interval of mean(a) - mean(b), paired by patient, and by seed where both arms have the same seeds."""
        low, high = self.differences(np.array([[a, b]]), level)[0]
        return float(low), float(high)

    def differences(self, pairs: NDArray[np.intp], level: float = 0.95) -> Floats:
        """M×2: the intervals of the differences of M pairs (a, b)."""
        parts = _parts(pairs, MERGED_AT_ONCE if self._alike else PAIRS_AT_ONCE)
        limits = [self._limits(self.spread(some), self._pivots(some), level) for some in parts]
        return np.concatenate([np.empty((0, 2)), *limits])

    def spread(self, pairs: NDArray[np.intp]) -> Spread:
        """The differences of M pairs and the variances that patients and seeds contribute to them."""
        return self._arms.pairs(np.asarray(pairs, dtype=np.intp).reshape(-1, 2))

    def p_values(self, pairs: NDArray[np.intp]) -> Floats:
        """M: p of "no difference on new patients and new seeds", two-sided, at least 1e-12; NaN where undefined.

        Of its own, not from the draws: a few thousand do not reach the levels that many pairs ask for.
        """
        freedom = max(self.patients - 1, 1)
        return np.concatenate(
            [np.empty(0), *(self.spread(some).p_values(freedom) for some in _parts(pairs, PAIRS_AT_ONCE))]
        )

    def ranks(self) -> Floats:
        """resamples×A: the arms' ranks in each draw of patients and seeds, 1 the highest mean, ties shared."""
        single = self._sums.shape[2] == 1
        means = (self._products[0] if single else np.concatenate([d for d, _, _ in self._blocks()], 1)).T
        means, arms, rng = means + self._arms.means, self._arms, deepcopy(self._rng)
        normal = rng.standard_normal((self.resamples, arms.deviations.shape[1])) @ arms.deviations.T
        for runs in set(arms.runs[arms.runs > 1]):
            mine = arms.runs == runs  # a t with R - 1 degrees of freedom, one draw for all arms of R seeds
            chance = np.sqrt(rng.chisquare(runs - 1, (self.resamples, 1)) * runs)
            means[:, mine] += normal[:, mine] / chance
        return rank_rows(-means.astype(np.float64))

    def _limits(self, spread: Spread, pivots: Floats32, level: float) -> Floats:
        alpha = 1 - level
        if self.patients > FEW:
            ordered = np.sort(pivots, axis=1)
            low, high = _quantile(ordered, alpha / 2), _quantile(ordered, 1 - alpha / 2)
        else:
            high = np.full(len(pivots), stdtrit(max(self.patients - 1, 1), 1 - alpha / 2))
            low = -high
        of_seeds = stdtrit(spread.seeds_freedom, 1 - alpha / 2)
        below, above = spread.critical(high, of_seeds), spread.critical(-low, of_seeds)
        return np.stack([spread.estimate - below * spread.error, spread.estimate + above * spread.error], 1)

    def _blocks(self) -> Iterator[tuple[Floats32, Floats32, slice]]:
        """Blocks of draws: A×B deviations from the mean, and A×P×B influences times the root of the draws' counts."""
        # thousands of small products: BLAS threads would wait for each other longer than they work
        with _pools().limit(limits=1, user_api="blas"):
            yield from self._draw()

    def _draw(self) -> Iterator[tuple[Floats32, Floats32, slice]]:
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

    def _pivots(self, pairs: NDArray[np.intp]) -> Floats32:
        """M×resamples: studentised deviations of the differences."""
        if self._alike:
            return self._merged(pairs)
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

    def _scale(self, variance: Floats32) -> Floats32:
        return np.sqrt(np.maximum(variance, 0) * np.float32(self.patients / max(self.patients - 1, 1)))


@lru_cache(maxsize=1)
def _pools() -> ThreadpoolController:
    return ThreadpoolController()


def _parts(pairs: NDArray[np.intp], size: int) -> Iterator[NDArray[np.intp]]:
    pairs = np.asarray(pairs, dtype=np.intp).reshape(-1, 2)
    for start in range(0, len(pairs), size):
        yield pairs[start : start + size]


@lru_cache(maxsize=1)
def _draw_patients(patients: int, resamples: int, seed: int) -> tuple[Floats32, np.random.Generator]:
    """How often each patient comes in each draw, and the generator after that; the same for all metrics of a board."""
    rng = np.random.default_rng(seed)
    picks = rng.integers(max(patients, 1), size=(resamples, patients))
    picks += np.arange(resamples)[:, None] * patients
    drawn = np.bincount(picks.ravel(), minlength=resamples * patients)
    return drawn.reshape(resamples, patients).astype(np.float32), rng


def _quantile(ordered: Floats32, share: float) -> Floats:
    """Of each sorted row, between its values in a straight line."""
    at, part = divmod(share * (ordered.shape[1] - 1), 1)
    start, end = (ordered[:, min(int(at) + i, ordered.shape[1] - 1)].astype(np.float64) for i in (0, 1))
    return start + part * (end - start)


def _pack(sums: Floats, counts: Floats, used: NDArray[np.bool_]) -> tuple[Floats32, ...]:
    """Sums about their means and counts, A×P×(R·K), and how much each seed and structure counts, A×(R·K)."""
    means = cell_means(sums, counts)
    defined = np.isfinite(means)
    weights = defined / np.maximum(defined.sum(2, keepdims=True), 1)
    weights /= np.maximum(defined.any(2).sum(1), 1)[:, None, None]
    shape = len(sums), int(used.sum()), means[0].size
    centred = sums - np.nan_to_num(means)[:, :, None] * counts
    moved, numbers = (
        table[:, :, used].transpose(0, 2, 1, 3).astype(np.float32).reshape(shape) for table in (centred, counts)
    )
    return _merge(moved, numbers, weights.astype(np.float32).reshape(len(sums), -1))


def _merge(sums: Floats32, counts: Floats32, weights: Floats32) -> tuple[Floats32, ...]:
    """The same with one column, where all seeds and structures of an arm have as many cases of each patient.

    Counts are 1×P×1 where all arms have the same.
    """
    first = np.take_along_axis(counts, weights.argmax(1)[:, None, None], axis=2)
    if ((counts != first) & (weights[:, None] > 0)).any():
        return sums, counts, weights
    merged = sums @ weights[:, :, None]
    first = first[:1] if (first == first[:1]).all() else first
    return merged, first, (weights.sum(1, keepdims=True) > 0).astype(np.float32)


def _divide(deviation: Floats32, error: Floats32) -> Floats32:
    """Deviations over their errors; 0 where a draw has no spread, for it says nothing."""
    return np.divide(deviation, error, out=np.zeros_like(error), where=error > 1e-6 * error.max(initial=0))
