"""Several raters: how well a prediction agrees with each of them, and how well they agree with each other."""

from __future__ import annotations

import numpy as np

from medsam2.data.prepared import PackedMasks
from medsam2.evaluation.metrics import Mask, compute_overlap


def compare_raters(prediction: Mask, raters: PackedMasks) -> dict[str, float]:
    """The columns rater_dice, the mean over raters of the Dice against each, rater1_dice, rater2_dice, … and
    rater_ceiling, the mean Dice of two raters: what an answer that is as good as a rater reaches on average.

    ``prediction`` is H×W, ``raters`` R×H×W with R > 1.
    """
    dice = _dice_of_all(prediction, raters)
    single = {f"rater{i}_dice": float(score) for i, score in enumerate(dice[0, 1:], start=1)}
    between = dice[1:, 1:][np.triu_indices(len(single), 1)]
    return {"rater_dice": float(dice[0, 1:].mean()), **single, "rater_ceiling": float(between.mean())}


def _dice_of_all(prediction: Mask, raters: PackedMasks) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """(1+R)×(1+R): the Dice of any two, the prediction first."""
    top, left, height, width = raters.box
    inside = prediction[None, top : top + height, left : left + width]
    # float32 multiplies fast, and counts exactly up to 2^24 pixels in common
    flat = np.concatenate([inside, raters.crop()]).reshape(1 + raters.shape[0], -1).astype(np.float32)
    common = (flat @ flat.T).round().astype(np.int64)
    sizes = common.diagonal().copy()
    sizes[0] = np.count_nonzero(prediction)
    counts = np.stack([common, *np.broadcast_arrays(sizes[:, None], sizes)], axis=-1)
    return compute_overlap(counts)[0]
