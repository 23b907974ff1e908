"""A case as it is kept between epochs and runs: the image at the size the model sees, the masks as they were drawn.

An image is never kept larger than the model needs, nor than its file has it; colour in 8 bits, grey in 16, so that CT
and MR keep what their window shows. Masks keep their native pixels, cut to the box that holds them, a bit each.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from medsam2.data.batch import to_float
from medsam2.data.records import Case, compute_consensus

LEVELS = {1: (np.uint16, 65535), 3: (np.uint8, 255)}  # channels -> stored type and its white


class PackedMasks(NamedTuple):
    """R masks of H×W pixels: the box that holds all of them, rows top…top+h and columns left…left+w, bit by bit."""

    shape: tuple[int, int, int]  # R, H, W
    box: tuple[int, int, int, int]  # top, left, h, w
    bits: NDArray[np.uint8]

    def crop(self) -> NDArray[np.bool_]:
        """R×h×w, the inside of the box."""
        _, _, height, width = self.box
        count = self.shape[0] * height * width
        return np.unpackbits(self.bits, count=count).view(np.bool_).reshape(self.shape[0], height, width)

    def native(self) -> NDArray[np.bool_]:
        """R×H×W, as they were."""
        return self.place(self.crop())

    def place(self, crop: NDArray[Any]) -> NDArray[Any]:
        """…×h×w inside the box as …×H×W, zero elsewhere."""
        top, left, height, width = self.box
        full = np.zeros((*crop.shape[:-2], *self.shape[1:]), dtype=crop.dtype)
        full[..., top : top + height, left : left + width] = crop
        return full

    def resized(self, size: int) -> NDArray[np.bool_]:
        """R×size×size by the nearest pixel centre, to stay aligned with the image; aspect not kept."""
        _, height, width = self.shape
        if (height, width) == (size, size):
            return self.native()
        rows, columns = nearest(height, size), nearest(width, size)
        top, left, h, w = self.box
        inside_rows = (rows >= top) & (rows < top + h)
        inside_columns = (columns >= left) & (columns < left + w)
        resized = np.zeros((self.shape[0], size, size), dtype=np.bool_)
        picked = self.crop()[:, (rows[inside_rows] - top)[:, None], columns[inside_columns] - left]
        resized[:, np.flatnonzero(inside_rows)[:, None], np.flatnonzero(inside_columns)] = picked
        return resized


class Prepared(NamedTuple):
    """``image`` is C×h×w, uint8 (C = 3) or uint16 (C = 1); ``shape`` the native H×W; ``raters`` by structure; mm."""

    image: NDArray[Any]
    shape: tuple[int, int]
    raters: dict[str, PackedMasks]
    spacing: tuple[float, float] | None
    thickness: float | None = None

    def pixels(self, size: int) -> Tensor:
        """C×size×size as kept, integers, where it has that size; else resized, float32 in [0, 1]."""
        image = torch.from_numpy(self.image)
        return image if image.shape[-2:] == (size, size) else resize(to_float(image), size, size)


def prepare(case: Case, size: int) -> Prepared:
    """A decoded case for a model of size×size pixels. Raises ValueError unless the image has 1 or 3 channels."""
    height, width, channels = case.image.shape
    if channels not in LEVELS:
        raise ValueError(f"case {case.record.case_id}: its image has {channels} channels, expected 1 or 3")
    image = torch.from_numpy(np.ascontiguousarray(case.image.transpose(2, 0, 1)))
    image = resize(image, min(height, size), min(width, size))
    kind, white = LEVELS[channels]
    raters = {structure: pack(case.raters.get(structure, label[None])) for structure, label in case.labels.items()}
    pixels = (image.numpy() * white).round().astype(kind)
    return Prepared(pixels, (height, width), raters, case.spacing, case.thickness)


def pack(masks: NDArray[np.bool_]) -> PackedMasks:
    """R×H×W masks; several empty ones make an empty box."""
    seen: NDArray[np.bool_] = np.any(masks, axis=0)
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    top, left, bottom, right = (rows[0], columns[0], rows[-1] + 1, columns[-1] + 1) if rows.size else (0, 0, 0, 0)
    count, height, width = masks.shape
    bits = np.packbits(masks[:, top:bottom, left:right])
    return PackedMasks((count, height, width), (int(top), int(left), int(bottom - top), int(right - left)), bits)


def resize(image: Tensor, height: int, width: int) -> Tensor:
    """C×H×W in [0, 1] to C×height×width, bilinear and antialiased, aspect not kept: as SAM 2 does."""
    if image.shape[-2:] == (height, width):
        return image
    sized = F.interpolate(image[None], (height, width), mode="bilinear", align_corners=False, antialias=True)
    return sized[0].clamp_(0.0, 1.0)


@functools.lru_cache(maxsize=64)
def nearest(length: int, size: int) -> NDArray[np.int64]:
    """For each of ``size`` pixels the one of ``length`` in which its centre lies."""
    return (2 * np.arange(size) + 1) * length // (2 * size)


def consensus(packed: PackedMasks) -> NDArray[np.bool_]:
    """H×W, the majority of the raters at native size."""
    return np.asarray(packed.place(compute_consensus(packed.crop())))


def agreement(packed: PackedMasks) -> NDArray[Any]:
    """H×W: the fraction of raters per pixel where there are several, else their one mask as bool."""
    return np.asarray(packed.place(share(packed.crop())))


def share(masks: NDArray[np.bool_]) -> NDArray[Any]:
    """R×h×w to h×w: the fraction of raters, or the mask itself where there is one."""
    return masks[0] if len(masks) == 1 else masks.mean(axis=0, dtype=np.float32)
