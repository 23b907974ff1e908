"""Augmentation of a training sample at the model's resolution: image and masks move together, by one generator.

All masks travel as the bits of one channel, so fourteen move for the price of one, and whatever would blend them is
refused. MONAI is imported only where its transforms are built: an import costs seconds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

BITS = 16  # masks per channel: float32 holds such codes exactly, and a table of all of them stays small


class SampleTransform(Protocol):
    """Changes a training sample before prompts are drawn from its masks; takes all its randomness from ``rng``.

    ``image`` is C×S×S float32 in [0, 1], C = 3, or 1 where it is grey; ``masks`` is K×S×S in {0, 1}, float32 or bool,
    every rater's mask of every structure, K ≥ 0. Both come back with the shape, type and range they came with; the
    arguments are left as they are.
    """

    def __call__(self, image: Tensor, masks: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]: ...


class Identity:
    """No augmentation."""

    def __call__(self, image: Tensor, masks: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        return image, masks


class MonaiTransforms:
    """MONAI dictionary transforms on the keys ``image`` (C×S×S) and ``label`` (⌈K/16⌉×S×S, the masks as bits).

    A transform may move the pixels of ``label`` or set them to 0: an interpolating one needs mode "nearest" for it.
    Calling raises ValueError, naming the transform, where a mask would be blended or a size changed.
    """

    def __init__(self, transforms: Sequence[Any]) -> None:
        from monai.transforms import Compose

        self._compose = Compose(list(transforms))

    def __call__(self, image: Tensor, masks: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        sample, seed = {"image": image, "label": _pack(masks)}, int(rng.integers(2**32))
        moved = self._apply(sample, seed)
        if _find_fault(sample, moved):
            raise ValueError(self._explain(sample, seed))
        if torch.equal(moved["label"], sample["label"]):
            return moved["image"].clamp(0.0, 1.0), masks
        return moved["image"].clamp(0.0, 1.0), _unpack(moved["label"], masks)

    def _apply(self, sample: dict[str, Tensor], seed: int, count: int | None = None) -> Any:
        """The sample after all transforms or the first ``count``; the same for the same seed."""
        self._compose.set_random_state(seed=seed)
        with _plain_tensors():
            return self._compose(sample, end=count)

    def _explain(self, sample: dict[str, Tensor], seed: int) -> str:
        """Which transform is at fault: the first after which something is wrong."""
        names = [type(transform).__name__ for transform in self._compose.transforms]
        faults = (_find_fault(sample, self._apply(sample, seed, count)) for count in range(1, len(names) + 1))
        index, fault = next((index, fault) for index, fault in enumerate(faults) if fault)
        return f"transforms.transforms[{index}] {names[index]} {fault}"


def build_affine(image_size: int, prob: float, degrees: float, zoom: Sequence[float], shift: float) -> Any:
    """MONAI's RandAffined: turns, zooms and shifts in one resampling; what comes in from outside is 0.

    Raises ValueError for a negative or empty range.

    Args:
        prob: of happening at all; then all three happen.
        degrees: turned by up to this, to either side.
        zoom: least and largest magnification; drawn for rows and columns separately.
        shift: moved by up to this share of the image, along rows and along columns.
    """
    least, most = zoom
    if not (0 < least <= most and degrees >= 0 and shift >= 0):
        raise ValueError(
            f"transforms: degrees={degrees}, zoom={list(zoom)} and shift={shift} must not be negative, "
            "and zoom must be [least, most] with 0 < least <= most"
        )
    from monai.transforms import RandAffined

    affine = RandAffined(
        keys=["image", "label"],
        prob=prob,
        rotate_range=math.radians(degrees),
        scale_range=[(1 / most - 1, 1 / least - 1)] * 2,  # of the grid that is looked up: larger shows things smaller
        translate_range=[shift * image_size] * 2,
        mode=["bilinear", "nearest"],
        padding_mode="zeros",
    )
    affine.rand_affine.resampler.dtype = torch.float32  # MONAI's float64 takes twice as long
    return affine


@contextmanager
def _plain_tensors() -> Iterator[None]:
    """MONAI without its MetaTensor, which records what nobody asks for and slows whatever is done with it later."""
    from monai.data import get_track_meta, set_track_meta

    tracked = get_track_meta()
    set_track_meta(False)
    try:
        yield
    finally:
        set_track_meta(tracked)


def _find_fault(before: dict[str, Tensor], after: Any) -> str:
    """What a transform did that it must not do, or nothing."""
    if not isinstance(after, dict):
        return "makes several samples of one; take a transform that makes one"
    for key, tensor in before.items():
        if after[key].shape != tensor.shape:
            old, new = ("×".join(map(str, t.shape)) for t in (tensor, after[key]))
            return f"changes the size of {key} from {old} to {new}; take one that keeps it"
    if not _only_moved(before["label"], after["label"]):
        return 'changes the values of masks, which are 0 or 1; give mode "nearest" for label, or leave label alone'
    return ""


def _only_moved(before: Tensor, after: Tensor) -> bool:
    """Whether every code of ``after`` is 0 or occurs in ``before``."""
    if torch.equal(before, after):
        return True
    known = torch.zeros(2**BITS, dtype=torch.bool)
    known[0] = True
    known[before.long()] = True
    codes = after.clamp(0, 2**BITS - 1).long()
    return torch.equal(codes.to(after.dtype), after) and bool(known[codes].all())


def _pack(masks: Tensor) -> Tensor:
    """K×S×S masks as ⌈K/16⌉×S×S float32: mask k is bit k % 16 of channel k // 16; one channel where K is 0."""
    codes = torch.zeros(max(1, math.ceil(len(masks) / BITS)), *masks.shape[1:])
    for k, mask in enumerate(masks):
        codes[k // BITS].add_(mask, alpha=2 ** (k % BITS))
    return codes


def _unpack(codes: Tensor, like: Tensor) -> Tensor:
    """The masks in ``codes``, as many and of the type as ``like``."""
    masks, bits = torch.empty_like(like), codes.int()
    for k, mask in enumerate(masks):
        mask.copy_((bits[k // BITS] & (1 << k % BITS)).ne(0))
    return masks
