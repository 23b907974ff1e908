"""Black and white: windows, percentiles, ranges, and what lies between them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from medsam2.data.intensity import Percentiles, Range, Window, scale
from medsam2.data.records import DatasetError


def test_a_window_is_level_and_half_its_width() -> None:
    assert Window(40, 400)(np.zeros(3)) == (-160, 240)
    assert Window(-600, 1500)(np.zeros(3)) == (-1350, 150)


def test_percentiles_leave_out_what_is_zero() -> None:
    values = np.concatenate([np.zeros(1000), np.arange(1, 101)])
    before = values.copy()
    assert Percentiles(0, 100)(values) == (1, 100)
    assert Percentiles(10, 90)(values) == pytest.approx((10.9, 90.1))
    assert Percentiles(10, 90, nonzero=False)(values) == (0, 0)
    assert Percentiles(0, 100, nonzero=False)(values) == (0, 100)
    assert np.array_equal(values, before)  # sorting happened elsewhere


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, ">i2", ">f4"])
def test_percentiles_of_every_type_and_layout(dtype: Any) -> None:
    array = np.arange(120).reshape(4, 5, 6).astype(dtype)
    expected = np.percentile(np.arange(1, 120), [0.5, 99.5])
    assert Percentiles()(array.transpose(2, 0, 1)[::-1]) == pytest.approx(expected)


def test_percentiles_of_an_empty_picture() -> None:
    assert Percentiles()(np.zeros((2, 3))) == (0.0, 1.0)


def test_a_range_is_as_given() -> None:
    assert Range()(np.zeros(3)) == (0, 255)
    assert Range(0, 1)(np.full(3, 9.0)) == (0, 1)


def test_scale() -> None:
    grey = scale(np.array([-1000, -160, 40, 240, 3000], dtype=np.int16), -160, 240)
    assert grey.tolist() == [0, 0, 0.5, 1, 1]
    assert grey.dtype == np.float32
    assert scale(np.array([7, 8]), 7, 7).tolist() == [0, 0]
    assert scale(np.array([0, 255], dtype=np.uint8), 0, 255).tolist() == [0, 1]
    assert scale(np.array([1, 2], dtype=">i2"), 0, 2).dtype.isnative


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Window(40, 0), "width=0"),
        (lambda: Window(40, -1), "width=-1"),
        (lambda: Percentiles(50, 50), "low=50, high=50"),
        (lambda: Percentiles(-1, 99), "low=-1"),
        (lambda: Percentiles(1, 101), "high=101"),
        (lambda: Range(1, 1), "low=1 must be below high=1"),
    ],
)
def test_bad_settings(build: Any, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        build()
