"""What the trainer and the evaluator know of a method."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor, nn

from medsam2.data.loader import Batch


class Loss(NamedTuple):
    """`total` is what is minimised, a scalar with a graph; `terms` are its detached parts, by name."""

    total: Tensor
    terms: dict[str, Tensor]


class Prediction(NamedTuple):
    """mask_logits N×1×h×w (0 is probability 0.5, any resolution), iou_predictions N in 0..1."""

    mask_logits: Tensor
    iou_predictions: Tensor


class Method(Protocol):
    model: nn.Module

    def loss(self, batch: Batch) -> Loss:
        """The loss of a batch with at least one object; the model is in training mode."""

    def predict(self, batch: Batch) -> Prediction:
        """A mask for each of the batch's N objects; the model is in evaluation mode, without gradients."""

    def to(self, device: str) -> None: ...
