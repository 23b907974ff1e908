"""SAM 2 on single images: set an image once, ask for masks as often as you like (SAM 2 2408.00714, section 4).

Works at any image_size and with any network of medsam2.modeling.sam. Under torch.autocast the network runs in its
precision; masks, their resizing and the answers are float32. n is the side of the image embedding.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from PIL.Image import Image
from torch import Tensor

from medsam2.modeling.sam import LOGIT_LIMIT, SAM, ImageFeatures
from medsam2.predictors.components import fill_holes
from medsam2.predictors.inputs import Prompts, check_evaluation, read_image, read_prompts, resize_image


class ImagePrediction(NamedTuple):
    """Answer for one image; with several objects every array has an axis of them in front.

    masks: C x H x W at the image's size, bool, or float32 logits. iou_predictions: C in [0, 1].
    low_res_masks: C x 4n x 4n logits in [-32, 32], a `mask_input` for the next round.
    """

    masks: np.ndarray
    iou_predictions: np.ndarray
    low_res_masks: np.ndarray


class SAM2ImagePredictor:
    """Segment what prompts point at.

    Args:
        model: the network, in evaluation mode; it stays on its device.
        mask_threshold: a pixel is inside where its logit is greater.
        max_hole_area, max_sprinkle_area: holes and islands of at most this many pixels of the low-resolution mask
            (4n x 4n) are filled and removed before it is resized; 0 keeps them.

    Raises:
        ValueError: a negative area.
    """

    def __init__(
        self, model: SAM, mask_threshold: float = 0.0, max_hole_area: int = 0, max_sprinkle_area: int = 0
    ) -> None:
        for name, area in (("max_hole_area", max_hole_area), ("max_sprinkle_area", max_sprinkle_area)):
            if area < 0:
                raise ValueError(f"{name}={area} is negative: pass an area in pixels, 0 for no cleaning")
        self.model = model
        self.mask_threshold = mask_threshold
        self.max_hole_area = max_hole_area
        self.max_sprinkle_area = max_sprinkle_area
        self.reset_predictor()

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.model.parameters()).device

    def reset_predictor(self) -> None:
        """Forget the images."""
        self._features: ImageFeatures | None = None
        self._sizes: list[tuple[int, int]] = []

    def set_image(self, image: np.ndarray | Image) -> None:
        """Encode the image that predict will be asked about.

        Args:
            image: H x W x 3 RGB, or H x W grey; uint8, or float in [0, 1]; or a PIL image.

        Raises:
            ValueError: anything else.
            RuntimeError: the model is in training mode.
        """
        self.set_image_batch([image])

    @torch.inference_mode()
    def set_image_batch(self, image_list: Sequence[np.ndarray | Image]) -> None:
        """Encode images of any sizes as one batch, for predict_batch; arguments and errors as set_image."""
        self.reset_predictor()
        check_evaluation(self.model)
        if len(image_list) == 0:
            raise ValueError("image_list is empty: pass at least one image")
        images = [read_image(image) for image in image_list]
        resized = [resize_image(image, self.model.image_size, self.device) for image in images]
        self._features = self.model.encode_image(torch.stack(resized))
        self._sizes = [(image.shape[0], image.shape[1]) for image in images]

    def get_image_embedding(self) -> Tensor:
        """The B encoded images as the decoder sees them, B x C x n x n.

        Raises:
            RuntimeError: no image is set.
        """
        return self._get_features().embed

    def predict(
        self,
        point_coords: ArrayLike | None = None,
        point_labels: ArrayLike | None = None,
        box: ArrayLike | None = None,
        mask_input: ArrayLike | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
        normalize_coords: bool = True,
    ) -> ImagePrediction:
        """Segment one object, or N objects at once, in the image that is set.

        Args:
            point_coords: clicks, P x 2 (x, y) in pixels of the image, or N x P x 2.
            point_labels: 1 inside, 0 outside, P or N x P.
            box: (x0, y0, x1, y1) in pixels of the image, 4 numbers or N x 4.
            mask_input: low_res_masks of an earlier answer, 1 x 4n x 4n, or N x 1 x 4n x 4n.
            multimask_output: three candidates (C = 3), for ambiguous prompts, or one mask (C = 1).
            return_logits: masks as logits, not thresholded.
            normalize_coords: coordinates are pixels; False: they are in [0, 1] of width and height.

        Returns:
            (masks, iou_predictions, low_res_masks), with an axis of N in front where a prompt has one.

        Raises:
            RuntimeError: no image is set, or more than one; the model is in training mode.
            ValueError: prompts that read_prompts refuses.
        """
        features = self._get_features()
        if len(features.embed) > 1:
            raise RuntimeError(f"{len(features.embed)} images are set: call predict_batch, or set_image")
        prompts = self._read_prompts(0, normalize_coords, point_coords, point_labels, box, mask_input)
        return self._predict([prompts], multimask_output, return_logits)[0]

    def predict_batch(
        self,
        point_coords_batch: Sequence[ArrayLike | None] | None = None,
        point_labels_batch: Sequence[ArrayLike | None] | None = None,
        box_batch: Sequence[ArrayLike | None] | None = None,
        mask_input_batch: Sequence[ArrayLike | None] | None = None,
        multimask_output: bool = True,
        return_logits: bool = False,
        normalize_coords: bool = True,
    ) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
        """Segment objects in all images that are set; prompts of equal layout are decoded as one batch.

        Args: as predict, each a list with an entry (or None) per image.

        Returns:
            Lists of masks, of iou_predictions and of low_res_masks, an entry per image as predict returns it.

        Raises:
            RuntimeError, ValueError: as predict; or a list whose length is not the number of images.
        """
        count = len(self._get_features().embed)
        batches = (point_coords_batch, point_labels_batch, box_batch, mask_input_batch)
        for name, batch in zip(("point_coords", "point_labels", "box", "mask_input"), batches, strict=True):
            if batch is not None and len(batch) != count:
                raise ValueError(f"{name}_batch has {len(batch)} entries for {count} images: pass one each, or None")
        rows = zip(*([None] * count if batch is None else batch for batch in batches), strict=True)
        prompts = [self._read_prompts(i, normalize_coords, *row) for i, row in enumerate(rows)]
        answers = self._predict(prompts, multimask_output, return_logits)
        masks, ious, low_res_masks = zip(*answers, strict=True)
        return list(masks), list(ious), list(low_res_masks)

    @torch.inference_mode()
    def decode_prompts(
        self, prompts: Sequence[Prompts], image_indices: Sequence[int], multimask_output: bool
    ) -> tuple[Tensor, Tensor]:
        """Decode prompts of equal layout as one batch; tensors stay on the device.

        Args:
            prompts: those of each image in `image_indices`, N objects together.

        Returns:
            Mask logits N x C x 4n x 4n, not clamped, and predicted IoU N x C, in the order of the prompts.
        """
        features = self._get_features()
        check_evaluation(self.model)
        coords, labels, masks = (
            None if column[0] is None else torch.cat([x for x in column if x is not None])
            for column in ([p.coords for p in prompts], [p.labels for p in prompts], [p.masks for p in prompts])
        )
        index = None
        if len(prompts) == 1:  # its objects share the image
            embed, *high_res = (x[image_indices[0]][None] for x in (features.embed, *features.high_res))
            features = ImageFeatures(embed, tuple(high_res))
        else:
            counts = torch.tensor([p.num_objects for p in prompts])
            index = torch.tensor(image_indices).repeat_interleave(counts).to(self.device)
        predictions = self.model.decode(features, coords, labels, masks, index, multimask_output)
        return predictions.low_res_masks, predictions.iou_predictions

    @torch.inference_mode()
    def resize_masks(self, low_res_masks: Tensor, image_index: int = 0) -> Tensor:
        """Logits N x C x 4n x 4n, cleaned of holes and islands if asked for -> N x C x H x W of the image."""
        filled = fill_holes(low_res_masks, self.max_hole_area, self.max_sprinkle_area, self.mask_threshold)
        return F.interpolate(filled, self._sizes[image_index], mode="bilinear", align_corners=False)

    def _get_features(self) -> ImageFeatures:
        if self._features is None:
            raise RuntimeError("no image is set: call set_image first")
        return self._features

    def _read_prompts(self, image_index: int, normalize_coords: bool, *prompts: ArrayLike | None) -> Prompts:
        """Those of one image, in the order of predict's arguments."""
        size, image_size = self._sizes[image_index], self.model.image_size
        return read_prompts(size, image_size, *prompts, normalize_coords=normalize_coords, device=self.device)

    def _predict(self, prompts: list[Prompts], multimask_output: bool, return_logits: bool) -> list[ImagePrediction]:
        """Answers for the prompts of every image, decoded group by group of equal layout."""
        groups: dict[tuple[int, bool], list[int]] = {}
        for i, prompt in enumerate(prompts):
            groups.setdefault(prompt.layout, []).append(i)
        answers: dict[int, ImagePrediction] = {}
        for indices in groups.values():
            members = [prompts[i] for i in indices]
            outputs = self.decode_prompts(members, indices, multimask_output)
            counts = [prompt.num_objects for prompt in members]
            for i, masks, ious in zip(indices, *(x.split(counts) for x in outputs), strict=True):
                answers[i] = self._finish(i, masks, ious, prompts[i].batched, return_logits)
        return [answers[i] for i in range(len(prompts))]

    def _finish(
        self, image_index: int, low_res_masks: Tensor, ious: Tensor, batched: bool, return_logits: bool
    ) -> ImagePrediction:
        """Masks at the image's size, as arrays."""
        masks = self.resize_masks(low_res_masks, image_index)
        masks = masks if return_logits else masks > self.mask_threshold
        clamped = low_res_masks.clamp(-LOGIT_LIMIT, LOGIT_LIMIT)
        arrays = (x.cpu().numpy() for x in (masks, ious, clamped))
        return ImagePrediction(*(x if batched else x[0] for x in arrays))
