"""Prompts of all kinds for many objects: each is answered as if it were alone."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from medsam2.data.batch import Batch, ObjectInfo
from medsam2.data.prompts import Prompt
from medsam2.methods.decoding import Prompts, choose, decode, gate, merge
from medsam2.modeling.learned_prompts import LearnedPrompts
from medsam2.modeling.mask_decoder import MaskPredictions
from medsam2.modeling.sam2 import NO_OBJ_SCORE, SAM2
from tests.goldens import build_model

SIZE = 64
KINDS = ("box", "none", "click", "learned", "mask", "learned", "clicks")
LABELS = ([2, 3], [], [1], [], [], [], [1, 0, 1])
MASKED, LEARNED = (4,), (3, 5)


@pytest.fixture(scope="module")
def model() -> SAM2:
    torch.manual_seed(0)
    network = build_model("sam2_nano", SIZE)
    network.learned_prompts = LearnedPrompts(["cup", "disc"], 2, 128)
    return network


def batch(size: int = SIZE // 4) -> Batch:
    """Seven objects of different prompts, one on each of seven images; mask prompts of `size` pixels."""
    generator = torch.Generator().manual_seed(4)
    coords, labels = torch.zeros(7, 3, 2), torch.full((7, 3), -1)
    objects = []
    for row, (name, kinds) in enumerate(zip(KINDS, LABELS, strict=True)):
        points = (torch.rand(len(kinds), 2, generator=generator) * SIZE).sort(dim=0).values
        coords[row, : len(kinds)], labels[row, : len(kinds)] = points, torch.tensor(kinds, dtype=torch.int64)
        budget = "none" if name in ("none", "learned") else name
        prompt = Prompt(points.numpy(), np.array(kinds, np.int64), budget, name)
        objects.append(ObjectInfo(f"case{row}", "p", "disc" if row == 5 else "cup", prompt, None, None, None))
    given = torch.zeros(7, dtype=torch.bool)
    given[list(MASKED)] = True
    return Batch(
        images=torch.rand(7, 3, SIZE, SIZE, generator=generator),
        image_index=torch.arange(7),
        point_coords=coords,
        point_labels=labels,
        targets=torch.zeros(7, 1, SIZE, SIZE),
        objects=objects,
        case_ids=[info.case_id for info in objects],
        mask_inputs=torch.randn(7, 1, size, size, generator=generator) * 5,
        mask_given=given,
        point_counts=[max(1, len(kinds)) for kinds in LABELS],
    )


def by_hand(model: SAM2, data: Batch, row: int, multimask: bool = False) -> MaskPredictions:
    """The row's answer with its own points, mask and tokens, and nothing else."""
    count = max(1, len(LABELS[row]))
    assert model.learned_prompts is not None
    assert data.mask_inputs is not None
    return model.decode(
        model.encode_image(data.images[row : row + 1]),
        data.point_coords[row : row + 1, :count],
        data.point_labels[row : row + 1, :count],
        data.mask_inputs[row : row + 1] if row in MASKED else None,
        multimask_output=multimask,
        extra_tokens=model.learned_prompts([data.objects[row].structure]) if row in LEARNED else None,
    )


@torch.no_grad()
@pytest.mark.parametrize("training", [True, False])
def test_each_object_is_answered_as_if_it_were_alone(model: SAM2, training: bool) -> None:
    model.train(training)
    data = batch()
    answer = decode(model, model.encode_image(data.images), Prompts.of(data, model))
    for row in range(7):
        for together, alone in zip(answer, by_hand(model, data, row), strict=True):
            torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_candidates_are_asked_for_by_sam_2s_rule_and_the_others_have_one_mask_three_times(model: SAM2) -> None:
    model.train()
    data = batch()
    answer = decode(model, model.encode_image(data.images), Prompts.of(data, model), candidates=True)
    assert answer.low_res_masks.shape == (7, 3, SIZE // 4, SIZE // 4)
    assert answer.iou_predictions.shape == (7, 3)
    for row, name in enumerate(KINDS):
        ambiguous = name in ("none", "click", "mask")  # no point or one; learned tokens say what is meant
        alone = by_hand(model, data, row, multimask=ambiguous)
        expected = alone.low_res_masks.expand(-1, 3, -1, -1)
        torch.testing.assert_close(answer.low_res_masks[row : row + 1], expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_without_an_ambiguous_prompt_or_the_rule_there_is_one_mask(model: SAM2) -> None:
    data = batch()
    features, prompts = model.encode_image(data.images), Prompts.of(data, model)
    sam = SimpleNamespace(decode=model.decode)  # SAM has no rule
    for asked, rows in ((model, [0, 6]), (sam, [1, 2])):
        some = features.select(torch.tensor(rows))
        assert decode(asked, some, prompts.select(rows), candidates=True).low_res_masks.shape[1] == 1


def test_gradients_reach_the_learned_tokens_of_the_structures_that_are_asked_for(model: SAM2) -> None:
    model.train()
    model.zero_grad()
    data = batch()
    answer = decode(model, model.encode_image(data.images), Prompts.of(data, model))
    answer.low_res_masks[5].sum().backward()
    assert model.learned_prompts is not None
    gradients = {name: parameter.grad for name, parameter in model.learned_prompts.tokens.items()}
    assert gradients["disc"] is not None
    assert gradients["disc"].abs().sum() > 0
    assert not gradients["cup"].any()  # type: ignore[union-attr]
    model.zero_grad()


def test_learned_prompts_need_a_model_that_has_some(model: SAM2) -> None:
    bare = SimpleNamespace(sam_prompt_encoder=model.sam_prompt_encoder, learned_prompts=None)
    with pytest.raises(ValueError, match=r"prompt=learned.*model\.learned_prompts"):
        Prompts.of(batch(), bare)


def test_prompts_of_a_batch(model: SAM2) -> None:
    data = batch(SIZE)
    prompts = Prompts.of(data, model)
    assert prompts.counts == [2, 0, 1, 0, 0, 0, 3]
    assert prompts.learned == [row in LEARNED for row in range(7)]
    assert prompts.masks is not None
    assert data.mask_inputs is not None
    side = (SIZE // 4, SIZE // 4)
    shrunk = interpolate(data.mask_inputs, side, mode="bilinear", align_corners=False, antialias=True)
    assert torch.equal(prompts.masks, shrunk)
    assert prompts.given is data.mask_given
    assert prompts.tokens is not None
    assert prompts.tokens.shape == (7, 2, 128)
    assert [bool(x.any()) for x in prompts.tokens] == prompts.learned
    assert prompts.groups() == [[0], [1, 4], [2], [3, 5], [6]]


def test_a_batch_without_infos_masks_or_learned_prompts(model: SAM2) -> None:
    data = replace(batch(), objects=[], mask_inputs=None)
    prompts = Prompts.of(data, model)
    assert (prompts.masks, prompts.given, prompts.tokens) == (None, None, None)
    assert prompts.counts == [2, 1, 1, 1, 1, 1, 3]
    assert Prompts.of(replace(data, point_counts=[]), model).counts == [3] * 7


def test_selected_objects_keep_all_they_have(model: SAM2) -> None:
    whole = Prompts.of(batch(), model)
    some = whole.select([6, 3])
    assert (some.counts, some.learned, len(some)) == ([3, 0], [False, True], 2)
    for name in ("coords", "labels", "masks", "given", "tokens"):
        assert torch.equal(getattr(some, name), getattr(whole, name)[[6, 3]]), name
    assert whole.select(list(range(7))) is whole


@pytest.mark.parametrize("masks", [True, False])
def test_without_a_prompt_there_is_nothing_left_of_it(model: SAM2, masks: bool) -> None:
    data = batch()
    whole = Prompts.of(data if masks else replace(data, mask_inputs=None), model)
    left = whole.without([0, 4, 5])
    assert left.counts == [0, 0, 1, 0, 0, 0, 3]
    assert left.learned == [row == 3 for row in range(7)]
    assert left.labels[0].tolist() == [-1, -1, -1]
    assert not left.coords[0].any()
    assert torch.equal(left.labels[1:], whole.labels[1:])
    assert (left.given is None) == (not masks)
    assert left.given is None or not left.given.any()
    assert whole.counts[0] == 2
    assert whole.with_masks(data.mask_inputs).without([1]).given.tolist() == [row != 1 for row in range(7)]  # type: ignore[arg-type, union-attr]


def test_a_click_comes_behind_the_points_and_takes_the_place_of_none(model: SAM2) -> None:
    prompts = Prompts.of(batch(), model)
    clicks, labels = torch.arange(14.0).view(7, 2), torch.tensor([1, 0, 0, 1, 1, 1, 0])
    more = prompts.add_clicks(clicks, labels)
    assert more.counts == [3, 1, 2, 1, 1, 1, 4]
    for row, count in enumerate(more.counts):
        assert torch.equal(more.coords[row, count - 1], clicks[row])
        assert torch.equal(more.coords[row, : count - 1], prompts.coords[row, : count - 1])
        expected = [*LABELS[row], int(labels[row])]
        assert more.labels[row].tolist() == expected + [-1] * (more.labels.shape[1] - len(expected))
    assert more.add_clicks(clicks, labels).labels[1].tolist() == [0, 0, -1, -1, -1]


def test_an_answer_goes_back_clamped_and_without_its_graph(model: SAM2) -> None:
    logits = (torch.ones(7, 1, 16, 16, dtype=torch.bfloat16) * torch.tensor([-1024.0]).bfloat16()).requires_grad_()
    prompts = Prompts.of(batch(), model).with_masks(logits)
    assert prompts.masks is not None
    assert not prompts.masks.requires_grad
    assert prompts.masks.unique().tolist() == [-32]
    assert prompts.masks.dtype == torch.float32
    assert prompts.given is None


def predictions(masks: Tensor, ious: Tensor) -> MaskPredictions:
    return MaskPredictions(masks, ious, torch.zeros(len(masks), 1), torch.zeros(len(masks), 1, 4))


def test_the_answer_is_the_candidate_of_highest_predicted_iou() -> None:
    masks = torch.arange(6.0).view(2, 3, 1, 1)
    ious = torch.tensor([[0.1, 0.9, 0.3], [0.5, 0.5, 0.2]])
    chosen, value = choose(predictions(masks, ious))
    assert chosen.flatten().tolist() == [1, 3]
    assert value.tolist() == pytest.approx([0.9, 0.5])
    only, value = choose(predictions(masks[:, 1:2], ious[:, 1:2]))
    assert only.flatten().tolist() == [1, 4]
    assert value.tolist() == pytest.approx([0.9, 0.5])


def test_groups_come_back_in_the_objects_order() -> None:
    three = predictions(torch.arange(6.0).view(2, 3, 1, 1), torch.arange(6.0).view(2, 3))
    one = predictions(torch.tensor([7.0, 8]).view(2, 1, 1, 1), torch.tensor([[7.0], [8]]))
    merged = merge([three, one], [[3, 0], [1, 2]])
    assert merged.iou_predictions.tolist() == [[3, 4, 5], [7, 7, 7], [8, 8, 8], [0, 1, 2]]
    assert merged.low_res_masks.flatten(1).tolist() == merged.iou_predictions.tolist()
    assert merged.object_score_logits.shape == (4, 1)


def test_only_what_no_prompt_implies_is_gated() -> None:
    objects: list[Any] = batch().objects[:4]
    objects[2] = replace(objects[2], prompted=False)  # box, none, tracked, learned
    logits = torch.ones(4, 1, 2, 2)
    answers = gate(logits, torch.tensor([[-1.0], [0.0], [-1.0], [0.1]]), objects)
    assert answers.amax((1, 2, 3)).tolist() == [1, NO_OBJ_SCORE, NO_OBJ_SCORE, 1]
    assert gate(logits[:1], torch.tensor([[-1.0]]), objects[:1]) is not None
    assert torch.equal(gate(logits[:1], torch.tensor([[-1.0]]), objects[:1]), logits[:1])
