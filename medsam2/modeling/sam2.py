"""SAM 2 on single images: encode once, decode any number of prompts (SAM 2 2408.00714, section 4).

The image path of the network with the parameter names of the released checkpoints. Coordinates are (x, y) in
pixels of the image the network sees; n = image_size / 16 is the side of the image embedding, C its channels.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from medsam2.modeling.image_encoder import ImageEncoder, check_image_size
from medsam2.modeling.mask_decoder import MaskDecoder, MaskPredictions
from medsam2.modeling.prompt_encoder import PromptEncoder


class ImageFeatures(NamedTuple):
    """What the decoder needs of B images.

    embed: B x C x n x n. high_res: the decoder's skips, B x C/8 x 4n x 4n and B x C/4 x 2n x 2n.
    """

    embed: Tensor
    high_res: tuple[Tensor, Tensor]

    def select(self, index: Tensor) -> "ImageFeatures":
        """Features of images `index` (N integers in 0...B-1), so that prompts and images go one to one."""
        fine, middle = self.high_res
        return ImageFeatures(self.embed[index], (fine[index], middle[index]))


class SAM2(nn.Module):
    """Promptable segmentation of image_size x image_size images.

    Args:
        image_encoder, sam_prompt_encoder, sam_mask_decoder: the built parts.
        image_size: side of the images in pixels, a multiple of 32.
        pixel_mean, pixel_std: normalisation of RGB values in [0, 1], three numbers each.
        multimask_output_in_sam: whether to ask for candidates at all.
        multimask_min_pt_num, multimask_max_pt_num: the numbers of points, inclusive, that ask for them.

    Raises:
        ValueError: image_size is not a multiple of 32.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

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
        super().__init__()
        check_image_size("image_size", image_size, image_encoder.trunk.stride)
        self.image_size = image_size
        self.multimask_output_in_sam = multimask_output_in_sam
        self.multimask_points = range(multimask_min_pt_num, multimask_max_pt_num + 1)
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean)[:, None, None], persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std)[:, None, None], persistent=False)
        self.no_mem_embed = nn.Parameter(torch.zeros(1, 1, image_encoder.neck.d_model))
        nn.init.trunc_normal_(self.no_mem_embed, std=0.02)
        self.image_encoder = image_encoder
        self.sam_prompt_encoder = sam_prompt_encoder
        self.sam_mask_decoder = sam_mask_decoder

    def normalize(self, images: Tensor) -> Tensor:
        """RGB in [0, 1], B x 3 x H x W, to zero mean and unit variance: the only place that does so."""
        return (images - self.pixel_mean) / self.pixel_std

    def forward_image(self, pixels: Tensor) -> ImageFeatures:
        """Encode normalised pixels B x 3 x S x S; embed is raw, as memory attention conditions it."""
        fine, middle, embed = self.image_encoder(pixels)
        return ImageFeatures(embed, self.sam_mask_decoder.project_high_res(fine, middle))

    def encode_image(self, images: Tensor) -> ImageFeatures:
        """Encode images B x 3 x S x S, RGB in [0, 1], that stand alone: embed includes "no memory".

        Raises:
            ValueError: the images are not image_size x image_size.
        """
        if images.shape[-2:] != (self.image_size, self.image_size):
            height, width = images.shape[-2:]
            raise ValueError(
                f"images are {height} x {width} pixels, the model was built for image_size={self.image_size}"
            )
        features = self.forward_image(self.normalize(images))
        return features._replace(embed=features.embed + self.no_mem_embed.reshape(1, -1, 1, 1))

    def decode(
        self,
        features: ImageFeatures,
        point_coords: Tensor | None = None,
        point_labels: Tensor | None = None,
        mask_input: Tensor | None = None,
        image_index: Tensor | None = None,
        multimask_output: bool = False,
    ) -> MaskPredictions:
        """Segment N prompted objects in the B encoded images.

        Args:
            features: result of encode_image.
            point_coords: N x P x 2, (x, y) in pixels of the encoded image; box corners, then clicks.
            point_labels: N x P: 1 positive, 0 negative, 2 top-left, 3 bottom-right, -1 padding.
            mask_input: N x 1 x 4n x 4n logits of an earlier prediction.
            image_index: N integers, the image of each object. None: N == B one to one, or one image for all.
            multimask_output: return three candidates (K = 3) instead of one mask (K = 1).

        Returns:
            Predictions in float32 for N objects; mask logits are not gated by the object score.

        Raises:
            ValueError: coordinates without labels, or numbers of objects and images that do not fit.
        """
        if (point_coords is None) != (point_labels is None):
            raise ValueError("point_coords and point_labels come together: one is None, the other is not")
        if image_index is not None:
            features = features.select(image_index)
        sparse, dense = self.sam_prompt_encoder(point_coords, point_labels, mask_input)
        num_images, num_prompts = features.embed.shape[0], max(sparse.shape[0], dense.shape[0])
        if min(num_images, num_prompts) > 1 and num_images != num_prompts:
            raise ValueError(
                f"{num_prompts} prompts for {num_images} images: pass image_index, the image of each prompt"
            )
        return self.sam_mask_decoder(
            features.embed,
            self.sam_prompt_encoder.dense_pe,
            sparse.expand(max(num_images, num_prompts), -1, -1),
            dense,
            features.high_res,
            multimask_output,
        )

    def forward(
        self,
        images: Tensor,
        point_coords: Tensor | None = None,
        point_labels: Tensor | None = None,
        mask_input: Tensor | None = None,
        image_index: Tensor | None = None,
        multimask_output: bool = False,
    ) -> MaskPredictions:
        """encode_image, then decode, in one call; arguments and result as theirs."""
        features = self.encode_image(images)
        return self.decode(features, point_coords, point_labels, mask_input, image_index, multimask_output)

    def use_multimask(self, num_points: int) -> bool:
        """Whether SAM 2 asks for candidates given this many points per object (a box counts 2, padding 0)."""
        return self.multimask_output_in_sam and num_points in self.multimask_points
