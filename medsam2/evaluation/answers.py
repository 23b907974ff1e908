"""An answer about one object, and how it waits for the other slices of its volume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from medsam2.data.batch import ObjectInfo
from medsam2.data.prepared import PackedMasks, pack
from medsam2.evaluation.metrics import Mask, count, fill_prompt
from medsam2.evaluation.raters import count_common


class Answer(NamedTuple):
    """What a method answered about one object, at the H×W of its label."""

    info: ObjectInfo
    mask: Mask
    iou: float  # what the model expects of its mask
    counts: NDArray[np.int64]  # T×3, as metrics.count, at each of T thresholds
    bins: NDArray[np.float64]  # of its probabilities, as calibration.count_bins; empty where nobody asks

    @property
    def areas(self) -> tuple[int, int]:
        """Pixels of the label, and of the answer: by these the slice that shows most of a volume's object is found."""
        return int(self.counts[0, 2]), int(self.counts[0, 1])


class Witness(Protocol):
    """Sees every answer of an evaluation while its batch is there; what becomes of that is its own affair."""

    def see(self, answer: Answer, batch: Any) -> None:
        """Called once for each answer; `batch` is as the loader gave it, on the host."""


class Kept(NamedTuple):
    """An answer with its masks a bit per pixel, cut to their box: a volume's hundred slices fit into memory."""

    info: ObjectInfo  # without label, raters, image and mask prompt
    masks: PackedMasks  # 2×H×W: the prediction and the label
    iou: float
    counts: NDArray[np.int64]
    bins: NDArray[np.float64]
    filled: NDArray[np.int64] | None  # counts of the prompt alone against the label; None for clicks
    common: NDArray[np.int64]  # of the prediction and the raters, as raters.count_common

    @property
    def prompted(self) -> bool:
        """Whether a user would have had to point at the object on this very slice."""
        return self.info.prompted and self.info.prompt.budget != "none"


def keep(answer: Answer) -> Kept:
    """Packs an answer."""
    info, label = answer.info, answer.info.label
    assert label is not None
    filled = fill_prompt(info.prompt, label.shape)
    return Kept(
        info=replace(info, label=None, raters=None, image=None, prompt=replace(info.prompt, mask=None)),
        masks=pack(np.stack([answer.mask, label])),
        iou=answer.iou,
        counts=answer.counts,
        bins=answer.bins,
        filled=None if filled is None else count(filled, label),
        common=count_common(answer.mask, info.raters),
    )


def stack(slices: Sequence[Kept], first: int, depth: int) -> NDArray[np.bool_]:
    """2×depth×H×W, prediction and label of a volume from slice ``first`` on; slices that are missing are empty."""
    _, height, width = slices[0].masks.shape
    masks = np.zeros((2, depth, height, width), dtype=np.bool_)
    for one in slices:
        masks[:, one.info.index - first] = one.masks.native()
    return masks
