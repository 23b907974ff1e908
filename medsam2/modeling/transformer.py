"""SAM's two-way transformer: prompt tokens and image attend to each other (SAM 2304.02643, appendix A)."""

import torch.nn.functional as F
from torch import Tensor, nn

from medsam2.modeling.layers import MLP


class Attention(nn.Module):
    """Multi-head attention at an inner width; a batch of 1 on one side serves any batch of the other."""

    def __init__(self, embedding_dim: int, internal_dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q_proj = nn.Linear(embedding_dim, internal_dim)
        self.k_proj = nn.Linear(embedding_dim, internal_dim)
        self.v_proj = nn.Linear(embedding_dim, internal_dim)
        self.out_proj = nn.Linear(internal_dim, embedding_dim)

    def _heads(self, x: Tensor, batch: int) -> Tensor:
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2).expand(batch, -1, -1, -1)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q: B x T x C, k and v: B x L x C (a B may be 1) -> B x T x C."""
        batch = max(q.shape[0], k.shape[0])
        # Project before expanding: an image shared by many prompts is projected once.
        q, k, v = (self._heads(x, batch) for x in (self.q_proj(q), self.k_proj(k), self.v_proj(v)))
        x = F.scaled_dot_product_attention(q, k, v)
        return self.out_proj(x.transpose(1, 2).flatten(2))


class TwoWayAttentionBlock(nn.Module):
    """Tokens attend to themselves and to the image, pass an MLP; the image attends to the tokens. Post-norm.

    The first block has queries equal to their own position term: it skips that term and the residual.
    """

    def __init__(self, embedding_dim: int, internal_dim: int, num_heads: int, mlp_dim: int, first: bool) -> None:
        super().__init__()
        self.first = first
        self.self_attn = Attention(embedding_dim, embedding_dim, num_heads)
        self.norm1 = nn.LayerNorm(embedding_dim)
        self.cross_attn_token_to_image = Attention(embedding_dim, internal_dim, num_heads)
        self.norm2 = nn.LayerNorm(embedding_dim)
        self.mlp = MLP(embedding_dim, mlp_dim, embedding_dim, depth=2)
        self.norm3 = nn.LayerNorm(embedding_dim)
        self.cross_attn_image_to_token = Attention(embedding_dim, internal_dim, num_heads)
        self.norm4 = nn.LayerNorm(embedding_dim)

    def forward(self, queries: Tensor, keys: Tensor, query_pe: Tensor, key_pe: Tensor) -> tuple[Tensor, Tensor]:
        """queries, query_pe N x T x C; keys N (or 1) x L x C; key_pe 1 x L x C -> queries, keys, batch N."""
        if self.first:
            queries = self.self_attn(queries, queries, queries)
        else:
            placed = queries + query_pe
            queries = queries + self.self_attn(placed, placed, queries)
        queries = self.norm1(queries)
        placed_keys = keys + key_pe
        queries = self.norm2(queries + self.cross_attn_token_to_image(queries + query_pe, placed_keys, keys))
        queries = self.norm3(queries + self.mlp(queries))
        keys = self.norm4(keys + self.cross_attn_image_to_token(placed_keys, queries + query_pe, queries))
        return queries, keys


class TwoWayTransformer(nn.Module):
    """`depth` two-way blocks and a last attention of the tokens to the image.

    Args:
        depth: blocks; embedding_dim: channels of tokens and image; num_heads: heads of every attention.
        mlp_dim: hidden width of the token MLPs.
        attention_downsample_rate: the cross attentions work at embedding_dim / rate channels.
    """

    def __init__(
        self, depth: int, embedding_dim: int, num_heads: int, mlp_dim: int, attention_downsample_rate: int
    ) -> None:
        super().__init__()
        internal = embedding_dim // attention_downsample_rate
        self.layers = nn.ModuleList(
            TwoWayAttentionBlock(embedding_dim, internal, num_heads, mlp_dim, first=i == 0) for i in range(depth)
        )
        self.final_attn_token_to_image = Attention(embedding_dim, internal, num_heads)
        self.norm_final_attn = nn.LayerNorm(embedding_dim)

    def forward(self, image: Tensor, image_pe: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """image N (or 1) x C x h x w, image_pe 1 x C x h x w, tokens N x T x C -> tokens, image, batch N."""
        keys, key_pe = (x.flatten(2).transpose(1, 2) for x in (image, image_pe))  # B x (h w) x C
        queries = tokens
        for layer in self.layers:
            queries, keys = layer(queries, keys, tokens, key_pe)
        update = self.final_attn_token_to_image(queries + tokens, keys + key_pe, keys)
        return self.norm_final_attn(queries + update), keys.transpose(1, 2).unflatten(2, image.shape[-2:])
