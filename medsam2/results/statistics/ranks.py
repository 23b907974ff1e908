"""Many arms across datasets: Friedman's test, Nemenyi's critical difference, and groups that do not differ.

As Demšar (2006, JMLR 7:1, section 3.2.2) advises: datasets are blocks, the scores of a block are ranked, 1 the highest.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import chdtrc

from medsam2.results.statistics.clusters import Floats
from medsam2.results.statistics.paired import rank_rows


def mean_ranks(scores: ArrayLike) -> Floats:
    """A: mean rank over D datasets of D×A scores, 1 the highest score, ties shared."""
    return _ranks(scores).mean(0)


def friedman(scores: ArrayLike) -> tuple[float, float]:
    """Statistic and p of D×A scores (Friedman 1937, JASA 32:675), corrected for ties; all equal: (0, 1).

    The χ² it is compared with holds for about D > 10 and A > 5 (Demšar). NaN with one dataset or one arm.
    """
    ranks = _ranks(scores)
    blocks, arms = ranks.shape
    if blocks < 2 or arms < 2:
        return np.nan, np.nan
    between = blocks * ((ranks.mean(0) - (arms + 1) / 2) ** 2).sum()
    within = ((ranks - (arms + 1) / 2) ** 2).sum() / (blocks * (arms - 1))
    statistic = between / within if within > 0 else 0.0
    return float(statistic), float(chdtrc(arms - 1, statistic))


def critical_difference(arms: int, blocks: int, alpha: float = 0.05) -> float:
    """Mean ranks further apart differ (Nemenyi 1963; Demšar 2006, equation in section 3.2.2)."""
    return _range(arms, alpha) * float(np.sqrt(arms * (arms + 1) / (6 * blocks)))


@lru_cache(maxsize=256)
def _range(arms: int, alpha: float) -> float:
    """Quantile of the range of `arms` normal values over √2: the q of Demšar's table 5."""
    from scipy.stats import studentized_range  # a second of import, for this alone

    return float(studentized_range.isf(alpha, arms, np.inf) / np.sqrt(2))


def cliques(mean_ranks: ArrayLike, cd: float) -> list[list[int]]:
    """Largest groups of two and more arms whose mean ranks lie within cd, best first; arms by their index."""
    ranks = np.asarray(mean_ranks, dtype=float)
    order = np.argsort(ranks, kind="stable")
    ends = np.searchsorted(ranks[order], ranks[order] + cd, side="right")
    groups, reached = [], 0
    for start, end in enumerate(ends):
        if end > reached and end - start > 1:
            groups.append([int(arm) for arm in order[start:end]])
            reached = end
    return groups


def _ranks(scores: ArrayLike) -> Floats:
    table = np.asarray(scores, dtype=float)
    if table.ndim != 2 or not np.isfinite(table).all():
        raise ValueError(f"scores {table.shape} must be datasets × arms without gaps; leave out arms that have some.")
    return rank_rows(-table)
