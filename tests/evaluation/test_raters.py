"""Agreement with each rater, and of the raters among themselves."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from medsam2.data.prepared import pack
from medsam2.evaluation.metrics import Mask, Pair, compute_dice
from medsam2.evaluation.raters import compare_raters


def square(top: int, left: int, side: int) -> Mask:
    mask = np.zeros((12, 17), dtype=bool)
    mask[top : top + side, left : left + side] = True
    return mask


RATERS = [square(2, 3, 6), square(3, 3, 6), square(2, 6, 5), square(0, 0, 0)]


@pytest.mark.parametrize("prediction", [square(2, 4, 6), square(0, 0, 12), square(10, 15, 2), square(0, 0, 0)])
def test_each_rater_and_the_ceiling(prediction: Mask) -> None:
    """Whether the prediction lies inside, outside or around the box that holds the raters' masks."""
    scores = compare_raters(prediction, pack(np.stack(RATERS)))
    each = [compute_dice(Pair(prediction, rater)) for rater in RATERS]
    pairs = [compute_dice(Pair(a, b)) for a, b in combinations(RATERS, 2)]
    expected = {f"rater{i}_dice": dice for i, dice in enumerate(each, start=1)}
    expected |= {"rater_dice": np.mean(each), "rater_ceiling": np.mean(pairs)}
    assert scores == pytest.approx(expected)
    assert 0.1 < scores["rater_ceiling"] < 0.9


def test_raters_who_agree_have_a_ceiling_of_one() -> None:
    scores = compare_raters(RATERS[1], pack(np.stack([RATERS[0]] * 3)))
    assert scores["rater_ceiling"] == 1.0
    assert scores["rater_dice"] == scores["rater3_dice"] == pytest.approx(30 / 36)


def test_two_raters_who_saw_nothing_agree() -> None:
    nothing = np.zeros((2, 5, 5), dtype=bool)
    assert compare_raters(nothing[0], pack(nothing)) == {
        "rater_dice": 1.0,
        "rater1_dice": 1.0,
        "rater2_dice": 1.0,
        "rater_ceiling": 1.0,
    }
