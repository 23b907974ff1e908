"""Memory attention: a frame's tokens attend to themselves, then to memories and pointers (2408.00714, section 4).

Rotary positions (RoFormer 2104.09864, axial over the two axes of the grid) are real rotations from one table
that all layers share. Objects tracked together share the frame: what does not depend on the memory runs once.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medsam2.modeling.layers import get_activation_fn, get_clones


def compute_rotations(size: int, head_dim: int, theta: float, device: torch.device) -> Tensor:
    """Cosine and sine per token of a size x size grid and pair of channels: 2 x size^2 x head_dim / 2, float32.

    The first half of the pairs turns with the column, the second with the row.
    """
    frequency = theta ** (-4.0 * torch.arange(head_dim // 4, device=device, dtype=torch.float32) / head_dim)
    angle = torch.arange(size, device=device, dtype=torch.float32)[:, None] * frequency
    waves = torch.stack((angle.cos(), angle.sin()))  # of one axis: 2 x size x head_dim / 4
    columns = waves[:, None].expand(-1, size, -1, -1)
    rows = waves[:, :, None].expand(-1, -1, size, -1)
    return torch.cat((columns, rows), dim=-1).flatten(1, 2)


def rotate(x: Tensor, rotations: Tensor) -> Tensor:
    """Turn the adjacent channel pairs of ... x N x D by `rotations`, 2 x N x D/2; in float32, dtype of x."""
    cos, sin = rotations
    a, b = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1).flatten(-2).to(x.dtype)


class RoPEAttention(nn.Module):
    """Attention whose queries and keys are turned by their place in the grid.

    Args:
        embedding_dim: width C of queries and output; num_heads: heads, of C / num_heads channels each.
        kv_in_dim: width of keys and values; dropout: of attention weights, in training.
    """

    def __init__(self, embedding_dim: int, num_heads: int, kv_in_dim: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.dropout = num_heads, dropout
        self.head_dim = embedding_dim // num_heads
        self.q_proj = nn.Linear(embedding_dim, embedding_dim)
        self.k_proj = nn.Linear(kv_in_dim, embedding_dim)
        self.v_proj = nn.Linear(kv_in_dim, embedding_dim)
        self.out_proj = nn.Linear(embedding_dim, embedding_dim)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, rotations: Tensor, num_unplaced: int = 0) -> Tensor:
        """Attend from a grid to one or more grids of the same size.

        Args:
            q: B (or 1) x N x C tokens of the grid.
            k, v: B x (F * N + num_unplaced) x kv_in_dim; the last num_unplaced keys have no place in the grid.
            rotations: 2 x N x head_dim / 2 of compute_rotations.
        """
        queries = rotate(self._heads(self.q_proj(q)), rotations)
        keys, values = self._heads(self.k_proj(k)), self._heads(self.v_proj(v))
        placed, unplaced = keys.split((k.shape[1] - num_unplaced, num_unplaced), dim=2)
        # Every remembered frame turns by the same table: a view, frame by frame.
        placed = rotate(placed.unflatten(2, (-1, q.shape[1])), rotations).flatten(2, 3)
        keys = torch.cat((placed, unplaced), dim=2) if num_unplaced else placed
        queries = queries.expand(keys.shape[0], -1, -1, -1)
        dropout = self.dropout if self.training else 0.0
        x = F.scaled_dot_product_attention(queries, keys, values, dropout_p=dropout)
        return self.out_proj(x.transpose(1, 2).flatten(2))


class MemoryAttentionLayer(nn.Module):
    """Pre-norm: self-attention, cross attention to the memory, feed-forward, each with a residual.

    Args:
        d_model: width C; dim_feedforward: hidden width; dropout: of every branch and of the hidden layer.
        activation: of the hidden layer, see get_activation_fn.
        self_attention, cross_attention: built; the second takes keys of the memory's width.
    """

    def __init__(
        self,
        d_model: int,
        dim_feedforward: int,
        dropout: float,
        activation: str,
        self_attention: RoPEAttention,
        cross_attention: RoPEAttention,
    ) -> None:
        super().__init__()
        self.self_attn = self_attention
        self.cross_attn_image = cross_attention
        self.linear1 = nn.Linear(d_model, dim_feedforward)
        self.linear2 = nn.Linear(dim_feedforward, d_model)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(d_model) for _ in range(3))
        self.dropout = nn.Dropout(dropout)
        self.activation = get_activation_fn(activation)

    def forward(self, x: Tensor, memory: Tensor, placed_memory: Tensor, rotations: Tensor, num_unplaced: int) -> Tensor:
        """x: B (or 1) x N x C; memory, and memory with its position, B x L x M -> B x N x C."""
        y = self.norm1(x)
        x = x + self.dropout(self.self_attn(y, y, y, rotations))
        y = self.cross_attn_image(self.norm2(x), placed_memory, memory, rotations, num_unplaced)
        x = x + self.dropout(y)
        y = self.dropout(self.activation(self.linear1(self.norm3(x))))
        return x + self.dropout(self.linear2(y))


class MemoryAttention(nn.Module):
    """`num_layers` copies of a layer and a last norm.

    Args:
        layer: the built layer; its copies start with equal weights.
        rope_theta: base of the rotation frequencies.
        input_pos_scale: weight of the position encoding that is added to the frame's tokens.
    """

    def __init__(self, layer: MemoryAttentionLayer, num_layers: int, rope_theta: float, input_pos_scale: float) -> None:
        super().__init__()
        self.layers = get_clones(layer, num_layers)
        self.norm = nn.LayerNorm(layer.linear1.in_features)
        self.head_dim = layer.self_attn.head_dim
        self.rope_theta, self.input_pos_scale = rope_theta, input_pos_scale

    def forward(
        self, embed: Tensor, embed_pos: Tensor, memory: Tensor, memory_pos: Tensor, num_obj_ptr_tokens: int
    ) -> Tensor:
        """Condition a frame on the memories of B objects.

        Args:
            embed: B (or 1, one frame for all objects) x C x n x n; embed_pos: 1 x C x n x n.
            memory: B x L x M, L = F * n^2 + num_obj_ptr_tokens, pointers last; any float dtype.
            memory_pos: B (or 1) x L x M.

        Returns:
            B x C x n x n.
        """
        size = embed.shape[-1]
        x = (embed + self.input_pos_scale * embed_pos).flatten(2).transpose(1, 2)
        if self.training:
            x = x.expand(memory.shape[0], -1, -1)  # every object draws its own dropout
        memory = memory.to(x.dtype)  # memories may be kept in bfloat16
        placed_memory = memory + memory_pos.to(x.dtype)
        rotations = compute_rotations(size, self.head_dim, self.rope_theta, x.device)
        for layer in self.layers:
            x = layer(x, memory, placed_memory, rotations, num_obj_ptr_tokens)
        return self.norm(x).transpose(1, 2).unflatten(2, (size, size))
