"""Hiera, the hierarchical vision transformer that is SAM 2's trunk.

Four stages; every stage after the first halves the grid and doubles width and heads. Attention runs in
windows, a few blocks of stage 3 attend globally. Three things are easy to get wrong, and the released weights
depend on them: the first block of a stage still uses the previous stage's window (it pools inside it); its
shortcut projects the *normalised* input; the zeros that fill incomplete windows take part in attention.

Sources: Hiera 2306.00989; SAM 2 2408.00714, section 4 and appendix.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medsam2.modeling.layers import MLP, DropPath


class BlockSpec(NamedTuple):
    """What tells one block from the next. window 0 is global attention; pool halves the grid."""

    dim_in: int
    dim_out: int
    num_heads: int
    window: int
    pool: bool


def list_blocks(
    embed_dim: int,
    num_heads: int,
    stages: Sequence[int],
    window_spec: Sequence[int],
    global_att_blocks: Sequence[int],
) -> Iterator[BlockSpec]:
    """Yield the trunk's blocks in order."""
    index = 0
    for stage, depth in enumerate(stages):
        for position in range(depth):
            pool = stage > 0 and position == 0
            dim_out = embed_dim * 2**stage
            window = 0 if index in global_att_blocks else window_spec[stage - pool]
            yield BlockSpec(dim_out // 2 if pool else dim_out, dim_out, num_heads * 2**stage, window, pool)
            index += 1


def max_pool(x: Tensor) -> Tensor:
    """2 x 2 max pooling of B x H x W x C."""
    return F.max_pool2d(x.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)


def split_windows(x: Tensor, window: int) -> Tensor:
    """Cut B x H x W x C, zero-padded at the bottom and right, into (B * windows) x window x window x C."""
    _, h, w, c = x.shape
    x = F.pad(x, (0, 0, 0, -w % window, 0, -h % window))
    x = x.unflatten(2, (-1, window)).unflatten(1, (-1, window))  # B, rows, window, columns, window, C
    return x.transpose(2, 3).reshape(-1, window, window, c)


def join_windows(x: Tensor, height: int, width: int) -> Tensor:
    """Put (B * windows) x window x window x C back together as B x height x width x C without the padding."""
    window, c = x.shape[1], x.shape[3]
    rows, columns = -(-height // window), -(-width // window)
    x = x.reshape(-1, rows, columns, window, window, c).transpose(2, 3)
    return x.reshape(-1, rows * window, columns * window, c)[:, :height, :width]


class MultiScaleAttention(nn.Module):
    """Self-attention, B x H x W x dim_in -> dim_out; pooling the queries alone halves the output grid."""

    def __init__(self, dim_in: int, dim_out: int, num_heads: int, pool: bool) -> None:
        super().__init__()
        self.num_heads, self.pool = num_heads, pool
        self.qkv = nn.Linear(dim_in, 3 * dim_out)
        self.proj = nn.Linear(dim_out, dim_out)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        if self.pool:
            q = max_pool(q)
        h, w = q.shape[1:3]
        # Views of the fused projection, B x heads x tokens x head_dim: nothing is copied.
        q, k, v = (t.flatten(1, 2).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for t in (q, k, v))
        x = F.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).flatten(2).unflatten(1, (h, w)))


class MultiScaleBlock(nn.Module):
    """Pre-norm transformer block: B x H x W x dim_in -> dim_out, on half the grid where it pools."""

    def __init__(self, spec: BlockSpec, mlp_ratio: float, drop_path: float) -> None:
        super().__init__()
        self.window, self.pool = spec.window, spec.pool
        self.norm1 = nn.LayerNorm(spec.dim_in, eps=1e-6)
        self.attn = MultiScaleAttention(spec.dim_in, spec.dim_out, spec.num_heads, spec.pool)
        self.norm2 = nn.LayerNorm(spec.dim_out, eps=1e-6)
        self.mlp = MLP(spec.dim_out, int(spec.dim_out * mlp_ratio), spec.dim_out, depth=2, activation=F.gelu)
        self.drop_path = DropPath(drop_path)
        if spec.pool:
            self.proj = nn.Linear(spec.dim_in, spec.dim_out)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        shortcut = max_pool(self.proj(y)) if self.pool else x
        if self.window:
            y = self.attn(split_windows(y, self.window))
            y = join_windows(y, shortcut.shape[1], shortcut.shape[2])
        else:
            y = self.attn(y)
        x = shortcut + self.drop_path(y)
        return x + self.drop_path(self.mlp(self.norm2(x)))


class Hiera(nn.Module):
    """SAM 2's trunk: pixels B x 3 x H x W, H and W multiples of 32 -> four maps at strides 4, 8, 16, 32.

    Args:
        embed_dim: width of the first stage; num_heads: its heads. Both double at every later stage.
        stages: blocks per stage (4 numbers).
        window_spec: side of the windows in tokens per stage; even in the first three, which are pooled.
        global_att_blocks: indices of the blocks, counted over all stages, that attend to the whole map.
        window_pos_embed_bkg_spatial_size: grid of the background position table, enlarged to the map.
        mlp_ratio: hidden width of the MLPs in units of the block's width.
        drop_path_rate: stochastic depth of the last block; it rises linearly from 0 in the first.

    Raises:
        ValueError: windows whose tiled position table does not fit every image, or that cannot be pooled.
    """

    stride = 32

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        stages: Sequence[int],
        window_spec: Sequence[int],
        global_att_blocks: Sequence[int],
        window_pos_embed_bkg_spatial_size: Sequence[int],
        mlp_ratio: float,
        drop_path_rate: float,
    ) -> None:
        super().__init__()
        if 8 % window_spec[0] or any(window % 2 for window in window_spec[:-1]):
            raise ValueError(f"window_spec={list(window_spec)}: the first must divide 8, all but the last be even")
        specs = list(list_blocks(embed_dim, num_heads, stages, window_spec, global_att_blocks))
        rates = [drop_path_rate * i / max(len(specs) - 1, 1) for i in range(len(specs))]
        self.patch_embed = nn.Sequential(OrderedDict(proj=nn.Conv2d(3, embed_dim, 7, stride=4, padding=3)))
        self.pos_embed = nn.Parameter(torch.zeros(1, embed_dim, *window_pos_embed_bkg_spatial_size))
        self.pos_embed_window = nn.Parameter(torch.zeros(1, embed_dim, window_spec[0], window_spec[0]))
        blocks = (MultiScaleBlock(s, mlp_ratio, r) for s, r in zip(specs, rates, strict=True))
        self.blocks = nn.ModuleList(blocks)
        self.stage_ends = [sum(stages[: i + 1]) - 1 for i in range(len(stages))]
        self.channel_list = [specs[i].dim_out for i in reversed(self.stage_ends)]

    def _position(self, height: int, width: int) -> Tensor:
        """1 x height x width x D: a smooth table over the image plus one repeated in every window."""
        window = self.pos_embed_window
        background = F.interpolate(self.pos_embed, (height, width), mode="bicubic", align_corners=False)
        tiles = window.tile(1, 1, height // window.shape[2], width // window.shape[3])
        return (background + tiles).permute(0, 2, 3, 1)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Return the output of every stage, B x C_s x H_s x W_s, fine to coarse."""
        x = self.patch_embed(pixels).permute(0, 2, 3, 1).contiguous()  # channels last for the whole trunk
        x = x + self._position(x.shape[1], x.shape[2])
        outputs = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in self.stage_ends:
                outputs.append(x.permute(0, 3, 1, 2))
        return outputs
