"""Losses against the formulas they are named after."""

from __future__ import annotations

import math

import pytest
import torch

from medsam2.losses import BCE


@pytest.mark.parametrize("pos_weight", [1.0, 2.0, 0.5])
def test_bce_is_the_weighted_mean_over_pixels(pos_weight: float) -> None:
    logits, target = [0.0, 2.0, -1.0, 3.0], [1.0, 1.0, 0.0, 0.0]
    per_pixel = [
        -(pos_weight * y * math.log(1 / (1 + math.exp(-x))) + (1 - y) * math.log(1 - 1 / (1 + math.exp(-x))))
        for x, y in zip(logits, target, strict=True)
    ]
    value = BCE(pos_weight)(torch.tensor(logits).view(1, 1, 2, 2), torch.tensor(target).view(1, 1, 2, 2))
    assert float(value) == pytest.approx(sum(per_pixel) / 4, rel=1e-5)


def test_bce_of_logit_zero_is_ln_2() -> None:
    assert float(BCE()(torch.zeros(2, 1, 3, 3), torch.ones(2, 1, 3, 3))) == pytest.approx(math.log(2))


def test_the_gradient_pulls_towards_the_target() -> None:
    logits = torch.zeros(1, 1, 1, 2, requires_grad=True)
    BCE(2.0)(logits, torch.tensor([1.0, 0.0]).view(1, 1, 1, 2)).backward()
    assert logits.grad is not None
    assert logits.grad.flatten().tolist() == pytest.approx([-0.5, 0.25])


def test_large_logits_stay_finite() -> None:
    logits = torch.tensor([1e4, -1e4]).view(1, 1, 1, 2)
    assert float(BCE()(logits, 1 - (logits > 0).float())) == pytest.approx(1e4)


def test_the_weight_is_no_part_of_a_checkpoint() -> None:
    assert BCE(2.0).state_dict() == {}
    assert BCE(2).pos_weight.dtype == torch.float32
