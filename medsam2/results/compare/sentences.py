"""A pair in one plain sentence that claims no more than the tests do."""

from __future__ import annotations

import math
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


def write(found: Finding) -> str:
    """The sentence, or two where a word of caution belongs to it."""
    about = f"{found.metric}{'' if found.structure == MEAN else f' of {found.structure}'} on {found.where}"
    if math.isnan(found.difference):
        return f"nothing to compare: {found.a} and {found.b} have no {found.metric} on the same cases of {found.where}."
    if found.units < 2:
        one = f"one {found.unit}: {found.a} and {found.b} differ by {_signed(found)} in {about}"
        return f"{one}; one {found.unit} decides nothing."
    within = "" if found.unit == "patient" else "within one patient, "
    if found.verdict == "undecided":
        text = f"undecided: {within}{found.a} and {found.b} differ by {_signed(found)} in {about} ({_evidence(found)})"
        return f"{text}{_what_would_decide(found)}{_caution(found)}"
    return (
        f"{within}{found.a} is {found.verdict} than {found.b} in {about}: "
        f"{_signed(found)} ({_evidence(found)}).{_caution(found)}"
    )


def needed_units(family: int) -> int:
    """With fewer units no sign-flip test reaches 5 % after correction: the smallest p of n is 2^(1 - n)."""
    return math.floor(1 + math.log2(family / ALPHA)) + 1


def _evidence(found: Finding) -> str:
    parts = [] if is_higher_better(found.metric) else ["lower is better"]
    if not math.isnan(found.low):
        digits = _digits(found)
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
    cautions = []
    if found.unit != "patient":
        cautions.append("One patient: this says nothing about others.")
    if found.seeds == (1, 1):
        cautions.append("One seed each: this is about these weights, training noise is not in it.")
    elif 1 in found.seeds:
        single = found.a if found.seeds[0] == 1 else found.b
        cautions.append(f"One seed of {single}: its training noise is not in it.")
    return "".join(f" {text}" for text in cautions)


def _seeds(seeds: tuple[int, int]) -> str:
    a, b = seeds
    return f"{_count(a, 'seed')} each" if a == b else f"{a} and {b} seeds"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _p(p: float, before: str = "p = ") -> str:
    if p < 0.0001:
        return f"{'p < ' if before else '< '}0.0001"
    digits = 4 if p < 0.001 or round(p, 3) == ALPHA else 3  # 0.0496 is not 0.050
    return f"{before}{p:.{digits}f}"


def _signed(found: Finding) -> str:
    unit = f" {found.size_unit}" if found.size_unit and found.metric.removeprefix(FREE) in DISTANCES else ""
    return f"{_number(found.difference, _digits(found), '+')}{unit}"


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
