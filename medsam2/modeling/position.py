"""Position encodings of SAM 2: sine waves for image features, random Fourier features for prompts.

Both stay in float32 under autocast, without switching it off: they use products and sums only, no matrix
product that autocast would round to bfloat16 (which moves a Fourier feature by up to 0.15).
"""

import math

import torch
from torch import Tensor, nn


def get_1d_sine_pe(positions: Tensor, dim: int, temperature: float = 10000) -> Tensor:
    """Sine encoding of real positions: ... -> ... x dim, all sines, then all cosines (1706.03762)."""
    half = dim // 2
    pair = torch.arange(half, device=positions.device, dtype=torch.float32) // 2
    angle = positions.float().unsqueeze(-1) / temperature ** (2 * pair / half)
    return torch.cat((angle.sin(), angle.cos()), dim=-1)


class PositionEmbeddingSine(nn.Module):
    """2-D sine encoding of a feature map, normalised to one period over its height and width.

    The first half of the channels encodes the row, the second the column (1706.03762, in the 2-D form of
    DETR, 2005.12872). Rows and columns separate, so a map costs H + W sines per channel and one write:
    nothing is cached and nothing can go stale. num_pos_feats counts all channels, a multiple of 4.
    """

    def __init__(self, num_pos_feats: int, temperature: float = 10000) -> None:
        super().__init__()
        self.num_pos_feats = num_pos_feats
        self.temperature = temperature

    def _axis(self, length: int, device: torch.device) -> Tensor:
        half = self.num_pos_feats // 2
        place = torch.arange(1, length + 1, device=device, dtype=torch.float32)
        place = 2 * math.pi * place / (length + 1e-6)
        pair = torch.arange(half // 2, device=device, dtype=torch.float32)
        angle = place[:, None] / self.temperature ** (2 * pair / half)
        # Sine and cosine alternate over the channels: half x length.
        return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(1).t()

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Encode the grid of `x`, B x C x H x W: 1 x num_pos_feats x H x W in [-1, 1], dtype of `x`."""
        h, w = x.shape[-2:]
        rows = self._axis(h, x.device)[:, :, None].expand(-1, h, w)
        columns = self._axis(w, x.device)[:, None, :].expand(-1, h, w)
        return torch.cat((rows, columns))[None].to(x.dtype)


class PositionEmbeddingRandom(nn.Module):
    """Random Fourier features of points (2304.02643, appendix A); the frequencies are saved, not trained.

    num_pos_feats frequencies make 2 * num_pos_feats channels: their sines, then their cosines.
    """

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, num_pos_feats: int) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(2, num_pos_feats))

    def forward(self, points: Tensor) -> Tensor:
        """Encode points ... x 2, (x, y) in [0, 1] of width and height, as ... x 2 * num_pos_feats in [-1, 1]."""
        wave_x, wave_y = self.positional_encoding_gaussian_matrix.float()
        x, y = (2 * points.float() - 1).unsqueeze(-1).unbind(-2)
        angle = 2 * math.pi * (x * wave_x + y * wave_y)
        return torch.cat((angle.sin(), angle.cos()), dim=-1)

    def grid(self, size: int) -> Tensor:
        """Encode the pixel centres of a size x size map: 1 x 2 * num_pos_feats x size x size."""
        centre = (torch.arange(size, device=self.positional_encoding_gaussian_matrix.device) + 0.5) / size
        y, x = torch.meshgrid(centre, centre, indexing="ij")
        return self(torch.stack((x, y), dim=-1)).permute(2, 0, 1)[None]
