"""Augmentation moves image, labels and raters together, by the generator it is given."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers_data import MemoryDataset

from medsam2.data.records import Case
from medsam2.data.transforms import Identity, MonaiTransforms


@pytest.fixture
def case() -> Case:
    """The image's first channel shows structure "one", its second structure "two", so a mismatch shows."""
    dataset = MemoryDataset()
    case = dataset.load(dataset.records()[0])
    case.image = np.stack([case.labels["one"], case.labels["two"], case.labels["two"]], axis=2).astype(np.float32)
    case.raters["two"] = np.stack([case.labels["two"]] * 3)
    return case


@pytest.fixture(scope="module")
def flips() -> MonaiTransforms:
    from monai.transforms import RandFlipd, RandRotate90d

    keys = ["image", "label"]
    flip = [RandFlipd(keys, prob=0.5, spatial_axis=axis) for axis in (0, 1)]
    return MonaiTransforms([*flip, RandRotate90d(keys, prob=0.5, max_k=3)])


def test_identity_returns_the_case(case: Case) -> None:
    assert Identity()(case, np.random.default_rng(0)) is case


def test_image_labels_and_raters_move_together(case: Case, flips: MonaiTransforms) -> None:
    seen = set()
    for seed in range(60):
        out = flips(case, np.random.default_rng(seed))
        assert out.image.dtype == np.float32
        assert out.image.shape[:2] == out.labels["one"].shape
        assert np.array_equal(out.image[..., 0] > 0.5, out.labels["one"])
        assert np.array_equal(out.image[..., 1] > 0.5, out.labels["two"])
        assert out.raters["two"].shape[0] == 3
        assert all(np.array_equal(r, out.labels["two"]) for r in out.raters["two"])
        assert out.spacing == ((2.0, 3.0) if out.image.shape[0] == 20 else (3.0, 2.0))
        seen.add((out.image.shape, out.labels["one"].tobytes()))
    assert len(seen) == 8  # every flip and quarter turn occurs
    assert case.labels["one"].sum() == 40
    assert case.image.shape == (20, 30, 3)


def test_same_generator_same_result(case: Case, flips: MonaiTransforms) -> None:
    for seed in range(5):
        one, other = (flips(case, np.random.default_rng(seed)) for _ in range(2))
        assert np.array_equal(one.image, other.image)


def test_intensities_stay_in_range_and_labels_still(case: Case) -> None:
    from monai.transforms import RandGaussianNoised

    noisy = MonaiTransforms([RandGaussianNoised(["image"], prob=1.0, std=0.5)])(case, np.random.default_rng(0))
    assert noisy.image.min() == 0.0
    assert noisy.image.max() == 1.0
    assert np.array_equal(noisy.labels["one"], case.labels["one"])


def test_a_case_without_spacing_stays_without(case: Case, flips: Any) -> None:
    case.spacing = None
    assert flips(case, np.random.default_rng(0)).spacing is None
