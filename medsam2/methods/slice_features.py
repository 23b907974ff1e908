"""The image features of many slices: all of them at once, or a few at a time where they would not fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from medsam2.data.batch import to_float
from medsam2.modeling.sam import ImageFeatures

if TYPE_CHECKING:
    from medsam2.modeling.sam2 import SAM2


class SliceFeatures:
    """Raw features of slices, which are numbered through all volumes.

    Args:
        images: of each volume T×C×S×S as kept.
        chunk: slices per pass of the encoder.
        keep: encode all slices in one pass and keep them, as gradients do anyway; else only those of the last pass.
    """

    def __init__(self, model: SAM2, images: Sequence[Tensor], chunk: int, keep: bool) -> None:
        self.model = model
        self.slices = [one for volume in images for one in volume.unbind()]
        self.chunk = chunk
        self.expected: list[int] = []
        self.known = self._encode(range(len(self.slices))) if keep else {}

    def expect(self, numbers: Sequence[int]) -> None:
        """Which slices will be taken, in their order: those that come next are encoded together."""
        self.expected = list(dict.fromkeys(numbers))

    def take(self, numbers: Sequence[int]) -> ImageFeatures:
        """Features of slices, one entry each, or a single one where all are the same slice."""
        wanted = [numbers[0]] if len(set(numbers)) == 1 else list(numbers)
        if any(number not in self.known for number in wanted):
            start = self.expected.index(wanted[0])
            self.known = self._encode(self.expected[start : start + self.chunk])
        parts = [self.known[number] for number in wanted]
        if len(parts) == 1:
            return parts[0]
        levels = zip(*(part.high_res for part in parts), strict=True)
        return ImageFeatures(torch.cat([part.embed for part in parts]), tuple(torch.cat(level) for level in levels))

    def _encode(self, numbers: Sequence[int]) -> dict[int, ImageFeatures]:
        images = torch.stack([to_float(self.slices[number]).expand(3, -1, -1) for number in numbers])
        features = self.model.forward_image(self.model.normalize(images))
        levels = zip(*(level.split(1) for level in features.high_res), strict=True)
        single = (ImageFeatures(embed, skips) for embed, skips in zip(features.embed.split(1), levels, strict=True))
        return dict(zip(numbers, single, strict=True))
