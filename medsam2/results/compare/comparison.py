"""What a comparison holds: plain frames, with every number that a report shows, and the words that belong to them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from medsam2.evaluation.metrics import LOWER_IS_BETTER

if TYPE_CHECKING:
    from medsam2.results.collect import Setting, Study

MEAN = "mean"  # the structure that is the mean over structures
FREE = "prompt_free_"  # before a metric: of the rows without a prompt, where others have one
LOWER = LOWER_IS_BETTER | {"vcdr_error"}
DISTANCES = {"hd95", "assd"}  # in mm or pixels
SHARES = {"dice", "iou", "nsd", "prompt_dice", "ece"}  # 0..1


def is_higher_better(metric: str) -> bool:
    """Whether a larger value is the better one."""
    return metric.removeprefix(FREE) not in LOWER


def range_of(metric: str) -> tuple[float, float]:
    """Between which values a metric, and so its mean, must lie."""
    name = metric.removeprefix(FREE)
    if name in SHARES or name.startswith(("slice_", "rater")):
        return 0.0, 1.0
    return (0.0 if name in DISTANCES or name.endswith("_error") else -math.inf), math.inf


@dataclass(frozen=True)
class Board:
    """The results of one setting: what may stand in one table.

    Attributes:
        scores: a line per arm × structure × metric, best first within metric × structure.
            structure: "mean" is the mean over structures. mean: over cases within a structure, then over structures,
            then over seeds. sd: over seeds, ddof 1. low, high: 95 % interval. runs, seeds, folds. patients, cases:
            that have a value. rows: of all runs. undefined: rows without a value. missed: rows with a label and no
            answer. false_positives: rows with an answer and an empty label. zero_shot: mean before training.
            ceiling: the raters' Dice among themselves.
        pairs: a line per pair × structure of the main metric.
            difference: mean of a − mean of b. low, high: 95 % interval. patients, cases: that both have. seeds.
            p_wilcoxon, p_permutation: over patients. p_joint: for new patients and new seeds. *_holm: corrected within
            the structure. effect_dz, effect_rank: above 0 where a is the better one. share_better: of the patients, on
            whom a is better. verdict: of a, better, worse or undecided. more_seeds, more_patients: NaN where
            decided or unknown, inf where no number would. caution: whose training noise is not known. sentence: all
            of it in words.
        letters: arms that share a letter are not told apart; empty where not all pairs were looked at.
        stability: arm, mean_rank, first (share of resamples in which it is best), rank_low, rank_high.
        cases: the rows of this setting, with the column arm.
        name: the board in columns named `dataset`: the title of its setting.
        headline: the structure that stands for all: "mean", or the one that the main metric is about.
    """

    setting: Setting
    scores: pd.DataFrame
    pairs: pd.DataFrame
    letters: dict[str, str]
    stability: pd.DataFrame
    cases: pd.DataFrame
    notes: list[str]
    name: str = ""
    headline: str = MEAN


@dataclass(frozen=True)
class Across:
    """Arms over several datasets, each dataset one block: Demšar 2006 (JMLR 7).

    Attributes:
        mean_ranks: by arm, 1 is best, sorted.
        statistic, p: of Friedman's test; NaN for fewer than three arms.
        critical_difference: of mean ranks, Nemenyi at 5 %.
        cliques: arms that are not told apart, where there are two or more.
        datasets: the blocks; arms are those that were tested on all of them.
        scores: arm × dataset, means of the main metric.
    """

    mean_ranks: pd.Series[float]
    statistic: float
    p: float
    critical_difference: float
    cliques: list[list[str]]
    datasets: list[str]
    scores: pd.DataFrame
    notes: list[str]


@dataclass(frozen=True)
class Comparison:
    """A study compared in one main metric.

    Attributes:
        arms, by, varied, fixed: what is compared, the keys in the arms' labels, their values, and what all runs share.
        boards: one for each setting. across: over datasets; None for fewer than two that two arms share.
        matrix: (arm, trained_on) × board, means; None unless a run was tested elsewhere than on what it was trained on.
        curves: arm, dataset, structure, metric, axis (clicks, jitter, slices), level, mean, low, high, patients, seeds.
        clicks_needed: arm, dataset, target, mean, low, high, failed (share that never reached it), limit (counts then).
        calibration: arm, dataset, kind (pixels, iou), bin, expected, actual, number, ece; pooled over cases,
            structures and seeds.
        rejection: arm, dataset, rejected (share, the least sure by predicted IoU first), mean, cases (rows left).
        raters: arm, dataset, structure, rater (majority, rater 1 …, mean of raters, raters among themselves), mean.
        cost: arm, dataset, task, runs, seconds, peak_memory (bytes), parameters, trained_parameters, device.
    """

    study: Study
    metric: str
    higher_is_better: bool
    arms: list[str]
    by: list[str]
    varied: pd.DataFrame
    fixed: pd.Series
    boards: list[Board]
    across: Across | None
    matrix: pd.DataFrame | None
    curves: pd.DataFrame
    clicks_needed: pd.DataFrame
    calibration: pd.DataFrame
    rejection: pd.DataFrame
    raters: pd.DataFrame
    cost: pd.DataFrame
    notes: list[str]
    left_out: pd.DataFrame
