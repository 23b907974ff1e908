"""The sign-flip test of many pairs of arms, with tails that are fine enough for a correction over thousands of pairs.

If two arms are alike in each patient, a difference might as well have had the other sign. The flipped sums of a pair
are the difference of those of its arms, so that flips are drawn once for all arms.

Ten thousand flips cannot give a p below 1e-4, which Holm makes 0.5 over 5,000 pairs: where few of them reach what was
seen, the tail is that of the saddlepoint approximation (Robinson 1982, JRSS B 44:91), right to some per cent.
"""

from __future__ import annotations

import numpy as np
from scipy.special import ndtr

from medsam2.results.compare.cells import Floats, Integers
from medsam2.results.statistics import permute

FLIPS = 10_000
FEW = 50  # flips that reach what was seen: fewer say little of a tail
LEAST = 14  # units: below, all patterns are counted
AT_ONCE = 4_000_000  # numbers in a block
STEPS, CLOSE = 40, 1e-5


def permute_pairs(of_units: Floats, pairs: Integers, seed: int = 0) -> Floats:
    """M two-sided p-values of the mean difference of M pairs (a, b) of A×P values; NaN entries are left out.

    With fewer than 14 units p is exact, and at least 2 / 2^P.
    """
    if of_units.shape[1] < LEAST or np.isnan(of_units).any():
        p = permute(of_units[pairs[:, 0]] - of_units[pairs[:, 1]], FLIPS, seed)
    else:
        p = (_count(of_units, pairs, seed) + 1) / (FLIPS + 1)
    if of_units.shape[1] < LEAST:
        return p
    known = ~np.isnan(of_units)
    units = (known[pairs[:, 0]] & known[pairs[:, 1]]).sum(axis=1)
    rare = np.flatnonzero((p < FEW / FLIPS) & (units >= LEAST))
    step = max(1, AT_ONCE // of_units.shape[1])
    for start in range(0, len(rare), step):
        at = rare[start : start + step]
        p[at] = find_tails(of_units[pairs[at, 0]] - of_units[pairs[at, 1]])
    return p


def _count(of_units: Floats, pairs: Integers, seed: int) -> Floats:
    """How many of the flips reach what was seen."""
    values = of_units - of_units.mean(axis=0)  # what all arms share cancels in a difference: more digits are left
    sizes, totals = np.abs(values).sum(axis=1)[pairs].sum(axis=1), values.sum(axis=1)[pairs]
    seen = (np.abs(totals[:, 0] - totals[:, 1]) - 1e-6 * sizes).astype(np.float32)  # ties fall on the safe side
    signs = 1 - 2 * np.random.default_rng(seed).integers(2, size=(values.shape[1], FLIPS), dtype=np.int8)
    sums = values.astype(np.float32) @ signs.astype(np.float32)  # A×flips
    count = np.empty(len(pairs))
    for a in np.unique(pairs[:, 0]):
        at = np.flatnonzero(pairs[:, 0] == a)
        flipped = sums[pairs[at, 1]]
        flipped -= sums[a]
        count[at] = (np.abs(flipped, out=flipped) >= seen[at, None]).sum(axis=1)
    return count


def find_tails(d: Floats) -> Floats:
    """M: p of rows of M×P differences by the saddlepoint approximation; exact where all have one sign.

    The flipped sum has the cumulant function Σ log cosh(t·d). At least 2 / 2^P, zeros and NaN not counted.
    """
    d = np.nan_to_num(d)  # an entry that is left out changes no sum
    d = d / np.abs(d).max(axis=1, keepdims=True).clip(min=1e-300)
    seen, most = np.abs(d.sum(axis=1)), np.abs(d).sum(axis=1)
    least = 2.0 ** (1 - (d != 0).sum(axis=1))
    inside = (seen < most * (1 - 1e-9)) & (seen > 1e-9 * most)
    p = np.where(inside, np.nan, np.where(seen > 1e-9 * most, least, 1.0))
    d, seen = d[inside], seen[inside]
    t = _solve(d, seen)
    x = t[:, None] * d
    decay = np.exp(-2 * np.abs(x))  # cosh x = exp(|x|) · (1 + decay) / 2
    log_cosh = np.abs(x) + np.log1p(decay) - np.log(2)
    root = np.sqrt(2 * (t * seen - log_cosh.sum(axis=1)))
    slope = t * np.sqrt((d**2 * 4 * decay / (1 + decay) ** 2).sum(axis=1))
    tail = 2 * ndtr(-(root + np.log(slope / root) / root))  # Barndorff-Nielsen's form of the formula
    p[inside] = tail + least[inside]  # a step of the distribution: errs on the safe side
    return np.minimum(p, 1)


def _solve(d: Floats, seen: Floats) -> Floats:
    """M: t at which Σ d·tanh(t·d) is what was seen. Newton's steps come from below and do not overshoot.

    Single precision is enough: the tail is flat in t where it is evaluated.
    """
    t = seen / (d**2).sum(axis=1)
    single = d.astype(np.float32)
    left = np.arange(len(d))
    for _ in range(STEPS):
        part = single[left]
        tanh = np.tanh(t[left, None].astype(np.float32) * part)
        tanh *= part
        lacking = seen[left] - tanh.sum(axis=1, dtype=np.float64)
        t[left] += lacking / (part**2 - tanh**2).sum(axis=1, dtype=np.float64)
        left = left[np.abs(lacking) > CLOSE * seen[left]]
        if not len(left):
            break
    return t
