"""Effect sizes by hand and at their edges."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medsam2.results.statistics import cohen_dz, rank_biserial, share_better

SIZES = (cohen_dz, rank_biserial, share_better)


@pytest.mark.parametrize(
    ("d", "dz", "ranks", "share"),
    [
        ([1.0, 2, 3, -4], 0.5 / np.sqrt(29 / 3), 0.2, 0.75),
        ([1.0, 2, np.nan, 3, -4], 0.5 / np.sqrt(29 / 3), 0.2, 0.75),
        ([0.0, 0, 0], 0, 0, 0.5),
        ([0.0, 0, 1], (1 / 3) / np.sqrt(1 / 3), 1, 2 / 3),
        ([2.0, 2, 2], np.inf, 1, 1),
        ([-0.1, -0.1, -0.1], -np.inf, -1, 0),
        ([0.5], np.nan, 1, 1),
        ([np.nan, np.nan], np.nan, np.nan, np.nan),
    ],
)
def test_by_hand(d: list[float], dz: float, ranks: float, share: float) -> None:
    assert [size(d)[0] for size in SIZES] == pytest.approx([dz, ranks, share], nan_ok=True)


@given(st.lists(st.integers(-20, 20), min_size=2, max_size=20))
@settings(max_examples=60, deadline=None)
def test_sides_mirror_each_other(values: list[int]) -> None:
    d = np.array(values, float)
    assert cohen_dz(-d) == pytest.approx(-cohen_dz(d))
    assert rank_biserial(-d) == pytest.approx(-rank_biserial(d))
    assert share_better(-d) == pytest.approx(1 - share_better(d))
    assert abs(rank_biserial(3 * d)[0]) <= 1
