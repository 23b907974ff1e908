"""Expected calibration error: how far what is expected lies from what happens, over bins of what is expected.

Guo et al. 2017 (arXiv 1706.04599, section 2), with 15 bins of equal width, (0, 1/15], …, (14/15, 1].
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

NUM_BINS = 15


def count_bins(expected: NDArray[Any], actual: NDArray[Any]) -> NDArray[np.float64]:
    """3×15: how many there are in each bin, the sum of what was expected, 0..1, and of what happened, 0..1.

    Those of several images add up.
    """
    above = expected > 1 / NUM_BINS  # most pixels are background: the first bin is what the others leave
    higher, found = expected[above], actual[above]
    bins = np.clip(np.ceil(higher * NUM_BINS).astype(np.int64) - 1, 0, NUM_BINS - 1)
    rows = [np.bincount(bins, weights=weights, minlength=NUM_BINS) for weights in (None, higher, found)]
    counts = np.stack(rows).astype(np.float64)
    totals = np.array([expected.size, expected.sum(dtype=np.float64), actual.sum(dtype=np.float64)])
    counts[:, 0] += totals - counts.sum(axis=1)
    return counts


def compute_ece(bins: NDArray[np.float64]) -> float:
    """The mean over all that was counted of | expected - actual | of its bin, 0..1."""
    number, expected, actual = bins
    return float(np.abs(expected - actual).sum() / number.sum())
