"""Which parameters train, and how their learning rate moves; the optimisers themselves are torch's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def set_trainable(model: nn.Module, patterns: Sequence[str]) -> list[nn.Parameter]:
    """Lets the parameters train whose name matches a shell-style pattern, freezes all others, returns the former.

    Raises:
        ValueError: a pattern that matches no parameter.
    """
    names = [name for name, _ in model.named_parameters()]
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            parts = sorted({name.split(".")[0] for name in names})
            raise ValueError(
                f"model.tuning.trainable: {pattern!r} matches no parameter; names start with {', '.join(parts)}"
            )
    trainable = []
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(any(fnmatchcase(name, pattern) for pattern in patterns))
        if parameter.requires_grad:
            trainable.append(parameter)
    return trainable


def constant(optimizer: Optimizer, steps_per_epoch: int, max_epochs: int, warmup_epochs: float = 0.0) -> LambdaLR:
    """The optimiser's own learning rate, reached linearly over `warmup_epochs`; stepped once per optimiser step."""
    warmup = round(warmup_epochs * steps_per_epoch)
    return LambdaLR(optimizer, lambda step: _warm(step, warmup))


def cosine(
    optimizer: Optimizer,
    steps_per_epoch: int,
    max_epochs: int,
    warmup_epochs: float = 0.0,
    min_factor: float = 0.1,
) -> LambdaLR:
    """Half a cosine from the learning rate to `min_factor` (0..1) times it (Loshchilov & Hutter 2017, no restarts)."""
    warmup, total = round(warmup_epochs * steps_per_epoch), max_epochs * steps_per_epoch

    def factor(step: int) -> float:
        done = min(1.0, max(0, step - warmup) / max(1, total - warmup))
        return _warm(step, warmup) * (min_factor + (1 - min_factor) * (1 + math.cos(math.pi * done)) / 2)

    return LambdaLR(optimizer, factor)


def _warm(step: int, warmup: int) -> float:
    return min(1.0, (step + 1) / (warmup + 1))
