"""A pair in one plain sentence that claims no more than the tests do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

from medsam2.results.compare.comparison import DISTANCES, FREE, MEAN, is_higher_better

ALPHA = 0.05
MOST_PATIENTS, MOST_SEEDS = 1000, 100  # more is not a plan


class Finding(NamedTuple):
    """What is known of a pair; the fields are those of `Board.pairs`, `seeds` are those of a and of b.

    Attributes:
        family: over how many pairs the p-values are corrected.
        unit: "patient" or "case" (all of one patient); `units` says how many both were tested on.
        size_unit: of distances: mm or pixels.
        tied: every unit has the same score of both. caution: of `warn_of_seeds`.
    """

    a: str
    b: str
    where: str
    structure: str
    metric: str
    difference: float
    low: float
    high: float
    unit: str
    units: int
    seeds: tuple[int, int]
    p_wilcoxon: float
    p_permutation: float
    p_joint: float
    family: int
    verdict: str
    more_seeds: float
    more_patients: float
    size_unit: str = ""
    tied: bool = False
    caution: str = ""


def warn_of_seeds(a: str, b: str, seeds_of_a: Sequence[int], seeds_of_b: Sequence[int]) -> str:
    """Whose training noise is not known; "" where both arms have several seeds."""
    if min(len(seeds_of_a), len(seeds_of_b)) > 1:
        return ""
    if len(seeds_of_a) != len(seeds_of_b):
        return f"one seed of {a if len(seeds_of_a) == 1 else b}: its training noise is not known"
    differ = "" if seeds_of_a == seeds_of_b else f", and seeds {seeds_of_a[0]} and {seeds_of_b[0]} differ"
    return f"one seed each{differ}: training noise is not known"


def write(found: Finding) -> str:
    """The sentence, or two where a word of caution belongs to it."""
    about = f"{found.metric}{'' if found.structure == MEAN else f' of {found.structure}'} on {found.where}"
    if math.isnan(found.difference):
        return f"nothing to compare: {found.a} and {found.b} have no {found.metric} on the same cases of {found.where}."
    if found.units < 2:
        one = f"one {found.unit}: {found.a} and {found.b} differ by {_signed(found, _digits(found))} in {about}"
        return f"{one}; one {found.unit} decides nothing."
    if found.tied:
        counts = f"{_count(found.units, found.unit)}, {_seeds(found.seeds)}"
        return (
            f"{found.a} and {_of_b(found)} score the same in every {found.unit}: {about} ({counts}).{_caution(found)}"
        )
    digits = _digits(found)
    signed, evidence = _signed(found, digits), _evidence(found, digits)
    within = "" if found.unit == "patient" else "within one patient, "
    if found.verdict == "undecided":
        text = f"undecided: {within}{found.a} and {_of_b(found)} differ by {signed} in {about} ({evidence})"
        return f"{text}{_what_would_decide(found)}{_caution(found)}"
    return (
        f"{within}{found.a} is {found.verdict} than {_of_b(found)} in {about}: {signed} ({evidence}).{_caution(found)}"
    )


@cache
def needed_units(family: int) -> int:
    """With fewer units no sign-flip test reaches 5 % after correction: the smallest p of n is 2^(1 - n)."""
    return math.floor(1 + math.log2(family / ALPHA)) + 1


def _evidence(found: Finding, digits: int) -> str:
    parts = [] if is_higher_better(found.metric) else ["lower is better"]
    if not math.isnan(found.low):
        parts.append(f"95 % interval {_number(found.low, digits)} to {_number(found.high, digits)}")
    parts.append(f"{_count(found.units, found.unit)}, {_seeds(found.seeds)}")
    if not math.isnan(found.p_permutation):
        over = f", Holm over {found.family} pairs" if found.family > 1 else ""
        wilcoxon = "" if math.isnan(found.p_wilcoxon) else f", {_p(found.p_wilcoxon, '')} by Wilcoxon"
        joint = "" if math.isnan(found.p_joint) or max(found.seeds) < 2 else f", {_p(found.p_joint, '')} with seeds"
        parts.append(f"{_p(found.p_permutation)} by permutation{wilcoxon}{joint}{over}")
    return "; ".join(parts)


def _what_would_decide(found: Finding) -> str:
    least = needed_units(found.family)
    over = f" and {found.family} pairs" if found.family > 1 else ""
    few = f"; with {_count(found.units, found.unit)}{over} no test can reach p < 0.05, at least {least} are needed"
    if found.units < least:
        return f"{few}."
    if found.difference == 0:
        return "."
    ways = [(found.more_patients, found.unit, MOST_PATIENTS), (found.more_seeds, "seed", MOST_SEEDS)]
    texts = [f"{_round(number)} more {unit}{'s' * (number != 1)}" for number, unit, most in ways if number <= most]
    if not texts:
        known = [f"{most:,} more {unit}s" for number, unit, most in ways if not math.isnan(number)]
        return f"; not even {' or '.join(known)} alone would decide it." if known else "."
    return f"; about {' or '.join(texts)} would decide it if the difference is as it looks."


def _caution(found: Finding) -> str:
    return "" if found.unit == "patient" else " One patient: this says nothing about others."


def _of_b(found: Finding) -> str:
    return f"{found.b} ({found.caution})" if found.caution else found.b


def _seeds(seeds: tuple[int, int]) -> str:
    a, b = seeds
    return f"{_count(a, 'seed')} each" if a == b else f"{a} and {b} seeds"


@cache
def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _p(p: float, before: str = "p = ") -> str:
    if p < 0.0001:
        return f"{'p < ' if before else '< '}0.0001"
    digits = 4 if p < 0.001 or round(p, 3) == ALPHA else 3  # 0.0496 is not 0.050
    return f"{before}{p:.{digits}f}"


def _signed(found: Finding, digits: int) -> str:
    unit = f" {found.size_unit}" if found.size_unit and found.metric.removeprefix(FREE) in DISTANCES else ""
    return f"{_number(found.difference, digits, '+')}{unit}"


def _digits(found: Finding) -> int:
    """As many decimals as show two digits of the interval's width, three or more for shares."""
    least = 2 if found.metric.removeprefix(FREE) in DISTANCES else 3
    width = found.high - found.low if found.high > found.low else abs(found.difference)
    return least if not width > 0 else min(6, max(least, 1 - math.floor(math.log10(width))))


def _number(value: float, digits: int, sign: str = "") -> str:
    text = f"{value:{sign}.{digits}f}"
    return text.replace("-", "−")


def _round(number: float) -> str:
    """Two digits of it: a power analysis knows no more."""
    whole = math.ceil(number)
    unit: int = 10 ** max(0, len(str(whole)) - 2)
    return f"{-(-whole // unit) * unit:,}"
