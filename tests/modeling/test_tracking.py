"""Tracking at nano size: what frames leave behind, batches of objects, the cases the official code gets wrong."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from medsam2.modeling.history import FrameMemory, FrameOutput, History
from medsam2.modeling.memory_selection import MemoryPlan, Remembered
from medsam2.modeling.sam import ImageFeatures
from medsam2.modeling.sam2 import NO_OBJ_SCORE, SAM2, suppress_overlap
from tests.goldens import build_model

SIZE = 64
BOXES = torch.tensor([[[10.0, 12.0], [40.0, 44.0]], [[20.0, 8.0], [60.0, 30.0]], [[4.0, 30.0], [30.0, 60.0]]])
LABELS = torch.tensor([[2, 3]]).expand(3, -1)


def build(release: str = "sam2_1", *overrides: str) -> SAM2:
    torch.manual_seed(0)
    model = build_model("sam2_nano", SIZE, [f"model/release={release}", *overrides])
    with torch.no_grad():  # tables that start at zero or tiny would hide mistakes
        for parameter in (model.maskmem_tpos_enc, model.no_obj_ptr, model.no_mem_embed):
            parameter.normal_()
        model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.fill_(3.0)
    return model


@pytest.fixture(scope="module")
def model() -> SAM2:
    return build()


@torch.no_grad()
def encode(model: SAM2, frame: int) -> ImageFeatures:
    pixels = torch.randn(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(frame))
    return model.forward_image(pixels)


def track(model: SAM2, objects: slice, frames: int, **prompt: Any) -> list[FrameOutput]:
    """Prompt some of the objects on frame 0 and follow them; stores memories in full precision."""
    history, outputs = History(), list[FrameOutput]()
    prompt = prompt or {"points": (BOXES[objects], LABELS[objects])}
    for frame in range(frames):
        first = frame == 0
        features = encode(model, frame)
        given = prompt if first else {}
        outputs.append(model.track_step(frame, features, history, frames, is_init_cond_frame=first, **given))
        memory = model.remember(features, outputs[-1], prompted=first)
        (history.cond if first else history.non_cond)[frame] = memory
    return outputs


@torch.no_grad()
def test_objects_tracked_as_a_batch_are_tracked_as_alone(model: SAM2) -> None:
    together = track(model, slice(0, 3), frames=4)
    for index in range(3):
        alone = track(model, slice(index, index + 1), frames=4)
        for a, b in zip(together, alone, strict=True):
            for x, y in zip(a, b, strict=True):
                torch.testing.assert_close(x[index : index + 1], y, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("release", ["sam2_0", "sam2_1"])
@torch.no_grad()
def test_a_video_of_one_frame_can_be_corrected(release: str) -> None:
    model = build(release)
    (first,) = track(model, slice(0, 1), frames=1)
    features = encode(model, 0)
    history = History(cond={0: model.remember(features, first, prompted=True)})
    click = (torch.tensor([[[30.0, 30.0]]]), torch.tensor([[1]]))
    second = model.track_step(0, features, history, 1, points=click, mask_input=first.low_res_masks)
    assert all(torch.isfinite(x).all() for x in second)
    assert (second.low_res_masks > NO_OBJ_SCORE).all()


@torch.no_grad()
def test_tracking_without_any_pointer_runs_on_stored_bfloat16(model: SAM2) -> None:
    (first,) = track(model, slice(0, 1), frames=1)
    memory = model.remember(encode(model, 0), first, prompted=True)
    assert memory.features is not None
    stored = FrameMemory(memory.features.bfloat16(), memory.obj_ptr)
    # Towards frame 0 the prompted frame 0 still lies ahead: its memory counts, its pointer does not.
    plan = model.plan_memory(3, History(cond={0: stored}), 5, reverse=True)
    assert (len(plan.memories), len(plan.pointers)) == (1, 0)
    output = model.track_step(3, encode(model, 3), History(cond={0: stored}), 5, reverse=True)
    assert output.low_res_masks.dtype == torch.float32
    assert torch.isfinite(output.low_res_masks).all()


@torch.no_grad()
def test_tokens_of_a_plan(model: SAM2) -> None:
    n, width = SIZE // 16, 32
    frames = {t: FrameMemory(torch.full((2, width, n, n), float(t)), torch.full((2, 128), 10.0 + t)) for t in (0, 4)}
    plan = MemoryPlan((Remembered(0, True, 6), Remembered(4, False, 2)), (Remembered(4, False, 3),), 15)
    tokens = model.gather_memory(plan, History(cond={0: frames[0]}, non_cond={4: frames[4]}))
    assert tokens.num_obj_ptr_tokens == 4  # a pointer of 128 channels is four tokens of 32
    values = [0.0] * n * n + [4.0] * n * n + [14.0] * 4
    assert tokens.memory.shape == (2, 2 * n * n + 4, width)
    assert tokens.memory[1, :, 5].tolist() == values
    place = model.memory_encoder.position_encoding(torch.zeros(1, 1, n, n))[0, :, 1, 2]
    torch.testing.assert_close(tokens.position[0, n * n + n + 2], place + model.maskmem_tpos_enc[2, 0, 0])
    pointer = tokens.position[0, -4:]
    assert torch.equal(pointer, pointer[:1].expand(4, -1))
    assert model.obj_ptr_tpos_proj is not None
    pair = torch.arange(64) // 2
    angle = (3 / 15) / 10000 ** (2 * pair / 64)
    expected = model.obj_ptr_tpos_proj(torch.cat((angle.sin(), angle.cos())))
    torch.testing.assert_close(pointer[0], expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_release_2_0_gives_pointers_no_time() -> None:
    model = build("sam2_0")
    frame = FrameMemory(torch.zeros(1, 32, 4, 4), torch.zeros(1, 128))
    plan = MemoryPlan((Remembered(0, True, 6),), (Remembered(0, True, 5),), 15)
    assert not model.gather_memory(plan, History(cond={0: frame})).position[0, -4:].any()


@torch.no_grad()
def test_without_memories_the_frame_is_marked(model: SAM2) -> None:
    features = encode(model, 0)
    conditioned = model.condition(features, model.plan_memory(0, History(), 5), History())
    torch.testing.assert_close(conditioned.embed, features.embed + model.no_mem_embed.view(1, -1, 1, 1))


# ------------------------------------------------------------------------------------------------ given masks


def disc(radius: float) -> Tensor:
    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    return ((x - 30) ** 2 + (y - 34) ** 2 <= radius**2).float()[None, None]


@torch.no_grad()
def test_a_given_mask_is_the_answer_and_what_is_remembered(model: SAM2) -> None:
    mask = disc(11.3)
    (output,) = track(model, slice(0, 1), frames=1, masks=mask)
    assert torch.equal((output.high_res_masks > 0).float(), mask)
    assert output.high_res_masks.abs().unique().tolist() == [10.0]
    assert output.object_score_logits.item() == 10.0
    features = encode(model, 0)
    memory = model.memory_encoder(features.embed, mask * 20 - 10)
    remembered = model.remember(features, output, prompted=True).features
    torch.testing.assert_close(remembered, memory)


@torch.no_grad()
def test_pointer_of_a_given_mask_follows_the_mask_not_the_score(model: SAM2) -> None:
    doubtful = copy.deepcopy(model)
    doubtful.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.fill_(-50.0)
    masks = torch.cat((disc(9.0), torch.zeros(1, 1, SIZE, SIZE)))
    output = doubtful.use_mask_as_output(encode(model, 0), masks)
    assert output.object_score_logits[:, 0].tolist() == [10.0, -10.0]
    assert torch.equal(output.obj_ptr[1:], doubtful.no_obj_ptr)
    torch.testing.assert_close(output.obj_ptr[:1], model.use_mask_as_output(encode(model, 0), disc(9.0)).obj_ptr)


# ----------------------------------------------------------------------------------------------------- memory


@torch.no_grad()
def test_an_absent_object_has_no_mask_no_pointer_and_a_marked_memory(model: SAM2) -> None:
    absent = copy.deepcopy(model)
    absent.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.fill_(-50.0)
    (output,) = track(absent, slice(0, 2), frames=1)
    assert (output.low_res_masks == NO_OBJ_SCORE).all()
    assert torch.equal(output.obj_ptr, absent.no_obj_ptr.expand(2, -1))
    features, logits = encode(model, 0), torch.zeros(1, 1, SIZE, SIZE)
    seen, unseen = (absent.encode_memory(features, logits, torch.full((1, 1), x), False) for x in (1.0, 0.0))
    assert absent.no_obj_embed_spatial is not None
    torch.testing.assert_close(unseen - seen, absent.no_obj_embed_spatial[..., None, None].expand_as(seen))


@pytest.mark.parametrize(
    ("prompted", "training", "binary"), [(True, False, True), (False, False, False), (True, True, False)]
)
@torch.no_grad()
def test_masks_of_prompted_frames_are_remembered_as_0_or_1(prompted: bool, training: bool, binary: bool) -> None:
    model = build().train(training)
    features = encode(model, 0)
    logits = torch.randn(1, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    masks = (logits > 0).float() if binary else logits.sigmoid()
    expected = model.memory_encoder(features.embed, masks * 20 - 10)
    torch.testing.assert_close(model.encode_memory(features, logits, torch.ones(1, 1), prompted), expected)


def test_a_pixel_belongs_to_one_object() -> None:
    logits = torch.tensor([[3.0, -1.0, 2.0], [1.0, -2.0, 5.0], [2.0, -30.0, 4.0]]).view(3, 1, 1, 3)
    expected = [[3.0, -1.0, -10.0], [-10.0, -10.0, 5.0], [-10.0, -30.0, -10.0]]
    assert suppress_overlap(logits)[:, 0, 0].tolist() == expected
    assert torch.equal(suppress_overlap(logits[:1]), logits[:1])


@torch.no_grad()
def test_non_overlapping_memories_are_a_switch() -> None:
    exclusive = build("sam2_1", "model.network.non_overlap_masks_for_mem_enc=true")
    features = encode(exclusive, 0)
    logits = 10 * torch.randn(2, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    scores = torch.ones(2, 1)
    remembered = exclusive.encode_memory(features, logits, scores, False)
    exclusive.non_overlap_memories = False
    torch.testing.assert_close(remembered, exclusive.encode_memory(features, suppress_overlap(logits), scores, False))
    assert (remembered - exclusive.encode_memory(features, logits, scores, False)).abs().max() > 1e-3


# --------------------------------------------------------------------------------------- gradients, precision


def test_gradients_flow_through_the_memory() -> None:
    model = build().train()
    outputs = track(model, slice(0, 2), frames=3)
    sum(x.sum() for x in (outputs[-1].low_res_masks, outputs[-1].obj_ptr)).backward()  # type: ignore[union-attr]
    for part in (model.memory_attention, model.memory_encoder, model.obj_ptr_proj, model.obj_ptr_tpos_proj):
        assert part is not None
        gradients = {name: p.grad for name, p in part.named_parameters() if not name.endswith("k_proj.bias")}
        assert [name for name, grad in gradients.items() if grad is None or not grad.any()] == []
    assert model.maskmem_tpos_enc.grad is not None
    assert [bool(row.any()) for row in model.maskmem_tpos_enc.grad] == [True] + [False] * 5 + [True]


@torch.no_grad()
def test_tracking_under_bf16_autocast_stays_close(model: SAM2) -> None:
    exact = track(model, slice(0, 2), frames=3)[-1].low_res_masks
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = track(model, slice(0, 2), frames=3)[-1].low_res_masks
    assert (rough - exact).abs().max() < 0.05 * exact.abs().max()


def compiled_parts(backend: str) -> None:
    model = build()
    memory, position = torch.randn(2, 20, 32), torch.randn(1, 20, 32)
    embed, masks = torch.randn(1, 128, 4, 4), torch.rand(2, 1, SIZE, SIZE)
    attention = torch.compile(model.memory_attention, fullgraph=True, backend=backend)
    expected = model.memory_attention(embed, embed, memory, position, 4)
    torch.testing.assert_close(attention(embed, embed, memory, position, 4), expected, atol=1e-4, rtol=1e-3)
    encoder = torch.compile(model.memory_encoder, fullgraph=True, backend=backend)
    torch.testing.assert_close(encoder(embed, masks), model.memory_encoder(embed, masks), atol=1e-4, rtol=1e-3)


@torch.no_grad()
def test_graphs_of_the_video_heads_have_no_breaks(model: SAM2) -> None:
    features, points = model.without_memory(encode(model, 0)), (BOXES[:2], LABELS[:2])
    previous = torch.zeros(2, 1, 16, 16)
    predict = torch.compile(model.predict_masks, fullgraph=True, backend="eager")
    for arguments in ((points, previous, False), (None, None, True)):
        for a, b in zip(predict(features, *arguments), model.predict_masks(features, *arguments), strict=True):
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)
    given = torch.compile(model.use_mask_as_output, fullgraph=True, backend="eager")
    for a, b in zip(given(features, disc(9.0)), model.use_mask_as_output(features, disc(9.0)), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("autocast", [torch.float16, torch.bfloat16])
@torch.no_grad()
def test_memories_of_any_dtype_run_under_autocast_of_any_other(
    model: SAM2, stored: torch.dtype, autocast: torch.dtype
) -> None:
    frame = FrameMemory(torch.ones(1, 32, 4, 4, dtype=stored), torch.ones(1, 128))
    history, features = History(cond={0: frame}), encode(model, 1)
    for pointers in ((), (Remembered(0, True, 1),)):
        plan = MemoryPlan((Remembered(0, True, 6),), pointers, 15)
        with torch.autocast("cpu", dtype=autocast):
            embed = model.condition(features, plan, history).embed
        expected = model.condition(features, plan, history).embed
        assert (embed - expected).norm() < 0.02 * expected.norm()


@torch.no_grad()
def test_graphs_of_the_memory_have_no_breaks() -> None:
    compiled_parts("eager")


@pytest.mark.slow
@torch.no_grad()
def test_compiled_memory_computes_the_same() -> None:
    compiled_parts("inductor")
