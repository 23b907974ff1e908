"""Box plots, means and forests draw the numbers of their frames: all of them, and nothing that is not there."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from helpers_figures import (
    NAN,
    assert_legible,
    axes_of,
    drawn,
    make_arms,
    make_cases,
    make_pairs,
    make_scores,
    offsets,
    texts,
)
from matplotlib.cbook import boxplot_stats

from medsam2.results.figures import assign_looks, box_plot, dot_plot, forest
from medsam2.results.figures.boxes import gather_cases, jitter

CASES = make_cases({"a": [[0.8, 0.9, 0.0, NAN, 0.7], [0.6, 0.9, 0.0, NAN, 0.9]], "b": [[0.5, 0.6, 0.7, 0.8, 1.0]]})
SCORES = make_scores({"b": (0.72, 0.6, 0.84), "a": (0.6, 0.3, 0.8)})
LOOKS = assign_looks(["a", "b"])


def test_every_case_is_a_point_at_its_mean_over_seeds() -> None:
    axes = axes_of(box_plot(CASES, SCORES, "dice", "liver", LOOKS))
    b, a = drawn(axes, "cases")
    np.testing.assert_allclose(np.sort(offsets(a)[:, 0]), [0.7, 0.8, 0.9])  # without the missed and the undefined one
    np.testing.assert_allclose(np.sort(offsets(b)[:, 0]), [0.5, 0.6, 0.7, 0.8, 1.0])
    missed = [offsets(one) for one in drawn(axes, "missed")]
    assert [len(one) for one in missed] == [0, 1]
    assert missed[1][0, 0] == 0.0
    low, high = axes.get_xlim()
    assert low < 0.0
    assert high > 1.0
    for row, points in enumerate((b, a)):
        assert np.abs(offsets(points)[:, 1] - row).max() < 0.5


def test_box_and_mean_are_those_of_the_frames() -> None:
    axes = axes_of(box_plot(CASES, SCORES, "dice", "liver", LOOKS))
    (median,) = drawn(axes, "median")  # four values are too few for a box
    np.testing.assert_allclose(median.get_xdata(), [0.7, 0.7])
    assert [mean.get_xdata()[0] for mean in drawn(axes, "mean")] == [0.72, 0.6]
    assert [list(line.get_xdata()) for line in drawn(axes, "interval")] == [[0.6, 0.84], [0.3, 0.8]]
    assert [mean.get_color() for mean in drawn(axes, "mean")] == [LOOKS["b"].colour, LOOKS["a"].colour]


def test_a_box_is_what_tukey_says() -> None:
    values = [0.1, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9]
    axes = axes_of(box_plot(make_cases({"a": [values]}), make_scores({"a": (0.6, 0.5, 0.7)}), "dice", "liver", LOOKS))
    (expected,) = boxplot_stats(values)
    (box,) = drawn(axes, "box")
    np.testing.assert_allclose([box.get_x(), box.get_x() + box.get_width()], [expected["q1"], expected["q3"]])
    ends = [line.get_xdata()[1] for line in drawn(axes, "whisker")]
    np.testing.assert_allclose(ends, [expected["whislo"], expected["whishi"]])
    assert ends[0] == 0.5  # 0.1 is beyond, and a point all the same
    assert 0.1 in offsets(drawn(axes, "cases")[0])[:, 0]


def test_what_is_not_drawn_is_counted() -> None:
    said = texts(box_plot(CASES, SCORES, "dice", "liver", LOOKS))
    assert "n = 4, 1 missed, 1 undefined" in said
    assert "n = 5" in said
    assert "missed case" in said


def test_structures_of_a_case_are_averaged_for_the_mean() -> None:
    spleen = make_cases({"a": [[0.4, NAN]]}, "spleen")
    liver = make_cases({"a": [[0.8, 0.6]]})
    both = pd.concat([liver, spleen])
    np.testing.assert_allclose(gather_cases(both, "dice", "mean")["value"], [0.6, 0.6])
    np.testing.assert_allclose(gather_cases(both, "dice", "spleen")["value"], [0.4, NAN])


def test_one_case_has_no_interval_and_no_box() -> None:
    scores = make_scores({"a": (0.8, NAN, NAN)})
    figure = box_plot(make_cases({"a": [[0.8]]}), scores, "dice", "liver", LOOKS, width=85)
    axes = axes_of(figure)
    assert drawn(axes, "interval") == []
    assert drawn(axes, "median") == []
    assert offsets(drawn(axes, "cases")[0])[:, 0].tolist() == [0.8]
    assert_legible(figure)


def test_the_ceiling_is_a_line_with_its_number_for_dice_alone() -> None:
    scores = make_scores({"b": (0.72, 0.6, 0.84), "a": (0.6, 0.3, 0.8)}, ceiling=0.91)
    for figure in (box_plot(CASES, scores, "dice", "liver", LOOKS), dot_plot(scores, "dice", "liver", LOOKS)):
        (line,) = drawn(axes_of(figure), "ceiling")
        assert line.get_xdata()[0] == 0.91
        assert "raters among themselves 0.910" in texts(figure)
    assert drawn(axes_of(dot_plot(scores.assign(metric="hd95"), "hd95", "liver", LOOKS)), "ceiling") == []


def test_dots_have_the_sd_over_seeds() -> None:
    axes = axes_of(dot_plot(SCORES.assign(sd=[0.02, NAN]), "dice", "liver", LOOKS))
    (bar,) = drawn(axes, "sd")
    np.testing.assert_allclose(bar.get_xdata(), [0.70, 0.74])
    assert bar.get_ydata()[0] == 0


def test_arms_without_a_mean_are_no_zero() -> None:
    scores = make_scores({"b": (0.72, 0.6, 0.84), "a": (NAN, NAN, NAN)})
    assert len(drawn(axes_of(dot_plot(scores, "dice", "liver", LOOKS)), "mean")) == 1
    with pytest.raises(ValueError, match="mean='a number'"):
        dot_plot(scores.iloc[1:], "dice", "liver", LOOKS)


def test_what_is_not_there_is_named_with_what_is() -> None:
    with pytest.raises(ValueError, match=r"structure='spleen'.*structure: liver"):
        box_plot(CASES, SCORES, "dice", "spleen", LOOKS)
    with pytest.raises(ValueError, match="width=300"):
        dot_plot(SCORES, "dice", "liver", LOOKS, width=300)


@pytest.mark.parametrize(("count", "long", "width"), [(2, False, 85), (6, True, 85), (24, True, 180)])
def test_many_arms_and_long_names_stay_legible(count: int, long: bool, width: float) -> None:
    arms = make_arms(count, long)
    scores = make_scores({arm: (0.9 - i / 100, 0.85 - i / 100, 0.95 - i / 100) for i, arm in enumerate(arms)})
    cases = make_cases({arm: [[0.9 - i / 100, 0.8, 0.0, NAN, 0.7]] for i, arm in enumerate(arms)})
    figure = box_plot(cases, scores, "dice", "liver", assign_looks(arms), width=width)
    assert_legible(figure)
    shown = len(drawn(axes_of(figure), "mean"))
    if shown < count:
        assert f"The best {shown} of {count} arms are shown." in texts(figure)
    assert shown >= 10 or shown == count


def test_jitter_is_even_and_the_same_every_time() -> None:
    places = jitter(100)
    assert (places == jitter(100)).all()
    assert np.abs(places).max() <= 0.5
    assert np.histogram(places, 5, (-0.5, 0.5))[0].min() >= 18


PAIRS = make_pairs(
    [
        ("x", "y", 0.03, 0.01, 0.05, "better"),
        ("x", "z", -0.02, -0.04, -0.001, "worse"),
        ("y", "z", NAN, NAN, NAN, "undecided"),
    ]
)


def test_forest_draws_differences_and_verdicts() -> None:
    figure = forest(PAIRS)
    axes = axes_of(figure)
    assert [point.get_xdata()[0] for point in drawn(axes, "difference")] == [0.03, -0.02]
    assert [list(line.get_xdata()) for line in drawn(axes, "interval")] == [[0.01, 0.05], [-0.04, -0.001]]
    assert drawn(axes, "zero")[0].get_xdata()[0] == 0
    shapes = [(point.get_marker(), point.get_color()) for point in drawn(axes, "difference")]
    assert len(set(shapes)) == len({shape for shape, _ in shapes}) == len({colour for _, colour in shapes}) == 2
    said = texts(figure)
    assert "+0.030 [+0.010, +0.050]" in said
    assert "−0.020 [−0.040, −0.001]" in said
    assert "no common case" in said
    assert {"x − y", "x − z", "y − z", "better", "worse", "undecided"} <= set(said)
    assert "Each difference is over 20 patients, 3 seeds." in said


def test_forest_says_which_side_is_better() -> None:
    assert {"← second better", "first better →"} <= set(texts(forest(PAIRS)))
    assert {"← first better", "second better →"} <= set(texts(forest(PAIRS, higher_is_better=False)))


def test_undecided_is_hollow_and_counts_differ_by_row() -> None:
    pairs = make_pairs([("x", "y", 0.01, -0.01, 0.03, "undecided"), ("x", "z", 0.02, 0.01, 0.03, "better")])
    figure = forest(pairs.assign(patients=[20, 1]))
    faces = [point.get_markerfacecolor() for point in drawn(axes_of(figure), "difference")]
    assert faces[0] == "none"
    assert faces[1] != "none"
    assert {"20 patients, 3 seeds", "1 patient, 3 seeds"} <= set(texts(figure))
    narrow = " ".join(texts(forest(pairs.assign(patients=[20, 1]), width=85)))
    assert "+0.020 [+0.010, +0.030], 1" in narrow
    assert "patient, 3 seeds" in narrow


@pytest.mark.parametrize(("higher", "best"), [(True, "arm00"), (False, "arm11")])
def test_of_too_many_pairs_those_of_the_best_arm_are_shown(higher: bool, best: str) -> None:
    arms = make_arms(12)
    rows = [
        (a, b, (j - i) / 100, (j - i) / 100 - 0.01, (j - i) / 100 + 0.01, "undecided")
        for i, a in enumerate(arms) for j, b in enumerate(arms) if i < j
    ]  # fmt: skip
    figure = forest(make_pairs(rows), higher_is_better=higher)
    assert len(drawn(axes_of(figure), "difference")) == 11
    assert any(f"11 of 66 pairs are shown: those of the best arm, {best}," in text for text in texts(figure))
    assert_legible(figure)


def test_one_arm_against_many_is_named_once() -> None:
    first, *others = make_arms(14, long=True)
    rows = [(first, arm, i / 100, i / 100 - 0.02, i / 100 + 0.02, "better") for i, arm in enumerate(others)]
    figure = forest(make_pairs(rows), width=85)
    assert_legible(figure)
    assert f"Each row: {first} − the arm that is named." in " ".join(reversed(texts(figure)))
