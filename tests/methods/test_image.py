"""Single images: the loss is what is minimised, and an object's answer is its own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from medsam2.losses import BCE
from medsam2.methods.image import ImageMethod
from medsam2.methods.supervision import Supervision
from medsam2.modeling.sam import LOGIT_LIMIT
from medsam2.modeling.sam2 import SAM2
from tests.goldens import build_model
from tests.methods.helpers_image import SIZE, batch, by_hand, decode, masks_only, mixed_batch, only, shift_scores


@pytest.fixture(scope="module")
def model() -> SAM2:
    torch.manual_seed(0)
    return build_model("sam2_nano", SIZE)


@torch.no_grad()
def test_the_loss_is_the_criterion_on_bilinear_logits(model: SAM2) -> None:
    model.train()
    loss = masks_only(model, BCE(2.0)).loss(batch())
    torch.testing.assert_close(loss.total, by_hand(model, batch())[0])
    assert list(loss.terms) == ["loss", "mask"]
    torch.testing.assert_close(loss.terms["mask"], loss.total)


@torch.no_grad()
def test_by_default_all_heads_are_supervised(model: SAM2) -> None:
    model.train()
    loss = ImageMethod(model, BCE(2.0)).loss(batch())
    mask, output = by_hand(model, batch())
    terms = Supervision(BCE(2.0), 1.0, 1.0)(*output[:3], batch().targets, None)
    torch.testing.assert_close(loss.total, mask + terms["iou"] + terms["presence"])
    assert list(loss.terms) == ["loss", "mask", "iou", "presence"]


@torch.no_grad()
def test_two_rounds_give_the_last_mask_back_and_average_the_losses(model: SAM2) -> None:
    model.train()
    first, output = by_hand(model, batch())
    second, _ = by_hand(model, batch(), output.low_res_masks)
    loss = masks_only(model, BCE(2.0), rounds=2).loss(batch())
    assert not torch.allclose(first, second)
    torch.testing.assert_close(loss.total, (first + second) / 2)


@torch.no_grad()
def test_the_answer_is_the_last_rounds(model: SAM2) -> None:
    model.eval()
    first, second = (ImageMethod(model, BCE(), eval_rounds=n).predict(batch()) for n in (1, 2))
    output = decode(model, batch(), None)
    torch.testing.assert_close(first.mask_logits, output.low_res_masks)
    torch.testing.assert_close(first.iou_predictions, output.iou_predictions[:, 0])
    again = decode(model, batch(), output.low_res_masks)
    torch.testing.assert_close(second.mask_logits, again.low_res_masks)
    assert first.mask_logits.shape == (3, 1, SIZE // 4, SIZE // 4)
    assert first.iou_predictions.shape == (3,)


@torch.no_grad()
@pytest.mark.parametrize("make", [batch, mixed_batch])
@pytest.mark.parametrize("rounds", [1, 2])
def test_an_objects_answer_does_not_depend_on_the_others_of_its_batch(model: SAM2, rounds: int, make: Any) -> None:
    model.eval()
    method, whole = ImageMethod(model, BCE(), eval_rounds=rounds), make()
    together = method.predict(whole)
    for i in range(len(whole.image_index)):
        alone = method.predict(only(whole, i))
        torch.testing.assert_close(together.mask_logits[i : i + 1], alone.mask_logits, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(together.iou_predictions[i : i + 1], alone.iou_predictions, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_padding_is_seen_by_the_decoder_so_prompts_of_unequal_length_are_not_padded(model: SAM2) -> None:
    model.eval()
    padded = replace(mixed_batch(), point_counts=[])
    apart, together = (ImageMethod(model, BCE()).predict(data) for data in (mixed_batch(), padded))
    differences = (apart.mask_logits - together.mask_logits).abs().amax((1, 2, 3))
    assert (differences < 1e-5).tolist() == [False, False, True, False, False, False, True]
    assert differences.max() > 0.01


@torch.no_grad()
def test_the_loss_of_a_mixed_batch_is_the_mean_over_its_objects(model: SAM2) -> None:
    model.train()
    method, whole = ImageMethod(model, BCE(), rounds=2), mixed_batch()
    alone = [method.loss(only(whole, i)).total for i in range(7)]
    torch.testing.assert_close(method.loss(whole).total, torch.stack(alone).mean())


@torch.no_grad()
def test_no_prompt_is_answered_as_sam_2_answers_a_frame_without_prompts(
    model: SAM2, monkeypatch: pytest.MonkeyPatch
) -> None:
    model.eval()
    shift_scores(model, monkeypatch, 10)  # present, else SAM 2 would blank the mask
    whole = mixed_batch()
    answer = ImageMethod(model, BCE()).predict(whole)
    features = model.encode_image(whole.images)
    for row, mask in ((1, None), (3, whole.mask_inputs[3:4])):  # type: ignore[index]
        seen = features.select(whole.image_index[row : row + 1])
        output = model.predict_masks(seen, None, mask, multimask_output=False)
        torch.testing.assert_close(answer.mask_logits[row : row + 1], output.low_res_masks, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_objects_without_a_mask_have_exactly_the_no_mask_embedding(model: SAM2) -> None:
    encoder, whole = model.sam_prompt_encoder, mixed_batch()
    points = whole.point_coords, whole.point_labels
    sparse, dense = encoder(*points, whole.mask_inputs, whole.mask_given)
    _, every = encoder(*points, whole.mask_inputs)
    for i, given in enumerate(whole.mask_given.tolist()):  # type: ignore[union-attr]
        assert torch.equal(dense[i], every[i] if given else encoder.embed_masks(None)[0])
    assert not torch.equal(every[0], dense[0])
    assert torch.equal(sparse, encoder(*points, None)[0])


@torch.no_grad()
def test_the_first_round_sees_the_given_mask_the_others_their_own(model: SAM2, monkeypatch: pytest.MonkeyPatch) -> None:
    model.eval()
    seen: list[tuple[Tensor, Tensor | None]] = []
    original = model.decode

    def recording(*args: Any, **kwargs: Any) -> Any:
        seen.append((kwargs["mask_input"], kwargs["mask_given"]))
        return original(*args, **kwargs)

    monkeypatch.setattr(model, "decode", recording)
    whole = replace(mixed_batch(), point_counts=[])
    ImageMethod(model, BCE(), eval_rounds=2).predict(whole)
    (first, given), (second, later) = seen
    assert torch.equal(first, whole.mask_inputs)  # type: ignore[arg-type]
    assert torch.equal(given, whole.mask_given)  # type: ignore[arg-type]
    assert second.shape == first.shape
    assert later is None
    assert not torch.equal(second[3], first[3])


@torch.no_grad()
def test_masks_of_another_size_are_brought_to_the_decoders(model: SAM2) -> None:
    model.eval()
    large = torch.zeros(1, 1, SIZE, SIZE) - 10
    large[:, :, 16:40, 20:48] = 10
    shrunk = interpolate(large, (SIZE // 4, SIZE // 4), mode="bilinear", align_corners=False, antialias=True)
    one, other = (replace(only(mixed_batch(), 3), mask_inputs=masks) for masks in (large, shrunk))
    method = ImageMethod(model, BCE())
    assert torch.equal(method.predict(one).mask_logits, method.predict(other).mask_logits)


def test_gradients_of_a_mixed_batch_reach_the_mask_branch_and_both_embeddings(model: SAM2) -> None:
    model.train()
    model.zero_grad()
    ImageMethod(model, BCE()).loss(mixed_batch()).total.backward()
    encoder = model.sam_prompt_encoder
    for weight in (encoder.mask_downscaling[0].weight, encoder.no_mask_embed.weight, encoder.not_a_point_embed.weight):
        assert weight.grad is not None
        assert weight.grad.abs().sum() > 0
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    model.zero_grad()


def test_the_mask_prompt_is_clamped_and_carries_no_gradient(model: SAM2, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Tensor | None] = []
    original = model.decode

    def recording(*args: Any, **kwargs: Any) -> Any:
        given.append(kwargs["mask_input"])
        output = original(*args, **kwargs)
        return output._replace(low_res_masks=output.low_res_masks * 1e4)

    monkeypatch.setattr(model, "decode", recording)
    model.train()
    ImageMethod(model, BCE(), rounds=3).loss(batch())
    assert given[0] is None
    assert len(given) == 3
    for mask in given[1:]:
        assert mask is not None
        assert not mask.requires_grad
        assert mask.abs().max() == LOGIT_LIMIT


def test_gradients_reach_trunk_prompt_encoder_and_decoder(model: SAM2) -> None:
    model.train()
    model.zero_grad()
    loss = ImageMethod(model, BCE()).loss(batch())
    loss.total.backward()
    reached = {n for n, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    for part in (
        "image_encoder.trunk.patch_embed",
        "image_encoder.neck",
        "sam_prompt_encoder.point",
        "sam_mask_decoder",
    ):
        assert any(name.startswith(part) for name in reached), part
    assert not loss.terms["loss"].requires_grad
    model.zero_grad()


def test_under_bf16_loss_and_answer_are_float32(model: SAM2) -> None:
    seen = []

    class Recording(BCE):
        def forward(self, logits: Tensor, target: Tensor) -> Tensor:
            seen.append(logits.dtype)
            return super().forward(logits, target)

    method = ImageMethod(model, Recording(), rounds=2, eval_rounds=2)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert method.loss(batch()).total.dtype == torch.float32
        prediction = method.predict(batch())
    assert seen == [torch.float32] * 2
    assert {prediction.mask_logits.dtype, prediction.iou_predictions.dtype} == {torch.float32}


def test_a_few_steps_learn_a_batch() -> None:
    torch.manual_seed(0)
    method = ImageMethod(build_model("sam2_nano", SIZE), BCE())
    optimizer = torch.optim.Adam(method.model.parameters(), lr=1e-3)
    method.model.train()
    losses = []
    for _ in range(12):
        loss = method.loss(batch()).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.6 * losses[0]


def test_model_and_loss_move_together(model: SAM2) -> None:
    method = ImageMethod(build_model("sam2_nano", SIZE), BCE(2.0))
    method.to("meta")
    assert {p.device.type for p in method.model.parameters()} == {"meta"}
    assert method.supervision.mask_loss.pos_weight.device.type == "meta"  # type: ignore[union-attr]
