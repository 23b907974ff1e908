"""SAM's prompt encoder: points, boxes (as two points) and mask logits (SAM 2304.02643, appendix A)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medsam2.modeling.layers import LayerNorm2d
from medsam2.modeling.position import PositionEmbeddingRandom

NUM_POINT_LABELS = 4  # 0 negative click, 1 positive click, 2 and 3 top-left and bottom-right corner of a box


def refresh_dense_pe(encoder: "PromptEncoder", _: object = None) -> None:
    """Recompute the buffered encoding of the grid: its frequencies come with the state dict."""
    encoder.dense_pe = encoder.pe_layer.grid(encoder.embed_size)


class PromptEncoder(nn.Module):
    """Encode prompts for image_size x image_size images; their embedding is n x n, n = image_size / embed_stride.

    `dense_pe`, 1 x embed_dim x n x n, encodes the embedding's grid. It is constant: a buffer that is not
    saved, moves with the module and is recomputed when a state dict is loaded.

    Args:
        embed_dim: channels of tokens and maps; mask_in_chans: channels inside the mask branch.
        embed_stride: pixels per token of the image embedding (SAM 2: 16).
        append_padding: a padding token follows the points, as in SAM 2; models trained on boxes alone know none.
    """

    dense_pe: Tensor

    def __init__(
        self, embed_dim: int, image_size: int, mask_in_chans: int, embed_stride: int, append_padding: bool
    ) -> None:
        super().__init__()
        self.image_size = image_size
        self.embed_size = image_size // embed_stride
        self.num_padding = int(append_padding)
        self.mask_size = 4 * self.embed_size
        self.pe_layer = PositionEmbeddingRandom(embed_dim // 2)
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, embed_dim) for _ in range(NUM_POINT_LABELS))
        self.not_a_point_embed = nn.Embedding(1, embed_dim)
        self.no_mask_embed = nn.Embedding(1, embed_dim)
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, mask_in_chans // 4, 2, stride=2),
            LayerNorm2d(mask_in_chans // 4),
            nn.GELU(),
            nn.Conv2d(mask_in_chans // 4, mask_in_chans, 2, stride=2),
            LayerNorm2d(mask_in_chans),
            nn.GELU(),
            nn.Conv2d(mask_in_chans, embed_dim, 1),
        )
        self.register_buffer("dense_pe", self.pe_layer.grid(self.embed_size), persistent=False)
        self.register_load_state_dict_post_hook(refresh_dense_pe)

    def embed_points(self, coords: Tensor, labels: Tensor) -> Tensor:
        """Points N x P x 2, (x, y) in pixels, and labels N x P in -1...3 -> N x P x embed_dim."""
        encoded = self.pe_layer((coords.float() + 0.5) / self.image_size)  # pixel centres
        embeddings = (self.not_a_point_embed, *self.point_embeddings)
        table = torch.cat([embedding.get_parameter("weight") for embedding in embeddings])  # row label + 1
        encoded = encoded.masked_fill((labels == -1)[..., None], 0.0)
        return encoded + F.embedding(labels.long() + 1, table)

    def embed_masks(self, masks: Tensor | None, given: Tensor | None = None) -> Tensor:
        """Mask logits N x 1 x 4n x 4n, or None for "no mask" -> N (or 1) x embed_dim x n x n.

        Where `given`, N bool, is False there is "no mask", whatever the logits are.
        """
        no_mask = self.no_mask_embed.weight[..., None, None]
        if masks is None:
            return no_mask.expand(-1, -1, self.embed_size, self.embed_size)
        if masks.shape[-3:] != (1, self.mask_size, self.mask_size):
            raise ValueError(
                f"mask_input is {tuple(masks.shape)}; image_size={self.image_size} needs N x 1 x "
                f"{self.mask_size} x {self.mask_size} logits"
            )
        embedded = self.mask_downscaling(masks)
        return embedded if given is None else torch.where(given[:, None, None, None], embedded, no_mask)

    def forward(
        self,
        point_coords: Tensor | None,
        point_labels: Tensor | None,
        masks: Tensor | None,
        mask_given: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Encode the prompts of N objects.

        Args:
            point_coords: N x P x 2 (x, y) in pixels of the image the network sees; a box is two points.
            point_labels: N x P: 1 positive, 0 negative, 2 / 3 box corners (before the clicks), -1 padding.
            masks: N x 1 x 4n x 4n logits of an earlier prediction, or None.
            mask_given: N bool, the objects whose mask counts; None for all.

        Returns:
            sparse: N x (P + 1) x embed_dim, the last a padding token (or P without); no points: N (or 1) x 0 x ...
            dense: N (or, without masks, 1) x embed_dim x n x n.
        """
        if point_coords is None or point_labels is None:
            weight = self.not_a_point_embed.weight
            sparse = weight.new_zeros((1 if masks is None else masks.shape[0], 0, weight.shape[1]))
        else:
            coords = F.pad(point_coords, (0, 0, 0, self.num_padding))
            labels = F.pad(point_labels, (0, self.num_padding), value=-1)
            sparse = self.embed_points(coords, labels)
        return sparse, self.embed_masks(masks, mask_given)
