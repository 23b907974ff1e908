"""What every prompt of conf/prompt promises, built as the command line builds it."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from helpers_data import square
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from medsam2.data.prompts import Prompter, prompt_rng

CONF = Path(__file__).parents[2] / "conf"
NAMES = [path.stem for path in sorted((CONF / "prompt").glob("*.yaml"))]
FIXED = {"box", "center", "click_budget", "none", "learned"}  # nothing about them is drawn

masks = arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=24)).filter(lambda mask: bool(mask.any()))
cases = st.tuples(st.integers(0, 99), st.text(max_size=5), st.sampled_from(["cup", "disc"]))
each_prompt = pytest.mark.parametrize("name", NAMES)


@cache
def build(name: str, *overrides: str) -> Prompter:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        prompter: Prompter = instantiate(compose(overrides=[f"+prompt={name}", *overrides]).prompt)
    return prompter


@each_prompt
@given(masks, cases)
@settings(max_examples=25, deadline=None)
def test_it_lies_in_the_image_and_clicks_on_the_object(
    name: str, mask: NDArray[np.bool_], case: tuple[int, str, str]
) -> None:
    prompt = build(name)(mask, prompt_rng(*case))
    points, corners = prompt.points[prompt.labels == 1].astype(int), prompt.points[prompt.labels >= 2]
    assert set(prompt.labels.tolist()) <= {1, 2, 3}
    assert mask[points[:, 1], points[:, 0]].all()
    assert (prompt.points >= 0).all()
    assert (prompt.points <= np.array(mask.shape[::-1]) - 1).all()
    assert len(corners) in (0, 2)
    if len(corners):
        assert (corners[0] <= corners[1]).all()
    if prompt.mask is not None:
        assert prompt.mask.shape == mask.shape
        assert prompt.mask.dtype == np.bool_
        assert prompt.mask.any()


@given(masks, cases)
@settings(max_examples=40, deadline=None)
def test_a_box_contains_its_object(mask: NDArray[np.bool_], case: tuple[int, str, str]) -> None:
    (x0, y0), (x1, y1) = build("box")(mask, prompt_rng(*case)).points.astype(int)
    assert mask[y0 : y1 + 1, x0 : x1 + 1].sum() == mask.sum()


def drawn(name: str, *key: int | str) -> tuple[object, ...]:
    prompt = build(name)(square(3, 4, 60, 70, (80, 90)), prompt_rng(*key))  # type: ignore[arg-type]
    return prompt.name, prompt.points.tolist(), None if prompt.mask is None else prompt.mask.tobytes()


@each_prompt
@given(cases)
@settings(max_examples=8, deadline=None)
def test_a_case_has_its_prompt_and_an_epoch_another(name: str, case: tuple[int, str, str]) -> None:
    assert drawn(name, *case) == drawn(name, *case)
    epochs = {repr(drawn(name, *case, epoch)) for epoch in range(8)}
    assert len(epochs) == 1 if name in FIXED else len(epochs) > 1


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("click", {("click", "1 click")}),
        ("clicks3", {("click", "3 clicks")}),
        ("center", {("center", "1 click")}),
        ("click_budget", {("center", "1 click")}),
        ("box", {("box", "box")}),
        ("box_jitter", {("box", "box")}),
        ("mask", {("mask", "mask")}),
        ("mixed", {("click", "1 click"), ("box", "box"), ("mask", "mask")}),
        ("none", {("none", "none")}),
        ("learned", {("learned", "none")}),
    ],
)
def test_names_and_budgets(name: str, expected: set[tuple[str, str]]) -> None:
    prompts = [build(name)(square(3, 4, 8, 9), np.random.default_rng(seed)) for seed in range(30)]
    assert {(prompt.name, prompt.budget) for prompt in prompts} == expected


def test_every_prompt_is_in_the_table_above() -> None:
    marks = test_names_and_budgets.pytestmark  # type: ignore[attr-defined]
    assert sorted(name for name, _ in marks[0].args[1]) == NAMES


@each_prompt
def test_what_needs_no_object_costs_nothing(name: str) -> None:
    prompter = build(name)
    assert prompter.needs_object == (prompter.budget != "none")


def test_the_learned_tokens_are_counted_where_the_network_is_built() -> None:
    assert build("learned").num_tokens == 4  # type: ignore[attr-defined]
    assert build("learned", "prompt.num_tokens=7").num_tokens == 7  # type: ignore[attr-defined]


def test_a_mixture_from_the_command_line() -> None:
    only_clicks = "prompt.probabilities={click: 1, box: 0, mask: 0}"
    mixed = build("mixed", only_clicks, "prompt@prompt.prompts.click=clicks3", "prompt.prompts.click.num_clicks=4")
    assert {mixed(square(3, 4, 8, 9), np.random.default_rng(seed)).budget for seed in range(9)} == {"4 clicks"}
