"""Which slices of a volume are shown together, which objects are followed through them, and where they are prompted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from medsam2.data.prompts import SLICE_STRATEGIES, order_slices
from medsam2.data.records import Record


@dataclass(frozen=True)
class ClipPolicy:
    """What a clip is.

    Args:
        frames: slices of a training clip; an evaluation takes the whole volume.
        stride: a clip takes every so many-th slice; [least, most]: drawn for each clip.
        reverse_share: share of the clips that run from the last slice to the first.
        clips_per_volume: in an epoch; None for as many as have together as many slices as the volume.
        max_objects: objects of a training clip, drawn from those that are in it; None for all.
        prompted: which slices that show an object are prompted, as order_slices: largest, first, middle, every.
        num_prompts: how many of them; None for all.
        step: every so many-th slice, where ``prompted`` is every.
        legacy_quarter: evaluates the first quarter of each volume alone.
        legacy_absent_oracle: every ``step``-th slice is prompted, and where an object is absent the network is told so.

    Raises:
        ValueError: naming the setting that makes no sense.
    """

    frames: int = 8
    stride: int | Sequence[int] = 1
    reverse_share: float = 0.5
    clips_per_volume: int | None = None
    max_objects: int | None = 5
    prompted: str = "largest"
    num_prompts: int | None = 1
    step: int = 1
    legacy_quarter: bool = False
    legacy_absent_oracle: bool = False

    def __post_init__(self) -> None:
        for name in ("frames", "clips_per_volume", "max_objects", "num_prompts", "step"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"method.{name}={value} must be 1 or more")
        strides = self._strides
        if len(strides) != 2 or not 1 <= strides[0] <= strides[1]:
            raise ValueError(f"method.stride={self.stride} must be 1 or more, or [least, most] with 1 <= least <= most")
        if not 0 <= self.reverse_share <= 1:
            raise ValueError(f"method.reverse_share={self.reverse_share} must lie in 0...1")
        if self.prompted not in SLICE_STRATEGIES:
            raise ValueError(f"method.prompted={self.prompted!r} must be one of {', '.join(SLICE_STRATEGIES)}")

    @property
    def _strides(self) -> tuple[int, ...]:
        return (self.stride, self.stride) if isinstance(self.stride, int) else tuple(self.stride)

    def count_clips(self, length: int) -> int:
        """How many clips of a volume of ``length`` slices are drawn in an epoch."""
        return self.clips_per_volume or math.ceil(length / self.frames)

    def draw_frames(self, length: int, rng: np.random.Generator) -> list[int]:
        """The slices of a clip, in order of time; a short volume has a smaller stride, or a shorter clip."""
        least, most = self._strides
        stride = min(int(rng.integers(least, most + 1)), max(1, (length - 1) // max(1, self.frames - 1)))
        count = min(self.frames, math.ceil(length / stride))
        start = int(rng.integers(length - (count - 1) * stride))
        chosen = [start + k * stride for k in range(count)]
        return chosen[::-1] if rng.random() < self.reverse_share else chosen

    def draw_objects(self, structures: Sequence[str], rng: np.random.Generator) -> list[str]:
        """Those of the structures of a clip that are followed, in their order."""
        if self.max_objects is None or len(structures) <= self.max_objects:
            return list(structures)
        return [structures[i] for i in sorted(rng.choice(len(structures), self.max_objects, replace=False))]

    def choose_prompted(self, areas: Sequence[int]) -> list[int]:
        """The slices on which an object of these areas is prompted, in order; one of its areas is above 0."""
        if self.legacy_absent_oracle:
            return list(range(0, len(areas), self.step))[: self.num_prompts]
        return sorted(order_slices(areas, self.prompted, self.step)[: self.num_prompts])

    def choose_evaluated(self, slices: Sequence[Record]) -> list[Record]:
        """The slices of a volume that an evaluation asks for: all of them."""
        return list(slices[: len(slices) // 4] if self.legacy_quarter else slices)


def group_volumes(records: Sequence[Record]) -> list[list[Record]]:
    """The slices of each volume in their order.

    Slices of no volume are one as long as their numbers follow on each other, patient by patient; it is named by the
    first and the last of them. A slice that is alone stays an image.
    """
    volumes: list[list[Record]] = []
    for record in sorted(records, key=lambda r: (r.volume, r.patient_id, r.split, r.index)):
        if volumes and _follows(record, volumes[-1][-1]):
            volumes[-1].append(record)
        else:
            volumes.append([record])
    return [_name(slices) for slices in volumes]


def _name(slices: list[Record]) -> list[Record]:
    if slices[0].volume or len(slices) == 1:
        return slices
    name = f"{slices[0].case_id}-{slices[-1].case_id}"  # what is tracked as one volume is scored as one
    return [replace(record, volume=name) for record in slices]


def _follows(record: Record, before: Record) -> bool:
    if record.volume:
        return record.volume == before.volume
    same = not before.volume and (record.patient_id, record.split) == (before.patient_id, before.split)
    return same and record.index == before.index + 1
