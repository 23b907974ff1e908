"""Budgets that a model is measured along: what they ask, where their boxes lie, and what is no budget."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from helpers_data import square

from medsam2.data.budget_prompt import ClickBudget, Point, draw_box
from medsam2.data.prompts import BoxPrompt, ClickPrompt, prompt_rng

LABEL = square(30, 40, 40, 20, (120, 160))  # rows 30...69, columns 40...59


def test_the_points_of_each_axis() -> None:
    budget = ClickBudget(clicks=3, jitter=[0, 0.1], draws=2, slices=[1, 4, None])
    assert budget.points("clicks") == [("clicks", 1, 0), ("clicks", 2, 0), ("clicks", 3, 0)]
    assert budget.points("slices") == [("slices", 1, 0), ("slices", 4, 0), ("slices", math.inf, 0)]
    # an exact box is drawn once
    assert budget.points("jitter") == [("jitter", 0, 0), ("jitter", 0.1, 0), ("jitter", 0.1, 1)]


def test_to_whoever_asks_once_it_is_the_center_click() -> None:
    rng = prompt_rng(0, "a", "disc")
    asked, center = ClickBudget(clicks=7)(LABEL, rng), ClickPrompt(1, "center")(LABEL, rng)
    assert asked.points.tolist() == center.points.tolist() == [[49, 39]]
    assert (asked.name, asked.budget, asked.labels.tolist()) == ("center", "1 click", [1])


@pytest.mark.parametrize(
    ("axis", "slice_prompt", "name"),
    [("clicks", "box", "center"), ("jitter", "click", "box"), ("slices", "click", "center"), ("slices", "box", "box")],
)
def test_what_an_axis_begins_with(axis: str, slice_prompt: str, name: str) -> None:
    assert ClickBudget(slice_prompt=slice_prompt).first(axis).name == name


def test_axes_are_asked_along_in_one_order() -> None:
    assert ClickBudget(axes=["jitter", "clicks"]).axes == ["clicks", "jitter"]
    assert ClickBudget().axes is None


def test_a_box_moves_in_the_same_direction_at_every_fraction_and_by_no_more_than_it() -> None:
    exact = BoxPrompt()(LABEL, prompt_rng(0, "a", "disc")).points
    assert draw_box(LABEL, Point("jitter", 0.0), 0, "a", "disc").points.tolist() == exact.tolist()
    moves = {}
    for draw in range(20):
        for level in (0.1, 0.2):
            moved = draw_box(LABEL, Point("jitter", level, draw), 0, "a", "disc").points - exact
            assert (np.abs(moved) <= level * np.array([20, 40]) + 1e-4).all()  # of its width, of its height
            moves[draw, level] = moved
        np.testing.assert_allclose(moves[draw, 0.2], 2 * moves[draw, 0.1], atol=1e-4)
    assert len({moved.tobytes() for (_, level), moved in moves.items() if level == 0.1}) == 20
    assert np.abs([moved for (_, level), moved in moves.items() if level == 0.2]).max() > 6.4  # no cap on large boxes


def test_a_box_is_that_of_its_case_and_structure() -> None:
    keys = [(0, "a", "disc"), (0, "a", "cup"), (0, "b", "disc"), (1, "a", "disc")]
    boxes = [draw_box(LABEL, Point("jitter", 0.1), *key).points.tolist() for key in keys]
    assert boxes == [draw_box(LABEL, Point("jitter", 0.1), *key).points.tolist() for key in keys]
    assert len({str(box) for box in boxes}) == 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"axes": ["clicks", "boxes"]}, r"prompt\.axes=\['clicks', 'boxes'\]: name one or more of clicks, slices"),
        ({"axes": []}, r"prompt\.axes=\[\]: name one"),
        ({"clicks": 0}, r"prompt\.clicks=0: a whole number, 1 or more"),
        ({"clicks": 2.5}, r"prompt\.clicks=2\.5"),
        ({"targets": [0.8, 1.2]}, r"prompt\.targets=\[0\.8, 1\.2\]: values of Dice"),
        ({"jitter": [0.1, 0.5]}, r"prompt\.jitter=\[0\.1, 0\.5\]: fractions from 0 to below 0\.5"),
        ({"jitter": [0.1, 0]}, r"prompt\.jitter"),
        ({"jitter": []}, r"prompt\.jitter"),
        ({"draws": 0}, r"prompt\.draws=0"),
        ({"slices": [None, 2]}, r"prompt\.slices=\[None, 2\]: whole numbers from 1, rising; null, last"),
        ({"slices": [0, 1]}, r"prompt\.slices"),
        ({"slice_prompt": "mask"}, r"prompt\.slice_prompt=mask: use click or box"),
        ({"clicks": 0, "draws": -1}, r"prompt\.clicks=0.*; prompt\.draws=-1"),
    ],
)
def test_what_is_no_budget(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClickBudget(**settings)
