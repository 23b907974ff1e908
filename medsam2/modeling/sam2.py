"""SAM 2 (2408.00714, section 4) with the parameter names of the released checkpoints."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medsam2.modeling.image_encoder import ImageEncoder
from medsam2.modeling.mask_decoder import MaskDecoder
from medsam2.modeling.prompt_encoder import PromptEncoder
from medsam2.modeling.sam import SAM, ImageFeatures


class SAM2(SAM):
    """SAM 2.

    Args:
        multimask_output_in_sam: whether to ask for candidates at all.
        multimask_min_pt_num, multimask_max_pt_num: the numbers of points, inclusive, that ask for them.
        The others: as SAM.
    """

    def __init__(
        self,
        image_encoder: ImageEncoder,
        sam_prompt_encoder: PromptEncoder,
        sam_mask_decoder: MaskDecoder,
        image_size: int,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        multimask_output_in_sam: bool,
        multimask_min_pt_num: int,
        multimask_max_pt_num: int,
    ) -> None:
        super().__init__(image_encoder, sam_prompt_encoder, sam_mask_decoder, image_size, pixel_mean, pixel_std)
        self.multimask_output_in_sam = multimask_output_in_sam
        self.multimask_points = range(multimask_min_pt_num, multimask_max_pt_num + 1)
        self.no_mem_embed = nn.Parameter(torch.zeros(1, 1, image_encoder.neck.d_model))
        nn.init.trunc_normal_(self.no_mem_embed, std=0.02)

    def encode_image(self, images: Tensor) -> ImageFeatures:
        """Encode images B x 3 x S x S, RGB in [0, 1], that stand alone: embed includes "no memory".

        Raises:
            ValueError: the images are not image_size x image_size.
        """
        features = super().encode_image(images)
        return features._replace(embed=features.embed + self.no_mem_embed.reshape(1, -1, 1, 1))

    def use_multimask(self, num_points: int) -> bool:
        """Whether SAM 2 asks for candidates given this many points per object (a box counts 2, padding 0)."""
        return self.multimask_output_in_sam and num_points in self.multimask_points
