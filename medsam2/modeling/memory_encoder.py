"""Memory encoder: a frame's features and an object's mask become the object's memory of it (2408.00714, section 4)."""

import math
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from medsam2.modeling.layers import LayerNorm2d, get_clones
from medsam2.modeling.position import PositionEmbeddingSine


class MaskDownSampler(nn.Module):
    """Convolutions that take a mask N x 1 x S x S to N x embed_dim x S/total_stride x S/total_stride.

    Every step divides the side by `stride` and multiplies the channels by its square.

    Raises:
        ValueError: total_stride is no power of stride.
    """

    def __init__(self, embed_dim: int, kernel_size: int, stride: int, padding: int, total_stride: int) -> None:
        super().__init__()
        steps = round(math.log(total_stride, stride))
        if stride**steps != total_stride:
            raise ValueError(f"total_stride={total_stride} is no power of stride={stride}")
        widths = [stride ** (2 * step) for step in range(steps + 1)]
        layers: list[nn.Module] = []
        for width, wider in pairwise(widths):
            conv = nn.Conv2d(width, wider, kernel_size, stride=stride, padding=padding)
            layers += [conv, LayerNorm2d(wider), nn.GELU()]
        self.encoder = nn.Sequential(*layers, nn.Conv2d(widths[-1], embed_dim, 1))

    def forward(self, mask: Tensor) -> Tensor:
        return self.encoder(mask)


class CXBlock(nn.Module):
    """ConvNeXt block (2201.03545): depthwise convolution, norm, two linear layers, scaled residual; N x dim x h x w."""

    def __init__(self, dim: int, kernel_size: int, padding: int, layer_scale_init_value: float) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, kernel_size, padding=padding, groups=dim)
        self.norm = LayerNorm2d(dim)
        self.pwconv1 = nn.Linear(dim, 4 * dim)
        self.pwconv2 = nn.Linear(4 * dim, dim)
        self.gamma = nn.Parameter(self.norm.weight.new_full((dim,), layer_scale_init_value))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.dwconv(x)).permute(0, 2, 3, 1)
        y = self.gamma * self.pwconv2(F.gelu(self.pwconv1(y)))
        return x + y.permute(0, 3, 1, 2)


class Fuser(nn.Module):
    """`num_layers` copies of a block, one after the other; they start with equal weights."""

    def __init__(self, layer: CXBlock, num_layers: int) -> None:
        super().__init__()
        self.layers = get_clones(layer, num_layers)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


class MemoryEncoder(nn.Module):
    """Fuse features and mask.

    Args:
        in_dim: channels C of the features; out_dim: channels M of a memory.
        mask_downsampler, fuser: built, both at width C.
        position_encoding: of a memory, M channels.
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        mask_downsampler: MaskDownSampler,
        fuser: Fuser,
        position_encoding: PositionEmbeddingSine,
    ) -> None:
        super().__init__()
        self.out_dim = out_dim
        self.mask_downsampler = mask_downsampler
        self.pix_feat_proj = nn.Conv2d(in_dim, in_dim, 1)
        self.fuser = fuser
        self.out_proj = nn.Conv2d(in_dim, out_dim, 1)
        self.position_encoding = position_encoding

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        """features B (or 1, one frame for all objects) x C x n x n, mask B x 1 x S x S -> B x M x n x n.

        The mask is what the network was trained on: probabilities, scaled and shifted by the caller.
        """
        return self.out_proj(self.fuser(self.pix_feat_proj(features) + self.mask_downsampler(mask)))
