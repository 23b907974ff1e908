"""Memory encoder: sizes of the mask path, the block against its formula, one frame for many objects."""

import pytest
import torch
import torch.nn.functional as F

from medsam2.modeling.memory_encoder import CXBlock, Fuser, MaskDownSampler, MemoryEncoder
from medsam2.modeling.position import PositionEmbeddingSine


def build() -> MemoryEncoder:
    torch.manual_seed(0)
    fuser = Fuser(CXBlock(8, 7, 3, 0.5), 2)
    return MemoryEncoder(8, 4, MaskDownSampler(8, 3, 2, 1, 16), fuser, PositionEmbeddingSine(4)).eval()


def test_mask_path_multiplies_channels_by_four() -> None:
    convolutions = [m for m in MaskDownSampler(8, 3, 2, 1, 16).encoder if isinstance(m, torch.nn.Conv2d)]
    assert [m.out_channels for m in convolutions] == [4, 16, 64, 256, 8]


def test_stride_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="total_stride=12 is no power of stride=2"):
        MaskDownSampler(8, 3, 2, 1, 12)


@torch.no_grad()
def test_block_against_its_formula() -> None:
    block = CXBlock(8, 7, 3, 0.5)
    x = torch.randn(2, 8, 5, 6)
    y = F.conv2d(x, block.dwconv.weight, block.dwconv.bias, padding=3, groups=8)
    y = (y - y.mean(1, keepdim=True)) / (y.var(1, keepdim=True, correction=0) + 1e-6).sqrt()
    hidden = F.gelu(torch.einsum("bchw,dc->bdhw", y, block.pwconv1.weight) + block.pwconv1.bias[:, None, None])
    y = torch.einsum("bdhw,cd->bchw", hidden, block.pwconv2.weight) + block.pwconv2.bias[:, None, None]
    torch.testing.assert_close(block(x), x + 0.5 * y, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_objects_share_the_frame() -> None:
    encoder = build()
    features, masks = torch.randn(1, 8, 4, 4), torch.randn(3, 1, 64, 64)
    together = encoder(features, masks)
    assert together.shape == (3, 4, 4, 4)
    for index in range(3):
        alone = encoder(features, masks[index : index + 1])
        torch.testing.assert_close(together[index : index + 1], alone, atol=1e-5, rtol=1e-4)
