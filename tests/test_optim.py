"""Learning rates at every step, and which parameters train."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from medsam2.optim import constant, cosine, set_trainable

WARM = [0.2, 0.4, 0.6, 0.8]  # a warm-up of 4 steps: (step + 1) / 5


def half_cosine(share: float, low: float) -> float:
    return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * share))


CASES: list[tuple[str, Callable[..., Any], dict[str, Any], list[float]]] = [
    ("constant", constant, {}, [1.0] * 10),
    ("constant, warm-up", constant, {"warmup_epochs": 2}, [*WARM, *[1.0] * 6]),
    ("constant, half an epoch", constant, {"warmup_epochs": 0.5}, [0.5, *[1.0] * 9]),
    ("cosine", cosine, {}, [half_cosine(i / 10, 0.1) for i in range(11)]),
    ("cosine to zero", cosine, {"min_factor": 0.0}, [half_cosine(i / 10, 0.0) for i in range(11)]),
    (
        "cosine, warm-up",
        cosine,
        {"warmup_epochs": 2},
        [*WARM, *[half_cosine(i / 6, 0.1) for i in range(7)]],
    ),
    ("cosine, warm-up alone", cosine, {"warmup_epochs": 5}, [(i + 1) / 11 for i in range(10)]),
]


@pytest.mark.parametrize(("schedule", "settings", "expected"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_factor_at_every_step(schedule: Callable[..., Any], settings: dict[str, Any], expected: list[float]) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    scheduler = schedule(optimizer, steps_per_epoch=2, max_epochs=5, **settings)
    seen = []
    for _ in expected:
        seen.append(optimizer.param_groups[0]["lr"] / 0.5)
        optimizer.step()
        scheduler.step()
    assert seen == pytest.approx(expected)


def test_cosine_ends_at_its_floor_and_stays_there() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = cosine(optimizer, steps_per_epoch=2, max_epochs=2, min_factor=0.25)
    rates = []
    for _ in range(7):
        optimizer.step()
        scheduler.step()
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates[1] == pytest.approx(0.625)
    assert rates[3:] == pytest.approx([0.25] * 4)


def test_every_group_keeps_its_own_rate() -> None:
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (1.0, 0.1)]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    scheduler = constant(optimizer, steps_per_epoch=1, max_epochs=4, warmup_epochs=1)
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.5, 0.05])
    optimizer.step()
    scheduler.step()
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([1.0, 0.1])


def network() -> nn.ModuleDict:
    decoder = nn.ModuleDict({"mlp": nn.Linear(2, 2), "norm": nn.LayerNorm(2)})
    return nn.ModuleDict({"encoder": nn.Linear(2, 2), "decoder": decoder})


DECODER = {"decoder.mlp.weight", "decoder.mlp.bias", "decoder.norm.weight", "decoder.norm.bias"}
BIASES = {"encoder.bias", "decoder.mlp.bias", "decoder.norm.bias"}


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["*"], {"encoder.weight", "encoder.bias", *DECODER}),
        (["decoder.*"], DECODER),
        (["*.bias"], BIASES),
        (["decoder.m?p.weight", "encoder.[b]ias"], {"decoder.mlp.weight", "encoder.bias"}),
        (["*.bias", "decoder.*.bias"], BIASES),
        ([], set()),
    ],
)
def test_trainable_are_the_matching_parameters_each_once(patterns: list[str], expected: set[str]) -> None:
    model = network()
    for parameter in model.parameters():
        parameter.requires_grad_(False)  # what was frozen before is thawed
    chosen = set_trainable(model, patterns)
    names = {id(p): name for name, p in model.named_parameters()}
    assert [names[id(p)] for p in chosen] == [n for n in names.values() if n in expected]
    assert {n for n, p in model.named_parameters() if p.requires_grad} == expected


def test_a_pattern_without_a_match_is_an_error_and_freezes_nothing() -> None:
    model = network()
    with pytest.raises(
        ValueError, match=r"model\.tuning\.trainable: 'decodr\.\*' matches.*start with decoder, encoder"
    ):
        set_trainable(model, ["encoder.*", "decodr.*"])
    assert all(p.requires_grad for p in model.parameters())
