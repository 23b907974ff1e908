"""What the loader hands over: samples of one case, collated into a batch of images and objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from medsam2.data.prompts import Prompt

if TYPE_CHECKING:
    from medsam2.data.prepared import PackedMasks

MASK_LOGIT = 10.0  # SAM 2 takes logits +10 and -10 for a given mask
WHITE = {torch.uint8: 255, torch.uint16: 65535}


@dataclass
class ObjectInfo:
    """One object: for metrics and pictures at the case's native H×W, in training without label and image."""

    case_id: str
    patient_id: str
    structure: str
    prompt: Prompt  # (x, y) in native pixels; in training in the model's, S×S
    spacing: tuple[float, float] | None  # (row, column) mm
    label: NDArray[np.bool_] | None = None  # H×W
    image: NDArray[np.uint8] | None = None  # H×W×3; the objects of a case share one array
    raters: PackedMasks | None = None  # every rater's mask at H×W, where there are several
    present: bool = True  # whether the structure is there at all; in training, in the target
    volume: str = ""  # the volume this is a slice of
    index: int = 0  # its place in the volume
    thickness: float | None = None  # mm from one slice of the volume to the next
    prompted: bool = True  # False: a slice without a prompt of its own, answered by tracking
    exclusive: bool = False  # its answer is to be merged with those for the other structures, by merge_structures


@dataclass
class Sample:
    """One case: ``image`` C×S×S, ``targets`` n×S×S, one per object: bool, or float32 in [0, 1] where they are soft.

    Images are grey (C = 1) or colour (3), uint8, uint16 or float32, as they are kept: ``Batch.to`` makes them what the
    network takes, behind the transfer, not before.
    """

    case_id: str
    image: Tensor
    targets: Tensor
    point_coords: list[Tensor]  # n times P×2 in model pixels
    point_labels: list[Tensor]  # n times P
    objects: list[ObjectInfo]
    mask_inputs: list[Tensor | None] = field(default_factory=list)  # n times 1×S/4×S/4 logits; or empty: none has one


@dataclass
class Batch:
    """B images and the N objects on them; ``image_index`` says which object is on which image. N may be 0.

    As collated, images are C×S×S and targets bool or float32, as samples have them; ``to`` makes both float32.
    """

    images: Tensor  # B×3×S×S float32 in [0, 1], after ``to``
    image_index: Tensor  # N int64
    point_coords: Tensor  # N×P×2 float32, (x, y) in model pixels
    point_labels: Tensor  # N×P int64, padded with -1
    targets: Tensor  # N×1×S×S float32 in {0, 1}, after ``to``; between them where they are soft
    objects: list[ObjectInfo]  # N
    case_ids: list[str]  # B, in the order of images
    mask_inputs: Tensor | None = None  # N×1×S/4×S/4 logits, 0 for objects without; None where none has one
    mask_given: Tensor | None = None  # N bool, which objects have one
    point_counts: list[int] = field(default_factory=list)  # N: points of each, 1 for none; or empty: all P

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The batch on ``device``, as the network takes it; object infos stay on the host."""
        moved = {name: tensor.to(device, non_blocking=non_blocking) for name, tensor in self._tensors().items()}
        images, targets = to_float(moved.pop("images")), moved.pop("targets").float()
        return replace(self, images=images.expand(-1, 3, -1, -1), targets=targets, **moved)

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
    point_counts = [max(1, len(points)) for points in labels]
    longest = max(point_counts, default=1)
    point_coords, point_labels = torch.zeros(len(coords), longest, 2), torch.full((len(labels), longest), -1)
    for row, (xy, kind) in enumerate(zip(coords, labels, strict=True)):
        point_coords[row, : len(kind)], point_labels[row, : len(kind)] = xy, kind
    mask_inputs, mask_given = _collate_masks(samples)
    return Batch(
        images=_collate_images([sample.image for sample in samples]),
        image_index=torch.repeat_interleave(torch.arange(len(samples)), counts),
        point_coords=point_coords,
        point_labels=point_labels,
        targets=torch.cat([sample.targets for sample in samples])[:, None],
        objects=[info for sample in samples for info in sample.objects],
        case_ids=[sample.case_id for sample in samples],
        mask_inputs=mask_inputs,
        mask_given=mask_given,
        point_counts=point_counts,
    )


def to_float(image: Tensor) -> Tensor:
    """uint8, uint16 or float32 as float32 in [0, 1]."""
    white = WHITE.get(image.dtype)
    return image if white is None else image.to(torch.float32).mul_(1 / white)


def _collate_images(images: Sequence[Tensor]) -> Tensor:
    """Images of one kind as they are; grey beside colour, or augmented beside kept ones, as float32 in colour."""
    if len({(image.dtype, len(image)) for image in images}) > 1:
        images = [to_float(image).expand(3, -1, -1) for image in images]
    return torch.stack(list(images))


def _collate_masks(samples: Sequence[Sample]) -> tuple[Tensor | None, Tensor]:
    """The mask prompts of all objects, None where there is none, and which objects have one."""
    masks = [mask for sample in samples for mask in sample.mask_inputs or [None] * len(sample.objects)]
    given = torch.tensor([mask is not None for mask in masks], dtype=torch.bool)
    present = [mask for mask in masks if mask is not None]
    if not present:
        return None, given
    inputs = torch.zeros(len(masks), *present[0].shape)
    inputs[given] = torch.stack(present)
    return inputs, given


def mask_to_logits(mask: NDArray[np.bool_], size: int) -> Tensor:
    """A mask H×W as a mask prompt 1×size×size, float32: +10 inside, -10 outside, bilinear and antialiased between.

    So SAM 2 shrinks the masks it is given. Of an object smaller than a pixel of the prompt little is left.
    """
    logits = torch.from_numpy(np.ascontiguousarray(mask)).to(torch.float32) * (2 * MASK_LOGIT) - MASK_LOGIT
    return F.interpolate(logits[None, None], (size, size), mode="bilinear", align_corners=False, antialias=True)[0]


def merge_structures(mask_logits: Tensor, image_index: Tensor, exclusive: Sequence[bool] | bool = True) -> Tensor:
    """Answers for structures that exclude each other, by argmax: a pixel goes to the largest logit above 0.

    From each logit the largest one of the image's other structures is taken, where that is above 0. So no pixel is
    left to two of them, at this resolution and after any interpolation; equal logits stay as they are.

    Args:
        mask_logits: N×1×h×w.
        image_index: N, the image of each.
        exclusive: of each, or of all, whether it takes part.
    """
    part = torch.as_tensor(exclusive, device=mask_logits.device).expand(len(mask_logits))
    alone = torch.arange(len(part), device=part.device) + len(part)
    group = torch.where(part, image_index, alone)[:, None, None, None].expand_as(mask_logits)
    lowest = mask_logits.new_full((2 * len(part), *mask_logits.shape[1:]), -torch.inf)
    best = lowest.scatter_reduce(0, group, mask_logits, "amax").gather(0, group)
    rest = mask_logits.masked_fill(mask_logits == best, -torch.inf)
    second = lowest.scatter_reduce(0, group, rest, "amax").gather(0, group)
    others = torch.where(mask_logits == best, second, best)
    return mask_logits - others.clamp(min=0)
