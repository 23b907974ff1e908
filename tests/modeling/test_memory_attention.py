"""Memory attention: rotations against complex numbers, sharing and order of the tokens, compilation."""

import math

import pytest
import torch
from torch import Tensor

from medsam2.modeling.layers import get_activation_fn
from medsam2.modeling.memory_attention import (
    MemoryAttention,
    MemoryAttentionLayer,
    RoPEAttention,
    compute_rotations,
    rotate,
)

N, C, M = 9, 8, 4  # tokens of a 3 x 3 grid, width, memory width


def build(num_layers: int = 2, dropout: float = 0.0) -> MemoryAttention:
    torch.manual_seed(0)
    self_attention = RoPEAttention(C, 1, C, dropout)
    cross_attention = RoPEAttention(C, 1, M, dropout)
    layer = MemoryAttentionLayer(C, 16, dropout, "relu", self_attention, cross_attention)
    return MemoryAttention(layer, num_layers, 10000, 0.1).eval()


def draw(batch: int, frames: int, pointers: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    count = frames * N + pointers
    shapes = [(1, C, 3, 3), (1, C, 3, 3), (batch, count, M), (1, count, M)]
    embed, embed_pos, memory, memory_pos = (torch.randn(shape, generator=generator) for shape in shapes)
    return embed, embed_pos, memory, memory_pos


@pytest.mark.parametrize(("token", "pair"), [(0, 0), (5, 0), (5, 1), (5, 2), (7, 3)])
def test_rotation_is_a_complex_product(token: int, pair: int) -> None:
    x = torch.randn(N, C, dtype=torch.float64).float()
    turned = rotate(x, compute_rotations(3, C, 10000, x.device))
    column, row = token % 3, token // 3
    angle = column * 10000 ** (-4 * pair / C) if pair < C // 4 else row * 10000 ** (-4 * (pair - C // 4) / C)
    number = complex(x[token, 2 * pair], x[token, 2 * pair + 1]) * complex(math.cos(angle), math.sin(angle))
    assert turned[token, 2 * pair].item() == pytest.approx(number.real, abs=1e-5)
    assert turned[token, 2 * pair + 1].item() == pytest.approx(number.imag, abs=1e-5)


def test_rotation_keeps_the_dtype() -> None:
    x = torch.randn(N, C, dtype=torch.bfloat16)
    assert rotate(x, compute_rotations(3, C, 10000, x.device)).dtype == torch.bfloat16


@torch.no_grad()
def test_every_frame_turns_alike_and_pointers_do_not() -> None:
    attention = RoPEAttention(C, 1, M, 0.0).eval()
    query, frame, pointer = torch.randn(1, N, C), torch.randn(1, N, M), torch.randn(1, 2, M)
    rotations = compute_rotations(3, C, 10000, query.device)
    once = attention(query, frame, frame, rotations)
    twice = attention(query, frame.repeat(1, 2, 1), frame.repeat(1, 2, 1), rotations)
    torch.testing.assert_close(once, twice)  # the same keys twice change no average
    keys = torch.cat((frame, pointer), dim=1)
    queries = rotate(attention.q_proj(query), rotations)
    by_hand = torch.cat((rotate(attention.k_proj(frame), rotations), attention.k_proj(pointer)), dim=1)
    weights = (queries @ by_hand.transpose(1, 2) / C**0.5).softmax(-1)
    expected = attention.out_proj(weights @ attention.v_proj(keys))
    torch.testing.assert_close(attention(query, keys, keys, rotations, num_unplaced=2), expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_objects_share_the_frame_and_keep_their_memories() -> None:
    attention = build()
    embed, embed_pos, memory, memory_pos = draw(3, frames=2, pointers=4)
    together = attention(embed, embed_pos, memory, memory_pos, 4)
    assert together.shape == (3, C, 3, 3)
    for index in range(3):
        alone = attention(embed, embed_pos, memory[index : index + 1], memory_pos, 4)
        torch.testing.assert_close(together[index : index + 1], alone, atol=1e-5, rtol=1e-4)
    assert (together[0] - together[1]).abs().max() > 1e-3


@torch.no_grad()
def test_position_is_added_at_a_tenth() -> None:
    attention = build()
    embed, embed_pos, memory, memory_pos = draw(1, frames=1, pointers=0)
    moved = attention(embed + 0.1 * embed_pos, torch.zeros_like(embed_pos), memory, memory_pos, 0)
    torch.testing.assert_close(attention(embed, embed_pos, memory, memory_pos, 0), moved)


@torch.no_grad()
def test_memories_in_bfloat16_without_pointers_run_in_float32() -> None:
    attention = build()
    embed, embed_pos, memory, memory_pos = draw(1, frames=2, pointers=0)
    stored = memory.bfloat16()
    result = attention(embed, embed_pos, stored, memory_pos, 0)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, attention(embed, embed_pos, stored.float(), memory_pos, 0))


def test_in_training_every_object_draws_its_own_dropout() -> None:
    attention = build(dropout=0.5).train()
    embed, embed_pos, memory, memory_pos = draw(1, frames=1, pointers=0)
    result = attention(embed, embed_pos, memory.expand(2, -1, -1), memory_pos, 0)
    assert not torch.equal(result[0], result[1])


def test_layers_start_equal_and_are_independent() -> None:
    attention = build(num_layers=3)
    first, *others = attention.layers
    for layer in others:
        torch.testing.assert_close(layer.state_dict(), first.state_dict(), rtol=0, atol=0)
        assert layer.linear1.weight is not first.linear1.weight


def test_unknown_activation_is_refused() -> None:
    with pytest.raises(ValueError, match="activation='swish' is unknown: use relu or gelu"):
        get_activation_fn("swish")
