"""Hiera, the hierarchical vision transformer that is SAM 2's trunk.

Four stages; every stage after the first halves the grid and doubles width and heads. Attention runs in
windows, a few blocks of stage 3 attend globally. Three things are easy to get wrong, and the released weights
depend on them: the first block of a stage still uses the previous stage's window (it pools inside it); its
shortcut projects the *normalised* input; the zeros that fill incomplete windows take part in attention.

Tokens stay in window order (medsam2.modeling.windows), so no window is cut out and put back, and no zero is ever
computed: all zeros of a window have the same key and value, the bias, and count as one key with their number.

Sources: Hiera 2306.00989; SAM 2 2408.00714, section 4 and appendix.
"""

import math
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from medsam2.modeling.layers import MLP, DropPath
from medsam2.modeling.windows import WindowGroup, WindowOrder, join

PIECE = 4096  # tokens that go through a block at once on a CPU: their activations fit its cache


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


def list_orders(specs: Sequence[BlockSpec], window_spec: Sequence[int]) -> dict[int, tuple[int, int]]:
    """{index of a block: (window, poolings to come)} wherever the order of tokens changes.

    Pooling halves the windows. Where that gives the next stage's windows, as from 8 to 4, the order stays.
    """
    orders: dict[int, tuple[int, int]] = {}
    stage = start = window = 0
    for index, spec in enumerate(specs):
        if window != window_spec[stage]:
            start, window = index, window_spec[stage]
            orders[start] = (window, 0)
        if spec.pool:
            orders[start] = (orders[start][0], orders[start][1] + 1)
            stage, window = stage + 1, window // 2
    return orders


def max_pool(x: Tensor) -> Tensor:
    """Max pooling of B x N x C in window order, where every four tokens are a 2 x 2 cell -> B x N/4 x C."""
    return x.unflatten(1, (-1, 4)).amax(2)


class MultiScaleAttention(nn.Module):
    """Self-attention within windows, B x N x dim_in -> dim_out; pooling the queries alone leaves N / 4 tokens."""

    def __init__(self, dim_in: int, dim_out: int, num_heads: int, pool: bool) -> None:
        super().__init__()
        self.num_heads, self.pool = num_heads, pool
        self.qkv = nn.Linear(dim_in, 3 * dim_out)
        self.proj = nn.Linear(dim_out, dim_out)

    def forward(self, x: Tensor, groups: list[WindowGroup]) -> Tensor:
        """`groups` tells the windows of the N tokens in their order."""
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        queries = [group.number * group.tokens // (4 if self.pool else 1) for group in groups]
        keys = [group.number * group.tokens for group in groups]
        q = max_pool(q) if self.pool else q
        parts = zip(q.split(queries, dim=1), k.split(keys, dim=1), v.split(keys, dim=1), groups, strict=True)
        return self.proj(join([self._attend(*part) for part in parts], dim=1))

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, group: WindowGroup) -> Tensor:
        """Attention in one group of windows, B x (number * tokens) x dim_out."""
        batch, _, dim = q.shape
        # Views of the fused projection, (B * number) x tokens x heads x head_dim, unless images alternate with groups.
        shape = (batch * group.number, -1, self.num_heads, dim // self.num_heads)
        q, k, v = q.reshape(shape), k.reshape(shape), v.reshape(shape)
        mask = None
        if group.pads:
            k_bias, v_bias = self.qkv.bias.to(k.dtype).view(3, 1, 1, *shape[2:])[1:].expand(-1, len(k), -1, -1, -1)
            k, v = torch.cat([k, k_bias], dim=1), torch.cat([v, v_bias], dim=1)
            mask = F.pad(k.new_zeros(1, group.tokens), (0, 1), value=math.log(group.pads))
        x = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=mask)
        return x.transpose(1, 2).reshape(batch, -1, dim)


class MultiScaleBlock(nn.Module):
    """Pre-norm transformer block: B x N x dim_in -> dim_out, N / 4 tokens where it pools."""

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

    def forward(self, x: Tensor, groups: list[WindowGroup]) -> Tensor:
        y = self.norm1(x)
        shortcut = max_pool(self.proj(y)) if self.pool else x
        x = shortcut + self.drop_path(self.attn(y, groups))
        return x + self.drop_path(self.mlp(self.norm2(x)))


def bicubic_weights(table: Tensor, axis: int, size: int) -> Tensor:
    """size x table.shape[axis]: what bicubic interpolation takes of each entry along the axis."""
    length = table.shape[axis]
    unit = torch.eye(length, dtype=table.dtype, device=table.device).view(1, length, length, 1)
    return F.interpolate(unit, (size, 1), mode="bicubic", align_corners=False).view(length, size).T


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
        activation_checkpointing: in training, compute every block again instead of storing what is inside it.

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
        activation_checkpointing: bool = False,
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
        self.activation_checkpointing = activation_checkpointing
        self.orders = list_orders(specs, window_spec)
        self.stage_ends = [sum(stages[: i + 1]) - 1 for i in range(len(stages))]
        self.channel_list = [specs[i].dim_out for i in reversed(self.stage_ends)]

    def _position(self, height: int, width: int) -> Tensor:
        """1 x height x width x D: a smooth table over the image plus one repeated in every window."""
        table, window = self.pos_embed, self.pos_embed_window.permute(0, 2, 3, 1)
        side = window.shape[1]
        with torch.autocast(table.device.type, enabled=False):
            # Bicubic by two matrix products: a tenth of the interpolation's time, and a deterministic gradient.
            rows, columns = bicubic_weights(table, 2, height), bicubic_weights(table, 3, width)
            background = torch.einsum("hi,iwd->hwd", rows, torch.einsum("dij,wj->iwd", table[0], columns))
        tiles = background.unflatten(1, (-1, side)).unflatten(0, (-1, side)) + window.unsqueeze(2)
        return tiles.flatten(2, 3).flatten(0, 1).unsqueeze(0)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Return the output of every stage, B x C_s x H_s x W_s, fine to coarse."""
        # Channels last from the first layer on: the convolution is twice as fast and its result is rows of tokens.
        x = self.patch_embed(pixels.contiguous(memory_format=torch.channels_last)).permute(0, 2, 3, 1)
        x = x + self._position(x.shape[1], x.shape[2])
        order = WindowOrder(x.shape[1], x.shape[2], *self.orders[0])
        x, outputs = order.flatten(x), []
        for index, block in enumerate(self.blocks):
            if index > 0 and index in self.orders:
                x = order.unflatten(x)
                order = WindowOrder(x.shape[1], x.shape[2], *self.orders[index])
                x = order.flatten(x)
            x = self._run(block, x, order.groups() if block.window else [WindowGroup(1, x.shape[1], 0)])
            order = order.pooled() if block.pool else order
            if index in self.stage_ends:
                outputs.append(order.unflatten(x).permute(0, 3, 1, 2))
        return outputs

    def _run(self, block: nn.Module, x: Tensor, groups: list[WindowGroup]) -> Tensor:
        """One block; it is checkpointed in training where told, and done in pieces where only time counts."""
        if self.training or torch.is_grad_enabled():
            if self.activation_checkpointing and self.training and torch.is_grad_enabled():
                return checkpoint(block, x, groups, use_reentrant=False)
            return block(x, groups)
        if x.device.type != "cpu" or torch.compiler.is_compiling():
            return block(x, groups)
        return run_in_pieces(block, x, groups)


def run_in_pieces(block: nn.Module, x: Tensor, groups: list[WindowGroup]) -> Tensor:
    """The block on PIECE tokens at a time: whole images, or whole windows where all of them are alike."""
    batch = x.shape[0]
    if len(groups) == 1:
        _, tokens, pads = groups[0]
        x, groups = x.reshape(-1, tokens, x.shape[2]), [WindowGroup(1, tokens, pads)]
    pieces = [block(piece, groups) for piece in x.split(max(PIECE // x.shape[1], 1))]
    y = join(pieces, dim=0)
    return y.reshape(batch, -1, y.shape[2])
