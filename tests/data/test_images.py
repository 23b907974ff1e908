"""Images and masks in every form people keep them in, and the one message for what is not as declared."""

from __future__ import annotations

import gzip
import warnings
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
from helpers_releases import fails
from numpy.typing import NDArray
from PIL import Image

from medsam2.data.images import BINARY, check_same_size, read_image, read_jpeg_mask, read_mask
from medsam2.data.intensity import Percentiles, Range, scale

GREY = np.arange(48 * 40, dtype=np.uint16).reshape(40, 48) * 2  # 0 … 3838: 12 bits of 16
COLOUR = np.stack([GREY, GREY // 2, GREY // 4], axis=-1)
BYTES = (GREY // 16).astype(np.uint8)
RGB = (COLOUR // 16).astype(np.uint8)
SQUARE = np.zeros((40, 48), dtype=np.uint8)
SQUARE[10:20, 5:25] = 1


def save(path: Path, pixels: NDArray[Any], **options: Any) -> Path:
    Image.fromarray(pixels).save(path, **options)
    return path


def save_gz(path: Path, pixels: NDArray[Any]) -> Path:
    Image.fromarray(pixels).save(stream := BytesIO(), format="PPM")
    path.write_bytes(gzip.compress(stream.getvalue()))
    return path


def save_itk(path: Path, pixels: NDArray[Any]) -> Path:
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(pixels, isVector=pixels.ndim == 3), str(path))
    return path


# ------------------------------------------------------------------------------------------------------ images


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp", ".ppm", ".pgm", ".ppm.gz", ".PNG"])
def test_grey_of_8_bits_has_one_channel(tmp_path: Path, suffix: str) -> None:
    write = save_gz if suffix == ".ppm.gz" else save
    image = read_image(write(tmp_path / f"a{suffix}", BYTES))
    assert image.dtype == np.float32
    assert np.array_equal(image, BYTES[..., None] / np.float32(255))


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp", ".ppm", ".ppm.gz"])
def test_colour_of_8_bits(tmp_path: Path, suffix: str) -> None:
    image = read_image((save_gz if suffix == ".ppm.gz" else save)(tmp_path / f"a{suffix}", RGB))
    assert np.array_equal(image, RGB / np.float32(255))


def test_gif_holds_a_palette(tmp_path: Path) -> None:
    image = read_image(save(tmp_path / "a.gif", BYTES))
    assert np.array_equal(image, np.dstack([BYTES] * 3) / np.float32(255))


def test_jpeg(tmp_path: Path) -> None:
    image = read_image(save(tmp_path / "a.jpg", RGB, quality=95))
    assert image == pytest.approx(RGB / 255, abs=0.1)
    assert read_image(save(tmp_path / "b.jpg", BYTES, quality=95)).shape == (40, 48, 1)


def palette() -> Image.Image:
    image = Image.fromarray(SQUARE)
    image.putpalette([10, 20, 30, 250, 150, 50])
    return image


MODES = {  # how it is stored -> what is read at (0, 0) and inside the square
    "palette": (palette(), [10, 20, 30], [250, 150, 50]),
    "one bit": (Image.fromarray(SQUARE > 0), [0], [255]),
    "alpha": (Image.fromarray(np.dstack([RGB, SQUARE])), RGB[0, 0], RGB[10, 5]),
    "grey with alpha": (Image.fromarray(np.dstack([BYTES, SQUARE])), [BYTES[0, 0]], [BYTES[10, 5]]),
}


@pytest.mark.parametrize("mode", MODES)
def test_other_modes(tmp_path: Path, mode: str) -> None:
    image, outside, inside = MODES[mode]
    image.save(tmp_path / "a.png")
    read = read_image(tmp_path / "a.png") * 255
    assert read[0, 0] == pytest.approx(np.asarray(outside), abs=1e-4)
    assert read[10, 5] == pytest.approx(np.asarray(inside), abs=1e-4)
    assert read.shape == (40, 48, len(outside))


def test_a_transparent_palette_keeps_its_colours(tmp_path: Path) -> None:
    palette().save(tmp_path / "a.png", transparency=b"\x00\xff")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (read_image(tmp_path / "a.png")[0, 0] * 255).round().tolist() == [10, 20, 30]


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    Image.new("CMYK", (48, 40), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=95)
    assert read_image(tmp_path / "a.jpg")[0, 0] == pytest.approx([1, 0, 0], abs=0.03)


DEEP = {
    "grey.png": (save, GREY),
    "grey.tif": (save, GREY),
    "signed.tif": (save, GREY.astype(np.int32) - 100),
    "float.tif": (save, GREY.astype(np.float32) / 7),
    "colour.png": (save_itk, COLOUR),
    "colour.tif": (save_itk, COLOUR),
}


@pytest.mark.parametrize("name", DEEP)
def test_more_than_8_bits_are_scaled_by_percentiles_of_the_image(tmp_path: Path, name: str) -> None:
    write, pixels = DEEP[name]
    image = read_image(write(tmp_path / name, pixels))
    low, high = np.percentile(pixels[pixels != 0], [0.5, 99.5])
    expected = np.clip((pixels.astype(np.float32) - low) / (high - low), 0, 1)
    assert image == pytest.approx(expected.reshape(40, 48, -1), abs=1e-5)
    assert (image.min(), image.max()) == (0, 1)


@pytest.mark.parametrize("name", ["grey.png", "colour.png", "colour.tif"])
def test_an_intensity_says_what_is_black_and_white(tmp_path: Path, name: str) -> None:
    write, pixels = DEEP[name]
    image = read_image(write(tmp_path / name, pixels), Range(0, 4095))
    assert image == pytest.approx(pixels.reshape(40, 48, -1) / 4095, abs=1e-6)


def test_an_intensity_counts_for_8_bits_too(tmp_path: Path) -> None:
    path, intensity = save(tmp_path / "a.png", BYTES), Percentiles(10, 90, nonzero=False)
    assert np.array_equal(read_image(path, intensity)[..., 0], scale(BYTES, *intensity(BYTES)))


def test_a_constant_image_is_black(tmp_path: Path) -> None:
    assert not read_image(save(tmp_path / "a.png", np.full((40, 48), 900, np.uint16))).any()


@pytest.mark.parametrize("pixels", [RGB, BYTES, GREY])
def test_exif_orientation_is_applied(tmp_path: Path, pixels: NDArray[Any]) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    turned = read_image(save(tmp_path / "a.png", pixels, exif=exif), Range(0, 4095))
    assert np.array_equal(turned, np.rot90(read_image(save(tmp_path / "b.png", pixels), Range(0, 4095)), -1))


def test_not_a_number(tmp_path: Path) -> None:
    pixels = GREY.astype(np.float32)
    pixels[3, 3] = np.nan
    path = save(tmp_path / "a.tif", pixels)
    fails(lambda: read_image(path), "not finite", "a.tif", "NaN")


def test_a_stack_is_no_image(tmp_path: Path) -> None:
    pages = [Image.fromarray(BYTES + i) for i in range(3)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    fails(lambda: read_image(tmp_path / "a.tif"), "unreadable", "a.tif: holds 3 pictures", "dataset=folder_volumes")


def test_16_bits_of_grey_with_alpha_are_refused(tmp_path: Path) -> None:
    path = save_itk(tmp_path / "a.png", np.stack([GREY, GREY], axis=-1))
    fails(lambda: read_image(path), "channels", "a.png: 16 bits per channel", "interleaved RGB")


def test_a_file_that_is_gone(tmp_path: Path) -> None:
    fails(lambda: read_image(tmp_path / "a.png"), "missing", "a.png is gone")


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Image, "open", refuse)
    fails(lambda: read_image(tmp_path / "a.png"), "unreadable", "a.png cannot be read (no permission)", "ask its owner")


def test_an_image_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "a.png", BYTES)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 900)
    fails(lambda: read_image(path), "too large", "a.png is too large", "1920 pixels", "limit of 1800", "into tiles")


NOISE = np.random.default_rng(0).integers(0, 255, (40, 48, 3)).astype(np.uint8)
FORMATS = [".png", ".jpg", ".tif", ".bmp", ".ppm", ".gif", ".ppm.gz"]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("suffix", FORMATS)
def test_damaged_files(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    (save_gz if suffix == ".ppm.gz" else save)(path, NOISE)
    content = path.read_bytes()
    for damaged in (b"", b"no image", *(content[: int(len(content) * part)] for part in (0.02, 0.3, 0.6, 0.9))):
        path.write_bytes(damaged)
        fails(lambda: read_image(path), "unreadable", f"a{suffix} cannot be decoded", "download it again")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("suffix", FORMATS)
def test_no_cut_raises_anything_else(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    (save_gz if suffix == ".ppm.gz" else save)(path, NOISE)
    content = path.read_bytes()
    for keep in range(0, len(content) - 64, 7):
        path.write_bytes(content[:keep])
        fails(lambda: read_image(path), "unreadable", "cannot be decoded")


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_colour_that_is_damaged(tmp_path: Path, suffix: str) -> None:
    path = save_itk(tmp_path / f"a{suffix}", NOISE.astype(np.uint16) * 256)
    path.write_bytes(path.read_bytes()[:4000])
    fails(lambda: read_image(path), "unreadable", "cannot be decoded")


# ------------------------------------------------------------------------------------------------------- masks


def with_palette(indices: NDArray[np.uint8], *colours: tuple[int, int, int]) -> Image.Image:
    image = Image.fromarray(indices)
    image.putpalette([value for colour in colours for value in colour])
    return image


BLACK, GREY_LEVEL, WHITE = (0, 0, 0), (128, 128, 128), (255, 255, 255)
CUP = SQUARE.copy()
CUP[12:16, 8:12] = 2
MASKS = {  # name -> (how it is stored, declared, expected)
    "0 and 1": (Image.fromarray(SQUARE), BINARY, SQUARE),
    "0 and 255": (Image.fromarray(SQUARE * 255), BINARY, SQUARE * 255),
    "empty": (Image.fromarray(SQUARE * 0), BINARY, SQUARE * 0),
    "full": (Image.fromarray(SQUARE * 0 + 255), BINARY, SQUARE * 0 + 255),
    "one bit": (Image.fromarray(SQUARE > 0), BINARY, SQUARE * 255),
    "one bit as a value": (Image.fromarray(SQUARE > 0), [{0, 1}], SQUARE),
    "16 bits": (Image.fromarray(CUP.astype(np.uint16) * 300), [{0, 300, 600}], CUP.astype(int) * 300),
    "float": (Image.fromarray(CUP.astype(np.float32)), [{0, 1, 2}], CUP),
    "equal channels": (Image.fromarray(np.dstack([CUP] * 3)), [{0, 1, 2}], CUP),
    "with alpha": (Image.fromarray(np.dstack([CUP] * 3 + [SQUARE])), [{0, 1, 2}], CUP),
    "colour palette": (with_palette(CUP, BLACK, (128, 0, 0), (0, 128, 0)), [{0, 1, 2}], CUP),
    "grey palette, indices declared": (with_palette(CUP, BLACK, GREY_LEVEL, WHITE), [{0, 1, 2}], CUP),
    "grey palette, greys declared": (
        with_palette(CUP, BLACK, GREY_LEVEL, WHITE),
        [{0, 128, 255}],
        np.array([0, 128, 255])[CUP],
    ),
    "palette in another order": (with_palette(1 - SQUARE, WHITE, BLACK), BINARY, SQUARE * 255),
}


@pytest.mark.parametrize("name", MASKS)
def test_masks(tmp_path: Path, name: str) -> None:
    image, declared, expected = MASKS[name]
    path = tmp_path / ("a.tif" if image.mode == "F" else "a.png")
    image.save(path)
    read = read_mask(path, declared)
    assert read.dtype.kind in "iu"
    assert np.array_equal(read, expected)


def test_gif_masks(tmp_path: Path) -> None:
    assert np.array_equal(read_mask(save(tmp_path / "a.gif", SQUARE * 255)) > 0, SQUARE)
    Image.fromarray(SQUARE > 0).save(tmp_path / "b.gif")
    assert np.array_equal(read_mask(tmp_path / "b.gif") > 0, SQUARE)


HALF = SQUARE.astype(np.float32)
HALF[0, 0] = 0.5
UNDECLARED = {  # pixels, declared -> what the message says
    "interpolated": (SQUARE * 127, BINARY, "undeclared value 127 (0, 127 found, declared {0, 255} or {0, 1})"),
    "both ways": (SQUARE + SQUARE * (np.arange(48) > 9) * 254, BINARY, "undeclared value 0 (0, 1, 255 found"),
    "255 for 1": (SQUARE * 255, [{0, 1}], "written as 255: give it the value 255 in dataset.release.labels"),
    "1 for 255": (SQUARE, [{0, 255}], "written as 1: give it the value 1 in dataset.release.labels"),
    "one more": (CUP, [{0, 1}], "undeclared value 2 (0, 1, 2 found, declared {0, 1})"),
    "fraction": (HALF, [{0, 1}], "undeclared value 0.5"),
    "negative": (CUP.astype(np.int32) - 1, [{0, 1}], "undeclared value -1"),
    "many": (BYTES, BINARY, "(0, 1, 2, 3, 4, 5, … 240 values found"),
}


@pytest.mark.parametrize("name", UNDECLARED)
def test_undeclared_values(tmp_path: Path, name: str) -> None:
    pixels, declared, message = UNDECLARED[name]
    path = save(tmp_path / "a.tif", np.asarray(pixels))
    fails(lambda: read_mask(path, declared), "undeclared value", "a.tif: label with an undeclared value", message)


def test_colour_masks(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", RGB)
    fails(lambda: read_mask(path), "colour mask", "a.png is a colour image")
    fails(lambda: read_jpeg_mask(path), "colour mask", "a.png is a colour image")
    deep = save_itk(tmp_path / "b.png", COLOUR)
    fails(lambda: read_mask(deep), "colour mask", "b.png is a colour image")


OPAQUE, NONE = np.full_like(SQUARE, 255), np.zeros_like(SQUARE)
TRANSPARENT = {  # grey values, alpha
    "object in the alpha alone": (NONE, SQUARE * 255),
    "object cut out of white": (OPAQUE, 255 - SQUARE * 255),
    "object partly erased": (SQUARE * 255, SQUARE * np.uint8(255) * (np.arange(48) > 9)),
    "empty, on a layer": (NONE, np.arange(48, dtype=np.uint8) + NONE),
}


@pytest.mark.parametrize("name", TRANSPARENT)
@pytest.mark.parametrize("channels", [1, 3])
def test_masks_in_the_transparency_are_refused(tmp_path: Path, name: str, channels: int) -> None:
    grey, alpha = TRANSPARENT[name]
    path = save(tmp_path / "a.png", np.dstack([grey] * channels + [alpha.astype(np.uint8)]))
    for read in (read_mask, read_jpeg_mask):
        fails(lambda read=read: read(path), "colour mask", "a.png", "in the transparency): export it as grey values")


@pytest.mark.parametrize("alpha", [OPAQUE, NONE, SQUARE * 255])
@pytest.mark.parametrize("channels", [1, 3])
def test_transparency_that_says_nothing_else_is_ignored(
    tmp_path: Path, alpha: NDArray[np.uint8], channels: int
) -> None:
    path = save(tmp_path / "a.png", np.dstack([SQUARE * 255] * channels + [alpha]))
    assert np.array_equal(read_mask(path), SQUARE * 255)
    assert np.array_equal(read_jpeg_mask(path), SQUARE > 0)


def test_a_jpeg_mask_is_cut_only_where_asked(tmp_path: Path) -> None:
    path = save(tmp_path / "a.jpg", SQUARE * 255, quality=70)
    fails(lambda: read_mask(path), "jpeg mask", "a.jpg", "dataset.release.threshold=128")
    assert np.array_equal(read_jpeg_mask(path), SQUARE > 0)
    colour = save(tmp_path / "b.jpg", np.dstack([SQUARE * 255] * 3), quality=70)
    assert np.array_equal(read_jpeg_mask(colour), SQUARE > 0)


def test_the_threshold_is_part_of_the_object(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", GREY)
    assert np.array_equal(read_jpeg_mask(path, 1000), GREY >= 1000)
    assert np.array_equal(read_jpeg_mask(save(tmp_path / "b.png", SQUARE > 0)), SQUARE > 0)


def test_sizes_that_differ() -> None:
    check_same_size(Path("a"), (40, 48, 3), Path("b"), (40, 48))
    fails(
        lambda: check_same_size(Path("a.jpg"), (40, 48, 3), Path("b.png"), (48, 40)),
        "size mismatch",
        "a.jpg is 48×40, b.png is 40×48",
        "EXIF",
    )
