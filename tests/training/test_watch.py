"""Which parameters nothing reaches, and the gradient part by part."""

from __future__ import annotations

import logging
import math

import pytest
import torch
from torch import nn

from medsam2.training.watch import NonFiniteLoss, Watch


def network() -> nn.ModuleDict:
    encoder = nn.ModuleDict({"trunk": nn.Linear(2, 2, bias=False), "neck": nn.Linear(2, 2, bias=False)})
    return nn.ModuleDict(
        {"encoder": encoder, "memory": nn.Linear(2, 2), "frozen": nn.Linear(2, 2).requires_grad_(False)}
    )


def step(model: nn.ModuleDict, optimizer: torch.optim.Optimizer, watch: Watch, parts: str) -> None:
    total = sum(model.get_submodule(part)(torch.ones(1, 2)).sum() for part in parts.split())
    torch.as_tensor(total).backward()
    watch.check_gradient(1.0, "epoch 1", tolerant=False)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def idle(watch: Watch, caplog: pytest.LogCaptureFixture) -> str:
    caplog.clear()
    with caplog.at_level(logging.INFO, "medsam2.training.watch"):
        watch.report_idle()
    return " ".join(r.getMessage().rsplit(": ")[-1] for r in caplog.records)


@pytest.mark.parametrize(
    ("before", "after", "unreached"),
    [
        ("encoder.trunk encoder.neck", "memory", ""),
        ("encoder.trunk", "encoder.trunk", "encoder.neck, memory"),
        ("memory", "memory", "encoder"),
        ("", "encoder.neck", "encoder.trunk, memory"),
    ],
)
def test_a_resumed_run_names_what_was_reached_neither_before_nor_after(
    caplog: pytest.LogCaptureFixture, before: str, after: str, unreached: str
) -> None:
    model = network()
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad])
    if before:
        step(model, optimizer, Watch(model, optimizer), before)
    watch = Watch(model, optimizer)
    step(model, optimizer, watch, after)
    assert idle(watch, caplog) == unreached


def test_an_epoch_without_a_step_reaches_nothing(caplog: pytest.LogCaptureFixture) -> None:
    model = network()
    assert idle(Watch(model, torch.optim.SGD(model.parameters(), lr=1.0)), caplog) == "encoder, memory"


def test_norms_are_those_of_each_part() -> None:
    model = network()
    model.encoder["trunk"].weight.grad = torch.full((2, 2), 3.0)  # type: ignore[index, union-attr]
    model.encoder["neck"].weight.grad = torch.full((2, 2), 4.0)  # type: ignore[index, union-attr]
    model.memory.bias.grad = torch.tensor([math.nan, 1.0])
    watch = Watch(model, torch.optim.SGD(model.parameters(), lr=1.0))
    norms = watch.norms_by_part()
    assert set(norms) == {"encoder", "memory"}
    assert norms["encoder"] == pytest.approx(10.0)
    assert math.isnan(norms["memory"])


def test_a_loss_that_is_not_finite_is_told_with_the_steps_before() -> None:
    model = network()
    watch = Watch(model, torch.optim.SGD(model.parameters(), lr=1.0))
    for norm in (9.0, 1.0, 2.0, 3.0, 4.0, 0.5):
        watch.check_loss(["a"], {"loss": 1.0}, "epoch 1, batch 1")
        watch.check_gradient(norm, "epoch 1, batch 1", tolerant=False)
    with pytest.raises(NonFiniteLoss) as caught:
        watch.check_loss(["b", "c"], {"mask": 2.0, "iou": math.inf, "loss": math.inf}, "epoch 1, batch 7")
    assert str(caught.value) == (
        "loss is inf in epoch 1, batch 7 (mask=2, iou=inf, loss=inf; cases b, c; gradient norms of the steps before "
        "1, 2, 3, 4, 0.5); lower optim.lr, set trainer.clip_norm=1.0 or use trainer.precision=fp32"
    )


def test_a_tolerant_loop_goes_on_over_an_infinite_gradient() -> None:
    model = network()
    Watch(model, torch.optim.SGD(model.parameters(), lr=1.0)).check_gradient(math.inf, "here", tolerant=True)
