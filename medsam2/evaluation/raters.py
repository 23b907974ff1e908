"""Several raters: how well a prediction agrees with each of them, and how well they agree with each other.

Both follow from a small matrix of counts, and those of a volume's slices add up to the volume's.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medsam2.data.prepared import PackedMasks
from medsam2.evaluation.metrics import Mask, compute_overlap


def count_common(prediction: Mask, raters: PackedMasks | None) -> NDArray[np.int64]:
    """(1+R)×(1+R): the pixels that any two have in common, the prediction first; sizes are on the diagonal.

    ``prediction`` is H×W, ``raters`` R×H×W, or None: R = 0.
    """
    size = np.count_nonzero(prediction)
    if raters is None:
        return np.array([[size]])
    top, left, height, width = raters.box
    inside = prediction[None, top : top + height, left : left + width]
    # float32 multiplies fast, and counts exactly up to 2^24 pixels in common
    flat = np.concatenate([inside, raters.crop()]).reshape(1 + raters.shape[0], -1).astype(np.float32)
    common = (flat @ flat.T).round().astype(np.int64)
    common[0, 0] = size
    return common


def add_slices(slices: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """The matrix of a volume from those of its slices; a rater whom a slice lacks has marked nothing there."""
    total = np.zeros((max(map(len, slices)),) * 2, dtype=np.int64)
    for common in slices:
        total[: len(common), : len(common)] += common
    return total


def compare_raters(common: NDArray[np.int64]) -> dict[str, float]:
    """The columns rater_dice, the mean over raters of the Dice against each, rater1_dice, rater2_dice, … and
    rater_ceiling, the mean Dice of two raters: what an answer that is as good as a rater reaches on average.

    ``common`` is as of `count_common` or `add_slices`; there are no columns unless R > 1.
    """
    if len(common) < 3:
        return {}
    sizes = common.diagonal()
    dice, _ = compute_overlap(np.stack([common, *np.broadcast_arrays(sizes[:, None], sizes)], axis=-1))
    single = {f"rater{i}_dice": float(score) for i, score in enumerate(dice[0, 1:], start=1)}
    between = dice[1:, 1:][np.triu_indices(len(single), 1)]
    return {"rater_dice": float(dice[0, 1:].mean()), **single, "rater_ceiling": float(between.mean())}
