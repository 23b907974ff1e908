"""The geometry of prompts, against distances measured pixel by pixel."""

from __future__ import annotations

import numpy as np
from helpers_data import square
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from medsam2.data.prompt_shapes import compute_depth, find_innermost, find_largest_part, grow

masks = arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=12)).filter(lambda mask: bool(mask.any()))


def distances(shape: tuple[int, int], to: NDArray[np.int64]) -> NDArray[np.float64]:
    """From every pixel to the nearest of ``to``, M×2 rows and columns."""
    grid = np.indices(shape).transpose(1, 2, 0)[:, :, None]
    return np.asarray(np.hypot(*np.moveaxis(grid - to, -1, 0)).min(axis=2))


@given(masks)
@settings(max_examples=50, deadline=None)
def test_depth_is_the_distance_to_background_or_edge(mask: NDArray[np.bool_]) -> None:
    outside = np.argwhere(~np.pad(mask, 1)) - 1
    assert np.allclose(compute_depth(mask), distances(mask.shape, outside) * mask)


@given(masks, st.floats(-5, 5))
@settings(max_examples=50, deadline=None)
def test_growing_takes_what_is_near_and_shrinking_leaves_what_is_deep(mask: NDArray[np.bool_], by: float) -> None:
    if by > 0:
        assert np.array_equal(grow(mask, by), distances(mask.shape, np.argwhere(mask)) <= by)
    else:
        assert np.array_equal(grow(mask, by), compute_depth(mask) > -by)


def test_growing_by_hand() -> None:
    assert np.array_equal(grow(square(5, 5, 4, 4), -1), square(6, 6, 2, 2))
    assert np.array_equal(grow(square(5, 5, 4, 4), 0.9), square(5, 5, 4, 4))
    assert np.array_equal(grow(square(5, 5, 4, 4), 1), square(4, 5, 6, 4) | square(5, 4, 4, 6))
    assert np.array_equal(grow(square(0, 0, 20, 30), -1), square(1, 1, 18, 28))
    assert np.array_equal(grow(square(0, 0, 20, 30), 3), square(0, 0, 20, 30))


def test_the_largest_part_by_pixels_and_over_corners() -> None:
    diagonal = square(0, 20, 4, 4) | square(4, 24, 4, 4)  # two squares that touch at a corner: one part of 32
    assert np.array_equal(find_largest_part(diagonal | square(10, 1, 5, 6)), diagonal)
    assert np.array_equal(find_largest_part(diagonal | square(10, 1, 5, 7)), square(10, 1, 5, 7))
    assert np.array_equal(find_largest_part(square(2, 20, 3, 3) | square(9, 1, 3, 3)), square(2, 20, 3, 3))


def test_the_innermost_pixel_keeps_off_the_images_edge() -> None:
    row, column = np.unravel_index(find_innermost(square(0, 0, 9, 5)), (20, 30))
    assert (row, column) == (2, 2)
