"""Hydra's override grammar as a space for Optuna."""

from __future__ import annotations

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from medsam2.config_check import ConfigError
from medsam2.search.space import Space, parse_space, value_text


def space(*overrides: str) -> Space:
    return parse_space(OverridesParser.create().parse_overrides(list(overrides)))


@pytest.mark.parametrize(
    ("override", "distribution"),
    [
        ("a=interval(0,1)", FloatDistribution(0.0, 1.0)),
        ("a=tag(log,interval(1e-5,1e-3))", FloatDistribution(1e-5, 1e-3, log=True)),
        ("a=int(interval(1,9))", IntDistribution(1, 9)),
        ("a=tag(log,int(interval(1,64)))", IntDistribution(1, 64, log=True)),
        ("a=range(256,1025,256)", IntDistribution(256, 1024, step=256)),
        ("a=range(3,0,-1)", IntDistribution(1, 3)),
        ("a=range(0.1,0.35,0.1)", FloatDistribution(0.1, 0.3, step=0.1)),
        ("a=x,y", CategoricalDistribution(("x", "y"))),
        ("a=choice(true,1,text)", CategoricalDistribution(("True", "1", "text"))),
        ("a=[1,2],[3,4]", CategoricalDistribution(("[1,2]", "[3,4]"))),
        ("a='x y',z", CategoricalDistribution(("'x y'", "z"))),
        ("a=x,y,x", CategoricalDistribution(("x", "y"))),
    ],
)
def test_a_sweep_is_a_distribution(override: str, distribution: BaseDistribution) -> None:
    assert space(override).axes == {"a": distribution}


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("optim.lr=interval(1,1)", "optim.lr=interval(1,1): the lower end 1.0 must be below the upper end 1.0"),
        ("optim.lr=interval(2,1)", "the lower end 2.0 must be below the upper end 1.0"),
        ("optim.lr=tag(log,interval(0,1))", "the lower end 0.0 must be above 0 for a logarithm"),
        ("optim.lr=tag(logarithmic,interval(1,2))", "unknown tag logarithmic; the only one is log"),
        ("optim.lr=tag(log,choice(1,2))", "log goes with an interval"),
        ("batch_size=tag(log,range(1,9))", "log goes with an interval"),
        ("model=choice(sam2_t)", "model=choice(sam2_t): is one choice"),
        ("batch_size=range(1,2)", "has fewer than two steps"),
        ("batch_size=range(2,1)", "has fewer than two steps"),
        ("seed=0,1", "seed=0,1: the search would choose the luckiest seed; give one"),
        ("dataset=refuge,btcv", "the search would choose the easiest dataset"),
        ("dataset.fold=range(0,5)", "the search would choose the easiest fold"),
        ("seed=3", "hydra.sweeper.params: nothing to search; give at least one key a space"),
    ],
)
def test_a_space_that_cannot_be_searched_is_named(override: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        space(override)
    (message,) = caught.value.problems
    assert problem in message


def test_all_problems_come_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        space("a=interval(2,1)", "b=tag(odd,interval(1,2))", "c=interval(1,2)")
    assert [p.split("=")[0] for p in caught.value.problems] == ["a", "b"]


def test_fixed_overrides_pass_through_and_searched_ones_are_typed() -> None:
    found = space("dataset=phantom", "~debug", "+optim.x=interval(0,1)", "++b=1,2", "c@d=e,f")
    assert found.fixed == ("dataset=phantom", "~debug")
    values = {"optim.x": 0.123456789, "b": "2", "c@d": "e"}
    assert found.overrides(values) == ("dataset=phantom", "~debug", "+optim.x=0.123457", "++b=2", "c@d=e")
    assert found.texts(values) == {"optim.x": "0.123457", "b": "2", "c@d": "e"}


@pytest.mark.parametrize(("overrides", "fixed", "axes"), [
    (("a=1,2", "a=3", "b=1,2"), ("a=3",), ["b"]),
    (("a=3", "a=1,2"), (), ["a"]),
])  # fmt: skip
def test_the_later_of_two_for_one_key_counts(
    overrides: tuple[str, ...], fixed: tuple[str, ...], axes: list[str]
) -> None:
    found = space(*overrides)
    assert found.fixed == fixed
    assert list(found.axes) == axes


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.00034217891, "0.000342179"), (1e-5, "1e-05"), (2.0, "2.0"), (0.1 * 3, "0.3"), (1e8, "1e+08"), (7, "7")],
)
def test_numbers_are_typed_so_that_hydra_reads_the_same_kind(value: float, text: str) -> None:
    assert value_text(value) == text
    parsed = OverridesParser.create().parse_override(f"a={text}").value()
    assert type(parsed) is type(value)


def test_corners_hold_every_choice_and_both_ends() -> None:
    assert space("a=x,y,z", "b=interval(0,1)", "c=int(interval(1,4))").corners() == [
        {"a": "x", "b": 0.0, "c": 1},
        {"a": "y", "b": 1.0, "c": 4},
        {"a": "z", "b": 1.0, "c": 4},
    ]
