"""Clips as a method gets them: slices as the frames of a video, objects on them, and prompts on some of the slices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from medsam2.data.batch import ObjectInfo


class ClipPrompt(NamedTuple):
    """A prompt on one slice for the network: points P×2 (x, y) in model pixels with labels P, or a mask 1×S×S bool."""

    coords: Tensor
    labels: Tensor
    mask: Tensor | None = None


@dataclass(eq=False)
class Clip:
    """T slices and the N objects that are followed through them.

    Images are T×C×S×S as they are kept: uint8, uint16, or float32 in [0, 1]; C is 1 or 3.
    """

    case_id: str
    images: Tensor
    targets: Tensor | None  # N×T×S×S bool, or float32 in [0, 1]; None in an evaluation: labels are native
    present: Tensor  # N×T bool, which objects are on which slices; stays on the host
    prompts: list[dict[int, ClipPrompt]]  # N times at least one, by slice; on the host
    objects: list[list[ObjectInfo]]  # N times T; in training N times one, that of the first prompt


@dataclass
class ClipBatch:
    """Clips that are trained on, or evaluated, together; they may differ in length."""

    clips: list[Clip]

    @property
    def objects(self) -> list[ObjectInfo]:
        """Every object, in an evaluation on every slice, slice by slice: the order of a method's answers."""
        return [info for clip in self.clips for of_slice in zip(*clip.objects, strict=True) for info in of_slice]

    @property
    def case_ids(self) -> list[str]:
        return [clip.case_id for clip in self.clips]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> ClipBatch:
        """The batch with images and targets on ``device``, as they are kept: a volume in float32 may not fit."""
        return self._change(lambda x: x.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> ClipBatch:
        """The batch with images and targets in page-locked memory; the DataLoader calls this."""
        return self._change(Tensor.pin_memory)

    def _change(self, change: Callable[[Tensor], Tensor]) -> ClipBatch:
        return ClipBatch(
            [
                replace(
                    clip, images=change(clip.images), targets=None if clip.targets is None else change(clip.targets)
                )
                for clip in self.clips
            ]
        )


def collate_clips(clips: Sequence[Clip]) -> ClipBatch:
    """What the loader hands over."""
    return ClipBatch(list(clips))
