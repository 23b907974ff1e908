"""Metrics of masks against values computed by hand, by a brute force written here, and by MONAI."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from monai import metrics as monai_metrics
from scipy.ndimage import gaussian_filter

from medsam2.data.prompts import BoxPrompt, ClickPrompt, Prompt
from medsam2.evaluation.metrics import LOWER_IS_BETTER, METRICS, Mask, Pair, compute_nsd, compute_overlap, fill_prompt

EMPTY, FULL = np.zeros((3, 4), dtype=bool), np.ones((3, 4), dtype=bool)
LEFT, TOP = EMPTY.copy(), EMPTY.copy()
LEFT[:, :2] = True  # 6 pixels
TOP[0] = True  # 4 pixels, 2 of them in LEFT


# ------------------------------------------------------------------------------------------------- overlap


@pytest.mark.parametrize(
    ("prediction", "label", "dice", "iou"),
    [
        (LEFT, TOP, 2 * 2 / 10, 2 / 8),
        (TOP, LEFT, 2 * 2 / 10, 2 / 8),
        (LEFT, FULL, 2 * 6 / 18, 6 / 12),
        (LEFT, LEFT, 1.0, 1.0),
        (LEFT, ~LEFT, 0.0, 0.0),
        (LEFT.T, TOP.T, 2 * 2 / 10, 2 / 8),  # views are read in their order
        (LEFT[:, ::-1], LEFT, 0.0, 0.0),
    ],
)
def test_masks_made_by_hand(prediction: Mask, label: Mask, dice: float, iou: float) -> None:
    pair = Pair(prediction, label)
    assert METRICS["dice"](pair) == pytest.approx(dice)
    assert METRICS["iou"](pair) == pytest.approx(iou)


masks = array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=6).flatmap(
    lambda shape: st.tuples(arrays(bool, shape), arrays(bool, shape))
)


@settings(max_examples=60, deadline=None)
@given(masks)
def test_any_masks_against_the_formula(pair: tuple[Mask, Mask]) -> None:
    a, b = pair
    common, either, total = int((a & b).sum()), int((a | b).sum()), int(a.sum() + b.sum())
    dice, iou = METRICS["dice"](Pair(a, b)), METRICS["iou"](Pair(a, b))
    assert dice == pytest.approx(2 * common / total if total else 1.0)
    assert iou == pytest.approx(common / either if either else 1.0)
    assert type(dice) is type(iou) is float


def test_large_masks_do_not_lose_count() -> None:
    label = np.ones((4100, 4100), dtype=bool)  # more pixels than float32 counts one by one
    prediction = label.copy()
    prediction[:2050] = False
    assert METRICS["dice"](Pair(prediction, label)) == pytest.approx(2 / 3, rel=1e-9)


def test_counts_of_slices_add_up_to_those_of_the_volume() -> None:
    volume = random_pair((5, 9, 8), 3)
    slices = np.stack([Pair(a, b).counts for a, b in zip(volume.prediction, volume.label, strict=True)])
    assert np.array_equal(slices.sum(axis=0), volume.counts)
    dice, iou = compute_overlap(slices)
    assert dice.shape == iou.shape == (5,)
    assert dice[2] == METRICS["dice"](Pair(volume.prediction[2], volume.label[2]))


# ------------------------------------------------------------------------------------------------ surfaces


def random_pair(shape: tuple[int, ...], seed: int, spacing: tuple[float, ...] | None = None) -> Pair:
    """Two smooth shapes that overlap in part, and may touch the border."""
    rng = np.random.default_rng(seed)
    common = gaussian_filter(rng.normal(size=shape), 1.2)
    first, second = (common + 0.5 * gaussian_filter(rng.normal(size=shape), 1.2) for _ in range(2))
    return Pair(first > np.quantile(first, 0.7), second > np.quantile(second, 0.75), spacing)


def find_surface(mask: Mask) -> list[tuple[int, ...]]:
    """Pixels with a neighbour across a side that is outside the mask or outside the image, one by one."""
    inside = {tuple(int(i) for i in where) for where in np.argwhere(mask)}
    steps = [s for s in itertools.product((-1, 0, 1), repeat=mask.ndim) if sum(map(abs, s)) == 1]
    return [p for p in inside if any(tuple(np.add(p, s)) not in inside for s in steps)]


def brute_force(pair: Pair, tolerance: float) -> dict[str, float]:
    a, b = (np.array(find_surface(m)) * pair.spacing for m in (pair.prediction, pair.label))
    between = np.sqrt(((a[:, None] - b[None]) ** 2).sum(axis=-1))
    there, back = between.min(axis=1), between.min(axis=0)
    both = np.concatenate([there, back])
    return {
        "hd95": max(np.percentile(there, 95), np.percentile(back, 95)),
        "assd": both.mean(),
        "nsd": (both <= tolerance).mean(),
        "volume_error": abs(pair.prediction.sum() - pair.label.sum()) / pair.label.sum(),
        "dice": 2 * (pair.prediction & pair.label).sum() / (pair.prediction.sum() + pair.label.sum()),
        "iou": (pair.prediction & pair.label).sum() / (pair.prediction | pair.label).sum(),
    }


SHAPES: list[tuple[tuple[int, ...], tuple[float, ...] | None]] = [
    ((17, 23), None),
    ((17, 23), (0.7, 1.9)),
    ((30, 12), (2.3, 0.41)),
    ((7, 11, 9), None),
    ((7, 11, 9), (5.3, 0.77, 0.61)),
    ((1, 15, 14), (3.1, 0.9, 1.3)),
]


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(("shape", "spacing"), SHAPES)
def test_metrics_agree_with_a_brute_force(shape: tuple[int, ...], spacing: Any, seed: int) -> None:
    pair = random_pair(shape, seed, spacing)
    expected = brute_force(pair, tolerance=1.37)
    assert 0 < expected["nsd"] < 1
    found = {name: metric(pair) for name, metric in METRICS.items()} | {"nsd": compute_nsd(pair, tolerance=1.37)}
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("shape", "spacing"), SHAPES)
def test_metrics_agree_with_monai_on_whole_images(shape: tuple[int, ...], spacing: Any) -> None:
    pair = random_pair(shape, 7, spacing)
    masks = [torch.from_numpy(m)[None, None].float() for m in (pair.prediction, pair.label)]
    common = {"include_background": True, "spacing": spacing}
    expected = {
        "dice": monai_metrics.compute_dice(*masks),
        "iou": monai_metrics.compute_iou(*masks),
        "hd95": monai_metrics.compute_hausdorff_distance(*masks, percentile=95, **common),
        "assd": monai_metrics.compute_average_surface_distance(*masks, symmetric=True, **common),
        "nsd": monai_metrics.compute_surface_dice(*masks, class_thresholds=[2.0], **common),
    }
    assert {name: METRICS[name](pair) for name in expected} == pytest.approx(
        {name: float(value) for name, value in expected.items()}, rel=1e-5
    )


@pytest.mark.parametrize(("shape", "spacing"), SHAPES)
def test_what_lies_around_changes_no_distance(shape: tuple[int, ...], spacing: Any) -> None:
    """A border is no surface of its own: the same masks in the middle of a larger image score the same."""
    pair = random_pair(shape, 4, spacing)
    assert any(pair.label.take(i, axis=a).any() for a in range(len(shape)) for i in (0, -1))
    wider = Pair(np.pad(pair.prediction, 3), np.pad(pair.label, 3), spacing)
    for name in METRICS:
        assert METRICS[name](wider) == METRICS[name](pair)


def test_distances_are_in_millimetres_along_their_own_axis() -> None:
    a, b = np.zeros((2, 9, 9, 9), dtype=bool)
    a[4, 4, 4] = True
    for axis, expected in enumerate((5 * 2, 0.5 * 2, 0.25 * 2)):
        b[:] = np.roll(a, 2, axis=axis)
        pair = Pair(a, b, (5.0, 0.5, 0.25))
        assert METRICS["hd95"](pair) == METRICS["assd"](pair) == expected
        assert METRICS["nsd"](pair) == float(expected <= 2.0)


def test_the_tolerance_belongs_to_the_surface_that_agrees() -> None:
    a, b = np.zeros((2, 1, 9), dtype=bool)
    a[0, 0], b[0, 3] = True, True
    assert [compute_nsd(Pair(a, b), tolerance) for tolerance in (2.9, 3.0, 3.1)] == [0.0, 1.0, 1.0]


@pytest.mark.parametrize("spacing", [None, (3.0, 4.0)])
@pytest.mark.parametrize(
    ("prediction", "label", "expected"),
    [
        (EMPTY, EMPTY, {"dice": 1, "iou": 1, "nsd": 1, "hd95": 0, "assd": 0, "volume_error": None}),
        (EMPTY, LEFT, {"dice": 0, "iou": 0, "nsd": 0, "hd95": "diagonal", "assd": "diagonal", "volume_error": 1}),
        (LEFT, EMPTY, {"dice": 0, "iou": 0, "nsd": 0, "hd95": "diagonal", "assd": "diagonal", "volume_error": None}),
    ],
)
def test_empty_masks(prediction: Mask, label: Mask, expected: dict[str, Any], spacing: Any) -> None:
    diagonal = 5.0 if spacing is None else math.hypot(9, 16)
    pair = Pair(prediction, label, spacing)
    found = {name: metric(pair) for name, metric in METRICS.items()}
    assert found == {name: diagonal if value == "diagonal" else value for name, value in expected.items()}


def test_a_miss_is_never_better_than_an_answer() -> None:
    label = np.zeros((30, 40), dtype=bool)
    label[0, 0] = True
    far = label[::-1, ::-1]
    missed, answered = Pair(np.zeros_like(label), label), Pair(far, label)
    assert all(METRICS[name](missed) > METRICS[name](answered) for name in ("hd95", "assd"))  # type: ignore[operator]
    assert Pair(label[:2, :2], label[:2, :2], shape=(30, 40)).diagonal == 50.0


def test_it_is_known_which_metrics_are_better_low() -> None:
    good, bad = Pair(LEFT, LEFT), Pair(TOP, LEFT)
    lower = {name for name, metric in METRICS.items() if metric(good) < metric(bad)}  # type: ignore[operator]
    assert lower | {"ece"} == LOWER_IS_BETTER


# ------------------------------------------------------------------------------------------------- prompts


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
