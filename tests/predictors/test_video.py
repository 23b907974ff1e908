"""The video predictor at nano size, with drawn weights that see objects: batching, memory, interaction, errors."""

from collections.abc import Callable, Iterable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from medsam2.modeling.sam2 import SAM2, resize, suppress_overlap
from medsam2.predictors.components import fill_holes
from medsam2.predictors.frames import open_video
from medsam2.predictors.image import SAM2ImagePredictor
from medsam2.predictors.video import FrameMasks, SAM2VideoPredictor
from medsam2.predictors.video_state import VideoState
from tests.goldens import build_model, draw_weight
from tests.predictors.fakes_video import (
    BOX,
    DISC,
    HEIGHT,
    OTHER_DISC,
    SIZE,
    VIDEO,
    WIDTH,
    X,
    Y,
    add_box,
    add_mask,
    add_point,
    close,
    collect,
    count_batches,
)

FRAME = (X > 10) & (X < 70) & (Y > 6) & (Y < 42) & ((X < 32) | (X > 48) | (Y < 18) | (Y > 30))
HOLE = 30  # more than the hole in FRAME has at low resolution
Prompt = Callable[[SAM2VideoPredictor, VideoState, int], FrameMasks]


@pytest.fixture(scope="module")
def model() -> SAM2:
    model = build_model("sam2_nano", SIZE)
    model.load_state_dict({name: draw_weight(name, x.shape) for name, x in model.state_dict().items()})
    return model


@pytest.fixture
def predictor(model: SAM2) -> SAM2VideoPredictor:
    return SAM2VideoPredictor(model, memory_dtype=torch.float32)


def add_two_frames(predictor: SAM2VideoPredictor, state: VideoState, obj_id: int) -> FrameMasks:
    predictor.add_new_points_or_box(state, 4, obj_id, points=[[30, 30], [5, 5]], labels=[1, 0])
    return predictor.add_new_mask(state, 0, obj_id, DISC)


PROMPTS: list[Prompt] = [add_box, add_mask, add_point, add_two_frames, add_box]


# ------------------------------------------------------------------------------------------------------- batching


def test_objects_tracked_together_are_as_each_alone(predictor: SAM2VideoPredictor) -> None:
    state = predictor.init_state(VIDEO)
    for obj_id, prompt in enumerate(PROMPTS[:4]):
        prompt(predictor, state, obj_id)
    first = collect(predictor.propagate_in_video(state, 0, 3))
    PROMPTS[4](predictor, state, 4)  # new objects may come when tracking has started
    together = collect(predictor.propagate_in_video(state, 0, 5))
    back = collect(predictor.propagate_in_video(state, 5, 2, reverse=True))
    for obj_id, prompt in enumerate(PROMPTS):
        alone = predictor.init_state(VIDEO)
        prompt(predictor, alone, obj_id)
        if obj_id < 4:
            for t, _, logits in predictor.propagate_in_video(alone, 0, 3):
                close(logits[0], first[t][obj_id])
        for t, _, logits in predictor.propagate_in_video(alone, 0, 5):
            close(logits[0], together[t][obj_id])
        for t, _, logits in predictor.propagate_in_video(alone, 5, 2, reverse=True):
            close(logits[0], back[t][obj_id])
    assert together[3].std() > 1  # the objects are seen, and differ
    assert (together[3][0] - together[3][2]).abs().max() > 0.01


def test_a_frame_is_encoded_once_and_its_objects_in_one_batch(
    predictor: SAM2VideoPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: dict[str, list[int]] = {"forward_image": [], "predict_masks": [], "encode_memory": []}
    for name, sizes in calls.items():
        monkeypatch.setattr(predictor.model, name, count_batches(getattr(predictor.model, name), sizes))
    state = predictor.init_state(VIDEO)
    for obj_id in range(5):
        add_box(predictor, state, obj_id)
    predictor.add_new_mask(state, 0, 9, DISC)
    assert calls == {"forward_image": [1], "predict_masks": [1] * 5, "encode_memory": []}
    for _ in predictor.propagate_in_video(state, max_frame_num_to_track=4):
        assert len(state.features) <= 2
    assert calls == {"forward_image": [1] * 4, "predict_masks": [1] * 5 + [6] * 3, "encode_memory": [6] * 4}


def test_without_memory_objects_are_still_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_model("sam2_nano", SIZE, ["model.network.memory_selection.num_maskmem=0"])
    model.load_state_dict({name: draw_weight(name, x.shape) for name, x in model.state_dict().items()})
    predictor = SAM2VideoPredictor(model)
    state = predictor.init_state(VIDEO[:3])
    shown = [add_box(predictor, state, 1)[2][0], add_point(predictor, state, 2)[2][1]]
    sizes: list[int] = []
    monkeypatch.setattr(model, "predict_masks", count_batches(model.predict_masks, sizes))
    tracked = collect(predictor.propagate_in_video(state))
    assert sizes == [2, 2]
    close(tracked[0], torch.stack(shown))
    with torch.inference_mode():
        for t in (1, 2):  # every frame stands alone: both objects are what the network sees without a prompt
            features = model.without_memory(predictor.tracker.encode_frame(state, t))
            low = model.predict_masks(features, None, None, True).low_res_masks
            close(tracked[t], F.interpolate(low, (HEIGHT, WIDTH), mode="bilinear").expand(2, -1, -1, -1))
    assert tracked[1].std() > 1


# ----------------------------------------------------------------------------------- where the reference is wrong


def test_a_video_of_one_frame_survives_a_correction(predictor: SAM2VideoPredictor) -> None:
    state = predictor.init_state(VIDEO[:1])
    before = add_box(predictor, state, 1)[2]
    close(collect(predictor.propagate_in_video(state))[0], before)
    after = predictor.add_new_points_or_box(state, 0, 1, points=[[60, 10]], labels=[1])[2]
    assert after.isfinite().all()
    assert after.min() > -1000


def test_tracking_without_any_pointer_in_float32(model: SAM2) -> None:
    answers = []
    for dtype in (torch.bfloat16, torch.float32):
        predictor = SAM2VideoPredictor(model, memory_dtype=dtype)
        state = predictor.init_state(VIDEO)
        add_box(predictor, state, 1)
        answers.append(collect(predictor.propagate_in_video(state, start_frame_idx=3, reverse=True))[3])
    torch.testing.assert_close(*answers, rtol=0, atol=0.2)


@pytest.mark.parametrize(
    ("start", "count", "reverse", "frames"),
    [
        (None, None, False, range(2, 8)),
        (None, 3, False, range(2, 5)),
        (4, 1, False, [4]),
        (6, 99, False, [6, 7]),
        (None, None, True, [2, 1, 0]),
        (7, 2, True, [7, 6]),
        (0, None, True, [0]),
        (7, None, False, [7]),
    ],
)
def test_frames_that_are_tracked(
    predictor: SAM2VideoPredictor, start: int | None, count: int | None, reverse: bool, frames: Iterable[int]
) -> None:
    state = predictor.init_state(VIDEO)
    predictor.add_new_mask(state, 2, 1, DISC)
    assert [out[0] for out in predictor.propagate_in_video(state, start, count, reverse)] == list(frames)


@pytest.mark.parametrize(
    ("start", "count", "frames"),
    [(None, None, [2, *range(3, 8), 1, 0]), (5, 2, [5, 6, 4]), (0, 2, [0, 1]), (7, 3, [7, 6, 5])],
)
def test_both_ways_yield_every_frame_once(
    predictor: SAM2VideoPredictor, start: int | None, count: int | None, frames: list[int]
) -> None:
    state = predictor.init_state(VIDEO)
    predictor.add_new_mask(state, 2, 1, DISC)
    assert [out[0] for out in predictor.propagate_both_ways(state, start, count)] == frames


def compute_memory(predictor: SAM2VideoPredictor, state: VideoState, frame_idx: int, *args: object) -> Tensor:
    with torch.inference_mode():
        return predictor.model.encode_memory(predictor.tracker.encode_frame(state, frame_idx), *args)


def get_memory(state: VideoState, obj_id: int, frame_idx: int) -> Tensor:
    obj = state.objects[obj_id]
    memory = (obj.cond.get(frame_idx) or obj.non_cond[frame_idx]).features
    assert memory is not None
    return memory


def test_a_given_mask_is_remembered_itself(predictor: SAM2VideoPredictor) -> None:
    state = predictor.init_state(VIDEO)
    low = predictor.add_new_mask(state, 0, 1, DISC) and state.objects[1].new_cond[0].low_res_masks
    predictor.propagate_in_video(state)
    given = torch.from_numpy(DISC).float()[None, None]
    given = F.interpolate(given, (SIZE, SIZE), mode="bilinear", antialias=True) >= 0.5
    present = torch.ones(1, 1)
    memory = get_memory(state, 1, 0)
    close(memory, compute_memory(predictor, state, 0, given * 20.0 - 10.0, present, True))
    brought_back = compute_memory(predictor, state, 0, resize(low, SIZE), present, True)
    assert (memory - brought_back).abs().max() > 0.01


def test_memories_do_not_overlap(predictor: SAM2VideoPredictor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predictor.model, "non_overlap_memories", True)
    state = predictor.init_state(VIDEO)
    for obj_id, mask in enumerate((DISC, OTHER_DISC)):
        predictor.add_new_mask(state, 0, obj_id, mask)
    collect(predictor.propagate_in_video(state, max_frame_num_to_track=2))
    add_box(predictor, state, 2)  # sees the two that are committed
    predictor.propagate_in_video(state)

    masks = torch.cat([state.objects[i].masks[0] for i in range(2)]) * 20 - 10
    prompted = suppress_overlap(masks)
    assert (prompted != masks).sum() > 20
    low = state.objects[2].cond[0].low_res_masks
    of_box = suppress_overlap(torch.cat((resize(low, SIZE), masks)))[:1]
    tracked = torch.cat([state.objects[i].non_cond[1].low_res_masks for i in range(2)])
    tracked = suppress_overlap(resize(tracked, SIZE))
    with torch.inference_mode():
        monkeypatch.setattr(predictor.model, "non_overlap_memories", False)
        ones = torch.ones(2, 1)
        for i in range(2):
            close(get_memory(state, i, 0), compute_memory(predictor, state, 0, prompted, ones, True)[i : i + 1])
            close(get_memory(state, i, 1), compute_memory(predictor, state, 1, tracked, ones, False)[i : i + 1])
        close(get_memory(state, 2, 0), compute_memory(predictor, state, 0, of_box, ones[:1], True))
        without = compute_memory(predictor, state, 0, masks, ones, True)
    assert (without[1:] - get_memory(state, 1, 0)).abs().max() > 0.01


def test_a_prompt_clears_the_memory_around_it(model: SAM2, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model.memory_selection, "num_maskmem", 3)  # clears 3 frames on either side
    predictor = SAM2VideoPredictor(model, clear_non_cond_mem_around_input=True)
    state = predictor.init_state(VIDEO)
    add_box(predictor, state, 1)
    add_point(predictor, state, 2)
    collect(predictor.propagate_in_video(state))
    for frame_idx in (5, 6):
        predictor.add_new_points_or_box(state, frame_idx, 1, points=[[40, 20]], labels=[1])
    outputs = predictor.propagate_in_video(state, start_frame_idx=6)
    assert sorted(state.objects[1].non_cond) == [1, 5, 6]
    assert sorted(state.objects[2].non_cond) == list(range(1, 8))
    assert sorted(collect(outputs)) == [6, 7]


def test_image_and_video_predictor_see_the_same_frame(predictor: SAM2VideoPredictor) -> None:
    state = predictor.init_state(VIDEO)
    images = SAM2ImagePredictor(predictor.model)
    images.set_image(VIDEO[4])
    with torch.inference_mode():
        features = predictor.model.without_memory(predictor.tracker.encode_frame(state, 4))
    close(features.embed, images.get_image_embedding())
    logits = predictor.add_new_points_or_box(state, 4, 1, box=BOX)[2]
    expected = images.predict(box=BOX, multimask_output=False, return_logits=True).masks
    close(logits[0], torch.from_numpy(expected))


def test_holes_are_filled_before_masks_are_shown_and_stored(model: SAM2) -> None:
    answers = []
    for area in (0, HOLE):
        predictor = SAM2VideoPredictor(model, fill_hole_area=area)
        state = predictor.init_state(VIDEO)
        predictor.add_new_mask(state, 0, 1, FRAME)
        answers.append(state.objects[1].answer(0))
    raw, filled = (answer.low_res_masks for answer in answers if answer is not None)
    expected = fill_holes(raw, max_hole_area=HOLE, margin=0.1)
    assert (expected != raw).sum() > 1
    torch.testing.assert_close(filled, expected, rtol=0, atol=0)


# ------------------------------------------------------------------------------------------------------ streaming


def stored_tensors(state: VideoState) -> tuple[int, int]:
    """Number of tensors and of bytes that answers hold."""
    answers = [a for obj in state.objects.values() for a in (*obj.cond.values(), *obj.non_cond.values())]
    tensors = [x for answer in answers for x in answer if isinstance(x, Tensor)]
    storages = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in tensors}
    return len(tensors), sum(storages.values())


@pytest.fixture
def short_memory(predictor: SAM2VideoPredictor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memories reach back 2 frames, pointers 4."""
    monkeypatch.setattr(predictor.model.memory_selection, "num_maskmem", 3)
    monkeypatch.setattr(predictor.model.memory_selection, "max_pointers", 5)


def check_streaming(predictor: SAM2VideoPredictor, repeats: int) -> None:
    video = np.concatenate([VIDEO, VIDEO[::-1]] * repeats)
    plain, stream = (predictor.init_state(video, stream=stream) for stream in (False, True))
    for state in (plain, stream):
        add_box(predictor, state, 0)
        add_mask(predictor, state, 1)
    sizes: dict[int, tuple[int, int]] = {}
    plain_sizes: dict[int, tuple[int, int]] = {}
    pairs = zip(predictor.propagate_in_video(plain), predictor.propagate_in_video(stream), strict=True)
    for (t, _, expected), (_, _, logits) in pairs:
        torch.testing.assert_close(logits, expected, rtol=0, atol=0)
        sizes[t], plain_sizes[t] = stored_tensors(stream), stored_tensors(plain)
    last = len(video) - 1
    assert sizes[last] == sizes[last // 2]
    assert plain_sizes[last][1] > 1.7 * plain_sizes[last // 2][1] > 1.7 * sizes[last // 2][1]
    assert len(stream.features) <= 2


@pytest.mark.usefixtures("short_memory")
def test_streaming_changes_nothing_and_does_not_grow(predictor: SAM2VideoPredictor) -> None:
    check_streaming(predictor, repeats=1)


@pytest.mark.slow
def test_streaming_with_the_released_reach(predictor: SAM2VideoPredictor) -> None:
    check_streaming(predictor, repeats=4)


@pytest.mark.usefixtures("short_memory")
def test_streaming_both_ways_changes_nothing(predictor: SAM2VideoPredictor) -> None:
    video = np.concatenate([VIDEO, VIDEO[::-1]])
    plain, stream = (predictor.init_state(video, stream=stream) for stream in (False, True))
    outputs = []
    for state in (plain, stream):
        predictor.add_new_mask(state, 5, 1, DISC)
        outputs.append(collect(predictor.propagate_both_ways(state)))
    assert len(outputs[0]) == 16
    for t, expected in outputs[0].items():
        torch.testing.assert_close(outputs[1][t], expected, rtol=0, atol=0)
    assert stored_tensors(stream)[1] < 0.6 * stored_tensors(plain)[1]


@pytest.mark.usefixtures("short_memory")
def test_after_streaming_tracking_goes_on_with_what_was_kept(predictor: SAM2VideoPredictor) -> None:
    state = predictor.init_state(np.concatenate([VIDEO, VIDEO]), stream=True)
    add_box(predictor, state, 1)
    collect(predictor.propagate_in_video(state))
    _, _, corrected = predictor.add_new_points_or_box(state, 9, 1, points=[[60, 10]], labels=[1])
    back = collect(predictor.propagate_in_video(state, start_frame_idx=13, reverse=True))
    close(back[9], corrected)  # a prompted frame keeps its answer
    assert sorted(back) == list(range(14))
    assert all(x.isfinite().all() for x in back.values())


# ---------------------------------------------------------------------------------------------------- interaction


def test_prompts_are_answered_on_the_spot(predictor: SAM2VideoPredictor) -> None:
    state = predictor.init_state(VIDEO)
    t, ids, box_alone = add_box(predictor, state, 7)
    assert (t, ids, box_alone.shape) == (0, [7], (1, 1, HEIGHT, WIDTH))
    _, ids, logits = add_mask(predictor, state, 3)
    assert ids == [7, 3]
    assert logits[0].max() < -1000  # object 7 has no answer on frame 3 yet
    inside = F.interpolate(torch.from_numpy(DISC)[None, None].float(), (HEIGHT, WIDTH))[0] > 0.5
    assert ((logits[1] > 0) != inside).float().mean() < 0.02
    torch.testing.assert_close(collect(predictor.propagate_in_video(state))[0][:1], box_alone)


def test_prompts_during_tracking_wait_for_the_next_call(predictor: SAM2VideoPredictor) -> None:
    state = predictor.init_state(VIDEO)
    add_box(predictor, state, 1)
    outputs = predictor.propagate_in_video(state, max_frame_num_to_track=4)
    next(outputs)
    _, ids, shown = add_mask(predictor, state, 2)
    corrected = add_mask(predictor, state, 1)[2]
    assert ids == [1, 2]
    rest = collect(outputs)
    assert rest[2][1].max() < -1000
    torch.testing.assert_close(rest[3], corrected)
    torch.testing.assert_close(shown[1], corrected[1])
    assert (sorted(state.objects[1].cond), sorted(state.objects[2].tracked)) == ([0], [])
    collect(predictor.propagate_in_video(state, 3, 1))
    assert [sorted(obj.cond) for obj in state.objects.values()] == [[0, 3], [3]]


def test_coordinates_may_be_relative(predictor: SAM2VideoPredictor) -> None:
    state = predictor.init_state(VIDEO)
    pixels = add_box(predictor, state, 1)[2]
    relative = np.array(BOX) / (WIDTH, HEIGHT, WIDTH, HEIGHT)
    close(predictor.add_new_points_or_box(state, 0, 2, box=relative, normalize_coords=False)[2][1], pixels[0])


def test_clicks_add_up_and_correct_the_latest_answer(predictor: SAM2VideoPredictor) -> None:
    state = predictor.init_state(VIDEO)
    add_box(predictor, state, 1)
    low = state.objects[1].new_cond[0].low_res_masks
    predictor.add_new_points_or_box(state, 0, 1, points=[[60, 10]], labels=[0], clear_old_points=False)
    coords, labels = state.objects[1].points[0]
    scale = torch.tensor([SIZE / WIDTH, SIZE / HEIGHT])
    torch.testing.assert_close(coords[0], torch.tensor([[20.0, 15], [50, 45], [60, 10]]) * scale)
    assert labels.tolist() == [[2, 3, 0]]
    assert low is not None
    with torch.inference_mode():
        features = predictor.model.without_memory(predictor.tracker.encode_frame(state, 0))
        expected = predictor.model.predict_masks(features, (coords, labels), low.clamp(-32, 32), False)
    close(state.objects[1].new_cond[0].low_res_masks, expected.low_res_masks)
    add_point(predictor, state, 1)
    assert state.objects[1].points[0][1].tolist() == [[1]]


def test_mask_and_points_of_a_frame_replace_each_other(predictor: SAM2VideoPredictor) -> None:
    state = predictor.init_state(VIDEO)
    predictor.add_new_mask(state, 0, 1, DISC)
    add_box(predictor, state, 1)
    assert (list(state.objects[1].points), list(state.objects[1].masks)) == ([0], [])
    predictor.add_new_mask(state, 0, 1, torch.from_numpy(DISC).long())
    assert (list(state.objects[1].points), list(state.objects[1].masks)) == ([], [0])


@pytest.mark.parametrize("as_cond", [False, True])
def test_where_corrections_go(model: SAM2, as_cond: bool) -> None:
    predictor = SAM2VideoPredictor(model, add_all_frames_to_correct_as_cond=as_cond)
    state = predictor.init_state(VIDEO)
    add_box(predictor, state, 1)
    obj = state.objects[1]
    assert sorted(obj.new_cond) == [0]
    tracked = collect(predictor.propagate_in_video(state, max_frame_num_to_track=5))
    for frame_idx in (0, 3, 6):  # a conditioning frame, a tracked one, a new one
        predictor.add_new_points_or_box(state, frame_idx, 1, points=[[60, 10]], labels=[1])
    answers = {t: obj.answer(t).low_res_masks for t in (0, 3, 6)}  # type: ignore[union-attr]
    again = collect(predictor.propagate_in_video(state))
    assert sorted(obj.cond) == ([0, 3, 6] if as_cond else [0, 6])
    assert sorted({*obj.cond, *obj.non_cond}) == list(range(8))
    assert not {*obj.cond} & {*obj.non_cond}
    for t, low in answers.items():  # tracking over a corrected frame leaves the correction as it is
        assert low is not None
        close(again[t], F.interpolate(low, (HEIGHT, WIDTH), mode="bilinear"))
    assert (again[3] - tracked[3]).abs().max() > 0.1
    assert (again[4] - tracked[4]).abs().max() > 1e-3


def test_a_correction_remembers_the_frames_before_it(predictor: SAM2VideoPredictor) -> None:
    state = predictor.init_state(VIDEO)
    add_box(predictor, state, 1)
    collect(predictor.propagate_in_video(state, max_frame_num_to_track=5))
    corrected = predictor.add_new_points_or_box(state, 4, 1, points=[[60, 10]], labels=[1])[2]
    fresh = predictor.init_state(VIDEO)
    alone = predictor.add_new_points_or_box(fresh, 4, 1, points=[[60, 10]], labels=[1])[2]
    assert (corrected - alone).abs().max() > 0.1


def test_clearing_a_frame_and_removing_objects(predictor: SAM2VideoPredictor) -> None:
    state = predictor.init_state(VIDEO)
    add_box(predictor, state, 1)
    add_mask(predictor, state, 1)
    shown = add_point(predictor, state, 2)[2]
    _, _, logits = predictor.clear_all_prompts_in_frame(state, 0, 2)  # type: ignore[misc]
    assert logits[1].max() < -1000
    torch.testing.assert_close(logits[0], shown[0])
    with pytest.raises(ValueError, match=r"objects \[2\] have no conditioning frame any more"):
        predictor.propagate_in_video(state)
    assert predictor.remove_object(state, 2, need_output=False) == ([1], [])

    collect(predictor.propagate_in_video(state))
    assert predictor.clear_all_prompts_in_frame(state, 0, 1, need_output=False) is None
    obj = state.objects[1]
    assert (sorted(obj.cond), 0 in obj.non_cond, 0 in obj.tracked) == ([3], True, False)
    outputs = collect(predictor.propagate_in_video(state))  # from frame 3, the only prompt left
    assert sorted(outputs) == list(range(3, 8))
    add_box(predictor, state, 5)
    ids, updated = predictor.remove_object(state, 5)
    assert (ids, [t for t, _ in updated], updated[0][1].shape) == ([1], [0], (1, 1, HEIGHT, WIDTH))
    assert predictor.remove_object(state, 99) == ([1], [])
    assert predictor.remove_object(state, 1) == ([], [])
    with pytest.raises(ValueError, match="nothing to track"):
        predictor.propagate_in_video(state)


def test_reset_starts_over(predictor: SAM2VideoPredictor) -> None:
    state = predictor.init_state(VIDEO)
    first = add_box(predictor, state, 1)[2]
    collect(predictor.propagate_in_video(state))
    predictor.reset_state(state)
    _, ids, again = add_box(predictor, state, 2)
    assert ids == [2]
    torch.testing.assert_close(again, first)


def test_returned_masks_may_be_made_disjoint(model: SAM2) -> None:
    predictor = SAM2VideoPredictor(model, non_overlap_masks=True)
    state = predictor.init_state(VIDEO)
    predictor.add_new_mask(state, 0, 1, DISC)
    predictor.add_new_mask(state, 0, 2, OTHER_DISC)
    for logits in collect(predictor.propagate_in_video(state)).values():
        assert ((logits > 0).sum(dim=0) <= 1).all()
        assert (logits[0] > 0).any()


# --------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"frame_idx": 8, "box": BOX}, r"frame_idx=8 .* 8 frames: pass 0 \.\.\. 7"),
        ({"frame_idx": -1, "box": BOX}, "frame_idx=-1"),
        ({}, "points and box are both None"),
        ({"points": [[1, 1]]}, "points and labels come together: labels is None"),
        ({"points": [[1, 1]], "labels": [2]}, "labels holds 2: a click is 1"),
        ({"points": [[81, 1]], "labels": [1]}, r"points has a point \(81, 1\) outside \[0, 80\] x \[0, 48\]"),
        ({"points": [[[1, 1]], [[2, 2]]], "labels": [[1], [1]]}, "prompts of 2 objects"),
        ({"box": (30, 10, 20, 20)}, "ends before it starts"),
        ({"box": BOX, "clear_old_points": False}, "pass clear_old_points=True"),
        ({"mask": DISC[:10]}, "mask is 10 x 80, frames are 48 x 80"),
        ({"mask": DISC * 255}, "mask holds 255: pass 0 and 1"),
        ({"mask": DISC, "frame_idx": 99}, "frame_idx=99"),
    ],
)
def test_prompts_that_are_refused_change_nothing(
    predictor: SAM2VideoPredictor, arguments: dict[str, object], message: str
) -> None:
    state = predictor.init_state(VIDEO)
    add = predictor.add_new_mask if "mask" in arguments else predictor.add_new_points_or_box
    with pytest.raises(ValueError, match=message):
        add(state, **{"frame_idx": 0, "obj_id": 1, **arguments})  # type: ignore[arg-type]
    assert state.objects == {}


def test_calls_that_are_refused(predictor: SAM2VideoPredictor) -> None:
    state = predictor.init_state(VIDEO)
    with pytest.raises(ValueError, match="nothing to track: call add_new"):
        predictor.propagate_in_video(state)
    add_box(predictor, state, "liver")  # type: ignore[arg-type]
    for call in (predictor.remove_object, predictor.clear_all_prompts_in_frame):
        arguments = (state, 7, True) if call == predictor.remove_object else (state, 0, 7)
        with pytest.raises(ValueError, match="obj_id=7 is unknown, objects are: 'liver'"):
            call(*arguments)  # type: ignore[operator]
    for start, count, message in (
        (8, None, "frame_idx=8"),
        (0, 0, "max_frame_num_to_track=0 must be a number of frames from 1"),
    ):
        with pytest.raises(ValueError, match=message):
            predictor.propagate_in_video(state, start, count)
    with pytest.raises(ValueError, match="fill_hole_area=-1 is negative"):
        SAM2VideoPredictor(predictor.model, fill_hole_area=-1)


def test_frames_that_are_refused(predictor: SAM2VideoPredictor, model: SAM2) -> None:
    bad = VIDEO / 255.0
    bad[2] = np.nan
    state = predictor.init_state(bad)
    with pytest.raises(ValueError, match="frame 2 of the video: image holds"):
        predictor.add_new_points_or_box(state, 2, 1, box=BOX)
    assert state.objects == {}
    other_size = open_video(VIDEO, 96, torch.device("cpu"))
    with pytest.raises(ValueError, match=r"frame 0 is loaded as 3 x 96 x 96, .* image_size=64"):
        add_box(predictor, predictor.init_state(other_size), 1)
    model.train()
    with pytest.raises(RuntimeError, match=r"training mode .* model\.eval"):
        predictor.init_state(VIDEO)
    model.eval()
