"""TinyViT by hand-made cases: folded batch norms, windows, biases. test_litemedsam.py has the real weights."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medsam2.modeling.tiny_vit import (
    BiasedAttention,
    ConvNorm,
    TinyViT,
    TinyViTBlock,
    index_offsets,
    join_windows,
    split_windows,
)

SMALL: dict[str, Any] = {
    "embed_dims": [8, 16, 16],
    "depths": [1, 2, 1],
    "num_heads": [2, 4],
    "window_sizes": [3, 5],
    "merge_strides": [2, 1],
    "patch_kernel": 3,
    "patch_stride": 2,
    "mbconv_expand": 2.0,
    "mlp_ratio": 2.0,
    "out_dim": 12,
    "drop_path_rate": 0.0,
}


def build(**changes: Any) -> TinyViT:
    """A small network whose batch norms hold statistics that are not 0 and 1."""
    torch.manual_seed(0)
    encoder = TinyViT(**{**SMALL, **changes})
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            shake(module)
    return encoder


def shake(norm: nn.BatchNorm2d) -> None:
    with torch.no_grad():
        for x in (norm.weight, norm.bias, norm.running_mean):
            x.normal_(0.5, 0.5)
        norm.running_var.uniform_(0.5, 2.0)


@pytest.mark.parametrize(
    ("kernel", "stride", "groups"),
    [(1, 1, 1), (3, 1, 1), (3, 2, 4), (1, 2, 1)],
    ids=["1x1", "3x3", "depth-wise", "1x1/2"],
)
@pytest.mark.parametrize("training", [False, True])
def test_the_folded_norm_is_a_batch_norm_in_evaluation(kernel: int, stride: int, groups: int, training: bool) -> None:
    torch.manual_seed(0)
    layer, x = ConvNorm(4, 8, kernel, stride, groups), torch.randn(2, 4, 7, 6)
    shake(layer.bn)
    expected = layer.bn.eval()(layer.c(x))
    before = {name: value.clone() for name, value in layer.named_buffers()}
    torch.testing.assert_close(layer.train(training)(x), expected)
    assert all(torch.equal(value, before[name]) for name, value in layer.named_buffers())


def test_a_training_step_depends_on_no_other_image_of_the_batch() -> None:
    encoder, images = build().train(), torch.rand(3, 3, 16, 24)
    (together,) = encoder(images)
    for i in range(3):
        torch.testing.assert_close(encoder(images[i : i + 1])[0], together[i : i + 1])
    assert int(encoder.patch_embed.seq[0].bn.num_batches_tracked) == 0


@pytest.mark.parametrize(("height", "width"), [(6, 6), (7, 5), (2, 9)])
def test_windows_come_back_in_their_place(height: int, width: int) -> None:
    x = torch.arange(2.0 * height * width * 3).view(2, height, width, 3) + 1
    windows = split_windows(x, 3)
    rows, columns = -(-height // 3), -(-width // 3)
    assert windows.shape == (2 * rows * columns, 9, 3)
    assert torch.equal(windows[1, 0], x[0, 0, 3])  # the second window of the first row starts at column 3
    assert (windows == 0).sum() == 2 * 3 * (9 * rows * columns - height * width)
    assert torch.equal(join_windows(windows, 3, height, width), x)


def test_offsets_count_rows_then_columns() -> None:
    assert index_offsets(2).tolist() == [[0, 1, 2, 3], [1, 0, 3, 2], [2, 3, 0, 1], [3, 2, 1, 0]]
    assert index_offsets(7)[0].tolist() == list(range(49))
    assert index_offsets(3)[4].tolist() == [4, 3, 4, 1, 0, 1, 4, 3, 4]  # from the centre


def attend_by_hand(attention: BiasedAttention, x: Tensor, window: int) -> Tensor:
    """One window, tokens x C, head by head and pixel by pixel."""
    dim, heads = x.shape[1], attention.num_heads
    qkv = attention.qkv(attention.norm(x)).view(-1, heads, 3, dim // heads)
    parts = []
    for head in range(heads):
        q, k, v = qkv[:, head].unbind(1)
        scores = q @ k.T * (dim // heads) ** -0.5
        for i in range(window**2):
            for j in range(window**2):
                dy, dx = abs(i // window - j // window), abs(i % window - j % window)
                scores[i, j] += attention.attention_biases[head, dy * window + dx]
        parts.append(scores.softmax(-1) @ v)
    return attention.proj(torch.cat(parts, dim=1))


@torch.no_grad()
def test_attention_is_biased_by_distance() -> None:
    torch.manual_seed(0)
    attention, x = BiasedAttention(8, num_heads=2, window=3), torch.randn(2, 9, 8)
    attention.attention_biases.normal_()
    for i in range(2):
        torch.testing.assert_close(attention(x)[i], attend_by_hand(attention, x[i], 3))


@torch.no_grad()
def test_a_block_on_a_map_smaller_than_its_window() -> None:
    torch.manual_seed(0)
    block = TinyViTBlock(8, num_heads=2, window=3, mlp_ratio=2.0, drop_path=0.0)
    block.attn.attention_biases.normal_()
    block.attn.norm.bias.normal_()
    shake(block.local_conv.bn)
    x = torch.randn(1, 8, 2, 2)
    filled = torch.zeros(3, 3, 8)
    filled[:2, :2] = x[0].permute(1, 2, 0)
    attended = attend_by_hand(block.attn, filled.view(9, 8), 3).view(3, 3, 8)[:2, :2]
    y = block.local_conv(x + attended.permute(2, 0, 1)[None]).permute(0, 2, 3, 1)  # no shortcut around it
    torch.testing.assert_close(block(x), (y + block.mlp(y)).permute(0, 3, 1, 2))


@pytest.mark.parametrize(
    ("changes", "stride"),
    [({}, 8), ({"patch_kernel": 1, "patch_stride": 1}, 2), ({"merge_strides": [2, 2]}, 16)],
    ids=["paper", "litemedsam", "coarser"],
)
@torch.no_grad()
def test_the_embedding_has_the_stated_stride(changes: dict[str, Any], stride: int) -> None:
    encoder = build(**changes)
    assert encoder.stride == stride
    (embed,) = encoder(torch.rand(1, 3, 32, 48))
    assert embed.shape == (1, 12, 32 // stride, 48 // stride)
    with pytest.raises(ValueError, match=rf"width.*=49 .*multiple of {stride}"):
        encoder(torch.rand(1, 3, 32, 49))


def test_gradients_reach_every_parameter() -> None:
    encoder = build(drop_path_rate=0.1).train()
    encoder(torch.rand(2, 3, 24, 24))[0].square().sum().backward()
    silent = [name for name, p in encoder.named_parameters() if p.grad is None or not bool(p.grad.any())]
    assert silent == []


@pytest.mark.parametrize("name", ["embed_dims", "num_heads", "window_sizes", "merge_strides"])
def test_lists_that_do_not_fit_are_named(name: str) -> None:
    count = len(SMALL[name])
    with pytest.raises(ValueError, match=rf"{name}=.* has {count + 1} entries; .* ask for {count}$"):
        build(**{name: [*SMALL[name], 4]})
