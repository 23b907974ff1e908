"""Prompts simulated from a label: clicks, boxes and masks, in (x, y), drawn by a generator that the caller seeds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medsam2.data.prompt_shapes import (
    check_not_empty,
    compute_box,
    compute_depth,
    compute_majority,
    find_innermost,
    find_largest_part,
    grow,
)
from medsam2.data.seeding import stable_rng

POSITIVE, NEGATIVE, BOX_TOP_LEFT, BOX_BOTTOM_RIGHT = 1, 0, 2, 3  # SAM 2's point labels; -1 is padding
LEARNED = "learned"  # the name by which the network knows a prompt that it has tokens for
CLICK_STRATEGIES = ("agreement", "uniform", "center")
SLICE_STRATEGIES = ("largest", "first", "middle", "every")


@dataclass(frozen=True)
class Prompt:
    """What a user would have given.

    ``points`` is float32 P×2, (x, y) in pixels of the mask it was drawn from. ``labels`` is int64 P:
    1 positive click, 0 negative click, 2 and 3 the top-left and bottom-right corner pixel of a box. ``mask`` is
    bool H×W on the grid of the label, or None.
    """

    points: NDArray[np.float32]
    labels: NDArray[np.int64]
    budget: str  # what it cost: "none", "1 click", "3 clicks", "box", "mask"
    name: str = ""  # which prompter drew it
    mask: NDArray[np.bool_] | None = None


class Prompter(Protocol):
    """Draws one prompt for one object; a prompt that ``needs_object`` is given only for what is there."""

    @property
    def name(self) -> str: ...

    @property
    def budget(self) -> str: ...

    @property
    def needs_object(self) -> bool: ...

    def __call__(self, label: NDArray[Any], rng: np.random.Generator) -> Prompt:
        """``label`` is bool H×W, or the raters' agreement as float H×W. ValueError if it is empty and must not be."""


def prompt_rng(seed: int, case_id: str, structure: str, epoch: int | None = None) -> np.random.Generator:
    """The generator of one object's prompt; without ``epoch`` it is the same prompt in every run."""
    return stable_rng("prompt", seed, case_id, structure, epoch)


class ClickPrompt:
    """Positive clicks on the object, on distinct pixels while there are enough.

    ``strategy`` "agreement" draws them where most raters agree, "uniform" anywhere on the majority's mask; both
    are the same without raters. "center" puts the first on the innermost pixel of the mask's largest connected
    part and draws the others anywhere on the mask. ``legacy_transposed`` gives points as (row, column) of the
    square that the network sees, as Medical-SAM2 does in 2-D: the click then lies on the object by chance alone.
    """

    needs_object = True

    def __init__(self, num_clicks: int = 1, strategy: str = "agreement", legacy_transposed: bool = False) -> None:
        if num_clicks < 1:
            raise ValueError(f"prompt.num_clicks={num_clicks} must be 1 or more")
        if strategy not in CLICK_STRATEGIES:
            raise ValueError(f"prompt.strategy={strategy!r} must be one of {', '.join(CLICK_STRATEGIES)}")
        self.num_clicks = num_clicks
        self.strategy = strategy
        self.legacy_transposed = legacy_transposed
        self.name = "center" if strategy == "center" else "click"
        self.budget = "1 click" if num_clicks == 1 else f"{num_clicks} clicks"

    def __call__(self, label: NDArray[Any], rng: np.random.Generator) -> Prompt:
        check_not_empty(label)
        inside = label == label.max() if self.strategy == "agreement" else compute_majority(label)
        rows, columns = np.unravel_index(self._draw(inside, rng), label.shape)
        points = np.stack([columns, rows], axis=1).astype(np.float32)  # (x, y), not (row, column)
        if self.legacy_transposed:
            height, width = label.shape
            points = points[:, ::-1] * np.array([width / height, height / width], dtype=np.float32)
        return Prompt(points, np.full(self.num_clicks, POSITIVE, dtype=np.int64), self.budget, self.name)

    def _draw(self, inside: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.int64]:
        """Flat indices of the clicked pixels."""
        candidates = np.flatnonzero(inside)
        first = np.zeros(0, dtype=np.int64)
        if self.strategy == "center":
            first = np.array([find_innermost(find_largest_part(inside))])
            candidates = candidates[candidates != first] if candidates.size > 1 else candidates
        missing = self.num_clicks - first.size
        drawn = candidates[rng.choice(candidates.size, missing, replace=missing > candidates.size)]
        return np.concatenate([first, drawn])


class BoxPrompt:
    """The object's bounding box by its corner pixels, both inclusive.

    ``jitter`` moves each side by up to that fraction of the box's width or height, at most ``max_jitter`` of the
    image's longer side (SAM 2: 0.1 and 20 of 1024 pixels). The result is clipped to the image and keeps its corners
    in order; it need not contain the object.
    """

    name = budget = "box"
    needs_object = True

    def __init__(self, jitter: float = 0.0, max_jitter: float = 0.02) -> None:
        if not 0 <= jitter < 0.5:
            raise ValueError(f"prompt.jitter={jitter} must be at least 0 and below 0.5 (a fraction of the box's side)")
        if not 0 <= max_jitter <= 1:
            raise ValueError(f"prompt.max_jitter={max_jitter} must lie in 0...1 (of the image's longer side)")
        self.jitter = jitter
        self.max_jitter = max_jitter

    def __call__(self, label: NDArray[Any], rng: np.random.Generator) -> Prompt:
        check_not_empty(label)
        corners = compute_box(compute_majority(label)).astype(np.float64)
        if self.jitter > 0:
            reach = np.minimum(self.jitter * (corners[1] - corners[0] + 1), self.max_jitter * max(label.shape))
            corners = corners + rng.uniform(-1.0, 1.0, size=(2, 2)) * reach
            # sorted: a box of one or two pixels could otherwise turn inside out
            corners = np.sort(np.clip(corners, 0, np.array(label.shape[::-1]) - 1), axis=0)
        labels = np.array([BOX_TOP_LEFT, BOX_BOTTOM_RIGHT], dtype=np.int64)
        return Prompt(corners.astype(np.float32), labels, self.budget, self.name)


class MaskPrompt:
    """The object's mask; ``degrade`` grows or shrinks it at random, by up to that fraction of its greatest depth.

    Undegraded, the prompt is the answer. A part that is thinner than the rest can get lost, never the whole object.
    """

    name = budget = "mask"
    needs_object = True

    def __init__(self, degrade: float = 0.0) -> None:
        if not 0 <= degrade < 1:
            raise ValueError(f"prompt.degrade={degrade} must be at least 0 and below 1 (of the mask's depth)")
        self.degrade = degrade

    def __call__(self, label: NDArray[Any], rng: np.random.Generator) -> Prompt:
        check_not_empty(label)
        inside = compute_majority(label)
        if self.degrade > 0:
            reach = self.degrade * compute_depth(inside).max()
            inside = grow(inside, rng.uniform(-reach, reach))
        return replace(_no_points(self.name), mask=inside)


class NoPrompt:
    """Nothing: what the network finds by itself, also where there is no object."""

    name = budget = "none"
    needs_object = False

    def __call__(self, label: NDArray[Any], rng: np.random.Generator) -> Prompt:
        return _no_points(self.name)


class LearnedPrompt:
    """Nothing from a user: the network has ``num_tokens`` learned prompt tokens for each structure."""

    name, budget = LEARNED, "none"
    needs_object = False

    def __init__(self, num_tokens: int = 4) -> None:
        if num_tokens < 1:
            raise ValueError(f"prompt.num_tokens={num_tokens} must be 1 or more")
        self.num_tokens = num_tokens

    def __call__(self, label: NDArray[Any], rng: np.random.Generator) -> Prompt:
        return replace(_no_points(self.name), budget=self.budget)


class MixedPrompt:
    """One of several prompters for each object, drawn by probability.

    Args:
        prompts: the prompters by name; a prompt bears the name (and the budget) of what was drawn.
        probabilities: one for each of them, by the same names; they sum to 1. A learned prompt is named "learned".

    Raises:
        ValueError: the names differ, a probability is negative, they do not sum to 1, or a learned prompt is misnamed.
    """

    name = budget = "mixed"

    def __init__(self, prompts: Mapping[str, Prompter], probabilities: Mapping[str, float]) -> None:
        shown = dict(probabilities)
        if set(shown) != set(prompts):
            raise ValueError(f"prompt.probabilities={shown} must name what prompt.prompts does: {', '.join(prompts)}")
        tokens = {name: getattr(prompt, "num_tokens", 0) for name, prompt in prompts.items()}
        if misnamed := [name for name, count in tokens.items() if count and name != LEARNED]:
            raise ValueError(f"prompt.prompts.{misnamed[0]} is a learned prompt: name it prompt.prompts.{LEARNED}")
        total = sum(shown.values())
        if min(shown.values(), default=0) < 0 or abs(total - 1) > 1e-6:
            raise ValueError(f"prompt.probabilities={shown} sum to {total:g}: each must be 0 or more, together 1")
        self.prompts = dict(sorted(prompts.items()))  # what is drawn must not depend on the order in a file
        self.probabilities = [shown[name] / total for name in self.prompts]
        self.needs_object = any(prompt.needs_object for prompt in prompts.values())
        self.num_tokens = max(tokens.values())

    def __call__(self, label: NDArray[Any], rng: np.random.Generator) -> Prompt:
        name = list(self.prompts)[rng.choice(len(self.prompts), p=self.probabilities)]
        return replace(self.prompts[name](label, rng), name=name)


def order_slices(areas: ArrayLike, strategy: str = "largest", step: int = 1) -> list[int]:
    """The slices of a volume that show an object, in the order they are prompted: the first k are a budget of k.

    Args:
        areas: the object's area on each slice, 0 where it is absent.
        strategy: "largest" area first; the "first" slice and onwards; from the "middle" one outwards; or "every"
            ``step``-th from the first. The lower slice goes before its equal.

    Raises:
        ValueError: an unknown strategy, a step below 1, or no object.
    """
    sizes = np.asarray(areas)
    shown = np.flatnonzero(sizes > 0)
    if strategy not in SLICE_STRATEGIES or step < 1:
        raise ValueError(
            f"strategy={strategy!r}, step={step}: pass one of {', '.join(SLICE_STRATEGIES)}, step 1 or more"
        )
    if sizes.ndim != 1 or shown.size == 0:
        raise ValueError(f"areas of shape {sizes.shape} show no object on any slice: skip absent structures")
    if strategy == "largest":
        shown = shown[np.argsort(-sizes[shown], kind="stable")]
    elif strategy == "middle":
        shown = shown[np.argsort(np.abs(shown - shown[(shown.size - 1) // 2]), kind="stable")]
    return [int(index) for index in (shown[::step] if strategy == "every" else shown)]


def _no_points(name: str) -> Prompt:
    return Prompt(np.zeros((0, 2), dtype=np.float32), np.zeros(0, dtype=np.int64), name, name)
