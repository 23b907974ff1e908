"""How large a difference is beside its spread over patients; rows are pairs of arms, NaN entries are left out."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from medsam2.results.statistics.clusters import Floats
from medsam2.results.statistics.paired import RankSums, rank_sums, rows_of


def cohen_dz(d: ArrayLike) -> Floats:
    """M: mean over standard deviation of the differences (Cohen 1988, section 2.3.5, d_z).

    0 where all are zero, infinite where all are equal and not zero, NaN with fewer than two.
    """
    d = rows_of(d)
    n = np.isfinite(d).sum(1)
    safe = np.maximum(n, 1)
    mean = np.nansum(d, 1) / safe
    spread = np.sqrt(np.nansum((d - mean[:, None]) ** 2, 1) / np.maximum(n - 1, 1))
    rounding = 1e-12 * np.abs(mean)
    with np.errstate(divide="ignore", invalid="ignore"):
        effect = np.where(mean == 0, 0, mean / np.where(spread <= rounding, 0, spread))
    return np.where(n > 1, effect, np.nan)


def rank_biserial(d: ArrayLike | RankSums) -> Floats:
    """M: share of rank sums in favour less that against, in -1…1 (Kerby 2014, Comprehensive Psychology 3:1).

    On the ranks of the Wilcoxon test beside it (zeros by Pratt). 0 where all differences are zero.
    """
    sums = d if isinstance(d, RankSums) else rank_sums(d)
    whole = sums.positive + sums.negative
    effect = np.divide(sums.positive - sums.negative, whole, out=np.zeros_like(whole), where=whole > 0)
    return np.where((whole > 0) | (sums.zeros > 0), effect, np.nan)


def share_better(d: ArrayLike) -> Floats:
    """M: share of patients with a positive difference, ties half (Grissom & Kim 2012, Effect Sizes, section 5.5)."""
    d = rows_of(d)
    n = np.isfinite(d).sum(1)
    better = (d > 0).sum(1) + (d == 0).sum(1) / 2
    return np.divide(better, n, out=np.full(len(d), np.nan), where=n > 0)
