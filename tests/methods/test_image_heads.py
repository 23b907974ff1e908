"""Single images: presence and IoU, candidates, correction clicks, and that all of it learns."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from medsam2.data.loader import PromptedCases
from medsam2.data.phantom_volumes import PhantomVolumes
from medsam2.data.prompts import BoxPrompt, ClickPrompt, LearnedPrompt, Prompter
from medsam2.data.records import of_split
from medsam2.losses import BCE, FocalDice
from medsam2.methods.image import ImageMethod
from medsam2.modeling.learned_prompts import LearnedPrompts
from medsam2.modeling.sam import LOGIT_LIMIT
from medsam2.modeling.sam2 import NO_OBJ_SCORE, SAM2
from tests.goldens import build_model
from tests.methods.helpers_image import (
    SIZE,
    batch,
    by_hand,
    decode,
    masks_only,
    mixed_batch,
    only,
    shift_scores,
    with_infos,
)


@pytest.fixture(scope="module")
def model() -> SAM2:
    torch.manual_seed(0)
    return build_model("sam2_nano", SIZE)


# ---------------------------------------------------------------------------------------- heads and absence


@torch.no_grad()
def test_only_objects_that_are_there_have_a_mask_loss(model: SAM2) -> None:
    model.train()
    method, whole = ImageMethod(model, BCE()), with_infos(batch(), present=(True, False, True))
    rows = replace(whole, **{name: getattr(whole, name)[[0, 2]] for name in ("image_index", "targets")})
    rows = replace(rows, point_coords=whole.point_coords[[0, 2]], point_labels=whole.point_labels[[0, 2]])
    loss, there = method.loss(whole), method.loss(with_infos(replace(rows, objects=[])))
    for name in ("mask", "iou"):
        torch.testing.assert_close(loss.terms[name], there.terms[name])
    assert not torch.allclose(loss.terms["presence"], there.terms["presence"])


@pytest.mark.parametrize("present", [(True, True, True), (True, False, True), (False, False, False)])
def test_objects_judged_absent_still_learn_masks_and_presence(
    model: SAM2, monkeypatch: pytest.MonkeyPatch, present: tuple[bool, ...]
) -> None:
    """Legacy: a score below 0 made every logit -1024: a loss of 1024 a pixel and no gradient at all."""
    shift_scores(model, monkeypatch, -20)
    model.train()
    model.zero_grad()
    loss = ImageMethod(model, BCE()).loss(with_infos(batch(), present))
    loss.total.backward()
    assert loss.terms["mask"] < 10
    gradients = {
        part: [p.grad for p in getattr(model.sam_mask_decoder, part).parameters()]
        for part in ("pred_obj_score_head", "output_hypernetworks_mlps")
    }
    assert all(g.isfinite().all() for part in gradients.values() for g in part if g is not None)
    score, mask = (sum(g.abs().sum() for g in part if g is not None) for part in gradients.values())
    assert (score > 1e-3) == any(present)  # -20 is right about what is absent
    assert (mask > 0) == any(present)
    model.zero_grad()


@torch.no_grad()
@pytest.mark.parametrize("presence", [1.0, 0.0])
def test_evaluation_gates_what_no_prompt_implies_by_a_supervised_score(
    model: SAM2, monkeypatch: pytest.MonkeyPatch, presence: float
) -> None:
    shift_scores(model, monkeypatch, -20)
    model.eval()
    whole = with_infos(replace(mixed_batch(), mask_inputs=None, mask_given=None))
    answer = ImageMethod(model, BCE(), presence=presence).predict(whole)
    blank = [bool((logits == NO_OBJ_SCORE).all()) for logits in answer.mask_logits]
    assert blank == [info.prompt.name == "none" and presence > 0 for info in whole.objects]
    assert answer.objects is whole.objects


@torch.no_grad()
def test_a_decoder_without_a_presence_head_is_neither_supervised_nor_gated() -> None:
    bare = build_model("sam2_nano", SIZE, ["model.network.sam_mask_decoder.pred_obj_scores=false"])
    method, whole = ImageMethod(bare, BCE(2.0)), with_infos(batch(), (True, False, True), "none")
    assert (method.predict(whole).mask_logits > NO_OBJ_SCORE).all()
    bare.train()
    loss = method.loss(whole)
    assert list(loss.terms) == ["loss", "mask", "iou"]
    torch.testing.assert_close(loss.terms["mask"], by_hand(bare, batch())[0])  # of all three, absent or not


@torch.no_grad()
def test_structures_that_exclude_each_other_share_no_pixel(model: SAM2) -> None:
    model.eval()
    whole = with_infos(batch())
    apart = ImageMethod(model, BCE()).predict(whole).mask_logits
    whole.objects[:2] = [replace(info, exclusive=True) for info in whole.objects[:2]]  # both on the first image
    merged = ImageMethod(model, BCE()).predict(whole).mask_logits
    assert ((apart[0] > 0) & (apart[1] > 0)).any()
    assert not ((merged[0] > 0) & (merged[1] > 0)).any()
    assert torch.equal((merged[:2] > 0).any(0), (apart[:2] > 0).any(0))
    assert torch.equal(merged[2], apart[2])


# ----------------------------------------------------------------------------------- candidates, corrections


@torch.no_grad()
@pytest.mark.parametrize("training", [True, False])
def test_training_and_evaluation_ask_the_decoder_alike(
    model: SAM2, monkeypatch: pytest.MonkeyPatch, training: bool
) -> None:
    """Legacy: mask 0 was trained, in evaluation an unstable one gave way to candidates without any training."""
    asked: list[tuple[int, bool]] = []
    original = model.decode

    def recording(*args: Any, **kwargs: Any) -> Any:
        asked.append((kwargs["point_labels"].shape[1], kwargs["multimask_output"]))
        return original(*args, **kwargs)

    monkeypatch.setattr(model, "decode", recording)
    model.train(training)
    assert not model.sam_mask_decoder.dynamic_multimask_via_stability
    for candidates in (False, True):
        asked.clear()
        method = ImageMethod(model, FocalDice(), candidates=candidates)
        whole = with_infos(mixed_batch())
        method.loss(whole) if training else method.predict(whole)
        assert sorted(asked) == [(1, candidates), (1, candidates), (2, False), (3, False)]


@torch.no_grad()
def test_of_candidates_the_best_is_trained_and_the_highest_predicted_iou_answers(model: SAM2) -> None:
    model.train()
    click = replace(batch(), point_coords=batch().point_coords[:, :1], point_labels=torch.ones(3, 1))
    features = model.encode_image(click.images)
    prompts = {"point_coords": click.point_coords, "point_labels": click.point_labels}
    output = model.decode(features, **prompts, image_index=click.image_index, multimask_output=True)
    logits = interpolate(output.low_res_masks, (SIZE, SIZE), mode="bilinear", align_corners=False)
    best = FocalDice().per_mask(logits, click.targets).amin(dim=1).mean()
    method = ImageMethod(model, FocalDice(), candidates=True)
    torch.testing.assert_close(method.loss(click).terms["mask"], best)
    model.eval()
    answer, highest = method.predict(click), output.iou_predictions.argmax(dim=1)
    expected = torch.stack([masks[k] for masks, k in zip(output.low_res_masks, highest.tolist(), strict=True)])
    torch.testing.assert_close(answer.mask_logits[:, 0], expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(answer.iou_predictions, output.iou_predictions.amax(dim=1), atol=1e-5, rtol=1e-5)


def record_points(model: SAM2, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, Tensor, Tensor, Any]]:
    """Coordinates, labels, answered logits and the mask prompt of each call of the decoder, as it is made."""
    seen = []
    original = model.decode

    def recording(*args: Any, **kwargs: Any) -> Any:
        output = original(*args, **kwargs)
        seen.append((kwargs["point_coords"], kwargs["point_labels"], output.low_res_masks, kwargs["mask_input"]))
        return output

    monkeypatch.setattr(model, "decode", recording)
    return seen


@torch.no_grad()
def test_of_candidates_the_one_of_highest_predicted_iou_goes_back_in(
    model: SAM2, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.train()
    click = replace(batch(), point_coords=batch().point_coords[:, :1], point_labels=torch.ones(3, 1))
    prompts = {"point_coords": click.point_coords, "point_labels": click.point_labels}
    features = model.encode_image(click.images)
    output = model.decode(features, **prompts, image_index=click.image_index, multimask_output=True)
    highest = output.iou_predictions.argmax(dim=1).tolist()
    calls = record_points(model, monkeypatch)
    ImageMethod(model, FocalDice(), rounds=2, candidates=True).loss(click)
    expected = torch.stack([masks[k] for masks, k in zip(output.low_res_masks, highest, strict=True)])
    assert any(highest)
    torch.testing.assert_close(calls[1][3][:, 0], expected.clamp(-LOGIT_LIMIT, LOGIT_LIMIT))


@torch.no_grad()
@pytest.mark.parametrize("training", [True, False])
def test_each_round_has_one_more_click_where_the_last_answer_was_wrong(
    model: SAM2, monkeypatch: pytest.MonkeyPatch, training: bool
) -> None:
    model.train(training)
    calls, whole = record_points(model, monkeypatch), with_infos(batch())
    method = ImageMethod(model, BCE(), rounds=4, eval_rounds=4, correct=True, ground_truth_share=0.0)
    method.loss(whole) if training else method.predict(whole)
    assert [labels.shape[1] for _, labels, _, _ in calls] == [2, 3, 4, 5]
    for (_, _, before, _), (coords, labels, _, mask) in pairwise(calls):
        answers = interpolate(before, (SIZE, SIZE), mode="bilinear", align_corners=False) > 0
        assert torch.equal(coords[:, :2], whole.point_coords)
        assert torch.equal(mask, before.clamp(-LOGIT_LIMIT, LOGIT_LIMIT))
        for row, (x, y) in enumerate(coords[:, -1].long().tolist()):
            inside = bool(whole.targets[row, 0, y, x])
            assert inside != bool(answers[row, 0, y, x])
            assert int(labels[row, -1]) == inside


@torch.no_grad()
def test_clicks_differ_from_epoch_to_epoch_and_depend_on_no_other_object(
    model: SAM2, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.train()
    calls = record_points(model, monkeypatch)
    method = ImageMethod(model, BCE(), rounds=3, correct=True, seed=5)
    whole = with_infos(mixed_batch())
    drawn = []
    for epoch in (1, 2, 1):
        calls.clear()
        method.start_epoch(epoch)
        method.loss(whole)
        drawn.append(torch.cat([coords.flatten() for coords, _, _, _ in calls]))
    assert torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], drawn[1])
    alone = [replace(only(whole, row), objects=[info], case_ids=["x"]) for row, info in enumerate(whole.objects)]
    losses = torch.stack([method.loss(one).total for one in alone])
    torch.testing.assert_close(method.loss(whole).total, losses.mean(), atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize(("eval_rounds", "correct"), [(1, True), (3, False), (3, True)])
def test_correction_clicks_of_an_evaluation_are_in_its_budget(model: SAM2, eval_rounds: int, correct: bool) -> None:
    model.eval()
    whole = with_infos(mixed_batch())
    answer = ImageMethod(model, BCE(), eval_rounds=eval_rounds, correct=correct).predict(whole)
    suffix = " + 2 clicks" if correct and eval_rounds > 1 else ""
    assert answer.objects[0].prompt.budget == "box" + suffix
    assert answer.objects[1].prompt.budget == ("2 clicks" if suffix else "none")
    assert whole.objects[0].prompt.budget == "box"


def test_gradients_of_corrected_rounds_are_finite_and_reach_the_click_embeddings(model: SAM2) -> None:
    model.train()
    model.zero_grad()
    ImageMethod(model, FocalDice(), rounds=3, correct=True, candidates=True).loss(
        with_infos(mixed_batch())
    ).total.backward()
    for embedding in model.sam_prompt_encoder.point_embeddings[:2]:
        gradient = embedding.weight.grad
        assert gradient is not None
        assert gradient.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    model.zero_grad()


@torch.no_grad()
def test_legacy_nearest_makes_stairs_of_loss_and_answer(model: SAM2) -> None:
    model.train()
    smooth, stairs = (masks_only(model, BCE(), legacy_nearest=legacy) for legacy in (False, True))
    output = decode(model, batch(), None)
    enlarged = interpolate(output.low_res_masks, (SIZE, SIZE), mode="nearest")
    torch.testing.assert_close(stairs.loss(batch()).total, BCE()(enlarged, batch().targets))
    assert not torch.allclose(stairs.loss(batch()).total, smooth.loss(batch()).total)
    model.eval()
    torch.testing.assert_close(stairs.predict(batch()).mask_logits, enlarged, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_features_of_one_object_per_image_are_not_copied(model: SAM2, monkeypatch: pytest.MonkeyPatch) -> None:
    copies: list[Tensor] = []
    kind = type(model.encode_image(batch().images))
    original = kind.select
    monkeypatch.setattr(kind, "select", lambda self, index: copies.append(index) or original(self, index))
    model.eval()
    images = torch.rand(3, 3, SIZE, SIZE)
    single = with_infos(replace(batch(), images=images, image_index=torch.arange(3), case_ids=["a", "b", "c"]))
    answer = ImageMethod(model, BCE(), eval_rounds=3).predict(single)
    assert not copies
    single.objects[1].case_id = "unlike its image's, so that features are looked up"
    torch.testing.assert_close(ImageMethod(model, BCE(), eval_rounds=3).predict(single).mask_logits, answer.mask_logits)
    assert len(copies) == 1  # once for all rounds


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prompt", "candidates"), [(BoxPrompt(), False), (ClickPrompt(strategy="uniform"), True), (LearnedPrompt(), False)]
)
def test_four_cases_are_learned_and_so_is_what_they_lack(prompt: Prompter, candidates: bool) -> None:
    torch.manual_seed(0)
    data = PhantomVolumes(volumes={"train": 1, "val": 1, "test": 1}, slices="all")
    records = [of_split(data.records(), "train")[index] for index in (3, 5, 8, 13)]  # one organ, all, all, none
    cases = PromptedCases(data, records, prompt, SIZE, 0, training=True)
    method = ImageMethod(build_model("sam2_nano", SIZE), FocalDice(), candidates=candidates)
    method.model.learned_prompts = LearnedPrompts(data.structures, 4, 128)
    optimizer = torch.optim.Adam(method.model.parameters(), lr=1e-3)
    method.model.train()
    for epoch in range(1, 151):
        method.start_epoch(epoch)
        loss = method.loss(cases.collate([cases[epoch, index] for index in range(4)]).to("cpu"))
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
    cases.training = False
    method.model.eval()
    with torch.inference_mode():
        asked = cases.collate([cases[index] for index in range(4)]).to("cpu")
        logits = method.predict(asked).mask_logits
    masks, truth = interpolate(logits, (SIZE, SIZE), mode="bilinear") > 0, asked.targets > 0
    present = torch.tensor([info.present for info in asked.objects])
    dice = 2 * (masks & truth).sum((1, 2, 3)) / (masks.sum((1, 2, 3)) + truth.sum((1, 2, 3)))
    assert dice[present].mean() >= 0.95
    assert not masks[~present].any()
    assert (~present).sum() == (0 if prompt.needs_object else 5)
