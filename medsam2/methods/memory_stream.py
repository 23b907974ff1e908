"""Images as a stream: related cases condition each other through a memory bank (Medical SAM 2, 2408.00874).

A case attends to memories of other cases as SAM 2 attends to the prompted frames of a video. The bank's policy says who
is remembered, similarity who is recalled; both depend on (seed, epoch, case, structure) and on the cases before. The
answers of an evaluation never depend on the batch size; in training a batch sees the bank as it was before it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor, nn

from medsam2.data.batch import Batch, ObjectInfo
from medsam2.data.prompts import Prompt
from medsam2.data.seeding import stable_rng
from medsam2.methods.bank import Bank, Entry
from medsam2.methods.base import Loss, Method, Prediction
from medsam2.methods.decoding import Prompts, decode, gate, merge_exclusive, to_index
from medsam2.methods.policies import PolicyName, build_policy
from medsam2.methods.recall import Recall, warn_of_silence
from medsam2.methods.supervision import Supervision, add_up, find_present
from medsam2.modeling.mask_decoder import MaskPredictions
from medsam2.modeling.sam import LOGIT_LIMIT, ImageFeatures
from medsam2.modeling.sam2 import NO_OBJ_SCORE, SAM2

log = logging.getLogger(__name__)

Evaluation = Literal["no_memory", "support", "stream"]
UNPROMPTED = Prompt(np.zeros((0, 2), np.float32), np.zeros(0, np.int64), budget="none", name="none")


class MemoryStream(Method):
    """Prompted segmentation of single images that attend to memories of others; the decoder's single-mask output.

    In training all objects of a batch see the bank as it was before the batch, and enter it one by one. An evaluation
    never touches that bank. It is one of three: `no_memory`, each case alone; `support`, with a bank of training cases
    that stays as it is; `stream`, with a bank that starts empty and takes case after case, in order.

    Args:
        model: a SAM 2. loss: of the masks, as Supervision takes it.
        policy, min_iou, slack: who stays in the bank, see build_policy. size: memories per structure, at most.
        num_memories, temperature, replacement, pointers, train_memory: what is recalled, and how; see Recall.
        prompt_share: share of the cases that are prompted, drawn per case and epoch; others have the memory alone.
        eval_prompt_share: that of an evaluation, evenly spread from its first case on: 0.2 prompts every fifth.
        evaluation: no_memory, support or stream.
        support_cases: how many training cases the bank of `support` is to be offered, evenly spaced, None for all. All
            that come are taken: in their order, each prompted and conditioned on those before it.
        recall_own_patient: memories may be of the case's own patient. Off, training is what `support` asks for; and
            one patient alone, as in chest_ct, has no memory. The evaluation `stream` always allows it: neighbouring
            slices are its point, and to train for it on volumes wants this on.
        reset_each_epoch: every epoch starts with an empty bank. iou, presence: weights of these heads' losses.
        legacy_similarity: as in Recall; what is remembered is then the embedding after attention, not before.
        legacy_empty_bank: as in Recall. legacy_nearest: logits are enlarged by nearest neighbour, in loss and answer.

    Raises:
        ValueError: a network without memory, an unknown policy or evaluation, a number out of its range.
    """

    def __init__(
        self,
        model: SAM2,
        loss: nn.Module,
        policy: PolicyName = "self_sorting",
        size: int = 16,
        min_iou: float = 0.5,
        slack: float = 0.0,
        num_memories: int = 4,
        temperature: float | None = 0.1,
        replacement: bool = False,
        pointers: bool = False,
        train_memory: bool = True,
        prompt_share: float = 1.0,
        eval_prompt_share: float = 1.0,
        evaluation: Evaluation = "support",
        support_cases: int | None = 64,
        recall_own_patient: bool = False,
        reset_each_epoch: bool = True,
        iou: float = 1.0,
        presence: float = 1.0,
        legacy_similarity: bool = False,
        legacy_empty_bank: bool = False,
        legacy_nearest: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(model, seed)
        _check_evaluation(evaluation, prompt_share, eval_prompt_share)
        self.policy, self.size = build_policy(policy, min_iou, slack), size
        self.bank, self.evaluated = self._new_bank(), self._new_bank()
        self.position = 0  # how many cases of this evaluation were asked
        drawing = (num_memories, temperature, replacement)
        self.recall = Recall(model, *drawing, pointers, train_memory, legacy_similarity, legacy_empty_bank, seed)
        self.prompt_share, self.eval_prompt_share = prompt_share, eval_prompt_share
        self.protocol = evaluation if self.policy else "no_memory"
        self.in_order = self.protocol == "stream" or 0 < eval_prompt_share < 1
        self.support_cases, self.reset_each_epoch = support_cases, reset_each_epoch
        self.supervision = Supervision(loss, iou, presence, model.sam_mask_decoder.pred_obj_scores, legacy_nearest)
        self.legacy_similarity, self.recall_own_patient, self.min_iou = legacy_similarity, recall_own_patient, min_iou

    def to(self, device: str) -> None:
        super().to(device)
        self.supervision.to(device)

    def _new_bank(self) -> Bank | None:
        return None if self.policy is None else Bank(self.size, self.policy)

    # ------------------------------------------------------------------------------------------- training

    def start_epoch(self, epoch: int) -> None:
        if self.bank is not None and self.reset_each_epoch and epoch != self.epoch:
            self.bank.clear()
        super().start_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """The bank, and the epoch it belongs to: a run that goes on within it keeps it."""
        return {"epoch": self.epoch, "bank": {} if self.bank is None else self.bank.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.epoch = state["epoch"]
        if self.bank is not None:
            self.bank.load_state_dict(state["bank"], self.model.no_mem_embed.device)

    def loss(self, batch: Batch) -> Loss:
        objects = self._encode(batch, [self._draws_prompt(info.case_id) for info in batch.objects])
        answer = self._answer(objects, self.bank, self.epoch)
        self._remember(answer, self.bank, self.epoch)
        masks, ious, scores, _ = answer.output
        present = find_present(batch.objects)
        terms = self.supervision(masks, ious, scores, batch.targets, present)
        return add_up([terms], self.supervision.count(present, len(batch.objects)))

    def _draws_prompt(self, case_id: str) -> bool:
        return bool(stable_rng("prompted", self.seed, case_id, self.epoch).random() < self.prompt_share)

    # ----------------------------------------------------------------------------------------- evaluation

    def start_evaluation(self, support: Callable[[], Iterable[Batch]]) -> None:
        """Empties the evaluation's bank and, for `support`, fills it: in evaluation mode, as `predict` is called.

        Raises:
            ValueError: the evaluation is `support`, and there are no training cases.
        """
        self.evaluated, self.position = self._new_bank(), 0
        if self.evaluated is None or self.protocol != "support":
            return
        batches = (self._encode(batch, [True] * len(batch.objects)) for batch in support() if batch.objects)
        offered: list[set[tuple[str, str]]] = []
        for case in (case for batch in batches for case in batch.cases()):
            self._remember(self._answer(case, self.evaluated, None), self.evaluated, None)
            offered.append({(info.structure, info.patient_id) for info in case.infos})
        if not offered:
            raise ValueError(
                "method.evaluation=support: no training case came to fill the memory bank; "
                "choose method.evaluation=stream or no_memory"
            )
        log.info("memory bank after %d training cases: %s", len(offered), self.evaluated)
        warn_of_silence(self.evaluated, set().union(*offered), self.min_iou, self.recall_own_patient)

    def predict(self, batch: Batch) -> Prediction:
        objects = self._encode(batch, self._take_turns(batch.objects))
        bank = None if self.protocol == "no_memory" else self.evaluated
        answers = []
        for part in objects.cases() if self.protocol == "stream" else [objects]:
            answers.append(self._answer(part, bank, None))
            if self.protocol == "stream":
                self._remember(answers[-1], bank, None)
        logits = torch.cat([answer.mask_logits for answer in answers])
        if self.supervision.legacy_nearest:
            logits = self.supervision.enlarge(logits, batch.targets.shape[-2:])
        logits = merge_exclusive(logits, batch)
        ious = torch.cat([answer.output.iou_predictions[:, 0] for answer in answers])
        return Prediction(logits.float(), ious.float(), objects.infos)

    def _take_turns(self, infos: Sequence[ObjectInfo]) -> list[bool]:
        """Which objects are prompted: all of a case, or none."""
        prompted = []
        for _, case in groupby(infos, key=lambda info: info.case_id):
            before, due = (  # rounded: 0.29 * 100 is less than 29
                math.floor(round(i * self.eval_prompt_share, 9)) for i in (self.position - 1, self.position)
            )
            prompted += [due > before for _ in case]
            self.position += 1
        return prompted

    # -------------------------------------------------------------------------------------------- a batch

    def _encode(self, batch: Batch, prompted: Sequence[bool]) -> _Objects:
        """All images at once; objects that are not `prompted` lose their prompt."""
        features = self.model.forward_image(self.model.normalize(batch.images)).select(batch.image_index)
        prompts, bare = Prompts.of(batch, self.model), [row for row, kept in enumerate(prompted) if not kept]
        infos = [o if kept else replace(o, prompt=UNPROMPTED) for o, kept in zip(batch.objects, prompted, strict=True)]
        return _Objects(features, prompts.without(bare) if bare else prompts, infos)

    def _answer(self, objects: _Objects, bank: Bank | None, epoch: int | None) -> _Answer:
        """Condition on what the bank holds, and decode."""
        own, raw = self.recall_own_patient or (self.protocol == "stream" and epoch is None), objects.features
        embed = self.recall.condition(raw.embed, objects.infos, bank, epoch, own)
        output = decode(self.model, raw._replace(embed=embed), objects.prompts)
        masks = output.low_res_masks
        if self.supervision.judged:
            masks = gate(masks, output.object_score_logits, objects.infos)
        kept = embed if self.legacy_similarity else raw.embed
        return _Answer(output, masks, kept, objects.infos)

    def _remember(self, answer: _Answer, bank: Bank | None, epoch: int | None) -> None:
        """Offers the objects to the bank, one by one in their order."""
        if bank is None:
            return
        masks, ious = answer.mask_logits.float(), answer.output.iou_predictions[:, 0].tolist()
        presence = (masks.amax((1, 2, 3)) > NO_OBJ_SCORE).float()[:, None] * 2 - 1
        tensors = (answer.embed, masks.clamp(-LOGIT_LIMIT, LOGIT_LIMIT), presence, answer.output.mask_tokens[:, 0])
        for row, (info, iou) in enumerate(zip(answer.infos, ious, strict=True)):
            embed, mask, there, token = (x[row : row + 1].detach().clone() for x in tensors)  # a view keeps the batch
            rng = stable_rng("leave", self.seed, info.case_id, info.structure, epoch)
            bank.insert(info.structure, Entry(embed, mask, there, token, iou, info.case_id, info.patient_id), rng)


@dataclass
class _Objects:
    """N objects to be answered: raw features, one entry each, prompts, and what they are about."""

    features: ImageFeatures
    prompts: Prompts
    infos: list[ObjectInfo]

    def cases(self) -> Iterator[_Objects]:
        """The objects case by case, in order."""
        for _, group in groupby(range(len(self.infos)), key=lambda row: self.infos[row].case_id):
            rows = list(group)
            features = self.features.select(to_index(rows, self.features.embed.device))
            yield _Objects(features, self.prompts.select(rows), [self.infos[row] for row in rows])


class _Answer(NamedTuple):
    """What the decoder said of N objects, N×1 masks as they are answered, and the embeddings to be remembered."""

    output: MaskPredictions
    mask_logits: Tensor
    embed: Tensor
    infos: list[ObjectInfo]


def _check_evaluation(evaluation: str, prompt_share: float, eval_prompt_share: float) -> None:
    if evaluation not in get_args(Evaluation):
        raise ValueError(f"method.evaluation={evaluation!r} must be one of {', '.join(get_args(Evaluation))}")
    if not 0 <= prompt_share <= 1 or not 0 <= eval_prompt_share <= 1:
        raise ValueError(f"method.{prompt_share=}, method.{eval_prompt_share=} must lie in 0...1")
