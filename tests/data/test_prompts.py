"""Prompts: on the object, in (x, y), and the same for the same seed in any process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_data import square
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from medsam2.data.prompts import BoxPrompt, ClickPrompt, prompt_rng

masks = arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=24)).filter(lambda mask: bool(mask.any()))
seeds = st.integers(0, 2**32 - 1)


@given(masks, seeds, st.integers(1, 5), st.sampled_from(["uniform", "center"]))
@settings(max_examples=150, deadline=None)
def test_clicks_lie_on_the_object(mask: NDArray[np.bool_], seed: int, count: int, strategy: str) -> None:
    prompt = ClickPrompt(count, strategy)(mask, np.random.default_rng(seed))
    assert prompt.points.shape == (count, 2)
    assert prompt.points.dtype == np.float32
    assert prompt.labels.tolist() == [1] * count
    assert prompt.labels.dtype == np.int64
    for x, y in prompt.points.astype(int):
        assert mask[y, x]
    if strategy == "uniform" and mask.sum() >= count:
        assert len({tuple(point) for point in prompt.points.tolist()}) == count


@given(masks, seeds)
@settings(max_examples=150, deadline=None)
def test_a_box_without_jitter_is_the_bounding_box(mask: NDArray[np.bool_], seed: int) -> None:
    prompt = BoxPrompt()(mask, np.random.default_rng(seed))
    (x0, y0), (x1, y1) = prompt.points.astype(int)
    rows, columns = np.nonzero(mask)
    assert (x0, y0, x1, y1) == (columns.min(), rows.min(), columns.max(), rows.max())
    assert prompt.labels.tolist() == [2, 3]


@given(masks, seeds, st.floats(0, 0.49), st.floats(0, 30))
@settings(max_examples=200, deadline=None)
def test_a_jittered_box_stays_ordered_in_the_image_and_near(
    mask: NDArray[np.bool_], seed: int, jitter: float, most: float
) -> None:
    exact = BoxPrompt()(mask, np.random.default_rng(0)).points
    points = BoxPrompt(jitter, most)(mask, np.random.default_rng(seed)).points
    assert (points[0] <= points[1]).all()
    assert (points >= 0).all()
    assert (points <= np.array(mask.shape[::-1]) - 1).all()
    reach = np.minimum(jitter * (exact[1] - exact[0] + 1), most)
    assert (np.abs(points - exact) <= reach + 1).all()


@pytest.mark.parametrize(
    ("mask", "inside"),
    [(square(1, 25, 1, 1), [25, 1]), (square(18, 2, 1, 1), [2, 18])],
)
def test_order_is_x_y_off_the_diagonal(mask: NDArray[np.bool_], inside: list[int]) -> None:
    rng = np.random.default_rng(0)
    assert ClickPrompt()(mask, rng).points.tolist() == [inside]
    assert BoxPrompt()(mask, rng).points.tolist() == [inside, inside]


def test_box_corners_by_hand() -> None:
    assert BoxPrompt()(square(3, 10, 4, 7), np.random.default_rng(0)).points.tolist() == [[10, 3], [16, 6]]


def test_center_click_is_innermost() -> None:
    mask = square(2, 20, 5, 5) | square(15, 1, 1, 12)
    assert ClickPrompt(strategy="center")(mask, np.random.default_rng(0)).points.tolist() == [[22, 4]]


def test_uniform_clicks_reach_every_pixel() -> None:
    mask = square(3, 4, 2, 3)
    drawn = {tuple(ClickPrompt()(mask, np.random.default_rng(s)).points[0].tolist()) for s in range(200)}
    assert drawn == {(x, y) for x in (4, 5, 6) for y in (3, 4)}


def test_clicks_fall_where_raters_agree_most() -> None:
    agreement = np.zeros((20, 30), dtype=np.float32)
    agreement[5:10, 5:10], agreement[7, 8] = 4 / 7, 6 / 7
    assert ClickPrompt()(agreement, np.random.default_rng(3)).points.tolist() == [[8, 7]]


def test_box_of_an_agreement_is_the_box_of_the_majority() -> None:
    agreement = np.zeros((20, 30), dtype=np.float32)
    agreement[2:18, 2:28], agreement[5:10, 6:9] = 0.3, 0.5
    assert BoxPrompt()(agreement, np.random.default_rng(0)).points.tolist() == [[6, 5], [8, 9]]


@pytest.mark.parametrize("prompter", [ClickPrompt(3), ClickPrompt(strategy="center"), BoxPrompt(0.2)])
@pytest.mark.parametrize("mask", [np.zeros((4, 5), dtype=bool), np.zeros((4, 5), dtype=np.float32), np.ones(4)])
def test_an_empty_mask_is_refused(prompter: Any, mask: NDArray[Any]) -> None:
    with pytest.raises(ValueError, match="needs an object"):
        prompter(mask, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ClickPrompt(0), "num_clicks=0"),
        (lambda: ClickPrompt(strategy="best"), "strategy='best'"),
        (lambda: BoxPrompt(0.5), "jitter=0.5"),
        (lambda: BoxPrompt(-0.1), "jitter=-0.1"),
        (lambda: BoxPrompt(0.1, -1), "max_jitter=-1"),
    ],
)
def test_bad_settings_are_refused(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    ("prompter", "name", "budget"),
    [(ClickPrompt(), "click", "1 click"), (ClickPrompt(3), "click", "3 clicks"), (BoxPrompt(), "box", "box")],
)
def test_name_and_budget(prompter: Any, name: str, budget: str) -> None:
    assert (prompter.name, prompter.budget) == (name, budget)
    assert prompter(square(1, 1, 5, 5), np.random.default_rng(0)).budget == budget


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
