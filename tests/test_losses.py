"""Losses against the formulas they are named after."""

from __future__ import annotations

import math

import pytest
import torch

from medsam2.losses import BCE, FocalDice


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


def focal_dice_by_hand(
    logits: list[float], target: list[float], focal: float, dice: float, alpha: float, gamma: float
) -> float:
    focals, shared, sizes = [], 0.0, 0.0
    for x, t in zip(logits, target, strict=True):
        p = 1 / (1 + math.exp(-x))
        wrong = p * (1 - t) + (1 - p) * t
        entropy = -t * math.log(p) - (1 - t) * math.log(1 - p)
        focals.append((alpha * t + (1 - alpha) * (1 - t)) * wrong**gamma * entropy)
        shared, sizes = shared + p * t, sizes + p + t
    return focal * sum(focals) / len(focals) + dice * (1 - (2 * shared + 1) / (sizes + 1))


@pytest.mark.parametrize("target", [[1.0, 1.0, 0.0, 0.0], [0.25, 0.9, 0.5, 0.0], [0.0] * 4])
@pytest.mark.parametrize("settings", [(20.0, 1.0, 0.25, 2.0), (1.0, 0.0, 0.5, 0.0), (0.5, 3.0, 0.9, 1.0)])
def test_focal_dice_is_sam_2s_formula_for_hard_and_soft_targets(
    target: list[float], settings: tuple[float, float, float, float]
) -> None:
    logits = [0.0, 2.0, -1.0, 3.0]
    value = FocalDice(*settings)(torch.tensor(logits).view(1, 1, 2, 2), torch.tensor(target).view(1, 1, 2, 2))
    assert float(value) == pytest.approx(focal_dice_by_hand(logits, target, *settings), rel=1e-5)


def test_focal_dice_judges_each_mask_alone_and_is_their_mean() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 2, 5, 4, generator=generator)
    target = (torch.rand(3, 1, 5, 4, generator=generator) > 0.6).float()
    every = FocalDice().per_mask(logits, target)
    assert every.shape == (3, 2)
    for i, k in ((0, 0), (2, 1)):
        flat = [x.flatten().tolist() for x in (logits[i, k], target[i, 0])]
        assert float(every[i, k]) == pytest.approx(focal_dice_by_hand(*flat, 20.0, 1.0, 0.25, 2.0), rel=1e-4)
    torch.testing.assert_close(FocalDice()(logits[:, :1], target), every[:, 0].mean())


@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.0])
def test_focal_dice_has_finite_gradients_where_it_is_certain(gamma: float) -> None:
    logits = torch.tensor([200.0, -200.0, 200.0, -200.0]).view(1, 1, 2, 2).requires_grad_()
    loss = FocalDice(gamma=gamma)(logits, torch.tensor([1.0, 0.0, 0.0, 1.0]).view(1, 1, 2, 2))
    loss.backward()
    assert loss.isfinite()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert (logits.grad.flatten()[2:] * torch.tensor([1, -1]) > 0).all()  # the wrong ones are pulled over


@pytest.mark.parametrize("wrong", [{"focal": -1.0}, {"dice": -1.0}, {"alpha": 1.5}, {"gamma": 0.5}, {"gamma": -1.0}])
def test_focal_dice_refuses_what_makes_no_sense(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=rf"loss\.{next(iter(wrong))}={next(iter(wrong.values()))}"):
        FocalDice(**wrong)
