"""Which frames are remembered, written out by hand."""

from collections.abc import Sequence
from typing import Any

import pytest

from medsam2.modeling.memory_selection import MemorySelection, select_closest_cond_frames


def build(**changes: Any) -> MemorySelection:
    released = {
        "num_maskmem": 7, "max_cond_frames_in_attn": -1, "max_obj_ptrs_in_encoder": 16,
        "memory_temporal_stride_for_eval": 1, "only_obj_ptrs_in_the_past_for_eval": True,
        "use_signed_tpos_enc_to_obj_ptrs": True,
    }  # fmt: skip
    return MemorySelection(**{**released, **changes})


@pytest.mark.parametrize(
    ("frame", "frames", "limit", "selected", "unselected"),
    [
        (5, [9, 0, 3], -1, [9, 0, 3], []),  # all, in their own order
        (5, [9, 0, 3], 3, [9, 0, 3], []),
        (5, [9, 0, 3], 2, [3, 9], [0]),  # the closest on either side
        (5, [0, 5, 9], 2, [0, 5], [9]),  # the frame itself counts as "after"
        (5, [0, 2, 3, 20, 30], 4, [3, 20, 2, 0], [30]),
        (5, [0, 1, 2], 2, [2, 1], [0]),  # none after: the closest of the rest
        (5, [6, 7, 8], 2, [6, 7], [8]),
    ],
)
def test_closest_conditioning_frames(
    frame: int, frames: list[int], limit: int, selected: list[int], unselected: list[int]
) -> None:
    chosen, others = select_closest_cond_frames(frame, {t: f"output {t}" for t in frames}, limit)
    assert list(chosen.items()) == [(t, f"output {t}") for t in selected]
    assert list(others) == unselected


@pytest.mark.parametrize("limit", [0, 1, -2])
def test_limits_without_a_meaning_are_refused(limit: int) -> None:
    with pytest.raises(ValueError, match=f"max_cond_frames_in_attn={limit}: use -1 .* at least 2"):
        build(max_cond_frames_in_attn=limit)


def test_stride_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="memory_temporal_stride_for_eval=0 must be at least 1"):
        build(memory_temporal_stride_for_eval=0)


def short(frames: Sequence[Any]) -> list[tuple[int, str, int]]:
    return [(t, "cond" if is_cond else "tracked", offset) for t, is_cond, offset in frames]


def test_forward_plan() -> None:
    plan = build(num_maskmem=4).plan(5, cond=[0], non_cond=[1, 2, 3, 4], num_frames=10)
    assert short(plan.memories) == [(0, "cond", 3), (2, "tracked", 2), (3, "tracked", 1), (4, "tracked", 0)]
    assert short(plan.pointers) == [(0, "cond", 5), *((5 - d, "tracked", d) for d in (1, 2, 3, 4))]
    assert plan.pointer_span == 9


def test_reverse_plan_runs_towards_the_first_frame() -> None:
    plan = build(num_maskmem=3).plan(2, cond=[5, 1], non_cond=[3, 4], num_frames=8, reverse=True)
    assert short(plan.memories) == [(5, "cond", 2), (1, "cond", 2), (4, "tracked", 1), (3, "tracked", 0)]
    assert short(plan.pointers) == [(5, "cond", 3), (3, "tracked", 1), (4, "tracked", 2)]  # 1 lies in the future


@pytest.mark.parametrize(
    ("signed", "training", "pointers"),
    [
        (True, False, [(0, "cond", 4)]),
        (True, True, [(0, "cond", 4), (6, "cond", -2)]),
        (False, True, [(0, "cond", 4), (6, "cond", 2)]),
    ],
)
def test_pointers_from_the_future(signed: bool, training: bool, pointers: list[Any]) -> None:
    selection = build(use_signed_tpos_enc_to_obj_ptrs=signed)
    assert short(selection.plan(4, [0, 6], [], 8, training=training).pointers) == pointers


def test_unselected_conditioning_frames_return_as_ordinary_memories() -> None:
    plan = build(num_maskmem=4, max_cond_frames_in_attn=2).plan(5, cond=[0, 3, 4, 9], non_cond=[2], num_frames=10)
    assert short(plan.memories) == [(4, "cond", 3), (9, "cond", 3), (2, "tracked", 2), (3, "cond", 1)]
    assert short(plan.pointers) == [(4, "cond", 1), (3, "cond", 2), (2, "tracked", 3), (0, "cond", 5)]


@pytest.mark.parametrize(
    ("frame", "reverse", "training", "expected"),
    [
        (10, False, False, [0, 3, 6, 9]),  # frame 9, then multiples of three
        (11, False, False, [3, 6, 9, 10]),
        (10, False, True, [6, 7, 8, 9]),  # training knows no stride
        (10, True, False, [18, 15, 12, 11]),
    ],
)
def test_stride(frame: int, reverse: bool, training: bool, expected: list[int]) -> None:
    selection = build(num_maskmem=5, memory_temporal_stride_for_eval=3)
    tracked = [t for t in range(21) if t != frame]
    plan = selection.plan(frame, [], tracked, 21, reverse, training)
    assert [t for t, _, _ in plan.memories] == expected
    assert all(abs(t - frame) <= selection.memory_reach for t, _, _ in plan.memories)


@pytest.mark.parametrize("num_frames", [1, 2, 8, 100])
def test_span_is_never_zero(num_frames: int) -> None:
    plan = build().plan(0, [0], [], num_frames)
    assert plan.pointer_span == max(min(num_frames, 16) - 1, 1)


def test_memory_and_pointers_can_be_switched_off() -> None:
    plan = build(num_maskmem=0, max_obj_ptrs_in_encoder=0).plan(3, [0], [1, 2], 5)
    assert (plan.memories, plan.pointers) == ((), ())


@pytest.mark.parametrize("stride", [1, 2, 3, 5])
def test_nothing_beyond_the_reach_is_remembered(stride: int) -> None:
    selection = build(memory_temporal_stride_for_eval=stride)
    furthest = 0
    for frame in range(60, 80):
        plan = selection.plan(frame, [], range(frame), 100)
        furthest = max(furthest, max(frame - t for t, _, _ in plan.memories))
        assert max(frame - t for t, _, _ in plan.pointers) == selection.pointer_reach
    assert furthest == selection.memory_reach
