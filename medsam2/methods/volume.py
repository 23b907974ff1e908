"""Slices as a video: objects are prompted on some slices of a volume and followed through all others.

Presence has a loss of its own, and masks are judged before it cuts them: on a slice that an object has left there is
nothing to learn from a mask. One loss, one backward pass, through the memories.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from medsam2.data.clip_batch import Clip, ClipBatch
from medsam2.data.clip_policy import ClipPolicy
from medsam2.data.clips import ClipCases
from medsam2.methods.base import Loss, Method, Part, Prediction
from medsam2.methods.supervision import Supervision, build_loss
from medsam2.methods.tracking import DIRECTIONS, ObjectTracker, Place, Step
from medsam2.modeling.sam2 import NO_OBJ_SCORE

if TYPE_CHECKING:
    from medsam2.modeling.sam2 import SAM2


class VolumeMethod(Method):
    """Trains on clips of slices, and is asked for whole volumes.

    Args:
        model: a network with a memory.
        loss: a loss on logits and targets, both N×1×S×S, for the masks of objects that are there.
        frames, stride, reverse_share, clips_per_volume, max_objects: what a training clip is, as ClipPolicy.
        prompted, num_prompts, step: which slices are prompted, as ClipPolicy.
        direction: forward, backward or both, as ObjectTracker; the protocol of an evaluation.
        iou, presence: weights of the losses of the predicted IoU and of the presence.
        candidates: ask for candidates where SAM 2 does: the mask loss counts for the best, the answer is the one of
            highest predicted IoU.
        chunk: slices that the encoder takes at once in an evaluation.
        keep: volumes of at most so many slices keep all their features meanwhile: objects on different slices then run
            as one batch. Longer ones are walked through slice by slice.
        legacy_quarter, legacy_absent_oracle: as ClipPolicy.
        legacy_gated_loss: the mask loss is taken on masks that presence has cut, which are constants of -1024 then.

    Raises:
        ValueError: a network without memory, an unknown direction, or a setting that makes no sense.
    """

    def __init__(
        self,
        model: SAM2,
        loss: nn.Module,
        seed: int = 0,
        frames: int = 4,
        stride: int | Sequence[int] = 1,
        reverse_share: float = 0.5,
        clips_per_volume: int | None = None,
        max_objects: int | None = 5,
        prompted: str = "largest",
        num_prompts: int | None = 1,
        step: int = 1,
        direction: str = "both",
        iou: float = 1.0,
        presence: float = 1.0,
        candidates: bool = False,
        chunk: int = 8,
        keep: int = 64,
        legacy_quarter: bool = False,
        legacy_absent_oracle: bool = False,
        legacy_gated_loss: bool = False,
    ) -> None:
        super().__init__(model, seed)
        if not hasattr(model, "memory_selection"):  # not isinstance: a wrapped network has it too
            raise ValueError("method=volume: this network has no memory; choose a SAM 2 such as model=sam2_t")
        if direction not in DIRECTIONS:
            raise ValueError(f"method.direction={direction!r} must be one of {', '.join(DIRECTIONS)}")
        if chunk < 1 or keep < 0:
            raise ValueError(f"method.chunk={chunk} must be 1 or more, method.keep={keep} 0 or more")
        self.frames = frames
        self.supervision = Supervision(loss, iou, presence, model.sam_mask_decoder.pred_obj_scores)
        self.protocol = direction
        self.candidates = candidates
        self.chunk = chunk
        self.keep = keep
        self.legacy_gated_loss = legacy_gated_loss
        self.policy = ClipPolicy(
            frames=frames,
            stride=stride,
            reverse_share=reverse_share,
            clips_per_volume=clips_per_volume,
            max_objects=max_objects,
            prompted=prompted,
            num_prompts=num_prompts,
            step=step,
            legacy_quarter=legacy_quarter,
            legacy_absent_oracle=legacy_absent_oracle,
        )

    def build_cases(self, **settings: Any) -> ClipCases:
        """Clips; arguments as PromptedCases."""
        return ClipCases(self.policy, **settings)

    def to(self, device: str) -> None:
        super().to(device)
        self.supervision.to(device)

    def loss(self, batch: ClipBatch) -> Loss:
        """Each term is its mean over all objects on all slices of the batch, of mask and IoU over those present."""
        shown = [clip for clip in batch.clips if clip.prompts]
        return _pool([self._judge(step) for step in self._track(shown, keep=True)])

    def predict(self, batch: ClipBatch) -> Prediction:
        """A mask for each object on each slice, empty where it is judged absent, or where it is not followed to."""
        parts = [self._answer(clip) for clip in batch.clips if clip.prompts]
        masks, ious = (torch.cat(column) for column in zip(*parts, strict=True))
        return Prediction(masks, ious, batch.objects)

    def _track(self, clips: Sequence[Clip], keep: bool) -> Iterator[Step]:
        return ObjectTracker(self.model, clips, self.protocol, self.candidates, self.chunk, keep).run()

    def _judge(self, step: Step) -> tuple[dict[str, Tensor], dict[str, int]]:
        """The terms of a step, and how many objects each is a mean of."""
        output = step.output
        if step.given:  # its answer is its prompt; but a batch of nothing else must have a graph, too
            return {"mask": 0 * output.obj_ptr.sum()}, {"mask": 0}
        present = torch.stack([track.clip.present[track.row, t] for track, t in step.places])
        targets = torch.stack([_target(place) for place in step.places])[:, None].float()
        logits = output.low_res_masks if self.legacy_gated_loss else output.ungated_masks
        terms = self.supervision(logits, output.iou_predictions, output.object_score_logits, targets, present)
        return terms, self.supervision.count(present, len(present))

    def _answer(self, clip: Clip) -> tuple[Tensor, Tensor]:
        """T·N×1×4n×4n logits and T·N predicted IoUs, of all objects slice by slice."""
        side, shape = self.model.sam_prompt_encoder.mask_size, clip.present.T.shape
        masks = torch.full((*shape, side, side), NO_OBJ_SCORE, device=clip.images.device)
        ious = torch.zeros(shape, device=clip.images.device)
        for step in self._track([clip], keep=len(clip.images) <= self.keep):
            output, best = step.output, step.output.iou_predictions.argmax(dim=1, keepdim=True)
            # a prompt says that the object is there, and an empty mask that it is not
            every = output.ungated_masks if step.prompted else output.low_res_multimasks
            at = [t for _, t in step.places], [track.row for track, _ in step.places]
            masks[at] = torch.take_along_dim(every, best[..., None, None], dim=1)[:, 0].float()
            ious[at] = torch.take_along_dim(output.iou_predictions, best, dim=1)[:, 0].float()
        return masks.reshape(-1, 1, side, side), ious.flatten()


def _target(place: Place) -> Tensor:
    targets = place.track.clip.targets
    assert targets is not None, "a clip of an evaluation has no targets to learn from"
    return targets[place.track.row, place.frame_idx]


def _pool(parts: Sequence[tuple[dict[str, Tensor], dict[str, int]]]) -> Loss:
    """Means over everything that was judged, whatever was judged together; the total is their sum."""
    names = dict.fromkeys(name for terms, _ in parts for name in terms)
    means = {}
    for name in names:
        sums = [terms[name] * counts[name] for terms, counts in parts if name in terms]
        count = sum(counts.get(name, 0) for _, counts in parts)
        means[name] = Part(torch.stack(sums).sum() / max(1, count), count)
    return build_loss(means)
