"""Volumes in memory whose slices say by their grey which they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from helpers_data import SHAPE, square
from numpy.typing import NDArray

from medsam2.data.clip_policy import ClipPolicy
from medsam2.data.clips import ClipCases
from medsam2.data.prompts import BoxPrompt
from medsam2.data.records import Case, Record, compute_consensus


class Stacks:
    """Slice i is of grey i / 100. "one" is a square that moves down, largest on the slice before its last; "two" is on
    the second half of a volume, "three" nowhere but in volume b. The second rater draws half of the first one's rows.
    """

    name = "stacks"
    structures = ("one", "two", "three")
    allow_shared_patient = False
    exclusive = True
    root = Path()

    def __init__(
        self, lengths: Mapping[str, int] | None = None, missing: tuple[int, ...] = (), num_raters: int = 1
    ) -> None:
        self.lengths = dict(lengths or {"a": 12, "b": 5})
        self.missing = missing
        self.num_raters = num_raters

    def records(self) -> list[Record]:
        return [
            Record(f"{volume}_z{i:02d}", f"p{volume}", "train", index=i, volume=volume)
            for volume, length in self.lengths.items()
            for i in range(length)
            if i not in self.missing
        ]

    def mask(self, volume: str, structure: str, i: int) -> NDArray[np.bool_]:
        length = self.lengths[volume]
        shown = {"one": 1 <= i <= length - 2, "two": i >= length // 2, "three": volume == "b" and i == 0}
        if not shown[structure]:
            return np.zeros(SHAPE, dtype=bool)
        if structure == "one":
            return square(2 + i, 4, 3 + (i == length - 3), 6)
        return square(12, 20, 4, 5) if structure == "two" else square(3, 22, 2, 2)

    def load(self, record: Record) -> Case:
        image = np.full((*SHAPE, 1), record.index / 100, dtype=np.float32)
        raters = {}
        for structure in self.structures:
            mask = self.mask(record.volume, structure, record.index)
            half = mask & (np.arange(SHAPE[0]) % 2 == 0)[:, None]
            raters[structure] = np.stack([mask, half, mask][: self.num_raters])
        labels = {structure: compute_consensus(masks) for structure, masks in raters.items()}
        return Case(record, image, labels, raters, (2.0, 3.0), 5.0)

    def fingerprint(self) -> str:
        return "0" * 16

    def decoding(self) -> dict[str, Any]:
        return {"lengths": self.lengths}


def clips(dataset: Any = None, policy: ClipPolicy | None = None, **settings: Any) -> ClipCases:
    dataset = dataset or Stacks()
    defaults: dict[str, Any] = {"prompt": BoxPrompt(), "image_size": 64, "seed": 0}
    return ClipCases(policy or ClipPolicy(), dataset=dataset, records=dataset.records(), **(defaults | settings))
