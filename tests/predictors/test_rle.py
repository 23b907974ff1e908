"""Run lengths against examples written by hand and strings of COCO's tools."""

import numpy as np
import pytest
import torch

from medsam2.predictors import rle
from tests.predictors.fakes_predictors import paint


def test_codes_run_down_the_columns_and_begin_with_background() -> None:
    masks = torch.stack((paint(3, 4, (1, 1, 3, 3)), paint(3, 4, (0, 0, 1, 2)), paint(3, 4), paint(3, 4, (0, 0, 4, 3))))
    counts = [code["counts"] for code in rle.encode_masks(masks)]
    assert counts == [[4, 2, 1, 2, 3], [0, 2, 10], [12], [0, 12]]
    assert [rle.compute_area(code) for code in rle.encode_masks(masks)] == [4, 2, 0, 12]
    assert rle.encode_masks(masks[:0]) == []


@pytest.mark.parametrize("density", [0.0, 0.03, 0.5, 0.97, 1.0])
def test_masks_survive(density: float) -> None:
    masks = torch.rand(4, 17, 23, generator=torch.Generator().manual_seed(2)) < density
    for mask, code in zip(masks, rle.encode_masks(masks), strict=True):
        assert np.array_equal(rle.decode_mask(code), mask.numpy())
        assert rle.decode_mask(code).dtype == bool
        assert rle.compute_area(code) == mask.sum()
        assert code["size"] == [17, 23]
        assert rle.decompress_counts(rle.compress(code)["counts"]) == code["counts"]


@pytest.mark.parametrize(
    ("counts", "text"),
    [
        ([5, 2, 2, 2, 5], "52203"),
        ([6, 1, 40, 4, 5, 4, 5, 4, 21], "61X13mN000`0"),  # differences 6 1 40 3 -35 0 0 0 16
        ([245, 5, 35, 5, 35, 5, 35, 5, 35, 5, 1190], "e75S10000000ST1"),
        ([0, 6, 1, 3], "061M"),  # 3 - 6 is negative: the fifth bit
        ([0, 1024], "0PP1"),
        ([15, 16], "?`0"),  # 16 would read as negative in one character
        ([12], "<"),
    ],
)
def test_coco_strings(counts: list[int], text: str) -> None:
    assert rle.compress_counts(counts) == text
    assert rle.decompress_counts(text) == counts


def test_large_counts_survive() -> None:
    counts = [10**6, 1, 3, 10**5, 2, 1, 7, 10**7]
    assert rle.decompress_counts(rle.compress_counts(counts)) == counts
