"""An average of the weights over the steps, which is judged and kept in place of the last step's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


class EMA:
    """Exponential moving average of a model's trainable parameters; all others do not move.

    After step n the average keeps min(decay, (1 + n) / (10 + n)) of itself: as long as steps are few, the weights from
    before training have no share in it that they would take thousands of steps to lose.

    Args:
        decay: what the average keeps of itself at each step in the long run, above 0 and below 1.

    Raises:
        ValueError: a decay outside that range.
    """

    def __init__(self, model: nn.Module, decay: float):
        if not 0 < decay < 1:
            raise ValueError(f"trainer.ema={decay}: must lie between 0 and 1, such as 0.999; null for no average")
        self.decay = decay
        self.steps = 0
        self.trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.averages = {name: p.detach().clone() for name, p in self.trained.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Takes in the weights as they are after an optimiser step."""
        self.steps += 1
        keep = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(list(self.averages.values()), list(self.trained.values()), 1 - keep)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the model has the averaged weights; afterwards, its own again, bit for bit."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        for name, parameter in self.trained.items():
            parameter.data, self.averages[name] = self.averages[name], parameter.data

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "averages": self.averages}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Raises KeyError where the stored average is of other parameters."""
        self.steps = int(state["steps"])
        for name, average in self.averages.items():
            average.copy_(state["averages"][name])
