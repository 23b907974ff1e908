"""How many patients or seeds would decide what is undecided, if the difference and its spread stay as they are."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import nctdtr, ndtri, stdtrit

from medsam2.results.statistics.clusters import Floats

MOST = 1e9  # more is never


def needed_patients(
    difference: ArrayLike, sd_patients: ArrayLike, alpha: float = 0.05, power: float = 0.8, rest: ArrayLike = 0.0
) -> Floats:
    """Total number of patients with which a paired t-test finds the difference with probability `power`.

    Args:
        difference: of the two means; arguments are broadcast.
        sd_patients: standard deviation of the differences over patients.
        alpha: two-sided; divide it by the number of pairs to be safe against their number.
        power: chance to find the difference.
        rest: standard error that more patients do not make smaller, such as that of the seeds.

    Returns:
        at least 2; inf where no number does (no difference, or `rest` too large); NaN where an argument is.
    """
    return _needed(difference, sd_patients, alpha, power, rest)


def needed_seeds(
    difference: ArrayLike, sd_seeds: ArrayLike, alpha: float = 0.05, power: float = 0.8, rest: ArrayLike = 0.0
) -> Floats:
    """Total number of seeds of each arm; as `needed_patients`, with the standard deviation over seeds.

    `rest` is then the standard error that patients leave.
    """
    return _needed(difference, sd_seeds, alpha, power, rest)


def _needed(difference: ArrayLike, sd: ArrayLike, alpha: float, power: float, rest: ArrayLike) -> Floats:
    """The smallest number, all at once: from the normal distribution's, which is never more, upwards; then bisected."""
    size, spread, left = np.broadcast_arrays(*(np.abs(np.asarray(x, dtype=float)) for x in (difference, sd, rest)))
    with np.errstate(divide="ignore", invalid="ignore"):
        room = (size / (ndtri(1 - alpha / 2) + ndtri(power))) ** 2 - left**2
        normal = np.where(room > 0, spread**2 / room, np.inf)
    hopeless = ~(normal < MOST)
    low = np.where(hopeless, 1, np.maximum(np.floor(normal), 2) - 1)
    step, high = np.ones(size.shape), low + 1
    while (lacking := (high < MOST) & ~hopeless & ~(_power(high, size, spread, left, alpha) >= power)).any():
        step = np.where(lacking, 2 * step, step)
        low, high = np.where(lacking, high, low), np.where(lacking, high + step, high)
    while (high - low > 1).any():
        middle = np.floor((low + high) / 2)
        enough = _power(np.maximum(middle, 2), size, spread, left, alpha) >= power
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return np.where(np.isnan(size + spread + left), np.nan, np.where(hopeless | (high >= MOST), np.inf, high))


def _power(n: Floats, size: Floats, spread: Floats, left: Floats, alpha: float) -> Floats:
    """Chance that |t| of n values exceeds its bound; the far side, below alpha / 2, only where it is not nothing."""
    error = np.sqrt(spread**2 / n + left**2)
    shift = np.minimum(np.divide(size, error, out=np.where(size > 0, 30.0, 0.0), where=error > 0), 30)
    bound = stdtrit(n - 1, 1 - alpha / 2)
    return 1 - nctdtr(n - 1, shift, bound) + np.where(shift < 3, nctdtr(n - 1, np.minimum(shift, 3), -bound), 0)
