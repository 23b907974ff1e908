"""Metrics of one mask against another, 2-D or 3-D, with the empty masks decided here.

A mask's surface is its outermost pixels: those that share a side with a pixel outside the mask or outside the image.
Distances run between the centres of surface pixels, in millimetres where the spacing is known, else in pixels. MONAI
finds both, once for all metrics of a pair; its own aggregation drops or misreads empty masks, so it is not used:

                  both empty    one empty
    dice iou nsd  1             0
    hd95 assd     0             the diagonal of the case, so that a miss is never rewarded
    volume_error  None          1 for a miss, None where the label is empty
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medsam2.data.prompts import BOX_BOTTOM_RIGHT, BOX_TOP_LEFT, Prompt

Mask = NDArray[np.bool_]
BOX_CORNERS = (BOX_TOP_LEFT, BOX_BOTTOM_RIGHT)


class Pair:
    """A prediction and its label, bool arrays of one shape, 2-D or 3-D.

    Args:
        spacing: mm from one pixel to the next along each axis; None where it is not known: distances are in pixels.
        shape: of the whole case, where prediction and label are cut out of it; its diagonal is the distance of a miss.
    """

    def __init__(
        self,
        prediction: Mask,
        label: Mask,
        spacing: Sequence[float] | None = None,
        shape: Sequence[int] | None = None,
    ) -> None:
        self.prediction, self.label = prediction, label
        self.spacing = tuple(spacing or (1.0,) * label.ndim)
        self.diagonal = math.hypot(*(n * s for n, s in zip(shape or label.shape, self.spacing, strict=True)))
        self.counts = count(prediction, label)

    @property
    def empties(self) -> int:
        """How many of the two are empty."""
        return int((self.counts[1:] == 0).sum())

    @cached_property
    def distances(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """From each surface pixel of the prediction to the label's surface, and the other way; neither may be empty."""
        from monai.metrics import get_mask_edges, get_surface_distance

        predicted, labelled = get_mask_edges(*_cut(self.prediction, self.label))
        there = get_surface_distance(predicted, labelled, spacing=self.spacing)
        return there, get_surface_distance(labelled, predicted, spacing=self.spacing)


def count(prediction: Mask, label: Mask) -> NDArray[np.int64]:
    """Pixels of both, of the prediction and of the label: what an overlap is made of. Those of slices add up."""
    return np.array([np.count_nonzero(prediction & label), np.count_nonzero(prediction), np.count_nonzero(label)])


def compute_overlap(counts: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Dice, 2·|A∩B| / (|A|+|B|), and IoU, |A∩B| / |A∪B|, of counts …×3, each of the shape …; 1 where both are empty."""
    common, total = counts[..., 0], counts[..., 1] + counts[..., 2]
    nothing = total == 0
    return (2 * common + nothing) / (total + nothing), (common + nothing) / (total - common + nothing)


def compute_dice(pair: Pair) -> float:
    """Dice similarity, 0..1."""
    return float(compute_overlap(pair.counts)[0])


def compute_iou(pair: Pair) -> float:
    """Intersection over union, 0..1."""
    return float(compute_overlap(pair.counts)[1])


def compute_hd95(pair: Pair) -> float:
    """95th percentile of the Hausdorff distance: the larger of the two directions' percentiles, mm or pixels."""
    if pair.empties:
        return _no_surface(pair)
    return max(float(np.percentile(distances, 95)) for distances in pair.distances)


def compute_assd(pair: Pair) -> float:
    """Average symmetric surface distance: the mean over the surface pixels of both, mm or pixels."""
    return _no_surface(pair) if pair.empties else float(np.concatenate(pair.distances).mean(dtype=np.float64))


def compute_nsd(pair: Pair, tolerance: float = 2.0) -> float:
    """Normalised surface Dice: the share of both surfaces' pixels not further than `tolerance` from the other, 0..1.

    Nikolov et al. 2021 (arXiv 1809.04430); tolerance in mm, or in pixels where the spacing is not known.
    """
    if pair.empties:
        return float(pair.empties == 2)
    return float((np.concatenate(pair.distances) <= tolerance).mean())


def compute_volume_error(pair: Pair) -> float | None:
    """| |P| - |L| | / |L|, 0 or more; None where the label is empty."""
    _, predicted, labelled = pair.counts
    return float(abs(predicted - labelled) / labelled) if labelled else None


METRICS: dict[str, Callable[[Pair], float | None]] = {
    "dice": compute_dice,
    "iou": compute_iou,
    "hd95": compute_hd95,
    "assd": compute_assd,
    "nsd": compute_nsd,
    "volume_error": compute_volume_error,
}
NAMES = (*METRICS, "ece")
LOWER_IS_BETTER = {"hd95", "assd", "volume_error", "ece"}


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


def _no_surface(pair: Pair) -> float:
    return 0.0 if pair.empties == 2 else pair.diagonal


def _cut(prediction: Mask, label: Mask) -> tuple[Mask, Mask]:
    """Both, cut to the box that holds them: distances stay, and what lies outside is not looked at."""
    seen = prediction | label
    for axis in range(seen.ndim):
        others = tuple(other for other in range(seen.ndim) if other != axis)
        inside = np.flatnonzero(seen.any(axis=others))
        window = (*(slice(None),) * axis, slice(inside[0], inside[-1] + 1))
        seen, prediction, label = seen[window], prediction[window], label[window]
    return prediction, label
