"""Metrics of masks against values computed by hand and by independent formulas."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from medsam2.data.prompts import BoxPrompt, ClickPrompt, Prompt
from medsam2.evaluation.metrics import METRICS, Mask, compute_dice, compute_iou, fill_prompt

EMPTY, FULL = np.zeros((3, 4), dtype=bool), np.ones((3, 4), dtype=bool)
LEFT, TOP = EMPTY.copy(), EMPTY.copy()
LEFT[:, :2] = True  # 6 pixels
TOP[0] = True  # 4 pixels, 2 of them in LEFT


@pytest.mark.parametrize(
    ("prediction", "label", "dice", "iou"),
    [
        (LEFT, TOP, 2 * 2 / 10, 2 / 8),
        (TOP, LEFT, 2 * 2 / 10, 2 / 8),
        (LEFT, FULL, 2 * 6 / 18, 6 / 12),
        (LEFT, LEFT, 1.0, 1.0),
        (LEFT, ~LEFT, 0.0, 0.0),
        (EMPTY, EMPTY, 1.0, 1.0),
        (EMPTY, LEFT, 0.0, 0.0),  # missed
        (LEFT, EMPTY, 0.0, 0.0),  # false positive
    ],
)
def test_masks_made_by_hand(prediction: Mask, label: Mask, dice: float, iou: float) -> None:
    assert compute_dice(prediction, label) == pytest.approx(dice)
    assert compute_iou(prediction, label) == pytest.approx(iou)


masks = array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=7).flatmap(
    lambda shape: st.tuples(arrays(bool, shape), arrays(bool, shape))
)


@settings(max_examples=60, deadline=None)
@given(masks)
def test_any_masks_against_the_formula(pair: tuple[Mask, Mask]) -> None:
    a, b = pair
    common, either, total = int((a & b).sum()), int((a | b).sum()), int(a.sum() + b.sum())
    dice, iou = METRICS["dice"](a, b), METRICS["iou"](a, b)
    assert dice == pytest.approx(2 * common / total if total else 1.0)
    assert iou == pytest.approx(common / either if either else 1.0)
    assert type(dice) is float
    assert iou == pytest.approx(dice / (2 - dice))


def test_masks_that_are_views_are_read_in_their_order() -> None:
    assert compute_dice(LEFT.T, TOP.T) == pytest.approx(0.4)
    assert compute_dice(LEFT[:, ::-1], LEFT) == 0.0


def test_large_masks_do_not_lose_count() -> None:
    label = np.ones((4100, 4100), dtype=bool)  # more pixels than float32 counts one by one
    prediction = label.copy()
    prediction[:2050] = False
    assert compute_dice(prediction, label) == pytest.approx(2 / 3, rel=1e-5)


def prompt(points: list[list[float]], labels: list[int]) -> Prompt:
    return Prompt(np.array(points, dtype=np.float32).reshape(-1, 2), np.array(labels, dtype=np.int64), "box")


def test_a_box_is_filled_by_x_and_y_both_corners_included() -> None:
    mask = fill_prompt(prompt([[2, 1], [5, 2]], [2, 3]), (4, 8))
    expected = np.zeros((4, 8), dtype=bool)
    expected[1:3, 2:6] = True
    assert mask is not None
    assert np.array_equal(mask, expected)


@pytest.mark.parametrize(("points", "labels"), [([[1, 1]], [1]), ([[1, 1], [2, 2]], [1, 0]), ([], []), ([[1, 1]], [2])])
def test_without_a_box_there_is_nothing_to_fill(points: list[list[float]], labels: list[int]) -> None:
    assert fill_prompt(prompt(points, labels), (4, 8)) is None


def test_a_mask_prompt_answers_with_itself() -> None:
    drawn = np.array([[True, False], [False, True]])
    given = Prompt(np.zeros((0, 2), np.float32), np.zeros(0, np.int64), "mask", "mask", drawn)
    assert fill_prompt(given, (2, 2)) is drawn


def test_a_box_beside_clicks_is_found() -> None:
    mask = fill_prompt(prompt([[0, 0], [1, 1], [2, 1], [7, 3]], [1, 2, 3, 0]), (4, 8))
    assert mask is not None
    assert np.argwhere(mask).tolist() == [[1, 1], [1, 2]]


@given(arrays(bool, (5, 9)).filter(lambda m: m.any()))
@settings(deadline=None)
def test_the_filled_box_of_a_mask_covers_it_tightly(label: Mask) -> None:
    rng = np.random.default_rng(0)
    filled = fill_prompt(BoxPrompt()(label, rng), label.shape)
    assert filled is not None
    assert not (label & ~filled).any()
    assert filled.any(axis=0).sum() == np.ptp(np.flatnonzero(label.any(axis=0))) + 1
    assert filled.any(axis=1).sum() == np.ptp(np.flatnonzero(label.any(axis=1))) + 1
    assert fill_prompt(ClickPrompt(2)(label, rng), label.shape) is None
