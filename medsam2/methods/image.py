"""Every image alone: one encoder pass per image, prompts of equal length decoded as one batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from medsam2.data.loader import Batch
from medsam2.methods.base import Loss, Method, Prediction
from medsam2.modeling.mask_decoder import MaskPredictions
from medsam2.modeling.sam import LOGIT_LIMIT

if TYPE_CHECKING:
    from medsam2.modeling.sam import ImageFeatures
    from medsam2.modeling.sam2 import SAM2


class ImageMethod(Method):
    """Prompted segmentation of single images; the decoder's single-mask output in training and in evaluation alike.

    Args:
        model: the network.
        loss: a loss on logits and targets, both N×1×S×S.
        rounds: how often the decoder is asked; from the second round on it is given its last mask beside the same
            points, in place of a mask prompt (Ravi et al. 2024, arXiv 2408.00714). The loss is the mean over rounds,
            the answer the last one.
    """

    def __init__(self, model: SAM2, loss: nn.Module, rounds: int = 1, seed: int = 0):
        super().__init__(model, seed)
        self.criterion = loss
        self.rounds = rounds

    def to(self, device: str) -> None:
        super().to(device)
        self.criterion.to(device)

    def loss(self, batch: Batch) -> Loss:
        losses = [self._mask_loss(output, batch.targets) for output in self._decode(batch)]
        total = sum(losses[1:], losses[0]) / len(losses)
        return Loss(total, {"loss": total.detach()})

    def predict(self, batch: Batch) -> Prediction:
        *_, last = self._decode(batch)
        return Prediction(last.low_res_masks.float(), last.iou_predictions[:, 0].float(), batch.objects)

    def _mask_loss(self, output: MaskPredictions, targets: Tensor) -> Tensor:
        # bilinear, in float32: nearest would train the staircase, bf16 would quantise logits near the boundary
        logits = interpolate(output.low_res_masks.float(), targets.shape[-2:], mode="bilinear", align_corners=False)
        value: Tensor = self.criterion(logits, targets)
        return value

    def _decode(self, batch: Batch) -> list[MaskPredictions]:
        """The answer of every round for all objects, in their order.

        Prompts of equal length are decoded together: padding points are tokens that the decoder attends to, so an
        object's answer would depend on the longest prompt of its batch.
        """
        features = self.model.encode_image(batch.images)
        groups = batch.group_by_points()
        if len(groups) == 1:
            return self._decode_group(features, batch, slice(None), batch.point_labels.shape[1])
        rows = [torch.tensor(group).to(batch.images.device, non_blocking=True) for group in groups.values()]
        answers = [self._decode_group(features, batch, *group) for group in zip(rows, groups, strict=True)]
        order = torch.cat(rows).argsort()
        rounds = zip(*answers, strict=True)
        return [MaskPredictions(*(torch.cat(column)[order] for column in zip(*parts, strict=True))) for parts in rounds]

    def _decode_group(
        self, features: ImageFeatures, batch: Batch, rows: Tensor | slice, num_points: int
    ) -> list[MaskPredictions]:
        """The answer of every round for the objects in ``rows``, whose prompts have ``num_points`` points each."""
        seen = features.select(batch.image_index[rows])
        coords, labels = batch.point_coords[rows, :num_points], batch.point_labels[rows, :num_points]
        masks, given = self._mask_prompts(batch, rows)
        outputs = []
        for _ in range(self.rounds):
            output = self.model.decode(
                seen,
                point_coords=coords,
                point_labels=labels,
                mask_input=masks,
                mask_given=given,
                multimask_output=False,
            )
            masks, given = output.low_res_masks.detach().float().clamp(-LOGIT_LIMIT, LOGIT_LIMIT), None
            outputs.append(output)
        return outputs

    def _mask_prompts(self, batch: Batch, rows: Tensor | slice) -> tuple[Tensor | None, Tensor | None]:
        """The mask prompts of the objects in ``rows`` at the decoder's resolution, and which of them have one."""
        if batch.mask_inputs is None:
            return None, None
        masks, size = batch.mask_inputs[rows], self.model.sam_prompt_encoder.mask_size
        if masks.shape[-1] != size:
            masks = interpolate(masks, (size, size), mode="bilinear", align_corners=False, antialias=True)
        return masks, None if batch.mask_given is None else batch.mask_given[rows]
