"""What is said of a pair claims no more than the tests do."""

from __future__ import annotations

from math import inf, nan

import pytest

from medsam2.results.compare.sentences import Finding, needed_units, warn_of_seeds, write

DECIDED = Finding(
    a="m", b="n", where="ct (box)", structure="mean", metric="dice", difference=0.0171, low=0.009, high=0.0252,
    unit="patient", units=40, seeds=(3, 3), p_wilcoxon=0.0006, p_permutation=0.0004, p_joint=0.012, family=3,
    verdict="better", more_seeds=nan, more_patients=nan,
)  # fmt: skip
OPEN = DECIDED._replace(verdict="undecided", low=-0.004, difference=0.0101, p_permutation=0.0496, p_wilcoxon=0.08)
ONE_SEED = "one seed each: training noise is not known"
DIFFER = "undecided: m and n differ by +0.010 in dice on ct (box) (95 % interval −0.004 to 0.025; "
TESTS = "p = 0.0496 by permutation, 0.080 by Wilcoxon, 0.012 with seeds"
TEXTS = {
    "better": (
        DECIDED,
        "m is better than n in dice on ct (box): +0.017 (95 % interval 0.009 to 0.025; 40 patients, 3 seeds each; "
        "p = 0.0004 by permutation, 0.0006 by Wilcoxon, 0.012 with seeds, Holm over 3 pairs).",
    ),
    "lower is better": (
        DECIDED._replace(
            metric="hd95", structure="cup", difference=-1.234, low=-2, high=-0.5, size_unit="mm", family=1
        ),
        "m is better than n in hd95 of cup on ct (box): −1.23 mm (lower is better; 95 % interval −2.00 to −0.50; "
        "40 patients, 3 seeds each; p = 0.0004 by permutation, 0.0006 by Wilcoxon, 0.012 with seeds).",
    ),
    "one seed": (
        DECIDED._replace(seeds=(1, 1), family=1, p_wilcoxon=1e-7, caution=ONE_SEED),
        f"m is better than n ({ONE_SEED}) in dice on ct (box): +0.017 (95 % interval 0.009 to 0.025; 40 patients, "
        "1 seed each; p = 0.0004 by permutation, < 0.0001 by Wilcoxon).",
    ),
    "undecided": (
        OPEN._replace(more_patients=12, more_seeds=1),
        f"{DIFFER}40 patients, 3 seeds each; {TESTS}, Holm over 3 pairs); "
        "about 12 more patients or 1 more seed would decide it if the difference is as it looks.",
    ),
    "hopeless": (
        OPEN._replace(more_patients=inf, more_seeds=430_000),
        f"{DIFFER}40 patients, 3 seeds each; {TESTS}, Holm over 3 pairs); "
        "not even 1,000 more patients or 100 more seeds alone would decide it.",
    ),
    "few patients": (
        OPEN._replace(units=4, seeds=(1, 3), family=1, more_patients=2),
        f"{DIFFER}4 patients, 1 and 3 seeds; {TESTS}); with 4 patients no test can reach p < 0.05, at least 6 are "
        "needed.",
    ),
    "one patient": (
        DECIDED._replace(unit="case", units=6, family=1),
        "within one patient, m is better than n in dice on ct (box): +0.017 (95 % interval 0.009 to 0.025; 6 cases, "
        "3 seeds each; p = 0.0004 by permutation, 0.0006 by Wilcoxon, 0.012 with seeds). One patient: this says "
        "nothing about others.",
    ),
    "one case": (
        OPEN._replace(unit="case", units=1, low=nan, high=nan, p_permutation=nan),
        "one case: m and n differ by +0.010 in dice on ct (box); one case decides nothing.",
    ),
    "nothing": (
        OPEN._replace(difference=nan, units=0),
        "nothing to compare: m and n have no dice on the same cases of ct (box).",
    ),
    "the same": (
        OPEN._replace(difference=0.0, low=0.0, high=0.0, tied=True, p_wilcoxon=1, p_permutation=1, p_joint=1),
        "m and n score the same in every patient: dice on ct (box) (40 patients, 3 seeds each).",
    ),
    "the same in every case": (
        OPEN._replace(difference=0.0, tied=True, unit="case", units=2, seeds=(1, 1), caution=ONE_SEED),
        f"m and n ({ONE_SEED}) score the same in every case: dice on ct (box) (2 cases, 1 seed each). One patient: "
        "this says nothing about others.",
    ),
}


@pytest.mark.parametrize("name", TEXTS)
def test_sentences(name: str) -> None:
    found, text = TEXTS[name]
    assert write(found) == text


@pytest.mark.parametrize(
    ("seeds", "said"),
    [
        (((0, 1), (2, 3)), ""),
        (((0,), (0,)), "one seed each: training noise is not known"),
        (((0,), (1,)), "one seed each, and seeds 0 and 1 differ: training noise is not known"),
        (((0, 1), (0,)), "one seed of n: its training noise is not known"),
        (((3,), (0, 1)), "one seed of m: its training noise is not known"),
    ],
)
def test_whose_training_noise_is_not_known(seeds: tuple[tuple[int, ...], tuple[int, ...]], said: str) -> None:
    assert warn_of_seeds("m", "n", *seeds) == said
    assert (f"than n ({said}) in" if said else "than n in") in write(DECIDED._replace(caution=said))


@pytest.mark.parametrize(("family", "units"), [(1, 6), (2, 7), (3, 7), (4, 8), (4950, 18)])
def test_fewer_units_cannot_reach_five_per_cent(family: int, units: int) -> None:
    assert needed_units(family) == units
    assert family * 2.0 ** (1 - units) < 0.05 <= family * 2.0 ** (2 - units)


@pytest.mark.parametrize(("number", "text"), [(12, "12"), (123, "130"), (999, "1,000"), (1000, "1,000"), (2, "2")])
def test_a_power_analysis_knows_two_digits(number: float, text: str) -> None:
    assert f"about {text} more patients would" in write(OPEN._replace(more_patients=number, more_seeds=inf))


def test_a_narrow_interval_shows_its_digits() -> None:
    text = write(DECIDED._replace(difference=0.00023, low=0.00021, high=0.00025))
    assert "+0.000230 (95 % interval 0.000210 to 0.000250" in text
