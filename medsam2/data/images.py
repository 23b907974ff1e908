"""Reading images and masks, and refusing what is not as declared by naming file, value and cure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from medsam2.data.records import DatasetError

BINARY = ((0, 255), (0, 1))  # the two ways masks are written


def read_image(path: Path) -> NDArray[np.float32]:
    """RGB as float32 H×W×3 in [0, 1], upright by its EXIF tag. Raises DatasetError if the file is damaged."""
    return np.asarray(_open(path).convert("RGB"), dtype=np.float32) / np.float32(255)


def read_mask(path: Path, values: Sequence[Sequence[int]] = BINARY) -> NDArray[np.uint8]:
    """Grey values as uint8 H×W. Raises DatasetError unless all are in one of the declared sets ``values``."""
    grey = _read_grey(path)
    found = np.flatnonzero(np.bincount(grey.ravel(), minlength=1)).tolist()
    if any(set(found) <= set(declared) for declared in values):
        return grey
    declared = " or ".join("{" + ", ".join(map(str, group)) + "}" for group in values)
    known = {value for group in values for value in group}
    strange = [value for value in found if value not in known] or found
    raise DatasetError(
        f"{path}: label with an undeclared value {strange[0]} ({_short(found)} found, declared {declared}). "
        "Was the mask resized with interpolation or saved as JPEG? Use the original file."
    )


def read_jpeg_mask(path: Path) -> NDArray[np.bool_]:
    """A mask saved as JPEG, bool H×W: compression smears its edge, so the object is what is at least 128."""
    return np.asarray(_read_grey(path) >= 128)


def check_same_size(image: Path, image_shape: tuple[int, ...], mask: Path, mask_shape: tuple[int, ...]) -> None:
    """Raises DatasetError naming both files and sizes (width×height) if a mask does not lie on its image."""
    if image_shape[:2] != mask_shape[:2]:
        sizes = [f"{shape[1]}×{shape[0]}" for shape in (image_shape, mask_shape)]
        raise DatasetError(
            f"image and mask differ in size: {image} is {sizes[0]}, {mask} is {sizes[1]}. "
            "Do not mix cropped and uncropped files; unpack the original pair again."
        )


def _open(path: Path) -> Image.Image:
    try:
        with Image.open(path) as file:
            file.load()
            return ImageOps.exif_transpose(file)
    except FileNotFoundError as error:
        raise DatasetError(f"{path} is gone: it was there when the dataset was listed") from error
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise DatasetError(f"{path} cannot be decoded ({error}): unpack or download it again") from error


def _read_grey(path: Path) -> NDArray[np.uint8]:
    """One channel as stored: a palette image gives its indices, a colour image must have equal channels."""
    image = _open(path)
    array = np.asarray(image.convert("L") if image.mode in ("LA", "1") else image)
    if array.ndim == 3:
        if not (array[..., :3] == array[..., :1]).all():
            raise DatasetError(f"{path} is a colour image, expected a grey mask: export the labels as grey values")
        array = array[..., 0]
    if array.dtype != np.uint8:
        if array.min() < 0 or array.max() > 255:
            raise DatasetError(f"{path}: label with an undeclared value {array.max()}, expected grey values of 8 bits")
        array = array.astype(np.uint8)
    return array


def _short(values: list[int], limit: int = 6) -> str:
    shown = ", ".join(map(str, values[:limit]))
    return shown if len(values) <= limit else f"{shown}, … {len(values)} values"
