"""Promptable segmentation of single images: encode once, decode any number of prompts (SAM 2304.02643, section 3).

Coordinates are (x, y) in pixels of the image the network sees; n is the side of the image embedding, C its channels.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from medsam2.modeling.feature_cache import FeatureCache
from medsam2.modeling.image_encoder import ImageEncoder, check_image_size
from medsam2.modeling.learned_prompts import LearnedPrompts
from medsam2.modeling.mask_decoder import MaskDecoder, MaskPredictions
from medsam2.modeling.prompt_encoder import PromptEncoder
from medsam2.modeling.tiny_vit import TinyViT

# SAM 2 clamps an earlier answer to this before it goes back in as a mask prompt; an absent object's is -1024.
LOGIT_LIMIT = 32.0


class ImageFeatures(NamedTuple):
    """What the decoder needs of B images.

    embed: B x C x n x n. high_res: the decoder's skips, B x C/8 x 4n x 4n and B x C/4 x 2n x 2n; none for SAM 1.
    """

    embed: Tensor
    high_res: tuple[Tensor, ...]

    def select(self, index: Tensor) -> "ImageFeatures":
        """Features of images `index` (N integers in 0...B-1), so that prompts and images go one to one."""
        return ImageFeatures(self.embed[index], tuple(level[index] for level in self.high_res))


class SAM(nn.Module):
    """Promptable segmentation of image_size x image_size images.

    Args:
        image_encoder, sam_prompt_encoder, sam_mask_decoder: the built parts.
        image_size: side of the images in pixels, a multiple of the encoder's stride (Hiera's is 32).
        pixel_mean, pixel_std: normalisation of RGB values in [0, 1], three numbers each.
        min_max: each image is stretched to the range 0...1 before that, as MedSAM's are.
        keep_features: images whose encoding is kept, in memory, while the encoder is frozen; 0 for none.

    Raises:
        ValueError: image_size is not a multiple of the stride, or keep_features is negative.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        image_encoder: ImageEncoder | TinyViT,
        sam_prompt_encoder: PromptEncoder,
        sam_mask_decoder: MaskDecoder,
        image_size: int,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        min_max: bool = False,
        keep_features: int = 0,
    ) -> None:
        super().__init__()
        check_image_size("image_size", image_size, image_encoder.stride)
        self.image_size = image_size
        self.min_max = min_max
        self.feature_cache = FeatureCache(keep_features)
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean)[:, None, None], persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std)[:, None, None], persistent=False)
        self.image_encoder = image_encoder
        self.sam_prompt_encoder = sam_prompt_encoder
        self.sam_mask_decoder = sam_mask_decoder
        self.learned_prompts: LearnedPrompts | None = None  # made for the structures of a run: no released file has any

    def normalize(self, images: Tensor) -> Tensor:
        """RGB in [0, 1], B x 3 x H x W, to the range or mean and variance the network knows: the only place."""
        if self.min_max:
            low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
            images = (images - low) / (high - low).clamp(min=1e-8)
        return (images - self.pixel_mean) / self.pixel_std

    def forward_image(self, pixels: Tensor) -> ImageFeatures:
        """Encode normalised pixels B x 3 x S x S."""
        *fine, embed = self.feature_cache.encode(self.image_encoder, pixels)
        return ImageFeatures(embed, self.sam_mask_decoder.project_high_res(*fine))

    def encode_image(self, images: Tensor) -> ImageFeatures:
        """Encode images B x 3 x S x S, RGB in [0, 1], that stand alone.

        Raises:
            ValueError: the images are no floats, not B x 3, or not image_size x image_size.
        """
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise ValueError(
                f"images are {' x '.join(map(str, images.shape))} of {images.dtype}: pass B x 3 x S x S floats, "
                "RGB in [0, 1]"
            )
        if images.shape[-2:] != (self.image_size, self.image_size):
            height, width = images.shape[-2:]
            raise ValueError(
                f"images are {height} x {width} pixels, the model was built for image_size={self.image_size}"
            )
        return self.forward_image(self.normalize(images))

    def decode(
        self,
        features: ImageFeatures,
        point_coords: Tensor | None = None,
        point_labels: Tensor | None = None,
        mask_input: Tensor | None = None,
        image_index: Tensor | None = None,
        multimask_output: bool = False,
        mask_given: Tensor | None = None,
        extra_tokens: Tensor | None = None,
    ) -> MaskPredictions:
        """Segment N prompted objects in the B encoded images.

        Args:
            features: result of encode_image.
            point_coords: N x P x 2, (x, y) in pixels of the encoded image; box corners, then clicks.
            point_labels: N x P: 1 positive, 0 negative, 2 top-left, 3 bottom-right, -1 padding.
            mask_input: N x 1 x 4n x 4n logits of an earlier prediction.
            image_index: N integers, the image of each object. None: N == B one to one, or one image for all.
            multimask_output: return three candidates (K = 3) instead of one mask (K = 1).
            mask_given: N bool, the objects whose mask_input counts, the others have none. None for all.
            extra_tokens: N x T x C, further prompt tokens behind those of the points, such as learned ones.

        Returns:
            Predictions in float32 for N objects; mask logits are not gated by the object score.

        Raises:
            ValueError: coordinates without labels, or numbers of objects, tokens and images that do not fit.
        """
        if (point_coords is None) != (point_labels is None):
            raise ValueError("point_coords and point_labels come together: one is None, the other is not")
        if image_index is not None:
            features = features.select(image_index)
        sparse, dense = self.sam_prompt_encoder(point_coords, point_labels, mask_input, mask_given)
        if extra_tokens is not None:
            sparse = _append(sparse, extra_tokens)
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


def _append(sparse: Tensor, extra: Tensor) -> Tensor:
    """Prompt tokens N (or 1) x P x C and further ones N x T x C -> N x (P + T) x C."""
    count = extra.shape[0]
    if sparse.shape[0] not in (1, count):
        raise ValueError(f"extra_tokens are for {count} objects, points and masks for {sparse.shape[0]}")
    return torch.cat([sparse.expand(count, -1, -1), extra], dim=1)
