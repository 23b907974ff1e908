"""Agreement with each rater, and of the raters among themselves."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from medsam2.data.prepared import PackedMasks, pack
from medsam2.evaluation.metrics import Mask, Pair, compute_dice
from medsam2.evaluation.raters import add_slices, compare_raters, count_common


def square(top: int, left: int, side: int) -> Mask:
    mask = np.zeros((12, 17), dtype=bool)
    mask[top : top + side, left : left + side] = True
    return mask


def compare(prediction: Mask, raters: PackedMasks | None) -> dict[str, float]:
    return compare_raters(count_common(prediction, raters))


RATERS = [square(2, 3, 6), square(3, 3, 6), square(2, 6, 5), square(0, 0, 0)]


@pytest.mark.parametrize("prediction", [square(2, 4, 6), square(0, 0, 12), square(10, 15, 2), square(0, 0, 0)])
def test_each_rater_and_the_ceiling(prediction: Mask) -> None:
    """Whether the prediction lies inside, outside or around the box that holds the raters' masks."""
    scores = compare(prediction, pack(np.stack(RATERS)))
    each = [compute_dice(Pair(prediction, rater)) for rater in RATERS]
    pairs = [compute_dice(Pair(a, b)) for a, b in combinations(RATERS, 2)]
    expected = {f"rater{i}_dice": dice for i, dice in enumerate(each, start=1)}
    expected |= {"rater_dice": np.mean(each), "rater_ceiling": np.mean(pairs)}
    assert scores == pytest.approx(expected)
    assert 0.1 < scores["rater_ceiling"] < 0.9


def test_raters_who_agree_have_a_ceiling_of_one() -> None:
    scores = compare(RATERS[1], pack(np.stack([RATERS[0]] * 3)))
    assert scores["rater_ceiling"] == 1.0
    assert scores["rater_dice"] == scores["rater3_dice"] == pytest.approx(30 / 36)


def test_two_raters_who_saw_nothing_agree() -> None:
    nothing = np.zeros((2, 5, 5), dtype=bool)
    assert compare(nothing[0], pack(nothing)) == {
        "rater_dice": 1.0,
        "rater1_dice": 1.0,
        "rater2_dice": 1.0,
        "rater_ceiling": 1.0,
    }


@pytest.mark.parametrize("raters", [None, pack(np.stack(RATERS[:1]))])
def test_one_rater_alone_has_no_columns(raters: PackedMasks | None) -> None:
    assert compare(RATERS[0], raters) == {}


def test_slices_add_up_to_the_volume() -> None:
    rng = np.random.default_rng(0)
    prediction, raters = rng.random((5, 6, 9)) > 0.4, rng.random((5, 3, 6, 9)) > 0.6
    stored = [3, 0, 2, 3, 1]  # of how many raters there is a mask
    slices = [count_common(p, pack(r[:n]) if n else None) for p, r, n in zip(prediction, raters, stored, strict=True)]
    for masks, n in zip(raters, stored, strict=True):
        masks[n:] = False
    volumes = np.concatenate([prediction[None], raters.swapaxes(0, 1)])
    expected = [[np.count_nonzero(a & b) for b in volumes] for a in volumes]
    assert np.array_equal(add_slices(slices), expected)
