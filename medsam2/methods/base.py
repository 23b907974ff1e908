"""What the trainer, the evaluator and the data loader know of a method."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from torch import Tensor, nn

from medsam2.data.batch import ObjectInfo
from medsam2.data.loader import Batch, PromptedCases


class Part(NamedTuple):
    """A part of a loss: a mean over so many objects, a scalar with a graph."""

    mean: Tensor
    objects: int


class Loss(NamedTuple):
    """`total` is what is minimised, a scalar with a graph; `terms` are its detached parts, by name.

    `parts`: what `total` is the sum of, where these are means over different numbers of objects, so that a batch that
    is shared out to several devices has the loss of the whole one. Empty: `total` is a mean over the batch's objects.
    """

    total: Tensor
    terms: dict[str, Tensor]
    parts: Mapping[str, Part] = MappingProxyType({})


class Prediction(NamedTuple):
    """Answers for N objects: mask_logits N×1×h×w (0 is probability 0.5, any resolution), iou_predictions N in 0..1.

    objects: what each answer is about; a slice of a tracked volume is an object of its own.
    """

    mask_logits: Tensor
    iou_predictions: Tensor
    objects: list[ObjectInfo]


class Method:
    """How a network is trained and asked. A method overrides `loss` and `predict`, and of the rest what it needs.

    Args:
        model: the network.
        seed: whatever is drawn in training depends on it, on the epoch and on the case, never on what was drawn before.
    """

    protocol = "alone"  # how cases stand to each other in an evaluation; a column of the rows
    support_cases: int | None = None  # how many training cases it is offered before an evaluation; None: all
    in_order = False  # whether an answer depends on the cases that were asked before

    def __init__(self, model: nn.Module, seed: int = 0) -> None:
        self.model: Any = model
        self.seed = seed
        self.epoch = 0

    def loss(self, batch: Any) -> Loss:
        """The loss of a batch with at least one object; the model is in training mode."""
        raise NotImplementedError

    def predict(self, batch: Any) -> Prediction:
        """A mask for each object of a batch; the model is in evaluation mode, without gradients."""
        raise NotImplementedError

    def build_cases(self, **settings: Any) -> PromptedCases:
        """What the loader draws from; arguments as PromptedCases."""
        return PromptedCases(**settings)

    def to(self, device: str) -> None:
        """Moves the network."""
        self.model.to(device)

    def start_epoch(self, epoch: int) -> None:
        """Called before the first batch of an epoch, and when a resumed run goes on in the middle of one."""
        self.epoch = epoch

    def start_evaluation(self, support: Callable[[], Iterable[Batch]]) -> None:
        """Called before the first batch of an evaluation. `support` gives training cases as they are evaluated."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds beside the weights: plain values and tensors."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a `state_dict`."""
