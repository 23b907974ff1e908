"""What the three heads learn, against values by hand; absent objects teach presence, not constants."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from medsam2.losses import BCE, FocalDice, compute_dice_loss
from medsam2.methods.supervision import Supervision, add_up, compute_iou
from medsam2.modeling.sam2 import NO_OBJ_SCORE

SIZE = 8
SCORES = (2.0, -1.0, 0.5)
COUNTS = {"mask": 3, "iou": 3, "presence": 3}


def targets() -> Tensor:
    """Three objects: the left half, the right half, the upper three quarters."""
    masks = torch.zeros(3, 1, SIZE, SIZE)
    masks[0, :, :, :4], masks[1, :, :, 4:], masks[2, :, :6] = 1, 1, 1
    return masks


def answers(num_candidates: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Logits N×K×4×4, predicted IoUs and object scores of the three objects."""
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(3, num_candidates, 4, 4, generator=generator) * 3
    ious = torch.rand(3, num_candidates, generator=generator)
    return logits.requires_grad_(), ious.requires_grad_(), torch.tensor(SCORES)[:, None].requires_grad_()


def enlarge(logits: Tensor) -> Tensor:
    return interpolate(logits, (SIZE, SIZE), mode="bilinear", align_corners=False)


def compute_share(logits: Tensor, target: Tensor) -> float:
    mask, truth = enlarge(logits[None, None])[0, 0] > 0, target[0] > 0
    return float((mask & truth).sum()) / float((mask | truth).sum())


def test_the_terms_of_single_masks_are_those_by_hand() -> None:
    logits, ious, scores = answers()
    terms = Supervision(BCE(2.0), iou=0.5, presence=3.0)(logits, ious, scores, targets(), None)
    assert list(terms) == ["mask", "iou", "presence"]
    torch.testing.assert_close(terms["mask"], BCE(2.0)(enlarge(logits), targets()))
    errors = [abs(float(ious[i, 0].detach()) - compute_share(logits[i, 0], targets()[i])) for i in range(3)]
    assert float(terms["iou"].detach()) == pytest.approx(0.5 * sum(errors) / 3, rel=1e-5)
    present = [math.log(1 + math.exp(-x)) for x in SCORES]
    assert float(terms["presence"].detach()) == pytest.approx(3 * sum(present) / 3, rel=1e-5)


@pytest.mark.parametrize("weights", [(0.0, 0.0), (0.0, 1.0), (1.0, 0.0)])
def test_terms_of_weight_zero_are_left_out(weights: tuple[float, float]) -> None:
    iou, presence = weights
    terms = Supervision(BCE(), iou, presence)(*answers(), targets(), None)
    assert list(terms) == ["mask"] + ["iou"] * (iou > 0) + ["presence"] * (presence > 0)


def test_mask_and_iou_are_means_over_the_objects_that_are_there() -> None:
    logits, ious, scores = answers()
    judge, rows = Supervision(BCE(), iou=1.0, presence=1.0), [0, 2]
    terms = judge(logits, ious, scores, targets(), torch.tensor([True, False, True]))
    alone = judge(logits[rows], ious[rows], scores[rows], targets()[rows], None)
    torch.testing.assert_close(terms["mask"], alone["mask"])
    torch.testing.assert_close(terms["iou"], alone["iou"])
    by_hand = sum(math.log(1 + math.exp(-abs(x))) for x in SCORES) / 3  # +2 and +0.5 are there, -1 is not
    assert float(terms["presence"].detach()) == pytest.approx(by_hand, rel=1e-5)


def test_where_nothing_is_there_only_presence_teaches() -> None:
    logits, ious, scores = answers()
    terms = Supervision(BCE(), 1.0, 1.0)(logits, ious, scores, targets() * 0, torch.zeros(3, dtype=torch.bool))
    assert [float(terms[name].detach()) for name in ("mask", "iou")] == [0, 0]
    add_up([terms], COUNTS).total.backward()
    assert logits.grad is None or not logits.grad.any()
    torch.testing.assert_close(scores.grad, scores.detach().sigmoid() / 3)


@pytest.mark.parametrize("judged", [True, False])
@pytest.mark.parametrize("presence", [1.0, 0.0])
def test_without_a_presence_head_an_absent_object_is_an_empty_target(judged: bool, presence: float) -> None:
    logits, ious, scores = answers()
    terms = Supervision(BCE(), 1.0, presence, judged)(logits, ious, scores, targets() * 0, torch.zeros(3) > 0)
    if judged and presence > 0:
        assert "presence" in terms
        assert float(terms["mask"].detach()) == 0
    else:
        assert list(terms) == ["mask", "iou"]
        torch.testing.assert_close(terms["mask"], BCE()(enlarge(logits), targets() * 0))


def test_a_gated_mask_would_be_a_constant_and_is_never_judged() -> None:
    """Legacy: absent objects had logits of -1024: a loss of 1024 per pixel inside, without any gradient."""
    logits, ious, scores = answers()
    gated = logits.where((scores > 0)[..., None, None], NO_OBJ_SCORE)
    assert float(BCE()(enlarge(gated[1:2]), targets()[1:2]).detach()) == pytest.approx(1024 / 2)
    terms = Supervision(BCE(), 1.0, 1.0)(logits, ious, scores, targets(), None)
    add_up([terms], COUNTS).total.backward()
    assert float(terms["mask"].detach()) < 10
    assert logits.grad is not None
    assert logits.grad[1].abs().sum() > 0  # the object that is there although its score says no
    assert scores.grad is not None
    assert scores.grad.isfinite().all()
    assert scores.grad.abs().min() > 0.01


class Plain(nn.Module):
    """FocalDice as a loss that does not know candidates."""

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return FocalDice()(logits, target)


@pytest.mark.parametrize("loss", [FocalDice(), Plain()])
def test_of_candidates_the_best_is_trained_and_all_ious(loss: nn.Module) -> None:
    logits, ious, scores = answers(3)
    terms = Supervision(loss, 1.0, 1.0)(logits, ious, scores, targets(), None)
    add_up([terms], COUNTS).total.backward()
    large = enlarge(logits)
    if isinstance(loss, FocalDice):
        costs = torch.stack([loss.per_mask(large[:, k : k + 1], targets())[:, 0] for k in range(3)], dim=1)
    else:
        costs = compute_dice_loss(large.sigmoid(), targets())
    best = costs.argmin(dim=1)
    assert len(set(best.tolist())) > 1
    chosen = torch.stack([large[i, k] for i, k in enumerate(best.tolist())])[:, None]
    torch.testing.assert_close(terms["mask"], FocalDice()(chosen, targets()))
    assert logits.grad is not None
    assert [row.nonzero().flatten().tolist() for row in logits.grad.abs().sum((2, 3))] == [[k] for k in best.tolist()]
    errors = [
        abs(float(ious[i, k].detach()) - compute_share(logits[i, k], targets()[i])) for i in range(3) for k in range(3)
    ]
    assert float(terms["iou"].detach()) == pytest.approx(sum(errors) / 9, rel=1e-5)
    assert ious.grad is not None
    assert ious.grad.all()


def test_the_first_of_equal_candidates_is_trained_as_if_it_were_alone() -> None:
    logits, ious, scores = answers()
    judge = Supervision(FocalDice(), 1.0, 1.0)
    alone = judge(logits, ious, scores, targets(), None)
    thrice = judge(logits.expand(-1, 3, -1, -1), ious.expand(-1, 3), scores, targets(), None)
    for name, value in alone.items():
        torch.testing.assert_close(thrice[name], value)
    gradients = [torch.autograd.grad(add_up([terms], COUNTS).total, logits)[0] for terms in (alone, thrice)]
    torch.testing.assert_close(*gradients)


def test_the_iou_of_nothing_and_nothing_is_one() -> None:
    target = torch.zeros(3, 1, 2, 2)
    target[1:, :, 0] = 0.6  # soft: half of the pixels are inside
    logits = torch.full((3, 2, 2, 2), -1.0)
    logits[:, 1, :, 0] = 1.0  # candidate 1: the left half
    assert compute_iou(logits, target).tolist() == [[1, 0], pytest.approx([0, 1 / 3]), pytest.approx([0, 1 / 3])]


def test_logits_are_enlarged_in_float32_bilinearly_unless_legacy() -> None:
    logits = torch.tensor([[-1.0, 1.0]]).expand(2, 2)[None, None].bfloat16()
    smooth = Supervision(BCE(), 0, 0).enlarge(logits, (2, 8))
    stairs = Supervision(BCE(), 0, 0, legacy_nearest=True).enlarge(logits, (2, 8))
    assert smooth.dtype == stairs.dtype == torch.float32
    assert smooth[0, 0, 0].tolist() == [-1, -1, -0.75, -0.25, 0.25, 0.75, 1, 1]
    assert stairs[0, 0, 0].tolist() == [-1] * 4 + [1] * 4


@pytest.mark.parametrize("weights", [{"iou": -1.0, "presence": 1.0}, {"iou": 0.0, "presence": -0.1}])
def test_negative_weights_are_refused(weights: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"method\.iou=.*method\.presence="):
        Supervision(BCE(), **weights)


def test_rounds_are_averaged_term_by_term() -> None:
    first = {"mask": torch.tensor(2.0, requires_grad=True), "iou": torch.tensor(1.0)}
    second = {"mask": torch.tensor(4.0), "iou": torch.tensor(2.0)}
    total, terms, parts = add_up([first, second], {"mask": 2, "iou": 2, "presence": 3})
    assert {name: float(value) for name, value in terms.items()} == {"loss": 4.5, "mask": 3.0, "iou": 1.5}
    assert [(float(part.mean), part.objects) for part in parts.values()] == [(3.0, 2), (1.5, 2)]
    assert total.requires_grad
    assert not any(value.requires_grad for value in terms.values())


@pytest.mark.parametrize(("presence", "shown"), [(1.0, 2), (0.0, 3)])
def test_terms_know_of_how_many_objects_they_are_means(presence: float, shown: int) -> None:
    judge, present = Supervision(BCE(), 1.0, presence), torch.tensor([True, False, True])
    assert judge.count(present, 3) == {"mask": shown, "iou": shown, "presence": 3}
    assert judge.count(None, 3) == COUNTS
