"""An average of weights: its values, and that looking at it leaves no trace."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medsam2.training.ema import EMA


def step(model: nn.Linear, value: float) -> None:
    with torch.no_grad():
        model.weight.fill_(value)


def test_the_share_grows_with_the_steps_up_to_the_decay() -> None:
    model = nn.Linear(1, 1, bias=False)
    step(model, 0.0)
    ema = EMA(model, decay=0.25)
    expected = 0.0
    for keep in (2 / 11, 3 / 12, 0.25, 0.25):  # (1 + n) / (10 + n), at most the decay
        step(model, 1.0)
        ema.update()
        expected = keep * expected + (1 - keep)
        with ema.averaged():
            assert model.weight.item() == pytest.approx(expected)
        assert model.weight.item() == 1.0


def test_only_what_trains_is_averaged_and_an_error_inside_leaves_the_weights() -> None:
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    ema = EMA(model, 0.9)
    assert set(ema.averages) == {"weight"}
    step(model, 3.0)
    before, parameter = model.weight.detach().clone(), model.weight
    with pytest.raises(ZeroDivisionError), ema.averaged():
        _ = 1 / int(torch.equal(model.weight, before))  # they are others inside
    assert torch.equal(model.weight, before)
    assert model.weight is parameter  # an optimiser holds it


def test_a_state_goes_on_where_it_was() -> None:
    first, second = nn.Linear(2, 1), nn.Linear(2, 1)
    ema = EMA(first, 0.99)
    for value in (1.0, 2.0, 5.0):
        step(first, value)
        ema.update()
    other = EMA(second, 0.99)
    other.load_state_dict(ema.state_dict())
    step(second, 7.0)
    step(first, 7.0)
    ema.update()
    other.update()
    assert torch.equal(ema.averages["weight"], other.averages["weight"])
    with ema.averaged():
        assert first.weight[0, 0].item() not in (1.0, 2.0, 5.0, 7.0)
