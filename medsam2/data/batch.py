"""What the loader hands over: samples of one case, collated into a batch of images and objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medsam2.data.prompts import Prompt


@dataclass
class ObjectInfo:
    """One object at the case's native H×W, for metrics and pictures; in training without label and image."""

    case_id: str
    patient_id: str
    structure: str
    prompt: Prompt  # (x, y) in native pixels
    spacing: tuple[float, float] | None  # (row, column) mm
    label: NDArray[np.bool_] | None  # H×W
    image: NDArray[np.uint8] | None  # H×W×3; the objects of a case share one array


@dataclass
class Sample:
    """One case: ``image`` 3×S×S float32 in [0, 1]; ``targets`` n×S×S float32 in {0, 1}, one per object."""

    case_id: str
    image: Tensor
    targets: Tensor
    point_coords: list[Tensor]  # n times P×2 in model pixels
    point_labels: list[Tensor]  # n times P
    objects: list[ObjectInfo]


@dataclass
class Batch:
    """B images and the N objects on them; ``image_index`` says which object is on which image. N may be 0."""

    images: Tensor  # B×3×S×S float32 in [0, 1]
    image_index: Tensor  # N int64
    point_coords: Tensor  # N×P×2 float32, (x, y) in model pixels
    point_labels: Tensor  # N×P int64, padded with -1
    targets: Tensor  # N×1×S×S float32 in {0, 1}
    objects: list[ObjectInfo]  # N
    case_ids: list[str]  # B, in the order of images

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The batch with its tensors on ``device``; object infos stay on the host."""
        return replace(self, **{k: v.to(device, non_blocking=non_blocking) for k, v in self._tensors().items()})

    def pin_memory(self) -> Batch:
        """The batch with its tensors in page-locked memory; the DataLoader calls this."""
        return replace(self, **{name: tensor.pin_memory() for name, tensor in self._tensors().items()})

    def _tensors(self) -> dict[str, Any]:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}


def collate(samples: Sequence[Sample]) -> Batch:
    """One batch from several samples; prompts of fewer points are padded with label -1 at (0, 0)."""
    counts = torch.tensor([len(sample.objects) for sample in samples])
    coords = [points for sample in samples for points in sample.point_coords]
    labels = [points for sample in samples for points in sample.point_labels]
    longest = max((len(points) for points in labels), default=1)
    point_coords, point_labels = torch.zeros(len(coords), longest, 2), torch.full((len(labels), longest), -1)
    for row, (xy, kind) in enumerate(zip(coords, labels, strict=True)):
        point_coords[row, : len(kind)], point_labels[row, : len(kind)] = xy, kind
    return Batch(
        images=torch.stack([sample.image for sample in samples]),
        image_index=torch.repeat_interleave(torch.arange(len(samples)), counts),
        point_coords=point_coords,
        point_labels=point_labels,
        targets=torch.cat([sample.targets for sample in samples])[:, None],
        objects=[info for sample in samples for info in sample.objects],
        case_ids=[sample.case_id for sample in samples],
    )
