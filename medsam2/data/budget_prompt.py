"""Budgets of a user's effort, along which a model is measured: clicks, prompted slices, and boxes drawn carelessly."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medsam2.data.prompts import BoxPrompt, ClickPrompt, Prompt, Prompter
from medsam2.data.seeding import stable_rng

AXES = ("clicks", "slices", "jitter")  # the first one that is asked along gives the run's ordinary rows


class Point(NamedTuple):
    """A budget: so many clicks, so many prompted slices (inf: all), or a box jittered by that fraction of its side."""

    axis: str
    level: float
    draw: int = 0  # which box of this jitter


class ClickBudget:
    """What a model is asked with, again and again, by `task=evaluate`; to whoever asks once it is one click.

    Args:
        axes: of clicks, slices and jitter those that are measured; None for all that method and network know.
        clicks: up to so many, the first as prompt=center; each further one corrects the answer before it.
        targets: Dice values in (0, 1]: how many clicks it takes to reach them is reported.
        jitter: fractions of a box's width and height, 0 to below 0.5, rising: each side moves by up to that.
        draws: boxes per fraction. A case's boxes move in the same direction at every fraction, and in every run of a
            seed.
        slices: how many slices of a volume are prompted, rising; None, last, for all that show the object.
        slice_prompt: what they are given, "click" or "box".

    Raises:
        ValueError: naming the setting that makes no sense.
    """

    name, budget = "center", "1 click"
    needs_object = True

    def __init__(
        self,
        axes: Sequence[str] | None = None,
        clicks: int = 10,
        targets: Sequence[float] = (0.8, 0.85, 0.9),
        jitter: Sequence[float] = (0.0, 0.05, 0.1, 0.2),
        draws: int = 3,
        slices: Sequence[int | None] = (1, 2, 3, 5, None),
        slice_prompt: str = "click",
    ) -> None:
        counts = [math.inf if count is None else count for count in slices]
        _check(axes, clicks, targets, jitter, draws, counts, slice_prompt)
        self.axes = None if axes is None else [axis for axis in AXES if axis in axes]
        self.targets = tuple(targets)
        self.slice_prompt = slice_prompt
        self.click = ClickPrompt(1, "center")
        boxes = [(fraction, draw) for fraction in jitter for draw in range(draws if fraction else 1)]
        self._points = {
            "clicks": [Point("clicks", float(number)) for number in range(1, clicks + 1)],
            "slices": [Point("slices", float(count)) for count in counts],
            "jitter": [Point("jitter", float(fraction), draw) for fraction, draw in boxes],
        }

    def __call__(self, label: NDArray[Any], rng: np.random.Generator) -> Prompt:
        return self.click(label, rng)

    def points(self, axis: str) -> list[Point]:
        """What is asked along an axis, in this order."""
        return self._points[axis]

    def first(self, axis: str) -> Prompter:
        """What an axis begins with."""
        return BoxPrompt() if axis == "jitter" or (axis, self.slice_prompt) == ("slices", "box") else self.click


def draw_box(label: NDArray[np.bool_], point: Point, *key: object) -> Prompt:
    """The box of an object at a point of the axis jitter: its level says how far it moves, draw and `key` whither."""
    return BoxPrompt(point.level, max_jitter=1.0)(label, stable_rng("jitter", *key, point.draw))


def _check(
    axes: Sequence[str] | None,
    clicks: int,
    targets: Sequence[float],
    jitter: Sequence[float],
    draws: int,
    slices: Sequence[float],
    slice_prompt: str,
) -> None:
    """Raises ValueError naming the settings that are out of range."""
    numbers = [None if count == math.inf else count for count in slices]
    fine = {
        f"axes={axes}: name one or more of {', '.join(AXES)}, or use null": axes is None
        or (bool(axes) and set(axes) <= set(AXES)),
        f"clicks={clicks}: a whole number, 1 or more": _is_count(clicks),
        f"targets={list(targets)}: values of Dice, above 0 and at most 1": all(0 < target <= 1 for target in targets),
        f"jitter={list(jitter)}: fractions from 0 to below 0.5, rising": _rise(jitter)
        and all(0 <= fraction < 0.5 for fraction in jitter),
        f"draws={draws}: a whole number, 1 or more": _is_count(draws),
        f"slices={numbers}: whole numbers from 1, rising; null, last, for all": _rise(slices)
        and all(count == math.inf or _is_count(count) for count in slices),
        f"slice_prompt={slice_prompt}: use click or box": slice_prompt in ("click", "box"),
    }
    wrong = [f"prompt.{text}" for text, holds in fine.items() if not holds]
    if wrong:
        raise ValueError("; ".join(wrong))


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _rise(values: Sequence[float]) -> bool:
    return bool(values) and all(a < b for a, b in pairwise(values))
