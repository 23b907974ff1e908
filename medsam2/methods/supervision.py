"""What the decoder's three heads learn: masks, their predicted IoU, the object's presence (SAM 2, 2408.00714).

Whether an object is there is learned by its own head: masks are judged before they are gated by it, and only where the
object is there. A gated mask is a constant, which has a large loss and no gradient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, interpolate

from medsam2.data.batch import ObjectInfo
from medsam2.losses import compute_dice_loss
from medsam2.methods.base import Loss, Part


class Supervision(nn.Module):
    """The weighted losses of all heads; the loss of a step is their sum.

    Args:
        mask_loss: a loss on logits and targets, both N×1×S×S; of several candidates it counts for the best. A loss
            with `per_mask(logits N×K×S×S, targets N×1×S×S) -> N×K` chooses by itself, others by the highest soft Dice.
        iou: weight of |predicted IoU - actual IoU|, for all candidates; 0 leaves the head as it came.
        presence: weight of the cross-entropy of the object score; 0 leaves the head as it came.
        judged: the decoder has a presence head. Without one, or with weight 0, an absent object is an empty target.
        legacy_nearest: Medical-SAM2 enlarged logits to the target by nearest neighbour, which trains the staircase.

    Raises:
        ValueError: a negative weight.
    """

    def __init__(
        self, mask_loss: nn.Module, iou: float, presence: float, judged: bool = True, legacy_nearest: bool = False
    ) -> None:
        super().__init__()
        if min(iou, presence) < 0:
            raise ValueError(f"method.iou={iou}, method.presence={presence}: weights of losses are 0 or more")
        self.mask_loss = mask_loss
        self.iou = iou
        self.presence = presence
        self.judged = judged and presence > 0
        self.legacy_nearest = legacy_nearest

    def forward(
        self,
        logits: Tensor,
        iou_predictions: Tensor,
        object_score_logits: Tensor,
        targets: Tensor,
        present: Tensor | None,
    ) -> dict[str, Tensor]:
        """The weighted terms mask, iou and presence, each a scalar with a graph; those of weight 0 are left out.

        Args:
            logits: N×K×h×w at any resolution, not gated by the object score.
            iou_predictions: N×K; object_score_logits: N×1.
            targets: N×1×S×S in [0, 1]; above 0.5 a pixel counts as inside for the actual IoU.
            present: N bool, the objects that are there, None for all; on the host it needs no synchronisation. Mask
                and IoU are means over these, 0 where there is none; presence is a mean over all objects.
        """
        rows = _find_rows(present, logits.device) if self.judged else None
        terms = self._judge_masks(*(x if rows is None else x[rows] for x in (logits, iou_predictions, targets)))
        if self.judged:
            scores = object_score_logits[:, 0].float()
            truth = torch.ones_like(scores) if present is None else present.to(scores, non_blocking=True)
            terms["presence"] = self.presence * binary_cross_entropy_with_logits(scores, truth)
        return terms

    def count(self, present: Tensor | None, objects: int) -> dict[str, int]:
        """Of how many of so many objects each term is a mean; `present` as above."""
        shown = int(present.sum()) if self.judged and present is not None else objects
        return {"mask": shown, "iou": shown, "presence": objects}

    def enlarge(self, logits: Tensor, size: Sequence[int]) -> Tensor:
        """Mask logits at another resolution, in float32: bf16 would quantise them near the boundary."""
        if self.legacy_nearest:
            return interpolate(logits.float(), tuple(size), mode="nearest")
        return interpolate(logits.float(), tuple(size), mode="bilinear", align_corners=False)

    def _judge_masks(self, logits: Tensor, predicted: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """The terms of the objects that are there."""
        if len(logits) == 0:
            terms = {"mask": logits.sum(), "iou": predicted.sum()}  # 0, and backward still works
        else:
            every, best = self._choose(logits, targets)
            error = (predicted.float() - compute_iou(every, targets)).abs().mean()
            terms = {"mask": self.mask_loss(best, targets), "iou": self.iou * error}
        return terms if self.iou > 0 else {"mask": terms["mask"]}

    def _choose(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """All candidates at the targets' resolution, N×K×S×S, and the best of them with its graph, N×1×S×S."""
        size = targets.shape[-2:]
        if logits.shape[1] == 1:
            only = self.enlarge(logits, size)
            return only, only
        with torch.no_grad():  # a third of the memory and of the backward pass: only the best one is kept for it
            every = self.enlarge(logits, size)
            per_mask = getattr(self.mask_loss, "per_mask", None)
            costs = compute_dice_loss(every.sigmoid(), targets) if per_mask is None else per_mask(every, targets)
            best = costs.argmin(dim=1)[:, None, None, None]
        return every, self.enlarge(torch.take_along_dim(logits, best, dim=1), size)


def find_present(objects: Sequence[ObjectInfo]) -> Tensor | None:
    """Which objects are there, N bool on the host; None for all of them."""
    present = [info.present for info in objects]
    return None if all(present) else torch.tensor(present)


def _find_rows(present: Tensor | None, device: torch.device) -> Tensor | None:
    """The rows of the objects that are there, None for all of them."""
    if present is None:
        return None
    rows = present.nonzero()[:, 0]
    return None if len(rows) == len(present) else rows.to(device, non_blocking=True)


@torch.no_grad()
def compute_iou(logits: Tensor, targets: Tensor) -> Tensor:
    """IoU of each mask at probability 0.5, 1 where mask and target are empty: N×K×S×S and N×1×S×S -> N×K."""
    masks, truth = logits > 0, targets > 0.5
    union = (masks | truth).sum((-2, -1))
    return torch.where(union > 0, (masks & truth).sum((-2, -1)) / union.clamp(min=1), 1.0)


def add_up(rounds: Sequence[Mapping[str, Tensor]], counts: Mapping[str, int]) -> Loss:
    """The loss of several rounds with the same objects: each term is its mean over the rounds, the total their sum.

    Args:
        counts: of how many objects each term is a mean, as Supervision.count.
    """
    means = {name: torch.stack([terms[name] for terms in rounds]).mean() for name in rounds[0]}
    return build_loss({name: Part(mean, counts[name]) for name, mean in means.items()})


def build_loss(parts: Mapping[str, Part]) -> Loss:
    """The loss that is the sum of these parts."""
    total = torch.stack([part.mean for part in parts.values()]).sum()
    return Loss(total, {"loss": total.detach()} | {name: part.mean.detach() for name, part in parts.items()}, parts)
