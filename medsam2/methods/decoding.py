"""Objects with prompts of all kinds, decoded with as few calls as possible.

Prompts of equal length are decoded together and never padded: padding points are tokens that the decoder attends to,
so an object's answer would depend on the longest prompt of its batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from medsam2.data.batch import Batch, ObjectInfo, merge_structures
from medsam2.data.prompts import LEARNED
from medsam2.modeling.mask_decoder import MaskPredictions
from medsam2.modeling.sam import LOGIT_LIMIT
from medsam2.modeling.sam2 import NO_OBJ_SCORE

if TYPE_CHECKING:
    from medsam2.modeling.sam import ImageFeatures


@dataclass
class Prompts:
    """The prompts of N objects as the network takes them.

    coords: N×P×2, (x, y) in model pixels; labels: N×P, padded with -1.
    counts: points of each object, 0 for none (one padding point then stands for them).
    masks: N×1×m×m logits at the decoder's resolution, None where no object has one; given: N bool, which objects have
        one, None for all.
    tokens: N×T×C learned prompt tokens, None where no object has them; learned: which objects have them.
    """

    coords: Tensor
    labels: Tensor
    counts: list[int]
    masks: Tensor | None = None
    given: Tensor | None = None
    tokens: Tensor | None = None
    learned: list[bool] = field(default_factory=list)

    @classmethod
    def of(cls, batch: Batch, model: Any) -> Prompts:
        """The prompts of a batch. Raises ValueError where they are learned ones and the model has learned none."""
        counts = list(batch.point_counts or [batch.point_labels.shape[1]] * len(batch.point_labels))
        for row, info in enumerate(batch.objects):
            counts[row] = counts[row] if len(info.prompt.labels) else 0
        masks, size = batch.mask_inputs, model.sam_prompt_encoder.mask_size
        if masks is not None and masks.shape[-1] != size:
            masks = interpolate(masks, (size, size), mode="bilinear", align_corners=False, antialias=True)
        given = None if masks is None else batch.mask_given
        learned = [info.prompt.name == LEARNED for info in batch.objects]
        tokens = _learned_tokens(batch, model, learned) if any(learned) else None
        return cls(batch.point_coords, batch.point_labels, counts, masks, given, tokens, learned)

    def __len__(self) -> int:
        return len(self.counts)

    def groups(self) -> list[list[int]]:
        """The rows of objects that can be decoded together: as many points, and tokens or none."""
        groups: dict[tuple[int, bool], list[int]] = {}
        for row, (count, learned) in enumerate(zip(self.counts, self._learned(), strict=True)):
            groups.setdefault((count, learned), []).append(row)
        return list(groups.values())

    def select(self, rows: Sequence[int]) -> Prompts:
        """The prompts of these objects; itself for all of them in order."""
        if list(rows) == list(range(len(self))):
            return self
        index = to_index(rows, self.labels.device)
        masks, given, tokens = (
            x if x is None else x.index_select(0, index) for x in (self.masks, self.given, self.tokens)
        )
        return Prompts(
            coords=self.coords.index_select(0, index),
            labels=self.labels.index_select(0, index),
            counts=[self.counts[row] for row in rows],
            masks=masks,
            given=given,
            tokens=tokens,
            learned=[self._learned()[row] for row in rows],
        )

    def without(self, rows: Sequence[int]) -> Prompts:
        """These objects have no prompt at all any more."""
        gone = torch.zeros(len(self), dtype=torch.bool)
        gone[list(rows)] = True
        bare, left = set(rows), gone.logical_not().to(self.labels.device, non_blocking=True)
        return replace(
            self,
            coords=self.coords * left[:, None, None],
            labels=self.labels.where(left[:, None], -1),
            counts=[0 if row in bare else count for row, count in enumerate(self.counts)],
            given=None if self.masks is None else left if self.given is None else self.given & left,
            learned=[has and row not in bare for row, has in enumerate(self._learned())],
        )

    def add_clicks(self, coords: Tensor, labels: Tensor) -> Prompts:
        """One more point for each object, coords N×2 and labels N, behind those it has."""
        counts = [count + 1 for count in self.counts]
        missing = max(0, max(counts) - self.labels.shape[1])
        place = to_index(self.counts, self.labels.device)[:, None]
        return replace(
            self,
            coords=pad(self.coords, (0, 0, 0, missing)).scatter(
                1, place[..., None].expand(-1, -1, 2), coords.to(self.coords)[:, None]
            ),
            labels=pad(self.labels, (0, missing), value=-1).scatter(1, place, labels.to(self.labels)[:, None]),
            counts=counts,
        )

    def with_masks(self, logits: Tensor) -> Prompts:
        """An answer N×1×m×m goes back in, in place of mask prompts: clamped as SAM 2 does, without its graph."""
        return replace(self, masks=logits.detach().float().clamp(-LOGIT_LIMIT, LOGIT_LIMIT), given=None)

    def _learned(self) -> list[bool]:
        return self.learned or [self.tokens is not None] * len(self)


def _learned_tokens(batch: Batch, model: Any, learned: Sequence[bool]) -> Tensor:
    """N×T×C, zero for objects whose prompt is not learned."""
    if getattr(model, "learned_prompts", None) is None:
        raise ValueError("prompt=learned: the model has no learned prompts (model.learned_prompts is None)")
    rows = [row for row, has in enumerate(learned) if has]
    tokens: Tensor = model.learned_prompts([batch.objects[row].structure for row in rows])
    if len(rows) == len(learned):
        return tokens
    zeros = tokens.new_zeros(len(learned), *tokens.shape[1:])
    return zeros.index_copy(0, to_index(rows, tokens.device), tokens)


def decode(model: Any, features: ImageFeatures, prompts: Prompts, candidates: bool = False) -> MaskPredictions:
    """The answers for N objects, not gated by the object score.

    Args:
        model: a SAM or SAM 2.
        features: one entry for each object.
        candidates: ask for K = 3 candidates where SAM 2's rule on the number of points finds the prompt ambiguous
            (`model.use_multimask`; a network without that rule never does). Other objects then have their single mask
            three times; where no object is asked for candidates, K = 1 as without this switch.
    """
    groups = prompts.groups()
    if len(groups) == 1:
        return _decode_alike(model, features, prompts, candidates)
    rows = [to_index(group, prompts.labels.device) for group in groups]
    parts = [
        _decode_alike(model, features.select(index), prompts.select(group), candidates)
        for index, group in zip(rows, groups, strict=True)
    ]
    return merge(parts, groups)


def _decode_alike(model: Any, features: ImageFeatures, prompts: Prompts, candidates: bool) -> MaskPredictions:
    """Objects of one group, in one call."""
    count, learned = prompts.counts[0], prompts._learned()[0]
    # a learned prompt names its structure: nothing about it is ambiguous
    ambiguous = not learned and hasattr(model, "use_multimask") and model.use_multimask(count)
    answer: MaskPredictions = model.decode(
        features,
        point_coords=prompts.coords[:, : max(1, count)],
        point_labels=prompts.labels[:, : max(1, count)],
        mask_input=prompts.masks,
        mask_given=prompts.given,
        multimask_output=candidates and ambiguous,
        extra_tokens=prompts.tokens if learned else None,
    )
    return answer


def merge(parts: Sequence[MaskPredictions], groups: Sequence[Sequence[int]]) -> MaskPredictions:
    """The answers of groups of objects, in the objects' order: row groups[g][i] is answered by entry i of part g.

    Where some have candidates and others a single mask, that one is repeated.
    """
    if len(parts) == 1:
        return parts[0]
    order = [row for group in groups for row in group]
    back = to_index(sorted(range(len(order)), key=order.__getitem__), parts[0].low_res_masks.device)
    return MaskPredictions(*(_join(column).index_select(0, back) for column in zip(*parts, strict=True)))


def _join(tensors: Sequence[Tensor]) -> Tensor:
    """Concatenates along the objects; dimension 1 is repeated up to the largest."""
    most = max(x.shape[1] for x in tensors)
    return torch.cat([x if x.shape[1] == most else x.expand(-1, most, *x.shape[2:]) for x in tensors])


def choose(output: MaskPredictions) -> tuple[Tensor, Tensor]:
    """The mask of highest predicted IoU, N×1×4n×4n, and that IoU, N."""
    masks, ious = output.low_res_masks, output.iou_predictions
    if masks.shape[1] == 1:
        return masks, ious[:, 0]
    best = ious.argmax(dim=1, keepdim=True)
    return torch.take_along_dim(masks, best[..., None, None], dim=1), torch.take_along_dim(ious, best, dim=1)[:, 0]


def gate(logits: Tensor, object_score_logits: Tensor, objects: Sequence[ObjectInfo]) -> Tensor:
    """Answers N×1×h×w for evaluation: empty, NO_OBJ_SCORE, where the object's score is not positive.

    Only where that is the network's to say: a prompt on the object implies that it is there.
    """
    asked = [info.prompt.budget == "none" or not info.prompted for info in objects]
    if not any(asked):
        return logits
    absent = torch.tensor(asked).to(logits.device, non_blocking=True) & (object_score_logits[:, 0] <= 0)
    return logits.masked_fill(absent[:, None, None, None], NO_OBJ_SCORE)


def merge_exclusive(logits: Tensor, batch: Batch) -> Tensor:
    """Answers N×1×h×w about a batch: where structures exclude each other, the surest one has a pixel."""
    exclusive = [info.exclusive for info in batch.objects]
    return merge_structures(logits, batch.image_index, exclusive) if any(exclusive) else logits


def to_index(rows: Sequence[int], device: torch.device) -> Tensor:
    """Row numbers on the device, without waiting for it."""
    return torch.tensor(rows, dtype=torch.int64).to(device, non_blocking=True)
