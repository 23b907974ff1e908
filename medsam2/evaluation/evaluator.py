"""Scores a method case by case, at each case's own resolution."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from medsam2.data.loader import Batch, ObjectInfo
from medsam2.evaluation.metrics import METRICS, Mask, fill_prompt
from medsam2.evaluation.rows import Row

if TYPE_CHECKING:
    from medsam2.methods.base import Method

Autocast = Callable[[], AbstractContextManager[Any]]


class Evaluator:
    """Yields one row per case and structure; aggregates are computed from rows, elsewhere.

    A row holds phase, case_id, patient_id, structure, prompt and its budget, the metrics, `prompt_dice` (the Dice of
    the prompt's mask or of its box, filled; None for clicks), the areas of label and prediction (mm² where the spacing
    is known, else pixels) and the IoU the model predicts for its own mask.

    Args:
        names: metrics to compute: dice, iou.
        overlays: whether pictures of the worst, median and best test case are drawn.
        probability: a pixel is foreground above this mask probability, 0..1.

    Raises:
        ValueError: an unknown metric name.
    """

    def __init__(self, names: Sequence[str], overlays: bool = True, probability: float = 0.5):
        unknown = [name for name in names if name not in METRICS]
        if unknown or not 0 < probability < 1:
            raise ValueError(
                f"metrics.names={list(names)}, probability={probability}: known metrics are {', '.join(METRICS)}; "
                "the probability lies between 0 and 1"
            )
        self.names = tuple(names)
        self.overlays = overlays
        self.threshold = float(np.log(probability / (1 - probability)))

    def evaluate(
        self,
        method: Method,
        batches: Iterable[Batch],
        phase: str,
        device: str,
        autocast: Autocast,
    ) -> list[Row]:
        """One row per object of `batches`, in their order."""
        rows = []
        for batch in batches:
            for info, mask, iou in self.predict(method, batch, device, autocast):
                rows.append(self._row(info, mask, iou, phase))
        return rows

    @torch.inference_mode()
    def predict(
        self, method: Method, batch: Batch, device: str, autocast: Autocast
    ) -> list[tuple[ObjectInfo, Mask, float]]:
        """For each object of a batch its info, the predicted mask at native H×W and the IoU the model expects."""
        if not batch.objects:
            return []
        method.model.eval()
        with autocast():
            prediction = method.predict(batch.to(device))
        ious = prediction.iou_predictions.tolist()
        masks = [self._native(logits, o) for logits, o in zip(prediction.mask_logits, prediction.objects, strict=True)]
        return list(zip(prediction.objects, masks, ious, strict=True))

    def _native(self, logits: Tensor, info: ObjectInfo) -> Mask:
        """1×h×w logits to a mask of the label's H×W; logits are interpolated, never masks."""
        assert info.label is not None
        full = interpolate(logits[None].float(), info.label.shape, mode="bilinear", align_corners=False)
        mask: Mask = (full[0, 0] > self.threshold).cpu().numpy()
        return mask

    def _row(self, info: ObjectInfo, mask: Mask, iou: float, phase: str) -> Row:
        assert info.label is not None
        row: Row = {
            "phase": phase,
            "case_id": info.case_id,
            "patient_id": info.patient_id,
            "structure": info.structure,
            "prompt": info.prompt.name,
            "budget": info.prompt.budget,
        }
        row |= {name: METRICS[name](mask, info.label) for name in self.names}
        filled = fill_prompt(info.prompt, info.label.shape)
        row["prompt_dice"] = None if filled is None else METRICS["dice"](filled, info.label)
        unit = 1.0 if info.spacing is None else info.spacing[0] * info.spacing[1]
        row["area_label"], row["area_prediction"] = float(info.label.sum() * unit), float(mask.sum() * unit)
        row["area_unit"] = "pixel" if info.spacing is None else "mm2"
        return row | {"iou_predicted": iou}
