"""What is recorded of a method that is asked along a budget: a row per case, structure and point, and what they say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING

import pandas as pd

from medsam2.data.budget_prompt import Point
from medsam2.distributed import gather
from medsam2.evaluation.answers import Kept, keep
from medsam2.evaluation.rows import Row

if TYPE_CHECKING:
    from medsam2.evaluation.evaluator import Evaluator
    from medsam2.methods.base import Prediction

PHASE = "budget"
CHEAP = ("dice", "iou", "volume_error")  # others would take longer than the answers themselves


class BudgetRecorder:
    """Listens to a method that is asked at many points, and scores each volume when all of its answers are there.

    Rows are those of the evaluator, with its definitions, of Dice and of whatever else of its metrics is cheap, and
    with the columns axis, level (clicks, slices, or the fraction of a box's side; inf: all slices) and draw.

    Args:
        protocol: the method's, as rows say it.
    """

    def __init__(self, evaluator: Evaluator, protocol: str) -> None:
        self.evaluator, self.protocol = _simplify(evaluator), protocol
        self.first: Point | None = None
        self.waiting: dict[str, dict[Point, list[Kept]]] = {}
        self.scored: dict[str, list[Row]] = {}

    def __call__(self, point: Point, prediction: Prediction) -> None:
        """The answers at a point about a batch."""
        self.first = self.first or point
        if point == self.first:  # a batch begins: volumes that do not go on in it are complete
            self._finish(keeping={info.volume or info.case_id for info in prediction.objects})
        for answer in self.evaluator.answers(prediction):
            volume = answer.info.volume or answer.info.case_id
            self.waiting.setdefault(volume, {}).setdefault(point, []).append(keep(answer))

    def rows(self) -> list[Row]:
        """The rows of everything that was heard, of all processes, case by case."""
        self._finish(keeping=set())
        done = {volume: rows for share in gather(self.scored) for volume, rows in share.items()}
        return [row | {"position": number} for number, rows in enumerate(done.values()) for row in rows]

    def _finish(self, keeping: set[str]) -> None:
        for volume in [volume for volume in self.waiting if volume not in keeping]:
            position = len(self.scored)
            self.scored[volume] = [
                row | point._asdict()
                for point, answers in self.waiting.pop(volume).items()
                for row in self.evaluator.scorer.score(answers, PHASE, self.protocol, position)
            ]


def _simplify(evaluator: Evaluator) -> Evaluator:
    """An evaluator that scores Dice and what else is cheap, of structures alone."""
    names = ("dice", *(name for name in evaluator.names if name in CHEAP and name != "dice"))
    simple = copy(evaluator)
    simple.names, simple.scorer = names, replace(evaluator.scorer, names=names, vcdr=None)
    return simple


def count_clicks(frame: pd.DataFrame, target: float) -> pd.DataFrame:
    """How many clicks each case needs until its Dice reaches a target for the first time (RITM, Sofiiuk 2021).

    Args:
        frame: rows of a budget, of one run.

    Returns:
        A line per case and structure: clicks, and failed; who never reaches it has the largest number that was tried.
    """
    clicks = frame[frame["axis"] == "clicks"].dropna(subset=["dice"])
    columns = ["case_id", "structure"]
    reached = clicks[clicks["dice"].astype(float) >= target].groupby(columns, sort=True)["level"].min()
    every = clicks.groupby(columns, sort=True)["level"].max()
    needed = reached.reindex(every.index)
    counted = pd.DataFrame({"clicks": needed.fillna(every), "failed": needed.isna()})
    return counted.reset_index()


def summarise_budget(rows: Sequence[Row], targets: Sequence[float]) -> dict[str, float]:
    """`budget/dice@3/structure` after three clicks, `…/mean` over structures; `dice@jitter0.1`, `dice@2slices` alike.

    `budget/noc85/…` is the mean number of clicks until a Dice of 0.85, `budget/noc85_failed/…` the share of cases that
    never had it, which count as the largest number of clicks.
    """
    frame = pd.DataFrame(list(rows))
    if frame.empty:
        return {}
    found: dict[str, float] = {}
    for text, group in frame.groupby(_name_levels(frame), sort=False):
        found |= _mean(f"{PHASE}/dice@{text}", group, "dice")
    if (frame["axis"] == "clicks").any():
        for target in targets:
            needed, key = count_clicks(frame, target), f"{PHASE}/noc{100 * target:g}"
            found |= _mean(key, needed, "clicks") | _mean(f"{key}_failed", needed, "failed")
    return found


def describe_budget(rows: Sequence[Row], targets: Sequence[float]) -> list[str]:
    """What summarise_budget says of the mean over structures, in lines to be read."""
    frame, summary, lines = pd.DataFrame(list(rows)), summarise_budget(rows, targets), []
    for axis, group in frame.groupby("axis", sort=False):
        levels = {
            name_level(str(axis), level): "all" if math.isinf(level) else f"{level:g}" for level in group["level"]
        }
        means = [f"{summary.get(f'{PHASE}/dice@{key}/mean', math.nan):.3f} ({text})" for key, text in levels.items()]
        lines.append(f"dice over {axis}: {', '.join(means)}")
    for target in targets:
        key = f"{PHASE}/noc{100 * target:g}"
        if f"{key}/mean" in summary:
            mean, failed = summary[f"{key}/mean"], summary[f"{key}_failed/mean"]
            lines.append(f"clicks to a dice of {target:g}: {mean:.1f} ({failed:.0%} of the cases never have it)")
    return lines


def name_level(axis: str, level: float) -> str:
    """A point in a key: 3, jitter0.1, 2slices, allslices."""
    if axis == "slices":
        return "allslices" if math.isinf(level) else f"{level:g}slices"
    return f"{level:g}" if axis == "clicks" else f"{axis}{level:g}"


def _name_levels(frame: pd.DataFrame) -> list[str]:
    return [name_level(axis, level) for axis, level in zip(frame["axis"], frame["level"], strict=True)]


def _mean(key: str, frame: pd.DataFrame, column: str) -> dict[str, float]:
    """The mean of each structure, and over structures; of nothing, nothing."""
    means = frame.dropna(subset=[column]).astype({column: float}).groupby("structure", sort=True)[column].mean()
    if means.empty:
        return {}
    found = {f"{key}/{structure}": float(value) for structure, value in means.items()}
    return found | {f"{key}/mean": float(means.mean())}
