"""Tracking: what the video predictor answers, whatever runs together, with gradients through the memories."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from medsam2.data.clip_batch import Clip, ClipPrompt
from medsam2.methods.slice_features import SliceFeatures
from medsam2.methods.tracking import ObjectTracker, Step
from medsam2.modeling.sam2 import NO_OBJ_SCORE, SAM2
from medsam2.predictors.video import SAM2VideoPredictor
from tests.methods.helpers_volume import SIZE, box, build, clicks, make_clip, make_images, mask

Prompts = Mapping[int, ClipPrompt]


@pytest.fixture(scope="module")
def model() -> SAM2:
    return build()


def follow(model: SAM2, clips: Sequence[Clip], direction: str = "both", **settings: Any) -> list[Step]:
    settings = {"candidates": True, "chunk": 2, "keep": False} | settings
    return list(ObjectTracker(model, clips, direction, **settings).run())


def answers(steps: Sequence[Step], clip: Clip, row: int = 0) -> dict[int, Tensor]:
    """The gated masks of one object by slice, 1×16×16."""
    found = {}
    for step in steps:
        for i, (track, t) in enumerate(step.places):
            if (track.clip, track.row) == (clip, row):
                assert t not in found, "each slice is answered once"
                found[t] = step.output.low_res_masks[i]
    return found


def predict(model: SAM2, images: Tensor, prompts: Prompts, direction: str) -> dict[int, Tensor]:
    """The video predictor's logits by slice, 1×64×64."""
    predictor = SAM2VideoPredictor(model, memory_dtype=torch.float32)
    state = predictor.init_state(images.permute(0, 2, 3, 1).numpy())
    for t, (coords, labels, given) in sorted(prompts.items()):
        if given is not None:
            predictor.add_new_mask(state, t, 0, given[0].numpy())
        elif 2 in labels:
            predictor.add_new_points_or_box(state, t, 0, box=coords.flatten().numpy())
        else:
            predictor.add_new_points_or_box(state, t, 0, points=coords.numpy(), labels=labels.numpy())
    tracked = {
        "forward": lambda: predictor.propagate_in_video(state),
        "backward": lambda: predictor.propagate_in_video(state, max(prompts), reverse=True),
        "both": lambda: predictor.propagate_both_ways(state),
    }[direction]()
    return {t: logits[0] for t, _, logits in tracked}


@torch.no_grad()
@pytest.mark.parametrize(
    ("prompts", "direction"),
    [
        ({2: box(2)}, "both"),
        ({2: box(2)}, "forward"),
        ({3: box(3)}, "backward"),
        ({0: clicks(0, 1)}, "both"),
        ({5: clicks(5, 1, 0, 1)}, "both"),
        ({2: mask(2)}, "both"),
        ({1: box(1), 4: mask(4)}, "both"),
        ({1: box(1), 4: clicks(4, 1)}, "backward"),
        ({1: box(1), 3: box(3), 5: box(5)}, "forward"),
        ({2: mask(2, empty=True)}, "both"),
    ],
)
def test_a_volume_is_tracked_as_the_video_predictor_tracks_it(model: SAM2, prompts: Prompts, direction: str) -> None:
    clip = make_clip([prompts])
    expected = predict(model, clip.images, prompts, direction)
    found = answers(follow(model, [clip], direction), clip)
    assert set(found) == set(prompts) | set(expected)
    for t, logits in expected.items():
        shown = interpolate(found[t][None], (SIZE, SIZE), mode="bilinear", align_corners=False)[0]
        torch.testing.assert_close(shown, logits, atol=1e-4, rtol=1e-4)
    assert len(expected) == (
        6 if direction == "both" else 6 - min(prompts) if direction == "forward" else max(prompts) + 1
    )


@torch.no_grad()
def test_memories_out_of_reach_are_dropped_and_nothing_changes() -> None:
    model = build(3.0, "model.network.memory_selection.num_maskmem=3")
    prompts, length = {6: box(0)}, 14
    clip = make_clip([prompts], length)
    expected = predict(model, clip.images, prompts, "both")
    tracker = ObjectTracker(model, [clip], "both", candidates=True, chunk=3, keep=False)
    kept, steps = list[int](), list[Step]()
    for step in tracker.run():
        steps.append(step)
        kept.append(sum(memory.features is not None for memory in tracker.tracks[0].history.non_cond.values()))
    assert max(kept) <= 3 * model.memory_selection.memory_reach + 2  # around the prompt, at the end, and on the way
    for t, logits in answers(steps, clip).items():
        shown = interpolate(logits[None], (SIZE, SIZE), mode="bilinear", align_corners=False)[0]
        torch.testing.assert_close(shown, expected[t], atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("keep", [False, True])
def test_several_objects_and_clips_at_once_are_answered_as_one_at_a_time(model: SAM2, keep: bool) -> None:
    first = [{2: box(2)}, {2: box(2, 1)}, {4: clicks(4, 1, 0)}, {0: mask(0), 5: box(5)}]
    clips = [make_clip(first), make_clip([{1: box(1)}, {3: box(3, 1)}], length=4, seed=1)]
    steps = follow(model, clips, keep=keep)
    for clip in clips:
        for row, prompts in enumerate(clip.prompts):
            alone = make_clip([prompts], len(clip.images))
            alone.images = clip.images
            expected = answers(follow(model, [alone]), alone)
            found = answers(steps, clip, row)
            assert found.keys() == expected.keys()
            for t, logits in expected.items():
                torch.testing.assert_close(found[t], logits, atol=1e-4, rtol=1e-4)
    assert len(steps) < (26 if keep else 40)  # of 32 answers


@torch.no_grad()
def test_objects_prompted_alike_run_as_one_batch_wherever_they_are(model: SAM2) -> None:
    clips = [make_clip([{0: box(0)}, {0: box(0, 1)}], seed=seed) for seed in range(2)]
    steps = follow(model, clips, "forward", keep=True)
    assert [len(step.places) for step in steps] == [4] * 6


@torch.no_grad()
def test_candidates_are_asked_for_where_sam_2_does(model: SAM2) -> None:
    clip = make_clip([{2: box(2)}, {2: clicks(2, 1)}])
    with_candidates = {(s.prompted, len(s.places)): s.output.ungated_masks.shape[1] for s in follow(model, [clip])}
    assert with_candidates == {(True, 1): 3, (False, 2): 3}  # the click; the box before it has one mask
    single = follow(model, [clip], candidates=False)
    assert {step.output.ungated_masks.shape[1] for step in single} == {1}


@torch.no_grad()
def test_the_encoder_sees_a_chunk_at_a_time_and_each_slice_once(model: SAM2, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    original = model.forward_image

    def counted(pixels: Tensor) -> Any:
        sizes.append(len(pixels))
        return original(pixels)

    monkeypatch.setattr(model, "forward_image", counted)
    clip = make_clip([{3: box(3)}, {3: box(3, 1)}], length=8)
    follow(model, [clip], chunk=3)
    assert sizes == [1, 3, 1, 3]  # the prompted slice; 4…7; 2…0
    sizes.clear()
    follow(model, [clip], keep=True)
    assert sizes == [8]


@torch.no_grad()
def test_features_of_grey_and_colour_slices_are_those_of_the_image(model: SAM2) -> None:
    colour, grey = make_images(2), make_images(3)[:, :1].to(torch.int32).mul(257).to(torch.uint16)
    features = SliceFeatures(model, [colour, grey], chunk=2, keep=True)
    pixels = [colour[1] / 255, (grey[2].float() / 65535).expand(3, -1, -1)]
    expected = model.forward_image(model.normalize(torch.stack(pixels)))
    found = features.take([1, 4])
    torch.testing.assert_close(found.embed, expected.embed)
    torch.testing.assert_close(found.high_res[0], expected.high_res[0])
    assert features.take([3, 3]).embed.shape[0] == 1


@torch.no_grad()
def test_objects_share_out_pixels_of_their_memories_where_the_network_says_so() -> None:
    model = build(3.0, "model.network.non_overlap_masks_for_mem_enc=true")
    clips = [make_clip([{0: box(0)}, {0: box(0, 1)}], length=3)]
    together = follow(model, clips, "forward", keep=True)
    predictor = SAM2VideoPredictor(model, memory_dtype=torch.float32)
    state = predictor.init_state(clips[0].images.permute(0, 2, 3, 1).numpy())
    for kind in (0, 1):
        predictor.add_new_points_or_box(state, 0, kind, box=box(0, kind).coords.flatten().numpy())
    for t, _, logits in predictor.propagate_in_video(state):
        for row in (0, 1):
            low = answers(together, clips[0], row)[t]
            shown = interpolate(low[None], (SIZE, SIZE), mode="bilinear", align_corners=False)[0]
            torch.testing.assert_close(shown, logits[row], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_an_absent_object_is_cut_but_its_ungated_mask_is_not() -> None:
    model = build(-3.0)
    for step in follow(model, [make_clip([{2: box(2)}])]):
        assert (step.output.low_res_multimasks == NO_OBJ_SCORE).all()
        assert (step.output.low_res_masks == NO_OBJ_SCORE).all()
        assert step.output.ungated_masks.abs().max() < 100
        assert step.output.ungated_masks.std() > 0


@pytest.mark.parametrize(
    "part", ["memory_encoder", "memory_attention", "obj_ptr_proj", "maskmem_tpos_enc", "image_encoder"]
)
def test_gradients_of_a_later_slice_reach_every_part_of_the_memory(model: SAM2, part: str) -> None:
    steps = follow(model.train(), [make_clip([{0: box(0)}], length=3)], "forward", keep=True)
    steps[-1].output.ungated_masks.sum().backward()
    reached = [p.grad for name, p in model.named_parameters() if name.startswith(part) and p.grad is not None]
    model.zero_grad()
    model.eval()
    assert reached
    assert all(grad.isfinite().all() for grad in reached)
    assert np.mean([bool(grad.abs().sum() > 0) for grad in reached]) > 0.9


def test_gradients_go_all_the_way_back(model: SAM2) -> None:
    clip = make_clip([{0: mask(0)}], length=4)
    given = clip.prompts[0][0]
    model.train()
    tracker = ObjectTracker(model, [clip], "forward", candidates=True, chunk=8, keep=True)
    images = [features.embed for features in tracker.features.known.values()]
    for embed in images:
        embed.retain_grad()
    steps = list(tracker.run())
    steps[-1].output.ungated_masks.sum().backward()
    assert all(embed.grad is not None and embed.grad.abs().sum() > 0 for embed in images)
    assert steps[0].given
    assert given.mask is not None
    model.zero_grad()
    model.eval()
