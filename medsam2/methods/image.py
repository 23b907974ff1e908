"""Every image alone: one encoder pass per image, prompts of equal length decoded as one batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from medsam2.data.batch import ObjectInfo
from medsam2.data.loader import Batch
from medsam2.methods.base import Loss, Method, Prediction
from medsam2.methods.corrections import add_to_budget, draw_clicks, draw_numbers, place_clicks
from medsam2.methods.decoding import Prompts, choose, decode, gate, merge, merge_exclusive, to_index
from medsam2.methods.supervision import Supervision, add_up, find_present
from medsam2.modeling.mask_decoder import MaskPredictions

if TYPE_CHECKING:
    from medsam2.modeling.sam import ImageFeatures
    from medsam2.modeling.sam2 import SAM2


class ImageMethod(Method):
    """Prompted segmentation of single images.

    The decoder is asked in the same way in training and in evaluation. The loss is the mean over rounds, the answer
    the last one; from the second round on the decoder is given its last mask in place of a mask prompt
    (SAM 2, 2408.00714).

    Args:
        model: the network.
        loss: of the masks, as Supervision takes it.
        rounds, eval_rounds: how often the decoder is asked in training and in evaluation.
        correct: each round after the first has one more click, where the last answer is wrong: drawn at random in
            training, the innermost such pixel in evaluation, where it counts in the prompt's budget.
        ground_truth_share: how often a click in training is drawn from the target instead.
        candidates: ambiguous prompts have three candidates: the best one is trained, the one of highest predicted IoU
            is the answer.
        iou, presence: weights of the losses of these heads; see Supervision.
        legacy_nearest: logits are enlarged by nearest neighbour for the loss and for the answer.

    Raises:
        ValueError: a negative weight, or candidates of a network that knows no rule for them.
    """

    def __init__(
        self,
        model: SAM2,
        loss: nn.Module,
        rounds: int = 1,
        eval_rounds: int = 1,
        correct: bool = False,
        ground_truth_share: float = 0.1,
        candidates: bool = False,
        iou: float = 1.0,
        presence: float = 1.0,
        legacy_nearest: bool = False,
        seed: int = 0,
    ):
        super().__init__(model, seed)
        if candidates and not hasattr(model, "use_multimask"):
            raise ValueError(
                f"method.candidates=true: {type(model).__name__} has no rule for candidates; "
                "use method.candidates=false"
            )
        self.supervision = Supervision(loss, iou, presence, model.sam_mask_decoder.pred_obj_scores, legacy_nearest)
        self.rounds = rounds
        self.eval_rounds = eval_rounds
        self.correct = correct
        self.ground_truth_share = ground_truth_share
        self.candidates = candidates

    def to(self, device: str) -> None:
        super().to(device)
        self.supervision.to(device)

    def loss(self, batch: Batch) -> Loss:
        present = find_present(batch.objects)
        return add_up(
            [
                self.supervision(
                    output.low_res_masks,
                    output.iou_predictions,
                    output.object_score_logits,
                    batch.targets,
                    present,
                )
                for output in self._answer(batch, self.rounds)
            ],
            self.supervision.count(present, len(batch.objects)),
        )

    def predict(self, batch: Batch) -> Prediction:
        *_, last = self._answer(batch, self.eval_rounds)
        logits, ious = choose(last)
        clicks, objects = (self.eval_rounds - 1) * self.correct, batch.objects
        if clicks:
            objects = [add_to_budget(info, clicks) for info in objects]
        if self.supervision.judged:
            logits = gate(logits, last.object_score_logits, objects)
        if self.supervision.legacy_nearest:
            logits = self.supervision.enlarge(logits, batch.targets.shape[-2:])
        logits = merge_exclusive(logits, batch)
        return Prediction(logits.float(), ious.float(), objects)

    def _answer(self, batch: Batch, rounds: int) -> list[MaskPredictions]:
        """The answers of all rounds for all objects, in their order."""
        features, prompts = self.model.encode_image(batch.images), Prompts.of(batch, self.model)
        groups = prompts.groups()
        answers = [self._answer_alike(features, batch, prompts, rows, rounds) for rows in groups]
        return [merge(parts, groups) for parts in zip(*answers, strict=True)]

    def _answer_alike(
        self, features: ImageFeatures, batch: Batch, prompts: Prompts, rows: list[int], rounds: int
    ) -> list[MaskPredictions]:
        """The answers of all rounds for the objects in ``rows``, a group of their prompts."""
        everything = len(rows) == len(prompts)
        index = slice(None) if everything else to_index(rows, batch.images.device)
        if not (everything and [info.case_id for info in batch.objects] == batch.case_ids):  # else nothing to copy
            features = features.select(batch.image_index[index])
        targets, objects = batch.targets[index], [batch.objects[row] for row in rows if batch.objects]
        prompts = prompts.select(rows)
        outputs = [decode(self.model, features, prompts, self.candidates)]
        for number in range(1, rounds):
            masks, _ = choose(outputs[-1])
            prompts = prompts.with_masks(masks)
            if self.correct:
                prompts = prompts.add_clicks(*self._correct(masks, targets, objects, number))
            outputs.append(decode(self.model, features, prompts, self.candidates))
        return outputs

    def _correct(self, masks: Tensor, targets: Tensor, objects: list[ObjectInfo], number: int) -> tuple[Tensor, Tensor]:
        """The `number`-th correction click of each object."""
        logits = self.supervision.enlarge(masks.detach(), targets.shape[-2:])
        if not self.model.training:
            return place_clicks(logits, targets)
        numbers = draw_numbers(objects, self.seed, self.epoch, number)
        return draw_clicks(logits, targets, numbers, self.ground_truth_share)
