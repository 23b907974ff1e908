"""The vertical cup-to-disc ratio of the optic nerve head, the number by which glaucoma is screened for.

The vertical diameter of a mask is the number of native pixel rows it spans (the REFUGE challenge, Orlando et al. 2020).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medsam2.evaluation.metrics import Mask


def compare_ratios(cup: NDArray[np.bool_], disc: NDArray[np.bool_]) -> dict[str, float | None] | None:
    """The columns vcdr and vcdr_label, of the prediction and of the label, and vcdr_error, their absolute difference.

    Both are 2×h×w, prediction and label. Where the label has no disc there is no ratio: None. Where the prediction has
    none, its vcdr is None and the error is 1, the largest between two ratios of a cup that lies in its disc.
    """
    predicted, labelled = (_ratio(c, d) for c, d in zip(cup, disc, strict=True))
    if labelled is None:
        return None
    error = 1.0 if predicted is None else abs(predicted - labelled)
    return {"vcdr": predicted, "vcdr_label": labelled, "vcdr_error": error}


def _ratio(cup: Mask, disc: Mask) -> float | None:
    return _span(cup) / _span(disc) if disc.any() else None


def _span(mask: Mask) -> int:
    rows = np.flatnonzero(mask.any(axis=1))
    return int(rows[-1] - rows[0]) + 1 if rows.size else 0
