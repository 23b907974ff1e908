"""Correction clicks: where the answer is wrong, (x, y), uniformly in training and innermost in evaluation."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from medsam2.data.batch import ObjectInfo
from medsam2.data.prompts import Prompt
from medsam2.methods.corrections import add_to_budget, draw_clicks, draw_numbers, place_clicks

SIZE = 12


def mask(*pixels: tuple[slice | int, slice | int], size: int = SIZE) -> Tensor:
    """1×1×S×S, one at rows and columns."""
    drawn = torch.zeros(1, 1, size, size)
    for rows, columns in pixels:
        drawn[0, 0, rows, columns] = 1
    return drawn


def logits(answer: Tensor) -> Tensor:
    return answer * 6 - 3


def info(case_id: str = "a", structure: str = "disc", budget: str = "box", name: str = "box") -> ObjectInfo:
    prompt = Prompt(np.zeros((0, 2), np.float32), np.zeros(0, np.int64), budget, name)
    return ObjectInfo(case_id, case_id, structure, prompt, None, None, None)


def draw(answer: Tensor, target: Tensor, numbers: Any, share: float = 0.0) -> list[tuple[tuple[int, int], int]]:
    """((x, y), label) for each pair of numbers."""
    count = len(numbers)
    clicks = draw_clicks(
        logits(answer).expand(count, -1, -1, -1), target.expand(count, -1, -1, -1), torch.tensor(numbers), share
    )
    return [((int(x), int(y)), label) for (x, y), label in zip(*(part.tolist() for part in clicks), strict=True)]


def test_wrong_pixels_are_drawn_equally_often_and_the_label_says_how_they_are_wrong() -> None:
    target = mask((2, slice(3, 7)))
    answer = mask((2, slice(5, 7)), (9, 1))  # misses (3, 2) and (4, 2), exceeds at (1, 9)
    numbers = [[0.5, (i + 0.5) / 30] for i in range(30)]
    assert Counter(draw(answer, target, numbers)) == {((3, 2), 1): 10, ((4, 2), 1): 10, ((1, 9), 0): 10}


@pytest.mark.parametrize(
    ("answer", "target", "expected"),
    [
        (mask((4, 5)), mask((4, 5)), {((5, 4), 1)}),  # right: the target is confirmed
        (mask((4, 5)), mask(), {((5, 4), 0)}),  # nothing is there: only errors are clicked, whatever the share
        (mask(), mask((4, 5)), {((5, 4), 1)}),
    ],
)
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_click_always_has_somewhere_to_go(answer: Tensor, target: Tensor, expected: set[Any], share: float) -> None:
    assert set(draw(answer, target, [[i / 7, i / 7] for i in range(7)], share)) == expected


def test_where_nothing_is_and_nothing_was_found_the_click_is_negative() -> None:
    clicks = draw(mask(), mask(), [[0.5, i / 200] for i in range(200)])
    assert {label for _, label in clicks} == {0}
    assert len({place for place, _ in clicks}) > 100  # of 144, anywhere


def test_the_share_is_drawn_from_the_target_although_it_is_right_there() -> None:
    target = mask((slice(2, 6), slice(2, 6)))
    answer = mask((slice(2, 6), slice(2, 6)), (10, 10))
    clicks = draw(answer, target, [[i / 10, 0.3] for i in range(10)], share=0.1)
    assert [label for _, label in clicks] == [1] + [0] * 9
    assert clicks[1][0] == (10, 10)
    assert 2 <= clicks[0][0][0] < 6


def test_soft_targets_are_inside_above_one_half() -> None:
    target = mask((3, 4)) * 0.6 + mask((3, 5)) * 0.5
    assert set(draw(mask(), target, [[0.5, i / 5] for i in range(5)])) == {((4, 3), 1)}


@pytest.mark.parametrize("number", [0.0, float(np.nextafter(np.float32(1), np.float32(0)))])
def test_the_outermost_numbers_stay_inside_a_large_region(number: float) -> None:
    size = 2048
    (x, y), label = draw(torch.zeros(1, 1, size, size), torch.ones(1, 1, size, size), [[0.5, number]])[0]
    assert (x, y) == ((0, 0) if number == 0 else (size - 1, size - 1))
    assert label == 1


def test_each_object_has_its_own_click() -> None:
    targets = torch.cat([mask((2, 3)), mask((7, 1)), mask()])
    answers = torch.cat([mask(), mask(), mask((0, 11))])
    coords, labels = draw_clicks(logits(answers), targets, torch.full((3, 2), 0.5), 0.0)
    assert coords.tolist() == [[3, 2], [1, 7], [11, 0]]
    assert labels.tolist() == [1, 1, 0]
    assert (coords.dtype, labels.dtype) == (torch.float32, torch.int64)


def test_numbers_depend_on_seed_case_structure_epoch_and_click_alone() -> None:
    key = ([info("a", "disc")], 0, 1, 2)
    first = draw_numbers(*key)
    assert torch.equal(first, draw_numbers(*key))
    others = (
        ([info("b", "disc")], 0, 1, 2),
        ([info("a", "cup")], 0, 1, 2),
        ([info("a", "disc")], 1, 1, 2),
        ([info("a", "disc")], 0, 2, 2),
        ([info("a", "disc")], 0, 1, 3),
    )
    drawn = [first, *(draw_numbers(*other) for other in others)]
    assert len({tuple(numbers[0].tolist()) for numbers in drawn}) == 6
    together = draw_numbers([info("b", "disc"), info("a", "disc")], 0, 1, 2)
    assert torch.equal(together[1:], first)
    assert together.shape == (2, 2)
    assert 0 <= float(together.min()) < float(together.max()) < 1


@pytest.mark.parametrize(
    ("answer", "target", "expected"),
    [
        (mask(), mask((slice(2, 7), slice(4, 9))), ((6, 4), 1)),  # the middle of 5×5
        (mask((slice(2, 7), slice(4, 9))), mask(), ((6, 4), 0)),
        # a larger excess beside a smaller miss: each has its own border, so the middle of the excess
        (mask((slice(0, 5), slice(0, 5))), mask((slice(0, 3), slice(5, 8))), ((2, 2), 0)),
        (mask((slice(1, 4), slice(1, 4))), mask((slice(1, 4), slice(1, 4))), ((2, 2), 1)),  # right: confirmed
        (mask(size=11), mask(size=11), ((5, 5), 0)),  # nothing and nothing: the middle of the image
    ],
)
def test_in_evaluation_the_innermost_wrong_pixel_is_clicked(
    answer: Tensor, target: Tensor, expected: tuple[tuple[int, int], int]
) -> None:
    coords, labels = place_clicks(logits(answer), target)
    assert (tuple(coords[0].tolist()), int(labels[0])) == expected
    again = place_clicks(logits(answer).expand(2, -1, -1, -1), target.expand(2, -1, -1, -1))
    assert again[0].tolist() == [list(expected[0])] * 2


@pytest.mark.parametrize(
    ("before", "clicks", "after"),
    [
        (("box", "box"), 2, ("box", "box + 2 clicks")),
        (("click", "1 click"), 1, ("click", "1 click + 1 click")),
        (("none", "none"), 1, ("none + clicks", "1 click")),
        (("learned", "none"), 3, ("learned + clicks", "3 clicks")),
    ],
)
def test_the_budget_counts_the_clicks(before: tuple[str, str], clicks: int, after: tuple[str, str]) -> None:
    name, budget = before
    original = info(name=name, budget=budget)
    changed = add_to_budget(original, clicks)
    assert (changed.prompt.name, changed.prompt.budget) == after
    assert (original.prompt.name, original.prompt.budget) == before
