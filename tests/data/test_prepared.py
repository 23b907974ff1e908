"""What is kept of a case: pixels within rounding, masks exactly, at every size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers_data import square
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from medsam2.data.batch import to_float
from medsam2.data.prepared import Prepared, agreement, consensus, nearest, pack, prepare
from medsam2.data.records import Case, Record, compute_consensus

RECORD = Record("a", "a", "train")


def make(image: np.ndarray, **raters: np.ndarray) -> Case:
    labels = {structure: compute_consensus(masks) for structure, masks in raters.items()}
    return Case(RECORD, image.astype(np.float32), labels, dict(raters), (0.5, 0.25))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 40), st.integers(1, 40), st.floats(0, 1))
def test_packed_masks_are_the_masks(seed: int, count: int, height: int, width: int, share: float) -> None:
    masks = np.random.default_rng(seed).random((count, height, width)) < share / 4
    packed = pack(masks)
    assert np.array_equal(packed.native(), masks)
    assert np.array_equal(consensus(packed), compute_consensus(masks))
    assert np.allclose(agreement(packed), masks.mean(axis=0))


@pytest.mark.parametrize(("height", "width", "size"), [(20, 30, 64), (64, 48, 16), (7, 5, 7), (2124, 2056, 1024)])
def test_masks_are_resized_by_the_nearest_pixel_centre(height: int, width: int, size: int) -> None:
    masks = np.zeros((2, height, width), dtype=bool)
    masks[0, height // 3 : height // 2 + 1, width // 4 : width // 2] = True
    masks[1] = np.random.default_rng(0).random((height, width)) < 0.3
    expected = F.interpolate(torch.from_numpy(masks)[None].double(), (size, size), mode="nearest-exact")[0].numpy() > 0
    assert np.array_equal(pack(masks).resized(size), expected)


def test_nearest_covers_every_pixel_evenly() -> None:
    assert nearest(4, 4).tolist() == [0, 1, 2, 3]
    assert nearest(8, 4).tolist() == [1, 3, 5, 7]
    assert nearest(2, 4).tolist() == [0, 0, 1, 1]
    assert np.bincount(nearest(10, 1000)).tolist() == [100] * 10


def test_an_empty_mask_takes_no_room() -> None:
    packed = pack(np.zeros((7, 100, 80), dtype=bool))
    assert packed.bits.size == 0
    assert not packed.native().any()
    assert packed.native().shape == (7, 100, 80)
    assert not packed.resized(32).any()


@pytest.mark.parametrize(("channels", "step"), [(1, 1 / 65535), (3, 1 / 255)])
def test_pixels_are_kept_within_half_a_level(channels: int, step: float) -> None:
    image = np.random.default_rng(0).random((20, 20, channels))
    prepared = prepare(make(image, one=square(2, 3, 4, 5, (20, 20))[None]), 20)
    assert (
        np.abs(to_float(prepared.pixels(20)).numpy().transpose(1, 2, 0) - image).max() <= 0.5 * step + 1e-7
    )  # float32
    assert prepared.spacing == (0.5, 0.25)


def test_bytes_of_a_photograph_come_back_exactly() -> None:
    levels = np.arange(256).reshape(16, 16, 1).repeat(3, axis=2)
    prepared = prepare(make(levels / 255, one=np.zeros((1, 16, 16), dtype=bool)), 16)
    assert np.array_equal(prepared.image.transpose(1, 2, 0), levels)


@pytest.mark.parametrize(
    ("shape", "kept"), [((100, 80), (64, 64)), ((40, 30), (40, 30)), ((100, 30), (64, 30)), ((64, 64), (64, 64))]
)
def test_an_image_is_kept_no_larger_than_needed(shape: tuple[int, int], kept: tuple[int, int]) -> None:
    image = np.random.default_rng(0).random((*shape, 3)).astype(np.float32)
    prepared = prepare(make(image, one=np.zeros((1, *shape), dtype=bool)), 64)
    assert prepared.image.shape == (3, *kept)
    assert prepared.shape == shape
    direct = F.interpolate(
        torch.from_numpy(image.transpose(2, 0, 1).copy())[None],
        (64, 64),
        mode="bilinear",
        align_corners=False,
        antialias=True,
    )[0].clamp(0, 1)
    assert (to_float(prepared.pixels(64)) - direct).abs().max() <= 0.51 / 255 + 1e-5


def test_resizing_is_antialiased() -> None:
    stripes = np.zeros((64, 64, 3))
    stripes[:, ::2] = 1.0
    small = to_float(prepare(make(stripes, one=np.zeros((1, 64, 64), dtype=bool)), 16).pixels(16))
    assert (small[:, :, 1:-1] - 0.5).abs().max() < 0.05  # without it every pixel would be 0 or 1


def test_other_channels_are_refused() -> None:
    with pytest.raises(ValueError, match="case a: its image has 2 channels, expected 1 or 3"):
        prepare(make(np.zeros((4, 4, 2)), one=np.zeros((1, 4, 4), dtype=bool)), 4)


@pytest.mark.parametrize("thickness", [None, 2.5])
def test_the_distance_of_slices_is_kept(thickness: float | None) -> None:
    case = Case(RECORD, np.zeros((4, 4, 1), np.float32), {"one": square(1, 1, 2, 2, (4, 4))}, {}, (1.0, 1.0), thickness)
    assert prepare(case, 4).thickness == thickness


def test_a_label_without_raters_is_its_own_rater() -> None:
    case = Case(RECORD, np.zeros((4, 4, 1), np.float32), {"one": square(1, 1, 2, 2, (4, 4))})
    prepared: Prepared = prepare(case, 4)
    assert np.array_equal(prepared.raters["one"].native()[0], case.labels["one"])
