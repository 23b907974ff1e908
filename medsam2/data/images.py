"""Reading images and masks, and refusing what is not as declared by naming file, value and cure."""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from medsam2.data.intensity import Intensity, Percentiles, scale
from medsam2.data.records import DatasetError

NAMED = 64  # values below are likely numbers of structures, not grey levels
BINARY = ((0, 255), (0, 1))  # the two ways masks are written
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".ppm", ".pgm", ".ppm.gz", ".pgm.gz")
DEEP = Percentiles(0.5, 99.5, nonzero=True)  # what more than 8 bits hold, often 10 or 12 of 16, no file says
GREY_MODES = ("L", "I;16", "I;16B", "I;16L", "I", "F")
SPREAD = 64  # channels of a grey mask that JPEG moved apart; colours are further apart


def read_image(path: Path, intensity: Intensity | None = None) -> NDArray[np.float32]:
    """Float32 H×W×3, or H×W×1 where the file is grey, in [0, 1]; upright by its EXIF tag, without alpha.

    8 bits become [0, 1] as they are; more bits, or all with ``intensity``, by limits found on this image (the 0.5 and
    99.5 percentiles of what is not 0). Raises DatasetError if the file is damaged or holds several pictures.
    """
    image, deep = _open(path)
    if deep:
        pixels = _read_deep_colour(path)
    elif image.mode in GREY_MODES:
        pixels = np.asarray(image)
    else:
        pixels = np.asarray(image.convert("L") if image.mode in ("1", "LA", "La") else _to_rgb(image))
    return scale_pixels(pixels, path, intensity)


def scale_pixels(pixels: NDArray[Any], where: object, intensity: Intensity | None = None) -> NDArray[np.float32]:
    """H×W or H×W×C of any type as float32 H×W×C in [0, 1], by the rule of ``read_image``."""
    pixels = pixels if pixels.ndim == 3 else pixels[..., None]
    if pixels.dtype == np.uint8 and intensity is None:
        return np.asarray(pixels / np.float32(255))
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        raise DatasetError(f"{where}: holds NaN or infinite values; correct it or take the case out", kind="not finite")
    return scale(pixels, *(intensity or DEEP)(pixels))


def read_mask(path: Path, values: Sequence[Iterable[int]] = BINARY) -> NDArray[Any]:
    """Label values H×W, integers as stored. Raises DatasetError unless all are in one of the declared sets ``values``.

    A palette image gives its indices; where its colours are grey and declared, they are meant. One bit is 0 and 255, or
    0 and 1 where only that is declared.
    """
    image, deep = _open(path)
    _check_alpha(image, path)
    declared = [set(group) for group in values]
    for stored in _readings(image, deep, path):
        found = _find_values(stored)
        if any(found <= group for group in declared):
            return stored if stored.dtype.kind in "iu" else stored.astype(np.int32)
    raise _undeclared(path, sorted(found), declared, image.format in ("JPEG", "MPO"))


def read_jpeg_mask(path: Path, threshold: float = 128) -> NDArray[np.bool_]:
    """A mask whose edge JPEG or resizing smeared, bool H×W: the object is what is at least ``threshold``."""
    image, deep = _open(path)
    _check_alpha(image, path)
    if deep or (image.mode in ("RGB", "RGBA", "P", "CMYK", "YCbCr") and _spread(_to_rgb(image)) > SPREAD):
        raise _coloured(path)
    return np.asarray(np.asarray(image if image.mode in GREY_MODES else image.convert("L")) >= threshold)


def check_same_size(image: Path, image_shape: tuple[int, ...], mask: Path, mask_shape: tuple[int, ...]) -> None:
    """Raises DatasetError naming both files and sizes (width×height) if a mask does not lie on its image."""
    if image_shape[:2] != mask_shape[:2]:
        sizes = [f"{shape[1]}×{shape[0]}" for shape in (image_shape, mask_shape)]
        raise DatasetError(
            f"image and mask differ in size: {image} is {sizes[0]}, {mask} is {sizes[1]}. Do not mix cropped and "
            "uncropped files; unpack the original pair again. Sides that are swapped come from an EXIF rotation of one "
            "of them: save it upright.",
            kind="size mismatch",
        )


def _open(path: Path) -> tuple[Image.Image, bool]:
    """The image, decoded and upright, and whether it has colours of more than 8 bits, which Pillow cuts to 8."""
    try:
        source = BytesIO(gzip.decompress(path.read_bytes())) if path.suffix.lower() == ".gz" else path
        with Image.open(source) as file:
            if file.format in ("TIFF", "GIF") and (pages := getattr(file, "n_frames", 1)) > 1:
                raise DatasetError(
                    f"{path}: holds {pages} pictures, expected one: save each as a file of its own, or the stack as a "
                    "volume (NIfTI, NRRD) for dataset=folder_volumes"
                )
            deep = file.mode not in GREY_MODES and _bits(file) > 8
            file.load()
            ImageOps.exif_transpose(file, in_place=True)
            return file, deep
    except (DatasetError, MemoryError):
        raise
    except FileNotFoundError as error:
        raise DatasetError(f"{path} is gone: it was there when the dataset was listed", kind="missing") from error
    except PermissionError as error:
        raise DatasetError(f"{path} cannot be read (no permission): ask its owner for it, or copy it") from error
    except Image.DecompressionBombError as error:  # some 179 million pixels, and 2 GB of them as float32 RGB
        reason = str(error).partition(",")[0]
        raise DatasetError(
            f"{path} is too large for one image ({reason}): scale it down or cut it into tiles, and its masks likewise",
            kind="too large",
        ) from error
    except Exception as error:  # Pillow, zlib and struct raise many kinds for a damaged file
        reason = str(error) or type(error).__name__
        raise DatasetError(f"{path} cannot be decoded ({reason}): unpack or download it again") from error


def _bits(file: Any) -> int:
    """Bits per channel of a file not yet decoded."""
    if file.format == "TIFF":
        return int(max(file.tag_v2.get(258, (8,))))
    return 16 if file.format == "PNG" and file.tile and ";16" in str(file.tile[0][3]) else 8


def _read_deep_colour(path: Path) -> NDArray[np.uint16]:
    import SimpleITK

    try:
        array = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))
    except RuntimeError:
        array = np.zeros(0, dtype=np.uint8)
    if array.dtype != np.uint16 or array.ndim != 3 or array.shape[2] < 3:
        raise DatasetError(
            f"{path}: 16 bits per channel, stored in a way that cannot be read (separate planes, or grey with alpha); "
            "save it as a PNG or TIFF of interleaved RGB",
            kind="channels",
        )
    return array[..., :3]


def _to_rgb(image: Image.Image) -> Image.Image:
    """RGB; a transparent palette entry keeps its colour."""
    return (image.convert("RGBA") if image.mode in ("P", "PA") else image).convert("RGB")


def _readings(image: Image.Image, deep: bool, path: Path) -> list[NDArray[Any]]:
    """What the stored values of a mask may mean, best first."""
    if image.mode in GREY_MODES:
        return [np.asarray(image)]
    if image.mode == "1":
        return [np.asarray(image.convert("L")), np.asarray(image).astype(np.uint8)]
    if image.mode == "P":
        grey = [] if _spread(_to_rgb(image)) else [np.asarray(_to_rgb(image))[..., 0]]
        return [*grey, np.asarray(image)]
    if image.mode in ("LA", "La"):
        return [np.asarray(image.convert("L"))]
    if deep or _spread(_to_rgb(image)):
        raise _coloured(path)
    return [np.asarray(_to_rgb(image))[..., 0]]


def _check_alpha(image: Image.Image, path: Path) -> None:
    """Raises DatasetError where alpha says something else than the grey values: not the same everywhere, or object."""
    if image.getbands()[-1] != "A":
        return
    alpha = np.asarray(image.getchannel("A"))
    if alpha.min() == alpha.max() or np.array_equal(alpha > 0, np.asarray(_to_rgb(image)).any(axis=-1)):
        return
    raise DatasetError(
        f"{path} is partly transparent, and its grey values do not show the same object (the object is in the "
        "transparency): export it as grey values",
        kind="colour mask",
    )


def _spread(image: Image.Image) -> int:
    """The largest difference between the channels of one pixel."""
    array = np.asarray(image)
    return int((array.max(axis=-1) - array.min(axis=-1)).max())


def _find_values(array: NDArray[Any]) -> set[float]:
    if array.dtype == np.uint8:  # counting is faster than sorting
        return set(np.flatnonzero(np.bincount(array.ravel(), minlength=1)).tolist())
    return set(np.unique(array).tolist())


def _coloured(path: Path) -> DatasetError:
    return DatasetError(
        f"{path} is a colour image, expected a grey mask: export the labels as grey values", kind="colour mask"
    )


def _undeclared(path: Path, found: list[float], declared: list[set[int]], jpeg: bool) -> DatasetError:
    sets = " or ".join("{" + ", ".join(map(str, sorted(group))) + "}" for group in declared)
    known = set().union(*declared)
    strange = [value for value in found if value not in known] or found
    what = f"{path}: label with an undeclared value {strange[0]:g} ({_short(found)} found, declared {sets}). "
    if jpeg:
        cure = "JPEG smears values. Use the original file, or cut at a grey value with dataset.release.threshold=128."
        return DatasetError(what + cure, kind="jpeg mask")
    if set(found) in ({0, 1}, {0, 255}) and len(strange) == 1:
        cure = f"The object is written as {strange[0]}: give it the value {strange[0]} in dataset.release.labels."
    elif set(found) <= set(range(NAMED)):
        cure = (
            "Name what the values mean, as dataset.release.labels='{NAME: 1, OTHER: 2}'; [1, 2] is the union of both. "
            "If nobody knows them, the mask was resized with interpolation: take the original file."
        )
    else:
        cure = (
            "Was the mask resized with interpolation or saved as JPEG? Use the original file, or name the value in "
            "dataset.release.labels where the dataset has them."
        )
    return DatasetError(what + cure, kind="undeclared value")


def _short(values: Sequence[float], limit: int = 6) -> str:
    shown = ", ".join(f"{value:g}" for value in values[:limit])
    return shown if len(values) <= limit else f"{shown}, … {len(values)} values"
