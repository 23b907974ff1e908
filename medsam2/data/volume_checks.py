"""What is refused when a volume and its label are decoded: each with the file, the value and the cure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medsam2.data.records import DatasetError
from medsam2.data.releases.base import Volume


def check_same_grid(image: Volume, label: Volume, image_file: Path, label_file: Path) -> None:
    """Raises DatasetError unless image and label have the same number of voxels and lie in the same place."""
    if image.array.shape[:3] != label.array.shape[:3]:
        sizes = ["×".join(map(str, array.shape[:3])) for array in (image.array, label.array)]
        raise DatasetError(
            f"image and label differ in size: {image_file} is {sizes[0]}, {label_file} is {sizes[1]}. "
            "Resample the label to the image's grid with nearest neighbours, or take the original pair.",
            kind="size mismatch",
        )
    if image.affine is None or label.affine is None:
        return
    # in voxels: files of the same scan differ by rounding, of another orientation by the whole volume
    corners = np.array([[x, y, z, 1] for x in (0, 1) for y in (0, 1) for z in (0, 1)], dtype=float)
    corners[:, :3] *= np.array(image.array.shape[:3]) - 1
    apart = np.linalg.norm((corners @ (image.affine - label.affine).T)[:, :3], axis=1).max()
    voxel = np.linalg.norm(image.affine[:3, :3], axis=0).min()
    if not apart <= max(0.5 * voxel, 1e-3):
        raise DatasetError(
            f"image and label lie in different places: a corner of {label_file} is {apart:.3g} mm from that of "
            f"{image_file}. One of them was flipped or moved; give the label the image's affine if its voxels fit, "
            "or export it again.",
            kind="orientation",
        )


def check_finite(slices: NDArray[Any], file: Path) -> None:
    """Raises DatasetError if a voxel is NaN or infinite."""
    if slices.dtype.kind == "f" and not all(np.isfinite(one).all() for one in slices):
        raise DatasetError(f"{file}: holds NaN or infinite values; correct it or take the case out", kind="not finite")


def check_label(label: NDArray[Any], declared: set[int], file: Path) -> NDArray[Any]:
    """Label values slice×row×column as small integers. Raises DatasetError for none, or other than ``declared``."""
    if not label.size:
        raise DatasetError(f"{file}: label of {'×'.join(map(str, label.shape))} voxels", kind="empty volume")
    label = check_integers(label, file)
    if label.min() >= 0 and label.max() <= max(declared):
        found = np.flatnonzero(count_values(label).any(axis=0))
    else:
        found = np.unique(label)
    if strange := sorted(set(found.tolist()) - declared):
        raise DatasetError(
            f"{file}: label with an undeclared value {strange[0]} ({strange[:6]} found, declared "
            f"{sorted(declared)}). Take the original file, or declare what the value means.",
            kind="undeclared value",
        )
    return label.astype(np.uint8 if max(declared) < 256 else np.int32, copy=False)


def check_integers(label: NDArray[Any], file: Path) -> NDArray[Any]:
    """Label values as integers. Raises DatasetError if a value is no whole number: a label that was interpolated."""
    if label.dtype.kind in "iub":
        return label.view(np.uint8) if label.dtype.kind == "b" else label
    whole = np.empty(label.shape, dtype=np.int32)
    for one, slot in zip(label, whole, strict=True):  # slice by slice: as float it may be 8 bytes a voxel
        bad = ~((np.rint(one) == one) & (np.abs(one) < 2**31))
        if bad.any():
            raise DatasetError(
                f"{file}: label with a value that is no whole number, {one[bad][0]:g}. Was it resampled with "
                "interpolation? Use the original file, or resample it with nearest neighbours.",
                kind="undeclared value",
            )
        slot[...] = one
    return whole


def count_values(label: NDArray[Any]) -> NDArray[np.int64]:
    """slices×values: how many pixels of each slice have the value 0, 1, … up to the highest."""
    highest = int(label.max())
    return np.stack([np.bincount(one.ravel(), minlength=highest + 1) for one in label])
