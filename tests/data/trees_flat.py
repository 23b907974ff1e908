"""Small trees of the public sets of single images: their folders, names and encodings, with objects one can see."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from helpers_data import save_grey
from numpy.typing import NDArray
from PIL import Image
from trees import Tree

FLAT = (40, 48)  # height, width: not square, so that a swap shows
FRAMES = (1, 25, 26, 50, 51, 68, 79, 104, 127, 152, 178, 200, 591, 592, 612)  # of CVC-ClinicDB, from 13 sequences


def blob(number: int, grow: int = 0, shape: tuple[int, int] = FLAT) -> NDArray[np.bool_]:
    """An ellipse of its own size and place for every number, ``grow`` pixels larger than drawn."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    center, radii = (16 + number % 5, 18 + number % 7), (6 + number % 3 + grow, 9 + number % 4 + grow)
    return np.asarray(((y - center[0]) / radii[0]) ** 2 + ((x - center[1]) / radii[1]) ** 2 <= 1)


def grey_of(mask: NDArray[np.generic], number: int) -> NDArray[np.uint8]:
    """Grey levels that rise with the label, and noise that makes every file another."""
    noise = np.random.default_rng(number).integers(0, 20, mask.shape)
    return (60 + 140 * (mask / max(1, int(mask.max()))) + noise).astype(np.uint8)


def photo_of(mask: NDArray[np.generic], number: int) -> NDArray[np.uint8]:
    """The same in colour."""
    return (grey_of(mask, number)[..., None] * np.array([1.0, 0.7, 0.4])).astype(np.uint8)


def save_pixels(path: Path, pixels: NDArray[np.uint8]) -> None:
    """In the format that the name says, .ppm.gz too; beside the first of a folder what a Mac adds to an archive."""
    if not path.parent.is_dir():
        path.parent.mkdir(parents=True)
        (path.parent / f"._{path.name}").write_bytes(b"Mac OS X")
    image = Image.fromarray(pixels)
    if path.suffix == ".gz":
        image.save(stream := BytesIO(), format="PPM")
        path.write_bytes(gzip.compress(stream.getvalue()))
    else:
        image.save(path, quality=95) if path.suffix == ".jpg" else image.save(path)


def write_isic(root: Path, parts: Sequence[str] = ("Training", "Validation", "Test"), count: int = 12) -> Path:
    """Two thirds of ``count`` in Training, a sixth each in the others."""
    for number in range(count):
        part = "Training" if number < count * 4 // 6 else ("Validation", "Test")[number % 2]
        case, images = f"ISIC_{number:07d}", root / f"ISIC2018_Task1-2_{part}_Input"
        save_pixels(images / f"{case}.jpg", photo_of(blob(number), number))
        (images / "ATTRIBUTION.txt").write_text("see the source\n")
        (images / "attribution.csv").write_text("isic_id,attribution,license\n")
        if part in parts:
            save_grey(root / f"ISIC2018_Task1_{part}_GroundTruth/{case}_segmentation.png", blob(number) * 255)
    return root


def write_kvasir(root: Path, count: int = 12) -> Path:
    """Masks as JPEG in three channels, and the boxes as JSON."""
    for number in range(count):
        save_pixels(root / f"images/cju{number:04d}.jpg", photo_of(blob(number), number))
        grey = np.where(blob(number), 255, 0).astype(np.uint8)
        save_pixels(root / f"masks/cju{number:04d}.jpg", np.repeat(grey[..., None], 3, axis=-1))
    (root / "kavsir_bboxes.json").write_text("{}")
    return root


def write_cvc(root: Path, form: str = "PNG", frames: Sequence[int] = FRAMES) -> Path:
    """Frames of the numbers given; ``form`` PNG, TIF or "" for folders right below the root."""
    for frame in frames:
        name = f"{frame}.{'png' if form == 'PNG' else 'tif'}"
        save_pixels(root / form / "Original" / name, photo_of(blob(frame), frame))
        save_grey(root / form / "Ground Truth" / name, blob(frame) * 255)
    return root


def write_stare(root: Path, count: int = 12, suffix: str = ".ppm.gz") -> Path:
    """The second observer draws more."""
    for number in range(1, count + 1):
        name = f"im{number:04d}"
        save_pixels(root / f"stare-images/{name}{suffix}", photo_of(blob(number), number))
        for rater, grow in (("ah", 0), ("vk", 2)):
            save_pixels(root / f"labels-{rater}/{name}.{rater}{suffix}", (blob(number, grow) * 255).astype(np.uint8))
    return root


def write_drive(root: Path, labelled_test: bool = True, train: int = 9, test: int = 3) -> Path:
    """Two halves with the masks of the field of view; without ``labelled_test`` as it is downloaded today."""
    for number in [*range(21, 21 + train), *range(1, 1 + test)]:
        half = "training" if number > 20 else "test"
        save_pixels(root / half / f"images/{number:02d}_{half}.tif", photo_of(blob(number), number))
        save_grey(root / half / f"mask/{number:02d}_{half}_mask.gif", np.full(FLAT, 255))
        observers = ("1st_manual",) if half == "training" else ("1st_manual", "2nd_manual") * labelled_test
        for grow, observer in enumerate(observers):
            save_grey(root / half / observer / f"{number:02d}_manual{observer[0]}.gif", blob(number, grow) * 255)
    return root


def write_chase(root: Path, children: int = 10) -> Path:
    """Both eyes of each child, the second observer draws more; masks of one bit."""
    for number in range(2 * children):
        name = f"Image_{number // 2 + 1:02d}{'LR'[number % 2]}"
        save_pixels(root / f"{name}.jpg", photo_of(blob(number), number))
        for grow, observer in enumerate(("1stHO", "2ndHO")):
            Image.fromarray(blob(number, grow)).save(root / f"{name}_{observer}.png")
    return root


def write_npz(
    path: Path, classes: int = 1, grey: bool = False, endings: Sequence[str] = ("",), plain_images: bool = False
) -> Path:
    """9 train, 2 val and 3 test squares of 32 pixels; ``endings`` ("_C1") are categories, each one pixel larger.

    ``plain_images``: the categories share their images, and there is no set without a category.
    """
    arrays: dict[str, NDArray[np.uint8]] = {}
    for split, numbers in (("train", range(9)), ("val", range(9, 11)), ("test", range(11, 14))):
        for grow, ending in enumerate(endings):
            masks = [np.sum([blob(n, grow - 2 * c, (32, 32)) for c in range(classes)], axis=0) for n in numbers]
            paint = grey_of if grey else photo_of
            images = np.stack([paint(mask, number) for mask, number in zip(masks, numbers, strict=True)])
            arrays[f"{split}_images{'' if plain_images else ending}"] = images
            arrays[f"{split}_label{ending}"] = np.stack(masks).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)
    return path


def tree(name: str, choice: str, folder: str, write: Callable[..., Path], *overrides: str, **settings: Any) -> Tree:
    def make(data_root: Path) -> None:
        write(data_root / folder, **settings)

    return Tree(name, choice, make, tuple(f"dataset.{override}" for override in overrides))


NPZ = "medsegbench"
IDRIB = ("release.flag=idrib", "release.size=128", "release.category=C2")
ABDOMEN = ("release.flag=abdomenus", "structures=[liver, kidney, pancreas]")
TREES = [
    tree("isic2018", "isic2018", "ISIC2018", write_isic),
    tree("isic2018_training", "isic2018", "ISIC2018", write_isic, parts=("Training",), count=18),
    tree("kvasir_seg", "kvasir_seg", "Kvasir-SEG", write_kvasir),
    tree("cvc_clinicdb", "cvc_clinicdb", "CVC-ClinicDB", write_cvc),
    tree("cvc_clinicdb_tif", "cvc_clinicdb", "CVC-ClinicDB", write_cvc, form="TIF"),
    tree("stare", "stare", "STARE", write_stare),
    tree("drive", "drive", "DRIVE", write_drive),
    tree("drive_without_test", "drive", "DRIVE", write_drive, labelled_test=False),
    tree("chase", "chase", "CHASEDB1", write_chase),
    tree("medsegbench", NPZ, "medsegbench/kvasir_256.npz", write_npz),
    tree("medsegbench_classes", NPZ, "medsegbench/abdomenus_256.npz", write_npz, *ABDOMEN, classes=3, grey=True),
    tree(
        "medsegbench_category",
        NPZ,
        "medsegbench/idrib_128.npz",
        write_npz,
        *IDRIB,
        endings=("_C1", "_C2"),
        plain_images=True,
    ),
]
