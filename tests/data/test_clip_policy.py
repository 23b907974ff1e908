"""Which slices make a clip and which of them are prompted: every draw is possible, and every wrong setting is named."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from medsam2.data.clip_policy import ClipPolicy, group_volumes
from medsam2.data.records import Record


def slices(volume: str, *indices: int, patient: str = "p", split: str = "train") -> list[Record]:
    return [Record(f"{patient}{split}{volume}_{i}", patient, split, index=i, volume=volume) for i in indices]


@pytest.mark.parametrize(
    ("records", "grouped"),
    [
        (slices("a", 4, 1, 3) + slices("b", 7), [[1, 3, 4], [7]]),  # a hole stays in its volume
        (slices("", 3, 1, 2, 6, 7), [[1, 2, 3], [6, 7]]),  # without volumes a hole separates
        (slices("", 1, 2) + slices("", 3, patient="q"), [[1, 2], [3]]),
        (slices("", 1, 2) + slices("", 3, split="val"), [[1, 2], [3]]),
        (slices("", 0, 0, 0), [[0], [0], [0]]),  # single images
        (slices("", 4) + slices("a", 5), [[4], [5]]),
    ],
)
def test_slices_of_a_volume_belong_together(records: list[Record], grouped: list[list[int]]) -> None:
    volumes = group_volumes(records)
    assert [[record.index for record in volume] for volume in volumes] == grouped
    names = [{record.volume for record in volume} for volume in volumes]
    assert all(len(name) == 1 for name in names)
    assert len(set().union(*names) - {""}) == sum(len(slices) > 1 or bool(slices[0].volume) for slices in volumes)


def test_a_volume_without_a_name_is_named_by_its_slices() -> None:
    runs = group_volumes(slices("", 1, 2, 3) + slices("", 7))
    assert [[record.volume for record in run] for run in runs] == [["ptrain_1-ptrain_3"] * 3, [""]]
    assert [record.case_id for record in runs[0]] == ["ptrain_1", "ptrain_2", "ptrain_3"]


@pytest.mark.parametrize(
    ("settings", "length", "expected"),
    [
        ({"frames": 3}, 5, {(0, 1, 2), (1, 2, 3), (2, 3, 4)}),
        ({"frames": 3, "reverse_share": 1.0}, 4, {(2, 1, 0), (3, 2, 1)}),
        ({"frames": 3, "stride": 2}, 6, {(0, 2, 4), (1, 3, 5)}),
        ({"frames": 2, "stride": [1, 3]}, 4, {(0, 1), (1, 2), (2, 3), (0, 2), (1, 3), (0, 3)}),
        ({"frames": 3, "stride": 4}, 6, {(0, 2, 4), (1, 3, 5)}),  # the largest stride that fits
        ({"frames": 8}, 3, {(0, 1, 2)}),
        ({"frames": 1, "stride": 3}, 2, {(0,), (1,)}),
        ({"frames": 4}, 1, {(0,)}),
    ],
)
def test_every_clip_can_be_drawn_and_no_other(settings: Any, length: int, expected: set[tuple[int, ...]]) -> None:
    policy, rng = ClipPolicy(**{"reverse_share": 0.0, **settings}), np.random.default_rng(0)
    assert {tuple(policy.draw_frames(length, rng)) for _ in range(200)} == expected


def test_half_of_the_clips_run_backwards() -> None:
    rng = np.random.default_rng(0)
    backwards = [frames[0] > frames[-1] for frames in (ClipPolicy().draw_frames(20, rng) for _ in range(400))]
    assert 160 < sum(backwards) < 240


AREAS = [0, 4, 9, 0, 9, 5, 1, 0]


@pytest.mark.parametrize(
    ("settings", "chosen"),
    [
        ({}, [2]),
        ({"num_prompts": 3}, [2, 4, 5]),
        ({"prompted": "first", "num_prompts": 2}, [1, 2]),
        ({"prompted": "middle"}, [4]),
        ({"prompted": "every", "step": 2, "num_prompts": None}, [1, 4, 6]),
        ({"prompted": "every", "num_prompts": None}, [1, 2, 4, 5, 6]),
        ({"prompted": "every", "step": 3, "num_prompts": None, "legacy_absent_oracle": True}, [0, 3, 6]),
    ],
)
def test_the_prompted_slices(settings: Any, chosen: list[int]) -> None:
    assert ClipPolicy(**settings).choose_prompted(AREAS) == chosen


def test_objects_are_drawn_from_those_in_the_clip() -> None:
    rng, names = np.random.default_rng(0), ["a", "b", "c", "d"]
    drawn = {tuple(ClipPolicy(max_objects=2).draw_objects(names, rng)) for _ in range(200)}
    assert drawn == {("a", "b"), ("a", "c"), ("a", "d"), ("b", "c"), ("b", "d"), ("c", "d")}
    assert ClipPolicy(max_objects=None).draw_objects(names, rng) == names


def test_an_epoch_has_as_many_slices_as_the_volumes() -> None:
    assert [ClipPolicy(frames=4).count_clips(length) for length in (1, 4, 5, 12)] == [1, 1, 2, 3]
    assert ClipPolicy(frames=4, clips_per_volume=7).count_clips(100) == 7


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"frames": 0}, "method.frames=0 must be 1 or more"),
        ({"clips_per_volume": 0}, "method.clips_per_volume=0"),
        ({"max_objects": 0}, "method.max_objects=0"),
        ({"num_prompts": 0}, "method.num_prompts=0"),
        ({"step": 0}, "method.step=0"),
        ({"stride": 0}, r"method.stride=0 must be 1 or more, or \[least, most\]"),
        ({"stride": [3, 1]}, r"method.stride=\[3, 1\]"),
        ({"stride": [1, 2, 3]}, r"method.stride=\[1, 2, 3\]"),
        ({"reverse_share": 1.5}, "method.reverse_share=1.5 must lie in 0...1"),
        ({"prompted": "last"}, "method.prompted='last' must be one of largest, first, middle, every"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(settings: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        ClipPolicy(**settings)
