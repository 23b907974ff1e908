"""TinyViT, the image encoder of LiteMedSAM: one stage of inverted bottlenecks, three of windowed attention.

Three things are easy to get wrong, and the released weights depend on them: the zeros that fill incomplete
windows are normalised and take part in attention; the depth-wise convolution behind the attention has no
shortcut; the last merging widens the channels and keeps the grid.

Batch norms use the statistics of the checkpoint in training as in evaluation, folded into the convolution
before them: a fine-tune with one image per batch must not replace them by that image's own, and the fold
saves a pass over every map. Their scale and shift train like any parameter. From random weights they are
therefore a plain scale and shift; this encoder is meant to be fine-tuned.

Source: TinyViT 2207.10666, section 3.3 and appendix; names and shapes of the released LiteMedSAM weights.
"""

from collections.abc import Sequence
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medsam2.modeling.image_encoder import check_image_size
from medsam2.modeling.layers import DropPath, LayerNorm2d


class ConvNorm(nn.Module):
    """A convolution and its batch norm with stored statistics, computed as one convolution."""

    def __init__(self, dim_in: int, dim_out: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.c = nn.Conv2d(dim_in, dim_out, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(dim_out)

    def forward(self, x: Tensor) -> Tensor:
        c, bn = self.c, self.bn
        mean, variance = bn.get_buffer("running_mean"), bn.get_buffer("running_var")
        scale = bn.weight * torch.rsqrt(variance + bn.eps)
        weight, bias = c.weight * scale[:, None, None, None], bn.bias - mean * scale
        if c.kernel_size == c.stride == (1, 1):  # one matrix product on channels last, which CPU convolutions are not
            return F.linear(x.permute(0, 2, 3, 1), weight.flatten(1), bias).permute(0, 3, 1, 2)
        return F.conv2d(x, weight, bias, c.stride, c.padding, groups=c.groups)


class PatchEmbed(nn.Module):
    """Two convolutions, B x 3 x H x W -> B x dim; each divides the grid by `stride`."""

    def __init__(self, dim: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.seq = nn.Sequential(
            ConvNorm(3, dim // 2, kernel, stride), nn.GELU(), ConvNorm(dim // 2, dim, kernel, stride)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.seq(x)


class MBConv(nn.Module):
    """Inverted bottleneck: widen `expand` times, mix 3 x 3 pixels per channel, narrow; B x dim x H x W."""

    def __init__(self, dim: int, expand: float, drop_path: float) -> None:
        super().__init__()
        hidden = int(dim * expand)
        self.conv1 = ConvNorm(dim, hidden)
        self.conv2 = ConvNorm(hidden, hidden, kernel=3, groups=hidden)
        self.conv3 = ConvNorm(hidden, dim)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(x)))))
        return F.gelu(x + self.drop_path(y))


class PatchMerging(nn.Module):
    """To the width of the next stage and to 1 / stride of the grid."""

    def __init__(self, dim_in: int, dim_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(dim_in, dim_out)
        self.conv2 = ConvNorm(dim_out, dim_out, kernel=3, stride=stride, groups=dim_out)
        self.conv3 = ConvNorm(dim_out, dim_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(x)))))


def split_windows(x: Tensor, window: int) -> Tensor:
    """Cut B x H x W x C, zero-padded at the bottom and right, into (B * windows) x window^2 x C."""
    _, height, width, c = x.shape
    x = F.pad(x, (0, 0, 0, -width % window, 0, -height % window))
    x = x.unflatten(2, (-1, window)).unflatten(1, (-1, window))  # B, rows, window, columns, window, C
    return x.transpose(2, 3).reshape(-1, window * window, c)


def join_windows(x: Tensor, window: int, height: int, width: int) -> Tensor:
    """Put (B * windows) x window^2 x C back together as B x height x width x C, without the padding."""
    rows, columns = -(-height // window), -(-width // window)
    x = x.reshape(-1, rows, columns, window, window, x.shape[-1]).transpose(2, 3)
    return x.reshape(-1, rows * window, columns * window, x.shape[-1])[:, :height, :width]


def index_offsets(window: int) -> Tensor:
    """Entry |dy| * window + |dx| for every pair of a window's pixels: window^2 x window^2."""
    y, x = (grid.flatten() for grid in torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij"))
    return (y[:, None] - y).abs() * window + (x[:, None] - x).abs()


class BiasedAttention(nn.Module):
    """Self-attention inside a window, with a learnt bias per head and distance: B x tokens x C -> the same."""

    offsets: Tensor

    def __init__(self, dim: int, num_heads: int, window: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.attention_biases = nn.Parameter(torch.zeros(num_heads, window * window))
        self.register_buffer("offsets", index_offsets(window), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        # q, k and v of one head lie side by side: B x tokens x heads x 3 * head_dim
        qkv = self.qkv(self.norm(x)).unflatten(-1, (self.num_heads, -1))
        q, k, v = qkv.transpose(1, 2).chunk(3, dim=-1)
        bias = self.attention_biases[:, self.offsets].to(q.dtype)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias[None])
        return self.proj(y.transpose(1, 2).flatten(2))


class PreNormMLP(nn.Module):
    """Layer norm, then two linear layers: ... x dim -> ... x dim."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(self.norm(x))))


class TinyViTBlock(nn.Module):
    """Windowed attention, a 3 x 3 depth-wise convolution, an MLP: B x C x H x W -> the same, channels last."""

    def __init__(self, dim: int, num_heads: int, window: int, mlp_ratio: float, drop_path: float) -> None:
        super().__init__()
        self.window = window
        self.attn = BiasedAttention(dim, num_heads, window)
        self.local_conv = ConvNorm(dim, dim, kernel=3, groups=dim)
        self.mlp = PreNormMLP(dim, int(dim * mlp_ratio))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        height, width = x.shape[1:3]
        y = join_windows(self.attn(split_windows(x, self.window)), self.window, height, width)
        x = self.local_conv((x + self.drop_path(y)).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return (x + self.drop_path(self.mlp(x))).permute(0, 3, 1, 2)


class Stage(nn.Module):
    """Blocks of one width, then the way to the next stage."""

    def __init__(self, blocks: Sequence[nn.Module], downsample: nn.Module | None) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*blocks)
        if downsample is not None:
            self.downsample = downsample

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(x)
        return self.downsample(x) if hasattr(self, "downsample") else x


def check_stages(depths: Sequence[int], **lists: tuple[Sequence[int], int]) -> None:
    """Raise ValueError unless every list has an entry per stage, less as many as its number says."""
    for name, (values, fewer) in lists.items():
        if len(values) != len(depths) - fewer:
            raise ValueError(
                f"{name}={list(values)} has {len(values)} entries; depths={list(depths)} ask for {len(depths) - fewer}"
            )


class TinyViT(nn.Module):
    """Pixels B x 3 x H x W -> [B x out_dim x H / stride x W / stride]: one level, no skips for the decoder.

    Args:
        embed_dims, depths: channels and blocks per stage; the first stage is convolutional.
        num_heads, window_sizes: of the other stages.
        merge_strides: between stages, how much coarser the grid becomes.
        patch_kernel, patch_stride: of each of the two convolutions on the pixels (the paper: 3 and 2).
        mbconv_expand, mlp_ratio: hidden width of bottlenecks and MLPs, relative to the stage's.
        out_dim: channels of the embedding.
        drop_path_rate: stochastic depth in training, growing linearly to this rate at the last block.

    Raises:
        ValueError: lists whose lengths do not fit.
    """

    def __init__(
        self,
        embed_dims: Sequence[int],
        depths: Sequence[int],
        num_heads: Sequence[int],
        window_sizes: Sequence[int],
        merge_strides: Sequence[int],
        patch_kernel: int,
        patch_stride: int,
        mbconv_expand: float,
        mlp_ratio: float,
        out_dim: int,
        drop_path_rate: float,
    ) -> None:
        super().__init__()
        check_stages(
            depths,
            embed_dims=(embed_dims, 0),
            num_heads=(num_heads, 1),
            window_sizes=(window_sizes, 1),
            merge_strides=(merge_strides, 1),
        )
        self.stride = patch_stride**2 * prod(merge_strides)
        self.patch_embed = PatchEmbed(embed_dims[0], patch_kernel, patch_stride)
        rates = iter(torch.linspace(0, drop_path_rate, sum(depths)).tolist())
        stages: list[nn.Module] = []
        for i, (dim, depth) in enumerate(zip(embed_dims, depths, strict=True)):
            blocks = [
                TinyViTBlock(dim, num_heads[i - 1], window_sizes[i - 1], mlp_ratio, next(rates))
                if i
                else MBConv(dim, mbconv_expand, next(rates))
                for _ in range(depth)
            ]
            last = i + 1 == len(depths)
            stages.append(Stage(blocks, None if last else PatchMerging(dim, embed_dims[i + 1], merge_strides[i])))
        self.layers = nn.Sequential(*stages)
        self.neck = nn.Sequential(
            nn.Conv2d(embed_dims[-1], out_dim, 1, bias=False),
            LayerNorm2d(out_dim),
            nn.Conv2d(out_dim, out_dim, 3, padding=1, bias=False),
            LayerNorm2d(out_dim),
        )

    def forward(self, pixels: Tensor) -> list[Tensor]:
        check_image_size("image_size (height)", pixels.shape[-2], self.stride)
        check_image_size("image_size (width)", pixels.shape[-1], self.stride)
        # channels last from here on: attention, MLPs and depth-wise convolutions then share one layout, uncopied
        x = self.patch_embed(pixels.contiguous(memory_format=torch.channels_last))
        return [self.neck(self.layers(x))]
