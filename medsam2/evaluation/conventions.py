"""How other tools score a pair of masks: to reproduce their tables, and for nothing else.

Pixels are counted and distances measured as `metrics` does; what differs is what empty masks count, which quantile is
taken of the distances, and that all of these measure in pixels (voxels), whatever the spacing is:

                    prediction empty    label empty    both empty    hd95
    transunet       0, hd95 0           1, hd95 0      0, hd95 0     of the distances of both directions together
    nnunet          0                   0              None          not known
    monai           0, hd95 None        None           None          the larger one of the two directions
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from medsam2.evaluation.metrics import METRICS, Pair, compute_dice, compute_hd95, compute_iou

OURS = "medsam2"
Metric = Callable[[Pair], float | None]


def _transunet_dice(pair: Pair) -> float:
    """As TransUNet's code tests Synapse: something that is found where the label has nothing counts 1."""
    _, predicted, labelled = pair.counts
    return compute_dice(pair) if predicted and labelled else float(predicted > 0)


def _transunet_hd95(pair: Pair) -> float:
    """The 95th percentile as MedPy takes it; 0, the best there is, wherever one of the masks is empty."""
    if pair.empties:
        return 0.0
    return float(np.percentile(np.concatenate(_in_pixels(pair).distances), 95))


def _unless_both_empty(metric: Callable[[Pair], float]) -> Metric:
    return lambda pair: None if pair.empties == 2 else metric(pair)


def _unless_label_empty(metric: Callable[[Pair], float]) -> Metric:
    return lambda pair: metric(pair) if pair.counts[2] else None


def _monai_hd95(pair: Pair) -> float | None:
    return None if pair.empties else compute_hd95(_in_pixels(pair))


def _in_pixels(pair: Pair) -> Pair:
    return Pair(pair.prediction, pair.label)


CONVENTIONS: dict[str, dict[str, Metric]] = {
    OURS: METRICS,
    "transunet": {"dice": _transunet_dice, "hd95": _transunet_hd95},
    "nnunet": {"dice": _unless_both_empty(compute_dice), "iou": _unless_both_empty(compute_iou)},
    "monai": {
        "dice": _unless_label_empty(compute_dice),
        "iou": _unless_label_empty(compute_iou),
        "hd95": _monai_hd95,
    },
}


def find_metrics(convention: str) -> dict[str, Metric]:
    """The metrics of a convention by name. Raises ValueError where it is not known."""
    if convention not in CONVENTIONS:
        raise ValueError(f"metrics.convention={convention}: use one of {', '.join(CONVENTIONS)}")
    return CONVENTIONS[convention]
