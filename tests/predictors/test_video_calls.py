"""Calls of the video predictor at odd moments, with odd arguments, in odd precisions; where its tensors live."""

from itertools import product

import pytest
import torch
from torch import Tensor

from medsam2.modeling.memory_selection import MemoryPlan, Remembered
from medsam2.modeling.sam import SAM
from medsam2.modeling.sam2 import SAM2
from medsam2.predictors.video import SAM2VideoPredictor
from medsam2.predictors.video_state import Answer, TrackedObject, VideoState, stack_history
from medsam2.predictors.video_tracking import VideoTracker
from tests.predictors.fakes_predictors import build_nano
from tests.predictors.fakes_video import DISC, SIZE, VIDEO, add_box, add_mask, collect


@pytest.fixture(scope="module")
def model() -> SAM2:
    return build_nano(SIZE)


@pytest.fixture
def predictor(model: SAM2) -> SAM2VideoPredictor:
    return SAM2VideoPredictor(model, memory_dtype=torch.float32)


# ------------------------------------------------------------------------------------ prompts while tracking


def test_a_click_on_a_frame_that_was_tracked_meanwhile_replaces_the_mask_given_there(
    predictor: SAM2VideoPredictor,
) -> None:
    state = predictor.init_state(VIDEO[:4])
    add_box(predictor, state, 1)
    for frame_idx, _, _ in predictor.propagate_in_video(state):
        if frame_idx == 1:
            given = predictor.add_new_mask(state, 2, 1, DISC)[2]
        if frame_idx == 3:
            clicked = predictor.add_new_points_or_box(state, 2, 1, points=[[60, 10]], labels=[1])[2]
            break
    assert not torch.equal(given, clicked)
    obj = state.objects[1]
    assert (sorted(obj.new_cond), sorted(obj.new_non_cond)) == ([2], [])
    tracked = {t: logits for t, _, logits in predictor.propagate_in_video(state)}
    torch.testing.assert_close(tracked[2], clicked)
    assert (sorted(obj.cond), 2 in obj.non_cond, obj.new_frames) == ([0, 2], False, set())


def test_an_object_that_lost_its_only_prompt_takes_the_next(predictor: SAM2VideoPredictor) -> None:
    state = predictor.init_state(VIDEO[:5])
    add_box(predictor, state, 1)
    list(predictor.propagate_in_video(state))
    predictor.add_new_points_or_box(state, 3, 1, points=[[60, 10]], labels=[1])  # waits, is replaced
    predictor.clear_all_prompts_in_frame(state, 0, 1)
    with pytest.raises(ValueError, match=r"objects \[1\] have no conditioning frame any more: prompt them"):
        predictor.propagate_in_video(state)
    given = predictor.add_new_mask(state, 3, 1, DISC)[2]
    obj = state.objects[1]
    assert (sorted(obj.new_cond), sorted(obj.new_non_cond)) == ([3], [])
    tracked = collect(predictor.propagate_in_video(state))
    assert list(tracked) == [3, 4]
    torch.testing.assert_close(tracked[3], given)
    assert (sorted(obj.cond), 3 in obj.non_cond, obj.new_frames) == ([3], False, set())


@pytest.mark.parametrize("forget", ["remove_object", "reset_state"])
def test_tracking_ends_when_all_objects_are_gone(predictor: SAM2VideoPredictor, forget: str) -> None:
    state = predictor.init_state(VIDEO)
    add_box(predictor, state, 1)
    frames = predictor.propagate_in_video(state)
    assert next(frames)[0] == 0
    if forget == "reset_state":
        predictor.reset_state(state)
    else:
        predictor.remove_object(state, 1)
    assert list(frames) == []


def test_a_network_without_memory_is_refused() -> None:
    with pytest.raises(ValueError, match=r"SAM has no memory to track with: use one of model=sam2_\*"):
        SAM2VideoPredictor(SAM.__new__(SAM))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("start", "count", "message"),
    [
        (99, None, "start_frame_idx=99 is outside"),
        (1.0, None, "start_frame_idx=1.0 is no integer"),
        (0, 0, "max_frame_num_to_track=0 must be a number of frames from 1"),
        (0, 2.5, "max_frame_num_to_track=2.5 must be a number of frames"),
    ],
)
def test_a_refused_call_changes_nothing(model: SAM2, start: int, count: int | None, message: str) -> None:
    predictor = SAM2VideoPredictor(model, clear_non_cond_mem_around_input=True)
    state = predictor.init_state(VIDEO[:3])
    add_box(predictor, state, 1)
    collect(predictor.propagate_in_video(state))
    predictor.add_new_points_or_box(state, 2, 1, points=[[60, 10]], labels=[1])
    obj = state.objects[1]
    before = sorted(obj.non_cond), obj.new_frames
    for call in (predictor.propagate_in_video, predictor.propagate_both_ways):
        with pytest.raises(ValueError, match=message):
            call(state, start, count)
    assert (sorted(obj.non_cond), obj.new_frames) == before


def test_the_network_may_not_go_back_to_training(predictor: SAM2VideoPredictor) -> None:
    state = predictor.init_state(VIDEO)
    add_box(predictor, state, 1)
    frames = predictor.propagate_in_video(state)
    next(frames)
    calls = {
        "init_state": lambda: predictor.init_state(VIDEO),
        "add_new_points_or_box": lambda: add_box(predictor, state, 2),
        "add_new_mask": lambda: add_mask(predictor, state, 2),
        "propagate_in_video": lambda: predictor.propagate_in_video(state),
        "propagate_both_ways": lambda: predictor.propagate_both_ways(state),
        "next": lambda: next(frames),
    }
    predictor.model.train()
    try:
        for call in calls.values():
            with pytest.raises(RuntimeError, match=r"training mode .* call model\.eval\(\) first"):
                call()
    finally:
        predictor.model.eval()
    assert list(state.objects) == [1]


@pytest.mark.parametrize("obj_id", [[1], {"liver"}, torch.tensor(1)])
def test_ids_that_cannot_be_found_again_are_refused(predictor: SAM2VideoPredictor, obj_id: object) -> None:
    state = predictor.init_state(VIDEO)
    for call in (
        lambda: add_box(predictor, state, obj_id),  # type: ignore[arg-type]
        lambda: predictor.add_new_mask(state, 0, obj_id, DISC),  # type: ignore[arg-type]
        lambda: predictor.remove_object(state, obj_id),  # type: ignore[arg-type]
        lambda: predictor.clear_all_prompts_in_frame(state, 0, obj_id),  # type: ignore[arg-type]
    ):
        with pytest.raises(ValueError, match=r"obj_id=.* is a (list|set|Tensor): pass a number or a string"):
            call()
    assert state.objects == {}


def test_official_names_of_arguments(predictor: SAM2VideoPredictor) -> None:
    answers = []
    for add in (predictor.add_new_points, predictor.add_new_points_or_box):
        state = predictor.init_state(video_path=VIDEO)
        answers.append(add(inference_state=state, frame_idx=0, obj_id=1, points=[[30, 30]], labels=[1])[2])
    assert torch.equal(*answers)
    predictor.add_new_mask(inference_state=state, frame_idx=2, obj_id=1, mask=DISC)
    predictor.clear_all_prompts_in_frame(inference_state=state, frame_idx=2, obj_id=1)
    frames = predictor.propagate_in_video(
        inference_state=state, start_frame_idx=0, max_frame_num_to_track=2, reverse=False
    )
    assert list(collect(frames)) == [0, 1]
    assert predictor.remove_object(inference_state=state, obj_id=1, strict=True, need_output=False) == ([], [])
    predictor.reset_state(inference_state=state)


@pytest.mark.parametrize(
    ("frame_idx", "mask", "message"),
    [
        (1.0, DISC, r"frame_idx=1\.0 is no integer"),
        (torch.tensor(1), DISC, r"frame_idx=tensor\(1\) is no integer"),
        (0, [[0, 1], [1]], r"mask=\[\[0, 1\], \[1\]\] is ragged"),
        (0, "liver.png", "mask='liver.png' is no array of numbers"),
    ],
)
def test_frames_and_masks_that_are_none(
    predictor: SAM2VideoPredictor, frame_idx: int, mask: object, message: str
) -> None:
    state = predictor.init_state(VIDEO)
    with pytest.raises(ValueError, match=message):
        predictor.add_new_mask(state, frame_idx, 1, mask)  # type: ignore[arg-type]
    assert state.objects == {}


# ------------------------------------------------------------------------------------------- precision and storage


@pytest.fixture(scope="module")
def exact(model: SAM2) -> dict[bool, Tensor]:
    """Logits in float32 two frames away, with pointers and without."""
    return {with_pointers: track_two(model, torch.float32, with_pointers) for with_pointers in (True, False)}


def track_two(model: SAM2, memory_dtype: torch.dtype, with_pointers: bool) -> Tensor:
    """The second of two frames tracked. Backwards from behind the prompt no pointer qualifies, nor does a mask."""
    predictor = SAM2VideoPredictor(model, memory_dtype=memory_dtype)
    state = predictor.init_state(VIDEO[:4])
    add_box(predictor, state, 1)
    if with_pointers:
        return collect(predictor.propagate_in_video(state, max_frame_num_to_track=2))[1]
    return collect(predictor.propagate_in_video(state, 3, 1, reverse=True))[3]


@pytest.mark.parametrize("with_pointers", [True, False])
@pytest.mark.parametrize(
    ("autocast", "memory_dtype"),
    product((torch.float16, torch.bfloat16), (torch.float32, torch.bfloat16, torch.float16)),
)
def test_any_autocast_takes_any_stored_memory(
    model: SAM2,
    exact: dict[bool, Tensor],
    autocast: torch.dtype,
    memory_dtype: torch.dtype,
    with_pointers: bool,
) -> None:
    with torch.autocast("cpu", dtype=autocast):
        logits = track_two(model, memory_dtype, with_pointers)
    assert logits.dtype == torch.float32
    expected = exact[with_pointers]
    torch.testing.assert_close(logits, expected, rtol=0, atol=0.05 * float(expected.abs().max()))


def test_a_frame_is_stacked_once_though_it_is_memory_and_pointer(monkeypatch: pytest.MonkeyPatch) -> None:
    objects = [TrackedObject(), TrackedObject()]
    for i, obj in enumerate(objects):
        for store, t in ((obj.cond, 0), (obj.non_cond, 2)):
            features = torch.full((1, 3, 2, 2), i + t, dtype=torch.bfloat16)
            store[t] = Answer(None, torch.full((1, 4), i - t), torch.ones(1, 1), True, features)
    recalled = []
    recall = TrackedObject.recall
    monkeypatch.setattr(TrackedObject, "recall", lambda obj, frame: recalled.append(frame[:2]) or recall(obj, frame))
    memories, pointers = (Remembered(0, True, 6),), (Remembered(0, True, 3), Remembered(2, False, 1))
    history = stack_history(objects, MemoryPlan(memories, pointers, 3), torch.device("cpu"))
    assert recalled == [(0, True)] * 2 + [(2, False)] * 2
    assert history.cond[0].features is not None
    assert history.cond[0].features.dtype == torch.float32
    assert history.cond[0].features[:, 0, 0, 0].tolist() == [0, 1]
    assert history.non_cond[2].features is None
    assert history.non_cond[2].obj_ptr[:, 0].tolist() == [-2, -1]


@pytest.mark.parametrize(("video", "state"), [(False, False), (False, True), (True, False)])
def test_offloading_chooses_the_device(
    predictor: SAM2VideoPredictor, monkeypatch: pytest.MonkeyPatch, video: bool, state: bool
) -> None:
    monkeypatch.setattr(VideoTracker, "device", torch.device("meta"))
    opened = predictor.init_state(VIDEO, offload_video_to_cpu=video, offload_state_to_cpu=state)
    assert opened.frames.device.type == ("cpu" if video else "meta")  # type: ignore[attr-defined]
    assert opened.storage_device.type == ("cpu" if state else "meta")


def run_offloaded(predictor: SAM2VideoPredictor, state: VideoState) -> dict[int, Tensor]:
    add_box(predictor, state, 1)
    add_mask(predictor, state, 1)
    return collect(predictor.propagate_in_video(state, 0, 5))


def test_masks_and_memories_live_in_storage_and_storing_changes_nothing(
    predictor: SAM2VideoPredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = run_offloaded(predictor, predictor.init_state(VIDEO))
    storage, stored = torch.device("meta"), []  # stands for another device: what is moved there is copied and noted
    move = Tensor.to

    def to(x: Tensor, target: object, *args: object, **options: object) -> Tensor:
        if target != storage:
            return move(x, target, *args, **options)  # type: ignore[call-overload]
        stored.append(move(x, *args).clone() if args else x.clone())  # type: ignore[call-overload]
        return stored[-1]

    monkeypatch.setattr(Tensor, "to", to)
    state = predictor.init_state(VIDEO)
    state.storage_device = storage
    outputs = run_offloaded(predictor, state)
    places = {x.untyped_storage().data_ptr() for x in stored}
    obj = state.objects[1]
    answers = [*obj.cond.values(), *obj.non_cond.values()]
    kept = [x for answer in answers for x in (answer.low_res_masks, answer.features)] + list(obj.masks.values())
    assert len(kept) == 5 * 2 + 1
    assert all(x is not None and x.untyped_storage().data_ptr() in places for x in kept)
    assert obj.masks[3].dtype == torch.bool
    for t, logits in expected.items():
        torch.testing.assert_close(outputs[t], logits, rtol=0, atol=0)
