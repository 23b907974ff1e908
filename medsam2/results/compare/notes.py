"""What a reader of a board must know, in words."""

from __future__ import annotations

import pandas as pd

from medsam2.results.compare.comparison import DISTANCES, FREE
from medsam2.results.compare.pairs import MOST_ARMS
from medsam2.results.compare.sentences import needed_units
from medsam2.results.compare.view import Part

SOME = 5  # names of arms that a note lists


def unit_of(frame: pd.DataFrame) -> str:
    """What distances are measured in: mm or px; "" where rows differ or do not say."""
    if "size_unit" not in frame.columns:
        return ""
    units = {str(unit).startswith("mm") for unit in frame["size_unit"].dropna().unique()}
    return {frozenset([True]): "mm", frozenset([False]): "px"}.get(frozenset(units), "")


def about_board(part: Part, scores: pd.DataFrame, metric: str) -> list[str]:
    """On the main metric: how few patients, cases or seeds there are, what is undefined, what does not count alike."""
    notes = [*_about_units(part), *_about_seeds(part), *_about_undefined(scores, metric), *_about_coverage(part)]
    sized = part.frame.get("size_unit", pd.Series(dtype=object)).dropna()
    if metric.removeprefix(FREE) in DISTANCES and sized.str.startswith("mm").nunique() > 1:
        notes.append(f"{metric} is in mm for some cases and in pixels for others: its means have no unit")
    return notes


def about_training(runs: pd.DataFrame) -> list[str]:
    """On arms whose training changed nothing."""
    trained = runs[runs["task"] == "train"]
    kept = (trained["best_epoch"] == 0).groupby(trained["arm"], sort=False).agg(["sum", "size"])
    return [
        f"{kept_as} of {number} run{'s' * (number > 1)} of {arm} kept the network as it came (best epoch 0): "
        "training did not improve the validation score"
        for arm, kept_as, number in kept.itertuples()
        if kept_as
    ]


def about_pairs(part: Part, order: list[int], baseline: str | None, asked: str | None) -> list[str]:
    """On which pairs were looked at, and what so few cases cannot show."""
    notes, arms = [], len(order)
    family = arms - 1 if baseline else arms * (arms - 1) // 2
    if asked and not baseline:
        notes.append(f"{asked} has no run in this setting: all pairs are shown")
    if arms > MOST_ARMS and not baseline:
        notes.append(
            f"{arms} arms: only pairs with the best one are shown, corrected as all {family:,} pairs would be; "
            "choose a baseline for others"
        )
    units = part.cells.shape[2]
    if family and 1 < units < needed_units(family):
        notes.append(
            f"{units} {part.cells.unit}s and {family} pair{'s' * (family > 1)}: no test can reach p < 0.05, "
            f"at least {needed_units(family)} {part.cells.unit}s are needed"
        )
    return notes


def _about_units(part: Part) -> list[str]:
    if part.cells.unit == "patient":
        numbers = part.cells.covered.any(axis=0).sum(axis=0)
        lone = [name for name, number in zip(part.cells.structures, numbers, strict=True) if number == 1]
        rest = " and of the mean over structures" if len(numbers) > 1 else ""
        return [f"only one patient has {_list(lone)}: there is no interval of it{rest}"] if lone else []
    cases = int(part.cells.case.max()) + 1
    if cases == 1:
        return ["one case: no interval and no test is possible"]
    return [f"one patient, {cases} cases: intervals and tests are within this patient and say nothing about others"]


def _about_seeds(part: Part) -> list[str]:
    single = [arm for arm, seeds in zip(part.cells.arms, part.cells.seeds, strict=True) if len(seeds) == 1]
    if not single:
        return []
    who = "" if len(single) == len(part.cells.arms) else f" of {_list(single)}"
    return [f"one seed{who}: results are about these weights, training noise is not in these intervals"]


def _about_undefined(scores: pd.DataFrame, metric: str) -> list[str]:
    lines = scores[scores["structure"] == scores["structure"].iat[0]] if len(scores) else scores
    undefined = lines[lines["undefined"] > 0]
    if undefined.empty:
        return []
    numbers = sorted(set(undefined["undefined"].astype(int)))
    most = str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
    who = _list(list(undefined["arm"]))
    text = f"{metric} is undefined (NaN) in {most} rows of {who}; these are counted, and are in no mean"
    if len(set(lines["undefined"])) == 1:
        return [text]
    return [f"{text}; not the same number for all arms: their means are not over the same cases"]


def _about_coverage(part: Part) -> list[str]:
    counts = part.cells.covered.sum(axis=(1, 2))
    fewer = [arm for arm, count in zip(part.cells.arms, counts, strict=True) if count < counts.max()]
    if not fewer:
        return []
    return [f"{_list(fewer)} lack cases that other arms have: scores are over their own cases, pairs over common ones"]


def _list(names: list[str]) -> str:
    more = f" and {len(names) - SOME} more" if len(names) > SOME else ""
    return ", ".join(names[:SOME]) + more
