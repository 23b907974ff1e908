"""How many patients or seeds would decide what is undecided, if the difference and its spread stay as they are."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import nctdtr, ndtri, stdtrit

from medsam2.results.statistics.clusters import Floats

MOST = 1e9  # more is never


def needed_patients(
    difference: ArrayLike,
    sd_patients: ArrayLike,
    alpha: float = 0.05,
    power: float = 0.8,
    rest: ArrayLike = 0.0,
    rest_freedom: ArrayLike = np.inf,
) -> Floats:
    """Total number of patients with which a paired t-test finds the difference with probability `power`.

    With a rest the test is that of `Spread.p_values`, in which either part has its own quantile of Student's t.

    Args:
        difference: of the two means; arguments are broadcast.
        sd_patients: standard deviation of the differences over patients.
        alpha: two-sided; divide it by the number of pairs to be safe against their number.
        power: chance to find the difference.
        rest: standard error that more patients do not make smaller, such as that of the seeds.
        rest_freedom: degrees of freedom with which it is known.

    Returns:
        at least 2; inf where no number does (no difference, or `rest` too large); NaN where an argument is.
    """
    return _needed(difference, sd_patients, alpha, power, rest, rest_freedom)


def needed_seeds(
    difference: ArrayLike,
    sd_seeds: ArrayLike,
    alpha: float = 0.05,
    power: float = 0.8,
    rest: ArrayLike = 0.0,
    rest_freedom: ArrayLike = np.inf,
) -> Floats:
    """Total number of seeds of each arm; as `needed_patients`, with the standard deviation over seeds.

    `rest` is then the standard error that patients leave.
    """
    return _needed(difference, sd_seeds, alpha, power, rest, rest_freedom)


def _needed(
    difference: ArrayLike, sd: ArrayLike, alpha: float, power: float, rest: ArrayLike, rest_freedom: ArrayLike
) -> Floats:
    """The smallest number, all at once; inf where even the normal distribution's, which is never more, is too large."""
    parts = (np.abs(np.asarray(x, dtype=float)) for x in (difference, sd, rest, rest_freedom))
    size, spread, left, freedom = np.broadcast_arrays(*parts)
    with np.errstate(divide="ignore", invalid="ignore"):
        room = (size / (ndtri(1 - alpha / 2) + ndtri(power))) ** 2 - left**2
        normal = np.where(room > 0, spread**2 / room, np.inf)
    found = np.where(np.isnan(size + spread + left), np.nan, np.inf)
    hopeful = normal < MOST
    if hopeful.any():
        bound = left[hopeful] * stdtrit(np.clip(freedom[hopeful], 1, MOST), 1 - alpha / 2)
        chosen = size[hopeful], spread[hopeful], left[hopeful], bound
        low = np.maximum(np.floor(normal[hopeful]), 2) - 1
        guess = np.floor(low + 1 + ndtri(1 - alpha / 2) ** 2 / 2)  # Guenther 1981, The American Statistician 35:243
        found[hopeful] = _search(low, np.minimum(guess, MOST), chosen, alpha, power)
    return found


def _search(low: Floats, guess: Floats, given: tuple[Floats, ...], alpha: float, power: float) -> Floats:
    """The smallest number above `low` with enough power: by growing steps from a guess, then bisected."""

    def lacks(number: Floats, at: NDArray[np.intp]) -> NDArray[np.bool_]:
        size, spread, left, bound = (values[at] for values in given)
        return ~(_power(number, size, spread, left, bound, alpha) >= power)

    at, step = np.arange(len(low)), 1
    short = lacks(guess, at)
    near, far = guess.copy(), guess.copy()
    while len(at):
        near[at] = far[at]
        far[at] = np.maximum(near[at] + np.where(short[at], step, -step), low[at])
        within = (low[at] < far[at]) & (far[at] < MOST)
        at, step = at[within & (lacks(far[at], at) == short[at])], 2 * step
    low, high = np.minimum(near, far), np.maximum(near, far)
    while len(at := np.flatnonzero(high - low > 1)):
        middle = np.floor((low[at] + high[at]) / 2)
        fewer = lacks(middle, at)
        low[at], high[at] = np.where(fewer, middle, low[at]), np.where(fewer, high[at], middle)
    return np.where(high >= MOST, np.inf, high)


def _power(n: Floats, size: Floats, spread: Floats, left: Floats, rest: Floats, alpha: float) -> Floats:
    """Chance that |t| of n values exceeds its bound; the far side, below alpha / 2, only where it is not nothing.

    `rest` is what the bound grows by for `left`: its quantile times itself, squared and added.
    """
    error = np.sqrt(spread**2 / n + left**2)
    shift = np.minimum(np.divide(size, error, out=np.where(size > 0, 30.0, 0.0), where=error > 0), 30)
    reach = np.sqrt((stdtrit(n - 1, 1 - alpha / 2) * spread) ** 2 / n + rest**2)
    bound = np.divide(reach, error, out=stdtrit(n - 1, 1 - alpha / 2), where=error > 0)
    return 1 - nctdtr(n - 1, shift, bound) + np.where(shift < 3, nctdtr(n - 1, np.minimum(shift, 3), -bound), 0)
