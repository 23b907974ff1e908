"""Augmentation moves image and masks together, by the generator it is given, and never spoils a mask."""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import monai.transforms as mt
import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from monai.data import get_track_meta
from torch import Tensor
from torch.nn import functional as F

from medsam2.data.transforms import Identity, MonaiTransforms, SampleTransform, build_affine

CONF = Path(__file__).parents[2] / "conf"
PRESETS = sorted(file.stem for file in (CONF / "transforms").glob("*.yaml"))
CHANGING = [name for name in PRESETS if name != "none"]
SIDED = ["ct", "mr"]
BOTH = ["image", "label"]
SIZE = 48


@cache
def preset(name: str) -> SampleTransform:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return instantiate(compose(overrides=[f"+transforms={name}", f"+image_size={SIZE}"]).transforms)


def draw(transform: SampleTransform, image: Tensor, masks: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    return transform(image, masks, np.random.default_rng(seed))


def sample_masks() -> Tensor:
    """Three structures without any symmetry, the third of them twice: two raters who agree."""
    masks = torch.zeros(4, SIZE, SIZE)
    masks[0, 10:24, 12:22] = 1
    masks[1, 28:38, 13:35] = 1
    masks[2:, 12:21, 26:37] = 1
    return masks


@pytest.fixture
def masks() -> Tensor:
    return sample_masks()


@pytest.fixture
def image() -> Tensor:
    """Every structure is painted into a channel of its own, so that a mismatch shows."""
    return sample_masks()[:3]


@cache
def drawn(name: str) -> list[tuple[Tensor, Tensor]]:
    """What a preset makes of the sample with the seeds 0, 1, 2, …"""
    masks = sample_masks()
    return [draw(preset(name), masks[:3], masks, seed) for seed in range(200 if name in SIDED else 50)]


# --------------------------------------------------------------------------------------------------- presets


@pytest.mark.parametrize("name", PRESETS)
def test_shapes_types_and_ranges_stay(name: str, image: Tensor, masks: Tensor) -> None:
    grey = [draw(preset(name), image[:1], masks, seed) for seed in range(12)]
    for n, (out, moved) in enumerate(grey + drawn(name)[:50]):
        assert (out.shape, moved.shape) == ((1 if n < 12 else 3, SIZE, SIZE), masks.shape)
        assert (type(out), type(moved)) == (Tensor, Tensor)
        assert (out.dtype, moved.dtype) == (torch.float32, torch.float32)
        assert 0.0 <= float(out.min()) <= float(out.max()) <= 1.0
        assert set(moved.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(image, sample_masks()[:3])  # what came in is not written to
    assert torch.equal(masks, sample_masks())


@pytest.mark.parametrize("name", PRESETS)
def test_image_and_masks_move_together(name: str) -> None:
    """What is painted lies inside the moved mask; not looked at are two pixels on either side of its border."""
    for out, moved in drawn(name)[:50]:
        grown, grown_outside = (F.max_pool2d(m, 5, 1, padding=2) > 0 for m in (moved[:3], 1 - moved[:3]))
        for channel, inside, outside in zip(out, ~grown_outside, ~grown, strict=True):
            assert inside.sum() > 4
            assert channel[inside].min() > channel[outside].max() + 0.2
        assert torch.equal(moved[2], moved[3])  # raters alike


@pytest.mark.parametrize("name", CHANGING)
def test_the_generator_decides_and_nothing_else(name: str, image: Tensor, masks: Tensor) -> None:
    first = drawn(name)[:12]
    again = pickle.loads(pickle.dumps(preset(name)))  # as a worker process gets it
    for seed in reversed(range(12)):  # no result depends on the samples before it
        out, moved = draw(again, image, masks, seed)
        assert torch.equal(out, first[seed][0])
        assert torch.equal(moved, first[seed][1])
    assert len({out.numpy().tobytes() for out, _ in first}) >= 5  # but epochs differ
    assert len({moved.numpy().tobytes() for _, moved in first}) >= 4


def global_states() -> tuple[Any, ...]:
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()


@pytest.mark.parametrize("name", CHANGING)
def test_global_generators_are_neither_used_nor_moved(name: str, image: Tensor, masks: Tensor) -> None:
    for global_seed in (1, 2):
        random.seed(global_seed)
        np.random.seed(global_seed)
        torch.manual_seed(global_seed)
        before = global_states()
        for seed in range(10):
            assert torch.equal(draw(preset(name), image, masks, seed)[0], drawn(name)[seed][0])
        assert global_states() == before


def clockwise(moved: Tensor) -> bool:
    """Whether the structures are passed clockwise, one after the other: a mirror changes that, a turn does not."""
    a, b, c = (mask.nonzero().float().mean(dim=0) for mask in moved[:3])
    return bool((b - a)[0] * (c - a)[1] > (b - a)[1] * (c - a)[0])


@pytest.mark.parametrize("name", SIDED)
def test_sided_organs_are_never_mirrored_and_stay_upright(name: str, masks: Tensor) -> None:
    assert len(drawn(name)) == 200
    for _, moved in drawn(name):
        assert clockwise(moved) == clockwise(masks)
        top_left, below, right = (mask.nonzero().float().mean(dim=0) for mask in moved[:3])
        assert below[0] > top_left[0] + 6
        assert right[1] > top_left[1] + 6


@pytest.mark.parametrize("name", [name for name in CHANGING if name not in SIDED])
def test_the_others_are_mirrored(name: str) -> None:
    assert {clockwise(moved) for _, moved in drawn(name)} == {True, False}


@pytest.mark.parametrize("name", PRESETS)
def test_an_even_image_stays_finite_and_is_not_washed_out(name: str, masks: Tensor) -> None:
    for value, low, high in ((0.0, 0.0, 0.25), (0.5, 0.25, 0.75), (1.0, 0.6, 1.0)):
        for seed in range(12):
            out, _ = draw(preset(name), torch.full((1, SIZE, SIZE), value), masks[:1], seed)
            assert out.isfinite().all()
            assert low <= float(out[0, 20:28, 20:28].mean()) <= high


def test_none_is_the_default_and_hands_on_what_it_gets(image: Tensor, masks: Tensor) -> None:
    assert "- transforms: none\n" in (CONF / "config.yaml").read_text()
    assert isinstance(preset("none"), Identity)
    out, moved = draw(preset("none"), image, masks, 0)
    assert out is image
    assert moved is masks


# ---------------------------------------------------------------------------------------------------- values


@pytest.mark.parametrize(
    ("transform", "row", "column"),
    [
        (mt.RandFlipd(BOTH, prob=1.0, spatial_axis=0), 31 - 3, 10),
        (mt.RandFlipd(BOTH, prob=1.0, spatial_axis=1), 3, 31 - 10),
        (mt.RandRotate90d(BOTH, prob=1.0, max_k=1), 31 - 10, 3),  # a quarter turn to the left
        (build_affine(32, prob=1.0, degrees=0, zoom=[1, 1], shift=0), 3, 10),
    ],
    ids=["up-down", "left-right", "quarter turn", "affine of nothing"],
)
def test_a_pixel_goes_where_it_should(transform: Any, row: int, column: int) -> None:
    image, masks = torch.zeros(3, 32, 32), torch.zeros(2, 32, 32)
    image[1, 3, 10] = masks[1, 3, 10] = 1
    out, moved = draw(MonaiTransforms([transform]), image, masks, 0)
    assert moved.nonzero().tolist() == [[1, row, column]]
    assert torch.allclose(out[1], moved[1], atol=1e-4)
    assert not out[[0, 2]].any()


def affine_of_a_bar(draws: int = 60, **settings: Any) -> list[Tensor]:
    """A horizontal bar of 4×16 in the middle of 64×64, as it is moved."""
    transform = MonaiTransforms([build_affine(64, prob=1.0, **({"degrees": 0, "zoom": [1, 1], "shift": 0} | settings))])
    bar = torch.zeros(1, 64, 64)
    bar[0, 30:34, 24:40] = 1
    return [draw(transform, bar, bar, seed)[1][0] for seed in range(draws)]


def test_zoom_magnifies_by_what_it_says() -> None:
    doubled = affine_of_a_bar(1, zoom=[2, 2])[0].nonzero()
    assert [doubled.amin(dim=0).tolist(), doubled.amax(dim=0).tolist()] == [[28, 16], [35, 47]]
    widths = [len(bar.any(dim=0).nonzero()) for bar in affine_of_a_bar(zoom=[0.5, 1.5])]
    assert (min(widths), max(widths)) == pytest.approx((8, 24), abs=1)


def test_shift_is_a_share_of_the_image() -> None:
    centres = torch.stack([bar.nonzero().float().mean(dim=0) - 31.5 for bar in affine_of_a_bar(shift=0.125)])
    assert centres.amax(dim=0).tolist() == pytest.approx([8, 8], abs=1.2)
    assert centres.amin(dim=0).tolist() == pytest.approx([-8, -8], abs=1.2)


def test_degrees_are_degrees_to_either_side() -> None:
    angles = []
    for bar in affine_of_a_bar(degrees=30):
        rows, columns = (bar.nonzero().float() - 31.5).unbind(dim=1)
        angles.append(0.5 * torch.atan2(2 * (rows * columns).mean(), (columns**2 - rows**2).mean()).rad2deg().item())
    assert (min(angles), max(angles)) == pytest.approx((-30, 30), abs=2)


def test_images_are_blended_and_masks_are_not() -> None:
    bar = torch.zeros(1, 64, 64)
    bar[0, 30:34, 24:40] = 1
    out, moved = draw(MonaiTransforms([build_affine(64, 1.0, degrees=20, zoom=[1, 1], shift=0)]), bar, bar, 0)
    assert len(moved.unique()) == 2
    assert len(out.unique()) > 20
    assert ((out > 0.5) != (moved > 0.5)).sum() < 8  # of 64 pixels, all along the border


@pytest.mark.parametrize("count", [0, 1, 16, 17, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bool])
def test_any_number_of_masks_moves(count: int, dtype: torch.dtype) -> None:
    masks = torch.from_numpy(np.random.default_rng(count).random((count, 32, 32)) < 0.3).to(dtype)
    moved = draw(MonaiTransforms([mt.RandFlipd(BOTH, prob=1.0, spatial_axis=1)]), torch.rand(1, 32, 32), masks, 0)[1]
    assert moved.dtype == dtype
    assert torch.equal(moved, masks.flip(2))


def test_intensity_is_cut_to_the_range(image: Tensor, masks: Tensor) -> None:
    noisy = MonaiTransforms([mt.RandGaussianNoised("image", prob=1.0, std=0.5, sample_std=False)])
    out, moved = draw(noisy, image, masks, 0)
    assert (out.min(), out.max()) == (0.0, 1.0)
    assert 0.3 < (out == 0).float().mean() < 0.6
    assert torch.equal(moved, masks)


# ------------------------------------------------------------------------------------------------- bad input

FLIP = mt.RandFlipd(BOTH, prob=1.0, spatial_axis=0)
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "bilinear label": (
        lambda: mt.RandRotated(BOTH, range_x=0.3, prob=1.0, mode="bilinear"),
        r'transforms\[1\] RandRotated changes the values of masks.* mode "nearest" for label',
    ),
    "bilinear zoom": (
        lambda: mt.RandZoomd(BOTH, prob=1.0, min_zoom=1.3, max_zoom=1.4),
        r"transforms\[1\] RandZoomd .*",
    ),
    "noise on label": (lambda: mt.RandGaussianNoised(BOTH, prob=1.0), r"transforms\[1\] RandGaussianNoised changes"),
    "scaled label": (lambda: mt.ScaleIntensityd(BOTH), r"transforms\[1\] ScaleIntensityd changes the values"),
    "crop": (
        lambda: mt.RandSpatialCropd(BOTH, roi_size=(16, 20)),
        r"transforms\[1\] RandSpatialCropd changes the size of image from 3×48×48 to 3×16×20",
    ),
    "several samples": (
        lambda: mt.RandSpatialCropSamplesd(BOTH, roi_size=(48, 48), num_samples=2),
        r"transforms\[1\] RandSpatialCropSamplesd makes several samples of one",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("count", [1, 4])
def test_what_spoils_a_sample_is_named(case: str, count: int, image: Tensor, masks: Tensor) -> None:
    build, message = REFUSED[case]
    if case == "scaled label":
        masks = masks * 0 + masks[-1:]  # all masks alike: one code, which scaling would turn into another
        count = 4
    with pytest.raises(ValueError, match=message):
        draw(MonaiTransforms([FLIP, build()]), image, masks[:count], 0)
    assert get_track_meta()  # MONAI's switch is as it was


@pytest.mark.parametrize(
    "wrong", [{"zoom": [1.2, 0.9]}, {"zoom": [0, 1]}, {"degrees": -5}, {"shift": -0.1}], ids=lambda w: str(w)
)
def test_an_empty_range_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        build_affine(64, 0.5, **({"degrees": 10, "zoom": [0.9, 1.1], "shift": 0.1} | wrong))
