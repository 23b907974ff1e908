"""Prompts: on the object, in (x, y), and the same for the same seed in any process."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_data import square
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from medsam2.data.prompts import (
    CLICK_STRATEGIES,
    BoxPrompt,
    ClickPrompt,
    LearnedPrompt,
    MaskPrompt,
    MixedPrompt,
    NoPrompt,
    order_slices,
    prompt_rng,
)

masks = arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=24)).filter(lambda mask: bool(mask.any()))
seeds = st.integers(0, 2**32 - 1)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@given(masks, seeds, st.integers(1, 5), st.sampled_from(CLICK_STRATEGIES))
@settings(max_examples=50, deadline=None)
def test_clicks_lie_on_the_object(mask: NDArray[np.bool_], seed: int, count: int, strategy: str) -> None:
    prompt = ClickPrompt(count, strategy)(mask, rng(seed))
    assert prompt.points.shape == (count, 2)
    assert prompt.points.dtype == np.float32
    assert prompt.labels.tolist() == [1] * count
    assert prompt.labels.dtype == np.int64
    for x, y in prompt.points.astype(int):
        assert mask[y, x]
    if mask.sum() >= count:
        assert len({tuple(point) for point in prompt.points.tolist()}) == count


@given(masks, seeds)
@settings(max_examples=50, deadline=None)
def test_a_box_without_jitter_is_the_bounding_box(mask: NDArray[np.bool_], seed: int) -> None:
    prompt = BoxPrompt()(mask, rng(seed))
    (x0, y0), (x1, y1) = prompt.points.astype(int)
    rows, columns = np.nonzero(mask)
    assert (x0, y0, x1, y1) == (columns.min(), rows.min(), columns.max(), rows.max())
    assert prompt.labels.tolist() == [2, 3]


@given(masks, seeds, st.floats(0, 0.49), st.floats(0, 1))
@settings(max_examples=50, deadline=None)
def test_a_jittered_box_stays_ordered_in_the_image_and_near(
    mask: NDArray[np.bool_], seed: int, jitter: float, most: float
) -> None:
    exact = BoxPrompt()(mask, rng()).points
    points = BoxPrompt(jitter, most)(mask, rng(seed)).points
    assert (points[0] <= points[1]).all()
    assert (points >= 0).all()
    assert (points <= np.array(mask.shape[::-1]) - 1).all()
    reach = np.minimum(jitter * (exact[1] - exact[0] + 1), most * max(mask.shape))
    assert (np.abs(points - exact) <= reach + 1).all()


@pytest.mark.parametrize(
    ("mask", "inside"),
    [(square(1, 25, 1, 1), [25, 1]), (square(18, 2, 1, 1), [2, 18])],
)
def test_order_is_x_y_off_the_diagonal(mask: NDArray[np.bool_], inside: list[int]) -> None:
    assert ClickPrompt()(mask, rng()).points.tolist() == [inside]
    assert BoxPrompt()(mask, rng()).points.tolist() == [inside, inside]


@pytest.mark.parametrize("shape", [(20, 20), (20, 30), (30, 20)])
@pytest.mark.parametrize("strategy", CLICK_STRATEGIES)
def test_a_legacy_click_is_transposed(shape: tuple[int, int], strategy: str) -> None:
    """As on the square image that the network sees: x and y of the right click change places there."""
    mask, (height, width) = square(12, 2, 5, 3, shape), shape
    for seed in range(20):
        (x, y), (u, v) = (
            ClickPrompt(1, strategy, legacy)(mask, rng(seed)).points[0].tolist() for legacy in (False, True)
        )
        assert mask[int(y), int(x)]
        assert (u / width, v / height) == pytest.approx((y / height, x / width))
    assert not mask[int(v), int(u)]  # off the diagonal it misses


def test_box_corners_by_hand() -> None:
    assert BoxPrompt()(square(3, 10, 4, 7), rng()).points.tolist() == [[10, 3], [16, 6]]


@pytest.mark.parametrize("scale", [1, 10])
def test_the_limit_of_jitter_grows_with_the_image(scale: int) -> None:
    mask = square(20 * scale, 20 * scale, 30 * scale, 60 * scale, (70 * scale, 100 * scale))
    exact = BoxPrompt()(mask, rng()).points
    moved = np.abs([BoxPrompt(0.4, 0.02)(mask, rng(seed)).points - exact for seed in range(200)])
    assert 1.9 * scale < moved.max() <= 2 * scale  # 2 % of 100 · scale


def test_center_click_is_innermost_in_the_largest_part() -> None:
    deepest, largest = square(1, 20, 5, 5), square(12, 1, 3, 21)
    assert ClickPrompt(strategy="center")(deepest, rng()).points.tolist() == [[22, 3]]
    click = ClickPrompt(3, "center")(deepest | largest, rng()).points.tolist()
    assert click[0] == [2, 13]  # the first of the deepest row
    assert click[0] not in click[1:]


def test_uniform_clicks_reach_every_pixel() -> None:
    mask = square(3, 4, 2, 3)
    drawn = {tuple(ClickPrompt()(mask, rng(s)).points[0].tolist()) for s in range(200)}
    assert drawn == {(x, y) for x in (4, 5, 6) for y in (3, 4)}


@pytest.mark.parametrize("strategy", CLICK_STRATEGIES)
def test_clicks_repeat_only_where_pixels_run_out(strategy: str) -> None:
    mask = square(3, 4, 2, 2)
    for seed in range(20):
        assert len(np.unique(ClickPrompt(4, strategy)(mask, rng(seed)).points, axis=0)) == 4
        assert len(ClickPrompt(6, strategy)(mask, rng(seed)).points) == 6
        assert ClickPrompt(2, strategy)(square(3, 4, 1, 1), rng(seed)).points.tolist() == [[4, 3]] * 2


# Seven raters: all draw a spot, four a square around it, two a large surround.
AGREEMENT = np.zeros((20, 30), dtype=np.float32)
AGREEMENT[2:18, 2:28], AGREEMENT[5:10, 5:10], AGREEMENT[6, 8] = 2 / 7, 4 / 7, 1.0


@pytest.mark.parametrize(
    ("strategy", "reached"),
    [
        ("agreement", {(8, 6)}),
        ("uniform", {(x, y) for x in range(5, 10) for y in range(5, 10)}),
        ("center", {(7, 7)}),
    ],
)
def test_where_clicks_fall_when_raters_differ(strategy: str, reached: set[tuple[int, int]]) -> None:
    prompter = ClickPrompt(strategy=strategy)
    assert {tuple(prompter(AGREEMENT, rng(s)).points[0].tolist()) for s in range(300)} == reached


def test_boxes_and_masks_are_the_majoritys() -> None:
    assert BoxPrompt()(AGREEMENT, rng()).points.tolist() == [[5, 5], [9, 9]]
    mask = MaskPrompt()(AGREEMENT, rng()).mask
    assert mask is not None
    assert np.array_equal(mask, square(5, 5, 5, 5))


def test_without_a_majority_most_decide() -> None:
    few = np.where(AGREEMENT > 0.5, np.float32(3 / 7), np.float32(0))
    assert BoxPrompt()(few, rng()).points.tolist() == [[5, 5], [9, 9]]


@given(masks, seeds, st.floats(0.01, 0.99))
@settings(max_examples=50, deadline=None)
def test_a_degraded_mask_contains_the_object_or_lies_in_it(mask: NDArray[np.bool_], seed: int, degrade: float) -> None:
    prompt = MaskPrompt(degrade)(mask, rng(seed))
    assert prompt.mask is not None
    assert prompt.mask.shape == mask.shape
    assert prompt.mask.any()
    assert (prompt.mask >= mask).all() or (prompt.mask <= mask).all()
    assert prompt.points.shape == (0, 2)
    assert prompt.labels.shape == (0,)


def test_masks_are_degraded_both_ways_and_within_reach() -> None:
    disc = np.hypot(*(np.indices((101, 101)) - 50)) <= 20  # its centre is 21 pixels from the background
    assert np.array_equal(MaskPrompt()(disc, rng()).mask, disc)  # type: ignore[arg-type]
    areas = [int(MaskPrompt(0.3)(disc, rng(s)).mask.sum()) for s in range(40)]  # type: ignore[union-attr]
    assert np.pi * 12.5**2 < min(areas) < np.pi * 15**2
    assert np.pi * 25**2 < max(areas) < np.pi * 27.5**2


@pytest.mark.parametrize("prompter", [NoPrompt(), LearnedPrompt()])
def test_no_prompt_is_no_points_even_where_nothing_is(prompter: Any) -> None:
    prompt = prompter(np.zeros((4, 5), dtype=bool), rng())
    assert (prompt.points.shape, prompt.points.dtype) == ((0, 2), np.float32)
    assert (prompt.labels.shape, prompt.labels.dtype) == ((0,), np.int64)
    assert prompt.mask is None


MIXED = {"wide": BoxPrompt(0.3), "one": ClickPrompt(), "never": MaskPrompt()}


def test_a_mixture_draws_by_probability_and_says_what() -> None:
    mixed = MixedPrompt(MIXED, {"wide": 0.3, "one": 0.7, "never": 0})
    drawn = [mixed(square(3, 4, 8, 9), rng(seed)) for seed in range(1000)]
    shares = Counter((prompt.name, prompt.budget) for prompt in drawn)
    assert set(shares) == {("wide", "box"), ("one", "1 click")}
    assert 250 < shares["wide", "box"] < 350
    assert all(prompt.labels.tolist() == ([2, 3] if prompt.name == "wide" else [1]) for prompt in drawn)
    assert len({prompt.points.tobytes() for prompt in drawn if prompt.name == "wide"}) > 200


@pytest.mark.parametrize(
    ("names", "needs_object", "num_tokens"),
    [(["box"], True, 0), (["box", "learned"], True, 5), (["none", "learned"], False, 5), (["none"], False, 0)],
)
def test_a_mixture_needs_what_one_of_it_does(names: list[str], needs_object: bool, num_tokens: int) -> None:
    known: dict[str, Any] = {"box": BoxPrompt(), "none": NoPrompt(), "learned": LearnedPrompt(5)}
    mixed = MixedPrompt({name: known[name] for name in names}, {name: 1 / len(names) for name in names})
    assert (mixed.needs_object, mixed.num_tokens) == (needs_object, num_tokens)


def test_what_a_mixture_draws_does_not_depend_on_the_order_it_is_given_in() -> None:
    shares = {"wide": 0.3, "one": 0.3, "never": 0.4}
    one, other = MixedPrompt(MIXED, shares), MixedPrompt(dict(reversed(MIXED.items())), dict(reversed(shares.items())))
    assert [one(AGREEMENT, rng(s)).name for s in range(30)] == [other(AGREEMENT, rng(s)).name for s in range(30)]


@pytest.mark.parametrize(
    "prompter",
    [
        ClickPrompt(3),
        ClickPrompt(strategy="center"),
        BoxPrompt(0.2),
        MaskPrompt(0.1),
        MixedPrompt({"box": BoxPrompt()}, {"box": 1}),
    ],
)
@pytest.mark.parametrize("mask", [np.zeros((4, 5), dtype=bool), np.zeros((4, 5), dtype=np.float32), np.ones(4)])
def test_an_empty_mask_is_refused(prompter: Any, mask: NDArray[Any]) -> None:
    with pytest.raises(ValueError, match="needs an object"):
        prompter(mask, rng())


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ClickPrompt(0), "num_clicks=0"),
        (lambda: ClickPrompt(strategy="best"), "strategy='best' must be one of agreement, uniform, center"),
        (lambda: BoxPrompt(0.5), "jitter=0.5"),
        (lambda: BoxPrompt(-0.1), "jitter=-0.1"),
        (lambda: BoxPrompt(0.1, -1), "max_jitter=-1"),
        (lambda: BoxPrompt(0.1, 20), "max_jitter=20 must lie in 0...1 .*longer side"),
        (lambda: MaskPrompt(1), "degrade=1"),
        (lambda: MaskPrompt(-0.1), "degrade=-0.1"),
        (lambda: MixedPrompt(MIXED, {"wide": 1.0}), "must name what prompt.prompts does: wide, one, never"),
        (lambda: MixedPrompt(MIXED, {"wide": 0.5, "one": 0.5, "never": 0.5}), "sum to 1.5"),
        (lambda: MixedPrompt(MIXED, {"wide": 1.5, "one": -0.5, "never": 0}), "each must be 0 or more"),
        (lambda: MixedPrompt({}, {}), "sum to 0"),
        (
            lambda: MixedPrompt({"free": LearnedPrompt()}, {"free": 1}),
            r"prompts\.free is a learned prompt: name it .*learned",
        ),
        (lambda: LearnedPrompt(0), "num_tokens=0"),
        (lambda: order_slices([1, 2], "best"), "strategy='best'.*largest, first, middle, every"),
        (lambda: order_slices([1, 2], "every", step=0), "step=0"),
        (lambda: order_slices([0, 0]), "no object on any slice"),
        (lambda: order_slices([]), "no object on any slice"),
        (lambda: order_slices([[1, 2]]), r"shape \(1, 2\)"),
    ],
)
def test_bad_settings_are_refused(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    ("prompter", "name", "budget"),
    [
        (ClickPrompt(), "click", "1 click"),
        (ClickPrompt(3), "click", "3 clicks"),
        (ClickPrompt(strategy="uniform"), "click", "1 click"),
        (ClickPrompt(2, strategy="center"), "center", "2 clicks"),
        (BoxPrompt(), "box", "box"),
        (MaskPrompt(0.1), "mask", "mask"),
        (NoPrompt(), "none", "none"),
        (LearnedPrompt(), "learned", "none"),
    ],
)
def test_name_and_budget(prompter: Any, name: str, budget: str) -> None:
    prompt = prompter(square(1, 1, 5, 5), rng())
    assert (prompter.name, prompter.budget) == (prompt.name, prompt.budget) == (name, budget)


@pytest.mark.parametrize(
    ("strategy", "step", "expected"),
    [
        ("largest", 1, [5, 2, 6, 1, 3, 8]),
        ("first", 1, [1, 2, 3, 5, 6, 8]),
        ("middle", 1, [3, 2, 1, 5, 6, 8]),
        ("every", 1, [1, 2, 3, 5, 6, 8]),
        ("every", 2, [1, 3, 6]),
        ("every", 9, [1]),
    ],
)
def test_slices_in_the_order_they_are_prompted(strategy: str, step: int, expected: list[int]) -> None:
    assert order_slices([0, 3, 7, 3, 0, 9, 7, 0, 1], strategy, step) == expected


def test_the_middle_of_an_odd_number_of_slices_and_unsigned_areas() -> None:
    assert order_slices([0, 4, 4, 4], "middle")[0] == 2
    assert order_slices(np.array([1, 200, 3], dtype=np.uint8)) == [1, 2, 0]


def test_same_key_same_prompt_and_no_other() -> None:
    def draw(*key: Any) -> list[float]:
        return prompt_rng(*key).random(3).tolist()  # type: ignore[no-any-return]

    keys = [
        (0, "a", "cup"),
        (1, "a", "cup"),
        (0, "b", "cup"),
        (0, "a", "disc"),
        (0, "a", "cup", 0),
        (0, "a", "cup", 1),
    ]
    assert all(draw(*key) == draw(*key) for key in keys)
    assert len({tuple(draw(*key)) for key in keys}) == len(keys)


def test_the_generator_is_the_same_in_another_process() -> None:
    code = "from medsam2.data.prompts import prompt_rng; print(prompt_rng(7, 'g0001', 'cup', 2).integers(10**9))"
    environment = {"PYTHONHASHSEED": "123", "PATH": ""}
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=root, env=environment, check=True
    )
    assert int(done.stdout) == prompt_rng(7, "g0001", "cup", 2).integers(10**9) == 967029501
