"""Which parameters train, how fast, and how the rates move; the optimisers themselves are torch's."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

log = logging.getLogger(__name__)

NEW_PARTS = "learned_prompts.*"  # in no released file: frozen they would stay noise, so they train in any case


@dataclass(frozen=True)
class Group:
    """Parameters with a learning rate of their own.

    names: shell-style patterns of parameter names. rate: factor on optim.lr, > 0. vectors: of the named ones only
    those of one dimension, which are biases and the scales of norms.
    """

    names: Sequence[str]
    rate: float = 1.0
    vectors: bool = False

    def takes(self, name: str, parameter: nn.Parameter) -> bool:
        return (not self.vectors or parameter.ndim == 1) and any(fnmatchcase(name, p) for p in self.names)


def read_groups(nodes: Mapping[str, Mapping[str, Any]]) -> dict[str, Group]:
    """The groups of `model.tuning.groups`.

    Raises:
        ValueError: no group, an unknown or missing key, a rate that is no number above 0.
    """
    if not nodes:
        raise ValueError("model.tuning.groups: nothing would train; name a group, such as all: {names: ['*']}")
    return {name: _read_group(f"model.tuning.groups.{name}", node or {}) for name, node in nodes.items()}


def _read_group(key: str, node: Mapping[str, Any]) -> Group:
    known = [field.name for field in fields(Group)]
    if unknown := sorted(node.keys() - set(known)):
        raise ValueError(f"{key}.{unknown[0]}: unknown key; known here: {', '.join(known)}")
    names, rate = node.get("names"), node.get("rate", 1.0)
    if not isinstance(names, Sequence) or isinstance(names, str) or not names:
        raise ValueError(f"{key}.names={names}: must be a list of patterns, such as ['sam_mask_decoder.*']")
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate < math.inf:
        raise ValueError(f"{key}.rate={rate}: must be a number > 0; leave the group out to freeze its parameters")
    return Group([str(name) for name in names], float(rate), bool(node.get("vectors", False)))


def build_groups(
    model: nn.Module, nodes: Mapping[str, Mapping[str, Any]], lr: float, decay_all: bool = True
) -> list[dict[str, Any]]:
    """What a torch optimiser is given; parameters that no group names are frozen, all others train.

    Args:
        nodes: `model.tuning.groups`: for each name the fields of Group.
        lr: the learning rate of a group with rate 1.
        decay_all: False keeps biases and other parameters of one dimension from weight decay, in groups of their own.

    Raises:
        ValueError: as read_groups; a pattern that matches no parameter, a parameter in two groups. Nothing is frozen.
    """
    groups = read_groups(nodes)
    _check_patterns(model, groups)
    members = {name: _group_of(name, parameter, groups) for name, parameter in model.named_parameters()}
    built = []
    for group in dict.fromkeys([*groups, "learned_prompts"]):
        own = [parameter for name, parameter in model.named_parameters() if members[name] == group]
        rate = groups[group].rate if group in groups else 1.0
        built += list(_split(group, own, lr * rate, decay_all))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(members[name] is not None)
    _report(model, built)
    return built


def _check_patterns(model: nn.Module, groups: Mapping[str, Group]) -> None:
    names = [name for name, _ in model.named_parameters()]
    for group, settings in groups.items():
        for pattern in settings.names:
            if not any(fnmatchcase(name, pattern) for name in names):
                parts = ", ".join(sorted({name.split(".")[0] for name in names}))
                raise ValueError(
                    f"model.tuning.groups.{group}: {pattern!r} matches no parameter; names start with {parts}. "
                    "Correct the pattern, or choose a model/tuning that this network has the parts for"
                )


def _group_of(name: str, parameter: nn.Parameter, groups: Mapping[str, Group]) -> str | None:
    own = [group for group, settings in groups.items() if settings.takes(name, parameter)]
    if len(own) > 1:
        raise ValueError(
            f"model.tuning.groups: {name} is named by {own[0]} and by {own[1]}; a parameter has one learning rate, so "
            "make the patterns of one of them narrower"
        )
    if not own and fnmatchcase(name, NEW_PARTS):
        return "learned_prompts"
    return own[0] if own else None


def _split(name: str, parameters: Sequence[nn.Parameter], lr: float, decay_all: bool) -> Iterator[dict[str, Any]]:
    decayed = [p for p in parameters if decay_all or p.ndim > 1]
    spared = [p for p in parameters if not decay_all and p.ndim <= 1]
    if decayed:
        yield {"name": name, "params": decayed, "lr": lr}
    if spared:
        yield {"name": f"{name}, no decay", "params": spared, "lr": lr, "weight_decay": 0.0}


def _report(model: nn.Module, built: Sequence[Mapping[str, Any]]) -> None:
    sizes = [sum(p.numel() for p in group["params"]) for group in built]
    whole = sum(p.numel() for p in model.parameters())
    shown = [f"{group['name']} {size:,} at lr {group['lr']:g}" for group, size in zip(built, sizes, strict=True)]
    log.info("%s of %s parameters train: %s", f"{sum(sizes):,}", f"{whole:,}", "; ".join(shown))


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
