"""The vertical cup-to-disc ratio, by the rows that masks span."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from medsam2.evaluation.cup_to_disc import compare_ratios
from medsam2.evaluation.metrics import Mask


def rows(*spans: tuple[int, int]) -> Mask:
    mask = np.zeros((20, 30), dtype=bool)
    for first, last in spans:
        mask[first : last + 1, 4:25] = True  # wider than high: a horizontal diameter would be another number
    return mask


NONE = rows()


@pytest.mark.parametrize(
    ("cup", "disc", "expected"),
    [
        ((rows((5, 9)), rows((6, 9))), (rows((2, 11)), rows((2, 11))), (0.5, 0.4, 0.1)),
        ((rows((5, 5), (9, 9)), rows((5, 9))), (rows((0, 9)), rows((0, 9))), (0.5, 0.5, 0.0)),  # a span, not a count
        ((NONE, rows((6, 9))), (rows((2, 11)), rows((2, 11))), (0.0, 0.4, 0.4)),
        ((rows((0, 9)), NONE), (rows((0, 4)), rows((0, 9))), (2.0, 0.0, 2.0)),
        ((rows((5, 9)), rows((6, 9))), (NONE, rows((2, 11))), (None, 0.4, 1.0)),  # a miss is never rewarded
        ((NONE, rows((2, 11))), (NONE, rows((2, 11))), (None, 1.0, 1.0)),
    ],
)
def test_ratios(cup: tuple[Mask, Mask], disc: tuple[Mask, Mask], expected: tuple[Any, ...]) -> None:
    found = compare_ratios(np.stack(cup), np.stack(disc))
    assert found == pytest.approx(dict(zip(("vcdr", "vcdr_label", "vcdr_error"), expected, strict=True)))


def test_without_a_disc_there_is_no_ratio() -> None:
    assert compare_ratios(np.stack([NONE, NONE]), np.stack([rows((2, 11)), NONE])) is None


def test_masks_may_be_cut_out_of_different_places() -> None:
    assert compare_ratios(np.ones((2, 3, 1), dtype=bool), np.ones((2, 6, 9), dtype=bool)) == {
        "vcdr": 0.5,
        "vcdr_label": 0.5,
        "vcdr_error": 0.0,
    }
