"""Every image alone: one encoder pass per image, all of its prompts decoded as one batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn.functional import interpolate

from medsam2.data.loader import Batch
from medsam2.methods.base import Loss, Prediction

if TYPE_CHECKING:
    from medsam2.modeling.mask_decoder import MaskPredictions
    from medsam2.modeling.sam2 import SAM2

LOGIT_LIMIT = 32.0  # what SAM 2 clamps logits to before they go in as a mask prompt


class ImageMethod:
    """Prompted segmentation of single images; the decoder's single-mask output in training and in evaluation alike.

    Args:
        model: the network.
        loss: a loss on logits and targets, both N×1×S×S.
        rounds: how often the decoder is asked; from the second round on it is given its last mask beside the same
            prompt (Ravi et al. 2024, arXiv 2408.00714). The loss is the mean over rounds, the answer the last one.
    """

    def __init__(self, model: SAM2, loss: nn.Module, rounds: int = 1):
        self.model = model
        self.criterion = loss
        self.rounds = rounds

    def to(self, device: str) -> None:
        self.model.to(device)
        self.criterion.to(device)

    def loss(self, batch: Batch) -> Loss:
        losses = [self._mask_loss(output, batch.targets) for output in self._decode(batch)]
        total = sum(losses[1:], losses[0]) / len(losses)
        return Loss(total, {"loss": total.detach()})

    def predict(self, batch: Batch) -> Prediction:
        *_, last = self._decode(batch)
        return Prediction(last.low_res_masks.float(), last.iou_predictions[:, 0].float())

    def _mask_loss(self, output: MaskPredictions, targets: Tensor) -> Tensor:
        # bilinear, in float32: nearest would train the staircase, bf16 would quantise logits near the boundary
        logits = interpolate(output.low_res_masks.float(), targets.shape[-2:], mode="bilinear", align_corners=False)
        value: Tensor = self.criterion(logits, targets)
        return value

    def _decode(self, batch: Batch) -> list[MaskPredictions]:
        features = self.model.encode_image(batch.images)
        outputs: list[MaskPredictions] = []
        previous = None
        for _ in range(self.rounds):
            output = self.model.decode(
                features,
                point_coords=batch.point_coords,
                point_labels=batch.point_labels,
                mask_input=previous,
                image_index=batch.image_index,
                multimask_output=False,
            )
            previous = output.low_res_masks.detach().float().clamp(-LOGIT_LIMIT, LOGIT_LIMIT)
            outputs.append(output)
        return outputs
