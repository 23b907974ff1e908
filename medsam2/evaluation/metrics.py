"""Metrics of one mask against another, from MONAI's functions, with the empty masks decided here.

Both empty: 1. One empty: 0. MONAI's own aggregation would drop or misread these cases, so it is not used.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medsam2.data.prompts import Prompt

Mask = NDArray[np.bool_]
BOX_CORNERS = (2, 3)  # point labels of a box's first and last corner


def compute_dice(prediction: Mask, label: Mask) -> float:
    """Dice similarity, 2·|A∩B| / (|A|+|B|), 0..1, of two masks of the same shape."""
    from monai.metrics import compute_dice as dice

    return _compute(dice, prediction, label)


def compute_iou(prediction: Mask, label: Mask) -> float:
    """Intersection over union, |A∩B| / |A∪B|, 0..1, of two masks of the same shape."""
    from monai.metrics import compute_iou as iou

    return _compute(iou, prediction, label)


METRICS: dict[str, Callable[[Mask, Mask], float]] = {"dice": compute_dice, "iou": compute_iou}


def _compute(function: Callable[..., Any], prediction: Mask, label: Mask) -> float:
    if not label.any():
        return float(not prediction.any())
    a, b = (torch.from_numpy(np.ascontiguousarray(m))[None, None].float() for m in (prediction, label))
    return float(function(a, b, include_background=True, ignore_empty=False))


def fill_prompt(prompt: Prompt, shape: tuple[int, int]) -> Mask | None:
    """What the prompt alone would answer: its mask, or its box filled, corner pixels included; None for clicks alone.

    A model that does not beat this mask has learnt nothing from the image.
    """
    if prompt.mask is not None:
        return prompt.mask
    corners = prompt.points[np.isin(prompt.labels, BOX_CORNERS)]
    if len(corners) != 2:
        return None
    (x0, y0), (x1, y1) = np.round(corners).astype(int)
    mask = np.zeros(shape, dtype=bool)
    mask[y0 : y1 + 1, x0 : x1 + 1] = True
    return mask
