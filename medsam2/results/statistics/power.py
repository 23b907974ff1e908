"""How many patients or seeds would decide what is undecided, if the difference and its spread stay as they are."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
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
    """The smallest number, all at once; inf where even the normal distribution's, which is never more, is too large."""
    size, spread, left = np.broadcast_arrays(*(np.abs(np.asarray(x, dtype=float)) for x in (difference, sd, rest)))
    with np.errstate(divide="ignore", invalid="ignore"):
        room = (size / (ndtri(1 - alpha / 2) + ndtri(power))) ** 2 - left**2
        normal = np.where(room > 0, spread**2 / room, np.inf)
    found = np.where(np.isnan(size + spread + left), np.nan, np.inf)
    hopeful = normal < MOST
    if hopeful.any():
        chosen = size[hopeful], spread[hopeful], left[hopeful]
        found[hopeful] = _search(np.maximum(np.floor(normal[hopeful]), 2) - 1, chosen, alpha, power)
    return found


def _search(low: Floats, given: tuple[Floats, Floats, Floats], alpha: float, power: float) -> Floats:
    """The smallest number above `low` with enough power: upwards in growing steps, then bisected; inf above MOST."""

    def lacks(number: Floats, at: NDArray[np.intp]) -> NDArray[np.bool_]:
        size, spread, left = (values[at] for values in given)
        return ~(_power(number, size, spread, left, alpha) >= power)

    high, step, at = low + 1, np.ones(len(low)), np.arange(len(low))
    while len(at := at[(high[at] < MOST) & lacks(high[at], at)]):
        step[at] *= 2
        low[at], high[at] = high[at], high[at] + step[at]
    while len(at := np.flatnonzero(high - low > 1)):
        middle = np.floor((low[at] + high[at]) / 2)
        fewer = lacks(np.maximum(middle, 2), at)
        low[at], high[at] = np.where(fewer, middle, low[at]), np.where(fewer, high[at], middle)
    return np.where(high >= MOST, np.inf, high)


def _power(n: Floats, size: Floats, spread: Floats, left: Floats, alpha: float) -> Floats:
    """Chance that |t| of n values exceeds its bound; the far side, below alpha / 2, only where it is not nothing."""
    error = np.sqrt(spread**2 / n + left**2)
    shift = np.minimum(np.divide(size, error, out=np.where(size > 0, 30.0, 0.0), where=error > 0), 30)
    bound = stdtrit(n - 1, 1 - alpha / 2)
    return 1 - nctdtr(n - 1, shift, bound) + np.where(shift < 3, nctdtr(n - 1, np.minimum(shift, 3), -bound), 0)
