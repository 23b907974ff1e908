"""Curves, rejection and cost: every value is where it belongs, what is unknown is not drawn and is named."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from helpers_figures import NAN, assert_legible, axes_of, drawn, make_arms, make_scores, texts

from medsam2.results.figures import assign_looks, cost, curves, rejection
from medsam2.results.figures.cost import say_cost
from medsam2.results.figures.layout import spread


def make_curves(means: dict[str, list[float]], levels: list[float], axis: str = "clicks") -> pd.DataFrame:
    rows = [
        {"arm": arm, "level": level, "mean": mean, "low": mean - 0.02, "high": mean + 0.03}
        for arm, values in means.items() for level, mean in zip(levels, values, strict=True)
    ]  # fmt: skip
    return pd.DataFrame(rows).assign(dataset="d", structure="mean", axis=axis)


def test_curves_are_their_frames_with_bands() -> None:
    frame = make_curves({"a": [0.7, 0.8, NAN], "b": [0.6, 0.85, 0.9]}, [1, 2, 5]).sample(frac=1, random_state=0)
    looks = assign_looks("ab")
    figure = curves(frame, "clicks", "dice", "d", looks, ceiling=0.88)
    axes = axes_of(figure)
    np.testing.assert_array_equal(drawn(axes, "line a")[0].get_ydata(), [0.7, 0.8, NAN])
    np.testing.assert_array_equal(drawn(axes, "line b")[0].get_xdata(), [1, 2, 5])
    band = drawn(axes, "band b")[0].get_paths()[0].vertices
    assert {round(y, 4) for y in band[band[:, 0] == 5, 1]} == {0.88, 0.93}
    assert drawn(axes, "line b")[0].get_color() == looks["b"].colour
    assert drawn(axes, "ceiling")[0].get_ydata()[0] == 0.88
    assert axes.get_ylim()[0] < 0.58
    assert axes.get_ylim()[1] > 0.93
    assert {"a", "b", "raters among themselves 0.880"} <= set(texts(figure))
    assert "b from 0.600 at 1 to 0.900 at 5" in figure.get_label()


@pytest.mark.parametrize(("higher", "named"), [(True, {"arm00", "arm07"}), (False, {"arm11", "arm04"})])
def test_of_many_curves_the_best_are_named_and_none_is_dropped(higher: bool, named: set[str]) -> None:
    arms = make_arms(12)
    frame = make_curves({arm: [0.5, 0.9 - i / 100] for i, arm in enumerate(arms)}, [0, 0.1], "jitter")
    figure = curves(frame, "jitter", "dice", "d", assign_looks(arms), higher_is_better=higher)
    axes = axes_of(figure)
    lines = {arm: drawn(axes, f"line {arm}") + drawn(axes, f"other {arm}") for arm in arms}
    assert all(len(found) == 1 for found in lines.values())
    assert [lines[arm][0].get_ydata()[1] for arm in arms] == [0.9 - i / 100 for i in range(12)]
    assert len([arm for arm in arms if arm in texts(figure)]) == 8
    assert named <= set(texts(figure))
    assert "The best 8 of 12 arms are named. The others are grey." in texts(figure)


def test_all_slices_stand_behind_the_largest_number() -> None:
    frame = make_curves({"a": [0.5, 0.7, 0.8]}, [1, 5, float("inf")], "slices")
    figure = curves(frame, "slices", "dice", "d", assign_looks("a"))
    axes = axes_of(figure)
    np.testing.assert_array_equal(drawn(axes, "line a")[0].get_xdata(), [1, 5, 6])
    figure.draw_without_rendering()
    assert [tick.get_text() for tick in axes.get_xticklabels()][-1] == "all"


def test_long_names_beside_curves_stay_legible() -> None:
    arms = make_arms(9, long=True)
    frame = make_curves({arm: [0.5, 0.9 - i / 1e4] for i, arm in enumerate(arms)}, [1, 2])
    assert_legible(curves(frame, "clicks", "dice", "d", assign_looks(arms)))


@pytest.mark.parametrize("width", [85, 180])
@pytest.mark.parametrize(
    ("values", "metric", "unit"),
    [((0.8201, 0.8204), "dice", ""), ((0.2, 0.9), "dice", ""), ((1234.5, 1240.25), "hd95", "mm"),
     ((1e-4, 3e-4), "relative_volume_difference_of_patients", "")],
)  # fmt: skip
def test_ticks_and_names_stay_on_the_page_however_long(
    values: tuple[float, float], metric: str, unit: str, width: float
) -> None:
    looks = assign_looks(["an arm of some length", "b"])
    shares = [i / 10 for i in range(10)]
    frame = pd.DataFrame({"rejected": shares, "mean": np.linspace(*values, 10), "dataset": "d", "cases": 9})
    both = pd.concat([frame.assign(arm=arm) for arm in looks])
    clicks = both.rename(columns={"rejected": "level"}).assign(axis="jitter", structure="mean", low=NAN, high=NAN)
    scores = make_scores(dict.fromkeys(looks, (values[0], *values)), metric=metric)
    costs = pd.DataFrame({"arm": list(looks), "seconds": [60.0, 7200.0]})
    for figure in (
        rejection(both, "d", metric, looks, unit=unit, width=width),
        curves(clicks, "jitter", metric, "d", looks, unit=unit, width=width),
        cost(costs, scores, metric, looks, structure="liver", unit=unit, width=width),
    ):
        assert_legible(figure)
        assert not axes_of(figure).yaxis.get_major_formatter().get_offset()


def test_rejection_has_shares_in_percent() -> None:
    frame = pd.DataFrame({"arm": "a", "dataset": "d", "rejected": [0.0, 0.5], "mean": [0.8, 0.9], "cases": [10, 5]})
    figure = rejection(frame, "d", "dice", assign_looks("a"))
    line = drawn(axes_of(figure), "line a")[0]
    assert list(line.get_ydata()) == [0.8, 0.9]
    figure.draw_without_rendering()
    assert [tick.get_text() for tick in axes_of(figure).get_xticklabels()] == ["0 %", "50 %"]
    with pytest.raises(ValueError, match=r"dataset='e'.*dataset: d"):
        rejection(frame, "e", "dice", assign_looks("a"))


def test_names_move_apart_and_stay_in_order() -> None:
    np.testing.assert_allclose(spread(np.array([0.9, 0.5, 0.1]), 0.1), [0.9, 0.5, 0.1])
    np.testing.assert_allclose(spread(np.array([0.5, 0.5, 0.5]), 0.1), [0.6, 0.5, 0.4])
    np.testing.assert_allclose(spread(np.array([1.0, 0.99]), 0.2), [1.0, 0.8])
    np.testing.assert_allclose(spread(np.array([0.01, 0.0]), 0.2), [0.2, 0.0])


COSTS = pd.DataFrame({"arm": ["a", "b", "c"], "seconds": [60.0, 7200.0, NAN], "parameters": [1e6, 2e6, 3e6]})
SCORES = make_scores({"b": (0.9, 0.85, 0.92), "a": (0.8, 0.7, 0.9), "c": (0.7, 0.6, 0.8)})


def test_costs_are_points_and_unknown_ones_are_named() -> None:
    figure = cost(COSTS, SCORES, "dice", assign_looks("abc"), structure="liver")
    axes = axes_of(figure)
    points = {(p.get_xdata()[0], p.get_ydata()[0]) for p in drawn(axes, "arm")}
    assert points == {(60.0, 0.8), (7200.0, 0.9)}
    assert axes.get_xscale() == "log"
    assert "Of unknown cost: c." in texts(figure)
    assert axes.get_ylim()[0] < 0.7


def test_similar_costs_have_a_plain_axis() -> None:
    axes = axes_of(cost(COSTS, SCORES, "dice", assign_looks("abc"), by="parameters", structure="liver"))
    assert axes.get_xscale() == "linear"
    assert len(drawn(axes, "arm")) == 3


def test_costs_of_several_datasets_are_refused() -> None:
    with pytest.raises(ValueError, match="one dataset and one task"):
        cost(pd.concat([COSTS, COSTS]), SCORES, "dice", assign_looks("abc"), structure="liver")
    with pytest.raises(ValueError, match="seconds='known'"):
        cost(COSTS.assign(seconds=NAN), SCORES, "dice", assign_looks("abc"), structure="liver")


@pytest.mark.parametrize(
    ("value", "by", "said"),
    [(45, "seconds", "45 s"), (120, "seconds", "2 min"), (5400, "seconds", "1.5 h"), (2e5, "seconds", "2.31 d"),
     (3 * 2**30, "peak_memory", "3 GiB"), (38_900_000, "parameters", "38.9 M"), (950, "parameters", "950")],
)  # fmt: skip
def test_costs_in_words(value: float, by: str, said: str) -> None:
    assert say_cost(value, by) == said
