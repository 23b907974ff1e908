"""The image path as a whole, at nano size: batching, precision, gradients, compilation."""

import math

import pytest
import torch
from torch import Tensor

from medsam2.modeling.image_encoder import check_image_size
from medsam2.modeling.layers import DropPath
from medsam2.modeling.sam2 import SAM2
from tests.goldens import build_model

BOX = torch.tensor([[[20.0, 30.0], [70.0, 90.0]]])
BOX_LABELS = torch.tensor([[2, 3]])


@pytest.fixture(scope="module")
def model() -> SAM2:
    torch.manual_seed(0)
    return build_model("sam2_nano", 128)


def images(count: int, size: int = 128) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(count))


@pytest.mark.parametrize("size", [64, 96, 160, 224])
@torch.no_grad()
def test_any_multiple_of_32(size: int) -> None:
    sized = build_model("sam2_nano", size)
    features = sized.encode_image(images(2, size))
    prediction = sized.decode(features, BOX.expand(2, -1, -1), BOX_LABELS.expand(2, -1), multimask_output=True)
    n = size // 16
    assert features.embed.shape == (2, 128, n, n)
    assert [x.shape for x in features.high_res] == [(2, 16, 4 * n, 4 * n), (2, 32, 2 * n, 2 * n)]
    assert prediction.low_res_masks.shape == (2, 3, 4 * n, 4 * n)
    assert prediction.iou_predictions.shape == (2, 3)
    assert prediction.object_score_logits.shape == (2, 1)
    assert prediction.mask_tokens.shape == (2, 3, 128)
    assert all(torch.isfinite(x).all() for x in prediction)


@pytest.mark.parametrize(("size", "nearest"), [(100, "96 or 128"), (31, "32"), (0, "32"), (1000, "992 or 1024")])
def test_other_sizes_are_refused_with_the_cure(size: int, nearest: str) -> None:
    with pytest.raises(ValueError, match=f"image_size={size} .*multiple of 32.* {nearest}$"):
        check_image_size("image_size", size, 32)


def test_model_and_encoder_check_their_size(model: SAM2) -> None:
    with pytest.raises(Exception, match=r"image_size=100 .*96 or 128"):
        build_model("sam2_nano", 100)
    with pytest.raises(ValueError, match=r"width.*=100 .*96 or 128"):
        model.image_encoder(torch.zeros(1, 3, 96, 100))
    with pytest.raises(ValueError, match=r"64 x 64 .*image_size=128"):
        model.encode_image(images(1, 64))


@pytest.mark.parametrize(
    ("images", "shown"),
    [
        (torch.zeros(3, 128, 128), "3 x 128 x 128"),
        (torch.zeros(1, 2, 3, 128, 128), "1 x 2 x 3 x 128 x 128"),
        (torch.zeros(1, 1, 128, 128), "1 x 1 x 128 x 128"),
        (torch.zeros(1, 3, 128, 128, dtype=torch.uint8), "1 x 3 x 128 x 128 of torch.uint8"),
    ],
)
def test_other_images_are_refused(model: SAM2, images: Tensor, shown: str) -> None:
    with pytest.raises(ValueError, match=rf"images are {shown}.*pass B x 3 x S x S floats"):
        model.encode_image(images)


@pytest.mark.parametrize("windows", ["[7,4,8,4]", "[8,4,7,4]"])
def test_windows_that_do_not_fit_are_refused(windows: str) -> None:
    with pytest.raises(Exception, match=r"window_spec=.*divide 8.*even"):
        build_model("sam2_nano", 64, [f"model.network.image_encoder.trunk.window_spec={windows}"])


@torch.no_grad()
def test_encoder_takes_rectangles(model: SAM2) -> None:
    shapes = [tuple(level.shape) for level in model.image_encoder(torch.rand(1, 3, 96, 160))]
    assert shapes == [(1, 128, 24, 40), (1, 128, 12, 20), (1, 128, 6, 10)]


@torch.no_grad()
def test_images_are_normalised_once_and_no_memory_is_added(model: SAM2) -> None:
    image = images(1)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    raw = model.forward_image((image - mean[:, None, None]) / std[:, None, None])
    features = model.encode_image(image)
    torch.testing.assert_close(features.embed, raw.embed + model.no_mem_embed.view(1, -1, 1, 1))
    torch.testing.assert_close(features.high_res, raw.high_res)


def prompts(count: int, size: int = 128) -> tuple[Tensor, Tensor]:
    """A box and a click or padding each."""
    generator = torch.Generator().manual_seed(count)
    coords = torch.rand(count, 3, 2, generator=generator) * size
    labels = torch.tensor([[2, 3, 1], [2, 3, -1], [2, 3, 0]])[torch.arange(count) % 3]
    return coords, labels


@pytest.mark.parametrize("with_masks", [False, True])
@pytest.mark.parametrize("index", [[0, 0, 1, 1, 1], [1, 0, 2, 0, 1]])
@torch.no_grad()
def test_prompts_of_many_images_decode_as_one_at_a_time(model: SAM2, index: list[int], with_masks: bool) -> None:
    features = model.encode_image(images(max(index) + 1))
    coords, labels = prompts(len(index))
    masks = torch.randn(len(index), 1, 32, 32, generator=torch.Generator().manual_seed(0)) if with_masks else None
    together = model.decode(features, coords, labels, masks, torch.tensor(index))
    for i, image in enumerate(index):
        own = features.select(torch.tensor([image]))
        mask = None if masks is None else masks[i : i + 1]
        alone = model.decode(own, coords[i : i + 1], labels[i : i + 1], mask)
        for a, b in zip(together, alone, strict=True):
            torch.testing.assert_close(a[i : i + 1], b, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_one_image_serves_all_prompts(model: SAM2) -> None:
    features = model.encode_image(images(1))
    coords, labels = prompts(4)
    shared = model.decode(features, coords, labels)
    repeated = model.decode(features, coords, labels, image_index=torch.zeros(4, dtype=torch.long))
    for a, b in zip(shared, repeated, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_no_prompt_gives_a_mask_per_image(model: SAM2) -> None:
    assert model(images(3)).low_res_masks.shape == (3, 1, 32, 32)


def test_prompts_that_do_not_fit_are_refused(model: SAM2) -> None:
    features = model.encode_image(images(2))
    coords, labels = prompts(3)
    with pytest.raises(ValueError, match="3 prompts for 2 images: pass image_index"):
        model.decode(features, coords, labels)
    with pytest.raises(ValueError, match="come together"):
        model.decode(features, coords)
    with pytest.raises(ValueError, match=r"needs N x 1 x 32 x 32"):
        model.decode(features, mask_input=torch.zeros(2, 1, 64, 64))


@pytest.mark.parametrize(("points", "expected"), [(0, True), (1, True), (2, False), (5, False)])
def test_candidates_are_for_ambiguous_prompts(model: SAM2, points: int, expected: bool) -> None:
    assert model.use_multimask(points) is expected


@torch.no_grad()
def test_bf16_autocast_stays_close(model: SAM2) -> None:
    coords, labels = prompts(2)
    exact = model(images(2), coords, labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = model(images(2), coords, labels)
    assert rough.low_res_masks.dtype == rough.iou_predictions.dtype == torch.float32
    scale = exact.low_res_masks.abs().max()
    assert (rough.low_res_masks - exact.low_res_masks).abs().max() < 0.05 * scale
    torch.testing.assert_close(rough.iou_predictions, exact.iou_predictions, atol=0.02, rtol=0)


SILENT = (  # after a box, one mask, no mask prompt and no memory
    "memory_attention.",
    "memory_encoder.",
    "mask_downsample.",
    "maskmem_tpos_enc",
    "no_mem_pos_enc",
    "no_obj_",
    "obj_ptr_",
    "sam_prompt_encoder.mask_downscaling.",
    "sam_prompt_encoder.point_embeddings.0.",
    "sam_prompt_encoder.point_embeddings.1.",
    "sam_mask_decoder.output_hypernetworks_mlps.1.",
    "sam_mask_decoder.output_hypernetworks_mlps.2.",
    "sam_mask_decoder.output_hypernetworks_mlps.3.",
)


@pytest.mark.parametrize("autocast", [False, True])
def test_gradients_reach_every_parameter_in_use(autocast: bool) -> None:
    trained = build_model("sam2_nano", 64).train()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        prediction = trained(images(1, 64), BOX / 2, BOX_LABELS)
    loss = prediction.low_res_masks.square().mean() + prediction.iou_predictions.sum()
    (loss + prediction.object_score_logits.sum()).backward()
    # Softmax ignores a constant on all keys: the gradients of key biases vanish up to rounding.
    gradients = {name: p.grad for name, p in trained.named_parameters() if not name.endswith("k_proj.bias")}
    silent = {name for name, grad in gradients.items() if grad is None or not bool(grad.any())}
    assert silent == {name for name in gradients if name.startswith(SILENT)}
    assert all(torch.isfinite(grad).all() for grad in gradients.values() if grad is not None)


def test_drop_path_is_off_in_evaluation_and_keeps_the_mean_in_training() -> None:
    torch.manual_seed(0)
    drop, x = DropPath(0.25), torch.ones(4000, 2, 2)
    assert torch.equal(drop.eval()(x), x)
    y = drop.train()(x)
    assert y.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert y.mean().item() == pytest.approx(1.0, abs=0.03)
    assert (y.flatten(1).std(dim=1) == 0).all()  # whole samples


@torch.no_grad()
def test_graph_has_no_breaks(model: SAM2) -> None:
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    coords, labels = prompts(2)
    for a, b in zip(compiled(images(2), coords, labels), model(images(2), coords, labels), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@torch.no_grad()
def test_compiled_network_computes_the_same(model: SAM2) -> None:
    compiled = torch.compile(model, fullgraph=True)
    coords, labels = prompts(2)
    for a, b in zip(compiled(images(2), coords, labels), model(images(2), coords, labels), strict=True):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3)


@torch.no_grad()
def test_inference_mode_leaves_no_trace() -> None:
    trained = build_model("sam2_nano", 64)
    with torch.inference_mode():
        trained(images(1, 64), BOX / 2, BOX_LABELS)
    with torch.enable_grad():
        trained.train()(images(1, 64), BOX / 2, BOX_LABELS).low_res_masks.sum().backward()
    assert math.isfinite(trained.no_mem_embed.grad.sum().item())  # type: ignore[union-attr]
