"""Heat map, critical differences, reliability and raters: positions, numbers and words are those of the frames."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from helpers_figures import NAN, assert_free, assert_legible, axes_of, drawn, make_arms, offsets, texts
from matplotlib.colors import to_rgb

from medsam2.results.figures import assign_looks, critical_difference, matrix, rater_lines, reliability
from medsam2.results.figures.matrix import DARK, LIGHT, choose_ink

MATRIX = pd.DataFrame(
    {"x": [0.9, 0.5], "y": [0.7, NAN]}, index=pd.MultiIndex.from_tuples([("a", "x"), ("a", "y")])
)  # fmt: skip


def test_cells_have_their_numbers_and_missing_ones_none() -> None:
    figure = matrix(MATRIX, "dice")
    axes = axes_of(figure)
    assert len(drawn(axes, "cell")) == 3
    assert {"0.900", "0.700", "0.500", "–", "a ← x", "a ← y", "x", "y"} <= set(texts(figure))
    assert "0.000" not in texts(figure)
    assert [(own.get_x(), own.get_y()) for own in drawn(axes, "own")] == [(-0.48, -0.46)]  # a, trained and tested on x
    assert_legible(figure)


def test_what_was_tested_at_home_is_framed_whatever_the_column_is_called() -> None:
    """A dataset with several settings has several columns: `x, box (1)`, `x, 1 click (2)`."""
    frame = MATRIX.rename(columns={"x": "x, box (1)", "y": "x, 1 click (2)"})
    figure = matrix(frame, "dice")
    axes = axes_of(figure)
    assert [(own.get_x(), own.get_y()) for own in drawn(axes, "own")] == [(-0.48, -0.46), (0.52, -0.46)]
    cell = drawn(axes, "cell")[0]
    assert cell.get_x() > -0.48  # within its frame, which would not be seen on a dark cell
    assert cell.get_y() > -0.46
    assert any("Framed: trained and tested on the same dataset." in text for text in texts(figure))
    other = matrix(MATRIX.rename(columns={"x": "xy", "y": "z"}), "dice")
    assert drawn(axes_of(other), "own") == []
    assert not any("Framed" in text for text in texts(other))


@pytest.mark.parametrize("higher", [True, False])
def test_lighter_is_better(higher: bool) -> None:
    axes = axes_of(matrix(MATRIX, "dice", higher))
    light = {round(cell.get_x() + 0.48) + 2 * round(cell.get_y() + 0.46): sum(cell.get_facecolor()[:3])
             for cell in drawn(axes, "cell")}  # fmt: skip
    assert (light[0] > light[1] > light[2]) == higher
    assert (light[0] < light[1] < light[2]) == (not higher)


def test_numbers_are_readable_in_every_cell() -> None:
    """WCAG asks for a contrast of 4.5."""
    from matplotlib import colormaps

    def luminance(colour: tuple[float, ...]) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour[:3]]
        return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))

    for share in np.linspace(0, 1, 50):
        cell = colormaps["cividis"](share)[:3]
        high, low = sorted((luminance(cell), luminance(to_rgb(choose_ink(cell)))), reverse=True)
        assert (high + 0.05) / (low + 0.05) >= 4.5
    assert choose_ink((1.0, 1.0, 1.0)) == DARK
    assert choose_ink((0.0, 0.0, 0.2)) == LIGHT


def test_ranks_and_bars_are_where_they_belong() -> None:
    ranks = pd.Series({"c": 2.8, "a": 1.2, "b": 2.0})
    figure = critical_difference(ranks, [["b", "a"]], 0.9, assign_looks("abc"), datasets=5)
    axes = axes_of(figure)
    assert [line.get_xdata()[0] for line in drawn(axes, "arm")] == [1.2, 2.0, 2.8]
    assert list(drawn(axes, "clique")[0].get_xdata()) == [1.2, 2.0]
    start, end = drawn(axes, "distance")[0].get_xdata()
    assert start - end == pytest.approx(0.9)
    assert axes.get_xlim()[0] > axes.get_xlim()[1]  # the best on the right
    assert {"a", "b", "c", "1.20", "2.00", "2.80", "critical difference 0.90"} <= set(texts(figure))
    assert_legible(figure)


def test_a_difference_wider_than_the_axis_is_said() -> None:
    figure = critical_difference(pd.Series({"a": 1.0, "b": 2.0}), [["a", "b"]], 3.3, assign_looks("ab"))
    assert "critical difference 3.30, more than there are ranks" in texts(figure)
    low, high = sorted(drawn(axes_of(figure), "distance")[0].get_xdata())
    assert (low, high) == (1.0, 2.0)


@pytest.mark.parametrize("width", [85, 180])
@pytest.mark.parametrize("distance", [0.9, 1.9, 3.3])
def test_no_line_runs_through_a_word_of_the_diagram(width: float, distance: float) -> None:
    ranks = pd.Series({"prompt=box lr=0.001": 1.25, "b": 1.75, "c": 3.0})
    figure = critical_difference(ranks, [list(ranks.index)], distance, assign_looks(ranks.index), 2, width)
    assert_legible(figure)
    assert_free(figure)


def test_forty_long_names_on_a_diagram() -> None:
    arms = make_arms(40, long=True)
    ranks = pd.Series({arm: 1 + i * 0.9 for i, arm in enumerate(arms)})
    figure = critical_difference(ranks, [arms[i : i + 3] for i in range(0, 38, 2)], 2.0, assign_looks(arms), 4)
    assert_legible(figure)
    shown = len(drawn(axes_of(figure), "arm"))
    assert shown == 40 or any(f"The best {shown} of 40 arms are shown." in text for text in texts(figure))


def make_calibration(arms: list[str]) -> pd.DataFrame:
    rows = [
        (arm, b, (b + 0.4) / 15, b / 15, 10.0 ** (5 - b % 5), i / 100)
        for i, arm in enumerate(arms) for b in (0, 7, 14)
    ]  # fmt: skip
    frame = pd.DataFrame(rows, columns=["arm", "bin", "expected", "actual", "number", "ece"])
    return frame.assign(dataset="d", kind="pixels")


def test_reliability_has_a_panel_per_arm() -> None:
    frame = make_calibration(["a", "b"])
    frame.loc[1, ["expected", "actual", "number"]] = [NAN, NAN, 0]
    figure = reliability(frame, "d", "pixels", assign_looks("ab"))
    first, second = figure.axes
    np.testing.assert_allclose(offsets(drawn(first, "bins")[0]), [[0.4 / 15, 0.0], [14.4 / 15, 14 / 15]])
    assert len(offsets(drawn(second, "bins")[0])) == 3
    sizes = drawn(second, "bins")[0].get_sizes()
    assert sizes[0] > sizes[1]
    assert [list(line.get_ydata()) for line in drawn(first, "diagonal")] == [[0, 1]]
    assert {"a", "b", "ECE 0.000", "ECE 0.010"} <= set(texts(figure))
    assert_legible(figure)


def test_sums_are_not_taken_for_means() -> None:
    with pytest.raises(ValueError, match="divide them by number"):
        reliability(make_calibration(["a"]).assign(expected=20.0), "d", "pixels", assign_looks("a"))


def test_of_many_arms_the_best_calibrated_are_shown() -> None:
    arms = make_arms(14, long=True)
    figure = reliability(make_calibration(arms), "d", "pixels", assign_looks(arms))
    assert len(figure.axes) == 12
    assert any("The best 12 of 14 arms are shown." in text for text in texts(figure))
    assert_legible(figure)


def test_raters_and_their_ceiling() -> None:
    values = {"majority": 0.9, "rater 1": 0.8, "rater 2": 0.86, "mean of raters": 0.83, "raters among themselves": 0.88}
    rows = [(arm, rater, mean - lower) for arm, lower in (("a", 0.02), ("b", 0.0)) for rater, mean in values.items()]
    frame = pd.DataFrame(rows, columns=["arm", "rater", "mean"]).assign(dataset="d", structure="disc")
    frame.loc[frame["rater"] == "raters among themselves", "mean"] = 0.88
    figure = rater_lines(frame, "d", "disc", assign_looks("ab"))
    axes = axes_of(figure)
    assert [line.get_xdata()[0] for line in drawn(axes, "majority")] == [0.9, 0.88]  # b first: it is better
    assert [line.get_xdata()[0] for line in drawn(axes, "mean of raters")] == pytest.approx([0.83, 0.81])
    assert sorted(drawn(axes, "rater")[0].get_xdata()) == [0.8, 0.86]
    assert drawn(axes, "ceiling")[0].get_xdata()[0] == pytest.approx(0.88)
    assert "raters among themselves 0.880" in texts(figure)
    assert_legible(figure)
