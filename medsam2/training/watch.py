"""What is remembered of the last steps, so that a run that stops can say why, and which parameters nothing reaches."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Mapping, Sequence

from torch import nn
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

log = logging.getLogger(__name__)

Terms = Mapping[str, float]


class NonFiniteLoss(RuntimeError):
    """The loss or its gradient became NaN or infinite. The weights are those of the last optimiser step."""


class Watch:
    """Looks at every loss and gradient of one training run."""

    def __init__(self, model: nn.Module, optimizer: Optimizer):
        self.model = model
        self.optimizer = optimizer
        self.norms: deque[float] = deque(maxlen=5)  # of the gradient at the last steps
        self.cases: list[str] = []  # of the batches since the last step
        self.terms: Terms = {}  # of the last batch
        self.idle: dict[str, nn.Parameter] | None = None  # trainable, and no gradient so far

    def check_loss(self, cases: Sequence[str], terms: Terms, place: str) -> None:
        """Raises NonFiniteLoss unless `terms["loss"]` is finite."""
        self.cases += cases
        self.terms = terms
        if not math.isfinite(terms["loss"]):
            raise NonFiniteLoss(
                f"loss is {terms['loss']} in {place} ({_show(terms)}; cases {', '.join(cases)}; {self._history()}); "
                "lower optim.lr, set trainer.clip_norm=1.0 or use trainer.precision=fp32"
            )

    def check_gradient(self, norm: float, place: str, tolerant: bool) -> None:
        """Raises NonFiniteLoss unless the norm is finite; a `tolerant` loop leaves out such steps by itself."""
        self._look_for_idle()
        if not math.isfinite(norm) and not tolerant:
            raise NonFiniteLoss(
                f"the gradient's norm is {norm} in {place} (norms by part: {_show(self.norms_by_part())}; loss terms: "
                f"{_show(self.terms)}; cases since the last step {', '.join(self.cases)}; {self._history()}); lower "
                "optim.lr or use trainer.precision=fp32"
            )
        self.norms.append(norm)
        self.cases = []

    def norms_by_part(self) -> dict[str, float]:
        """The gradient's L2 norm in each part of the model that has one, as it is now."""
        parts: dict[str, list[nn.Parameter]] = {}
        for name, parameter in self.model.named_parameters():
            if parameter.grad is not None:
                parts.setdefault(name.split(".")[0], []).append(parameter)
        return {part: float(get_total_norm([p.grad for p in ps if p.grad is not None])) for part, ps in parts.items()}

    def _history(self) -> str:
        if not self.norms:
            return "no step before it"
        return f"gradient norms of the steps before {', '.join(f'{norm:g}' for norm in self.norms)}"

    def _look_for_idle(self) -> None:
        """Forgets those that have a gradient; a resumed run knows by the optimiser's state which ones had."""
        if self.idle is None:
            had = {id(p) for p, state in self.optimizer.state.items() if state}
            trained = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
            self.idle = {n: p for n, p in trained.items() if id(p) not in had}
        if self.idle:
            self.idle = {n: p for n, p in self.idle.items() if p.grad is None}

    def report_idle(self) -> None:
        """Says which trainable parameters this loss never reaches: they keep their values."""
        self._look_for_idle()
        idle = self.idle or {}
        busy = {n.split(".")[0] for n, p in self.model.named_parameters() if p.requires_grad and n not in idle}
        if idle:
            parts = sorted({".".join(n.split(".")[: 2 if n.split(".")[0] in busy else 1]) for n in idle})
            log.info("%d parameter tensors get no gradient from this loss: %s", len(idle), ", ".join(parts))


def _show(values: Terms) -> str:
    return ", ".join(f"{name}={value:g}" for name, value in values.items())
