"""Paired tests of many differences at once: Wilcoxon's signed ranks, sign flips, and Holm's correction.

A row is a pair of arms, a column a patient; NaN entries are left out. All are two-sided.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr

from medsam2.results.statistics.clusters import Floats

EXACT = 50  # up to so many patients without ties Wilcoxon's distribution is counted out
AT_ONCE = 20_000_000  # numbers a block of sign flips may hold


def rows_of(d: ArrayLike) -> Floats:
    """Differences as M×P; a single row is taken for a table of one."""
    return np.atleast_2d(np.asarray(d, dtype=float))


@dataclass(frozen=True)
class RankSums:
    """Of each row: entries that are not NaN, those that are 0, and sums over the ranks of the absolute values.

    Zeros take part in the ranking and are dropped then (Pratt 1959, JASA 54:655): few small differences among many
    zeros do not become large ones.

    Attributes:
        positive, negative: of the ranks of entries with that sign; ties share the mean of their ranks.
        ties: of t² - 1 over entries that share their rank with t - 1 others, t³ - t for each group; zeros are none.
    """

    number: Floats
    zeros: Floats
    positive: Floats
    negative: Floats
    ties: Floats


def rank_sums(d: ArrayLike) -> RankSums:
    """Rank sums of rows of differences, from one sort of the sizes with the sign as the last bit."""
    d = rows_of(d)
    size = np.where(np.isnan(d), np.inf, np.abs(d))
    keys = np.sort((size.view(np.uint64) << np.uint64(1)) | (d > 0), axis=1)
    positive, ordered = (keys & np.uint64(1)).astype(float), keys >> np.uint64(1)
    number, zeros = np.isfinite(d).sum(1).astype(float), (d == 0).sum(1).astype(float)
    place, ties = np.arange(d.shape[1]), np.zeros(len(d), dtype=float)
    new = ordered[:, 1:] != ordered[:, :-1]
    if new.all():
        ours = positive @ (place + 1.0)
    else:
        ranks, shared = _average(new)
        valued = (place >= zeros[:, None]) & (place < number[:, None])
        ours, ties = (ranks * positive).sum(1), ((shared**2 - 1) * valued).sum(1)
    whole = (number * (number + 1) - zeros * (zeros + 1)) / 2
    return RankSums(number, zeros, ours, whole - ours, ties)


def _average(new: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Mean rank of the entries of sorted rows that are equal, and how many; `new`: which are unlike the one before."""
    place, width = np.arange(new.shape[1] + 1), new.shape[1] + 1
    edge = np.ones((len(new), 1), dtype=np.bool_)
    first = np.maximum.accumulate(np.where(np.hstack([edge, new]), place, 0), axis=1)
    ends = np.where(np.hstack([new, edge]), place, width)
    last = np.minimum.accumulate(ends[:, ::-1], axis=1)[:, ::-1]
    return (first + last) / 2 + 1, last - first + 1.0


def rank_rows(values: Floats) -> Floats:
    """Ranks within each row, 1 the lowest; ties share the mean of theirs."""
    order = np.argsort(values, axis=1)
    ordered = np.take_along_axis(values, order, axis=1)
    ranks = np.empty(values.shape)
    np.put_along_axis(ranks, order, _average(ordered[:, 1:] != ordered[:, :-1])[0], axis=1)
    return ranks


def wilcoxon(d: ArrayLike | RankSums) -> Floats:
    """M p-values of Wilcoxon's signed-rank test (1945, Biometrics Bulletin 1:80); all zero: 1; no entry: NaN.

    Exact for up to 50 entries without ties and zeros, else by the normal approximation with corrections for both
    (Cureton 1967, JASA 62:1068). Fewer than 6 entries cannot give p < 0.05.
    """
    sums = d if isinstance(d, RankSums) else rank_sums(d)
    n, zeros, positive = sums.number, sums.zeros, sums.positive
    mean = (n * (n + 1) - zeros * (zeros + 1)) / 4
    variance = (n * (n + 1) * (2 * n + 1) - zeros * (zeros + 1) * (2 * zeros + 1)) / 24 - sums.ties / 48
    with np.errstate(invalid="ignore", divide="ignore"):
        p = 2 * ndtr(-np.abs(positive - mean) / np.sqrt(variance))
    p = np.where(zeros == n, 1, p)
    exact = (n <= EXACT) & (n > 0) & (zeros == 0) & (sums.ties == 0)
    p[exact] = [_exact(int(k), int(w)) for k, w in zip(n[exact], positive[exact], strict=True)]
    return np.where(n == 0, np.nan, p)


@lru_cache(maxsize=64)
def _cumulated(n: int) -> Floats:
    """P(sum of positive ranks <= w) for n signed ranks."""
    ways = np.ones(1)
    for rank in range(1, n + 1):
        more = np.zeros(len(ways) + rank)
        more[: len(ways)] += ways
        more[rank:] += ways
        ways = more / 2
    return np.cumsum(ways)


def _exact(n: int, positive: int) -> float:
    return min(1.0, 2 * float(_cumulated(n)[min(positive, n * (n + 1) // 2 - positive)]))


def permute(d: ArrayLike, resamples: int = 10_000, seed: int = 0) -> Floats:
    """M p-values of the sign-flip test of the mean (Fisher 1935, The Design of Experiments, section 21).

    If the arms are alike in each patient, a difference might as well have had the other sign. All 2^P patterns where
    they are not more than `resamples`; else random ones, and p = (count + 1) / (resamples + 1), which cannot be 0
    (Phipson & Smyth 2010, SAGMB 9:39). The smallest p of P patients is 2 / 2^P: none below 0.05 with fewer than 6.
    All zero: 1; no entry: NaN.
    """
    d = rows_of(d)
    values = np.nan_to_num(d).astype(np.float32)
    patients = d.shape[1]
    exact = 2**patients <= resamples if patients < 60 else False
    signs = _patterns(patients) if exact else _random_signs(patients, resamples, seed)
    seen = np.abs(values.sum(1, dtype=np.float64)) - 1e-6 * np.abs(values).sum(1)  # ties fall on the safe side
    count = np.empty(len(d))
    step = max(1, AT_ONCE // max(len(signs), 1))
    for start in range(0, len(d), step):
        at = slice(start, start + step)
        flipped = values[at] @ signs.T
        count[at] = (np.abs(flipped, out=flipped) >= seen[at, None].astype(np.float32)).sum(1)
    p = count / len(signs) if exact else (count + 1) / (len(signs) + 1)
    return np.where(np.isfinite(d).any(1), p, np.nan)


def _patterns(patients: int) -> NDArray[np.float32]:
    codes = np.arange(2**patients)[:, None] >> np.arange(patients)
    return (1 - 2 * (codes & 1)).astype(np.float32)


def _random_signs(patients: int, resamples: int, seed: int) -> NDArray[np.float32]:
    drawn = np.random.default_rng(seed).integers(2, size=(resamples, patients), dtype=np.int8)
    return (1 - 2 * drawn).astype(np.float32)


def holm(p: ArrayLike) -> Floats:
    """M p-values adjusted for their number (Holm 1979, Scandinavian Journal of Statistics 6:65).

    NaN stays NaN and is not counted.
    """
    p = np.asarray(p, dtype=float)
    adjusted = np.full(p.shape, np.nan)
    valid = np.flatnonzero(np.isfinite(p))
    order = valid[np.argsort(p[valid], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * factors), 1)
    return adjusted
