"""Prompts simulated from a label: clicks and boxes, in (x, y), drawn by a generator that the caller seeds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from medsam2.data.seeding import stable_rng

POSITIVE, NEGATIVE, BOX_TOP_LEFT, BOX_BOTTOM_RIGHT = 1, 0, 2, 3  # SAM 2's point labels; -1 is padding


@dataclass(frozen=True)
class Prompt:
    """What a user would have given.

    ``points`` is float32 P×2, (x, y) in pixels of the mask it was drawn from. ``labels`` is int64 P:
    1 positive click, 0 negative click, 2 and 3 the top-left and bottom-right corner pixel of a box.
    """

    points: NDArray[np.float32]
    labels: NDArray[np.int64]
    budget: str  # what it cost: "1 click", "3 clicks", "box"


class Prompter(Protocol):
    """Draws one prompt for one object."""

    @property
    def name(self) -> str: ...

    @property
    def budget(self) -> str: ...

    def __call__(self, label: NDArray[Any], rng: np.random.Generator) -> Prompt: ...


def prompt_rng(seed: int, case_id: str, structure: str, epoch: int | None = None) -> np.random.Generator:
    """The generator of one object's prompt; without ``epoch`` it is the same prompt in every run."""
    return stable_rng("prompt", seed, case_id, structure, epoch)


class ClickPrompt:
    """Positive clicks on the object, on distinct pixels while there are enough.

    ``strategy`` "uniform" draws them anywhere on it; "center" puts the first on the pixel farthest from the
    border and draws the others. Given the agreement of several raters instead of a mask, clicks fall where
    most raters agree.
    """

    name = "click"

    def __init__(self, num_clicks: int = 1, strategy: str = "uniform") -> None:
        if num_clicks < 1:
            raise ValueError(f"prompt.num_clicks={num_clicks} must be 1 or more")
        if strategy not in ("uniform", "center"):
            raise ValueError(f"prompt.strategy={strategy!r} must be uniform or center")
        self.num_clicks = num_clicks
        self.strategy = strategy

    @property
    def budget(self) -> str:
        return "1 click" if self.num_clicks == 1 else f"{self.num_clicks} clicks"

    def __call__(self, label: NDArray[Any], rng: np.random.Generator) -> Prompt:
        """``label`` bool H×W, or the raters' agreement as float H×W. Raises ValueError if it is empty."""
        check_not_empty(label)
        inside = label == label.max()
        candidates = np.flatnonzero(inside)
        drawn = candidates[rng.choice(candidates.size, self.num_clicks, replace=self.num_clicks > candidates.size)]
        if self.strategy == "center":
            drawn[0] = _innermost(inside)
        rows, columns = np.unravel_index(drawn, label.shape)
        points = np.stack([columns, rows], axis=1).astype(np.float32)  # (x, y), not (row, column)
        return Prompt(points, np.full(self.num_clicks, POSITIVE, dtype=np.int64), self.budget)


class BoxPrompt:
    """The object's bounding box by its corner pixels, both inclusive.

    ``jitter`` moves each side by up to that fraction of the box's width or height, at most ``max_jitter``
    pixels; the result is clipped to the image and keeps its corners in order.
    """

    name = "box"
    budget = "box"

    def __init__(self, jitter: float = 0.0, max_jitter: float = 20.0) -> None:
        if not 0 <= jitter < 0.5:
            raise ValueError(f"prompt.jitter={jitter} must be at least 0 and below 0.5 (a fraction of the box's side)")
        if max_jitter < 0:
            raise ValueError(f"prompt.max_jitter={max_jitter} must be 0 or more pixels")
        self.jitter = jitter
        self.max_jitter = max_jitter

    def __call__(self, label: NDArray[Any], rng: np.random.Generator) -> Prompt:
        """``label`` bool H×W, or the raters' agreement as float H×W. Raises ValueError if it is empty."""
        check_not_empty(label)
        inside = label if label.dtype == np.bool_ else label >= min(0.5, float(label.max()))
        corners = _bounding_box(inside)
        if self.jitter > 0:
            reach = np.minimum(self.jitter * (corners[1] - corners[0] + 1), self.max_jitter)
            corners = corners + rng.uniform(-1.0, 1.0, size=(2, 2)) * reach
            # sorted: a box of one or two pixels could otherwise turn inside out
            corners = np.sort(np.clip(corners, 0, np.array(label.shape[::-1]) - 1), axis=0)
        labels = np.array([BOX_TOP_LEFT, BOX_BOTTOM_RIGHT], dtype=np.int64)
        return Prompt(corners.astype(np.float32), labels, self.budget)


def check_not_empty(label: NDArray[Any]) -> None:
    """Raises ValueError unless ``label`` is H×W with at least one pixel above zero."""
    if label.ndim != 2 or not (label > 0).any():
        raise ValueError(f"a prompt needs an object: the mask of shape {label.shape} is empty; skip absent structures")


def _bounding_box(inside: NDArray[np.bool_]) -> NDArray[np.float64]:
    """[[x0, y0], [x1, y1]] of the pixels inside."""
    columns, rows = np.flatnonzero(inside.any(axis=0)), np.flatnonzero(inside.any(axis=1))
    return np.array([[columns[0], rows[0]], [columns[-1], rows[-1]]], dtype=np.float64)


def _innermost(inside: NDArray[np.bool_]) -> int:
    """Flat index of the pixel farthest from the border; the image's edge counts as border."""
    from scipy.ndimage import distance_transform_edt

    distance = distance_transform_edt(np.pad(inside, 1))[1:-1, 1:-1]
    return int(distance.argmax())
