"""Single images: the loss is what is minimised, and an object's answer is its own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from medsam2.data.batch import Batch
from medsam2.losses import BCE
from medsam2.methods.image import LOGIT_LIMIT, ImageMethod
from medsam2.modeling.sam2 import SAM2
from tests.goldens import build_model

SIZE = 64


@pytest.fixture(scope="module")
def model() -> SAM2:
    torch.manual_seed(0)
    return build_model("sam2_nano", SIZE)


def batch() -> Batch:
    """Three objects on two images: two on the first, one on the second."""
    generator = torch.Generator().manual_seed(1)
    targets = torch.zeros(3, 1, SIZE, SIZE)
    targets[0, :, 8:24, 8:40], targets[1, :, 30:50, 10:20], targets[2, :, 20:60, 20:60] = 1, 1, 1
    corners = torch.tensor([[[8.0, 8], [39, 23]], [[10, 30], [19, 49]], [[20, 20], [59, 59]]])
    return Batch(
        images=torch.rand(2, 3, SIZE, SIZE, generator=generator),
        image_index=torch.tensor([0, 0, 1]),
        point_coords=corners,
        point_labels=torch.tensor([[2, 3]] * 3),
        targets=targets,
        objects=[],
        case_ids=["a", "b"],
    )


def only(whole: Batch, i: int) -> Batch:
    """The i-th object alone, on its image alone."""
    return Batch(
        images=whole.images[whole.image_index[i : i + 1]],
        image_index=torch.tensor([0]),
        point_coords=whole.point_coords[i : i + 1],
        point_labels=whole.point_labels[i : i + 1],
        targets=whole.targets[i : i + 1],
        objects=[],
        case_ids=[],
    )


def decode(model: SAM2, data: Batch, mask_input: Tensor | None) -> Any:
    features = model.encode_image(data.images)
    prompts = {"point_coords": data.point_coords, "point_labels": data.point_labels, "mask_input": mask_input}
    return model.decode(features, **prompts, image_index=data.image_index, multimask_output=False)


def by_hand(model: SAM2, data: Batch, mask_input: Tensor | None = None) -> tuple[Tensor, Any]:
    output = decode(model, data, mask_input)
    logits = interpolate(output.low_res_masks, (SIZE, SIZE), mode="bilinear", align_corners=False)
    return BCE(2.0)(logits, data.targets), output


@torch.no_grad()
def test_the_loss_is_the_criterion_on_bilinear_logits(model: SAM2) -> None:
    model.train()
    loss = ImageMethod(model, BCE(2.0)).loss(batch())
    torch.testing.assert_close(loss.total, by_hand(model, batch())[0])
    assert list(loss.terms) == ["loss"]


@torch.no_grad()
def test_two_rounds_give_the_last_mask_back_and_average_the_losses(model: SAM2) -> None:
    model.train()
    first, output = by_hand(model, batch())
    second, _ = by_hand(model, batch(), output.low_res_masks)
    loss = ImageMethod(model, BCE(2.0), rounds=2).loss(batch())
    assert not torch.allclose(first, second)
    torch.testing.assert_close(loss.total, (first + second) / 2)


@torch.no_grad()
def test_the_answer_is_the_last_rounds(model: SAM2) -> None:
    model.eval()
    first, second = (ImageMethod(model, BCE(), rounds=n).predict(batch()) for n in (1, 2))
    output = decode(model, batch(), None)
    torch.testing.assert_close(first.mask_logits, output.low_res_masks)
    torch.testing.assert_close(first.iou_predictions, output.iou_predictions[:, 0])
    again = decode(model, batch(), output.low_res_masks)
    torch.testing.assert_close(second.mask_logits, again.low_res_masks)
    assert first.mask_logits.shape == (3, 1, SIZE // 4, SIZE // 4)
    assert first.iou_predictions.shape == (3,)


@torch.no_grad()
@pytest.mark.parametrize("rounds", [1, 2])
def test_objects_of_a_batch_do_not_touch_each_other(model: SAM2, rounds: int) -> None:
    model.eval()
    method = ImageMethod(model, BCE(), rounds)
    together = method.predict(batch())
    for i in range(3):
        alone = method.predict(only(batch(), i))
        torch.testing.assert_close(together.mask_logits[i : i + 1], alone.mask_logits, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(together.iou_predictions[i : i + 1], alone.iou_predictions, atol=1e-4, rtol=1e-4)


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

    method = ImageMethod(model, Recording(), rounds=2)
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
    assert method.criterion.pos_weight.device.type == "meta"  # type: ignore[union-attr]
