"""Clean trees of a few small images or volumes, and single faults to plant in them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import nibabel
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medsam2.data.dataset import ImageDataset
from medsam2.data.intensity import Window
from medsam2.data.releases.folder import Folder
from medsam2.data.releases.folder_volumes import FolderVolumes
from medsam2.data.volume_dataset import VolumeDataset

SHAPE = (20, 30)  # height, width: not square, so that a swap shows
GRID = (14, 12, 6)
SPACING = (0.5, 0.75, 2.0)
SPLITS = {"train": range(5), "val": (7, 8), "test": (10, 11)}
STRUCTURES = ("cup", "disc")
VALUES = {"liver": 1, "spleen": 2, "kidney": 3}


class Fault(NamedTuple):
    """One fault: what is done to a clean tree, and every finding there must be, as (severity, kind, where)."""

    name: str
    plant: Callable[[Path], None]
    findings: list[tuple[str, str, str]]
    says: str = ""  # a part of the first finding's text or remedy


# ------------------------------------------------------------------------------------------------------- images


def photo(number: int, shape: tuple[int, int] = SHAPE) -> NDArray[np.uint8]:
    noise = np.random.default_rng(number).integers(0, 60, (*shape, 3))
    return (noise + 100 * disc(number, shape)[..., None]).astype(np.uint8)


def disc(number: int, shape: tuple[int, int] = SHAPE) -> NDArray[np.bool_]:
    mask = np.zeros(shape, dtype=bool)
    mask[4 : 12 + number % 3, 5:15] = True
    return mask


def cup(number: int, shape: tuple[int, int] = SHAPE) -> NDArray[np.bool_]:
    mask = np.zeros(shape, dtype=bool)
    mask[6:10, 7 : 11 + number % 2] = True
    return mask


def save(path: Path, pixels: NDArray[Any], **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path, **options)


def write_rated(root: Path) -> Path:
    """Two structures by two raters: {train,val,test}/images/e00.png, masks/{cup,disc}/{ann,bob}/e00.png."""
    for split, numbers in SPLITS.items():
        for number in numbers:
            save(root / split / "images" / f"e{number:02d}.png", photo(number))
            for rater in ("ann", "bob"):
                save(root / split / "masks/cup" / rater / f"e{number:02d}.png", cup(number) * 255)
                save(root / split / "masks/disc" / rater / f"e{number:02d}.png", disc(number) * 255)
    return root


def rated(root: Path, cache_dir: str | None = None, **settings: Any) -> ImageDataset:
    return ImageDataset(root, Folder(**settings), name="rated", cache_dir=cache_dir)


def write_valued(root: Path) -> Path:
    """Three structures in one mask as 1, 2, 3."""
    for split, numbers in SPLITS.items():
        for number in numbers:
            save(root / split / "images" / f"e{number:02d}.png", photo(number))
            save(root / split / "masks" / f"e{number:02d}.png", valued(number))
    return root


def valued(number: int) -> NDArray[np.int64]:
    mask = disc(number) + cup(number).astype(int)
    mask[15:18, 20:25] = 3
    return np.asarray(mask)


def values(root: Path) -> ImageDataset:
    return ImageDataset(root, Folder(labels=VALUES), name="values")


# ------------------------------------------------------------------------------------------------------ volumes


def affine(*directions: int) -> NDArray[np.float64]:
    """Axes to the right, front and top, or against them (-1), with a spacing for each."""
    matrix = np.diag([*(np.array(SPACING) * (directions or (1, 1, 1))), 1.0])
    matrix[:3, 3] = (-3.0, 5.0, 7.0)
    return np.asarray(matrix)


def scan(number: int) -> NDArray[np.int16]:
    noise = np.random.default_rng(number).integers(-100, 0, GRID)
    return (noise + 60 * organs(number)).astype(np.int16)


def organs(number: int) -> NDArray[np.uint8]:
    label = np.zeros(GRID, dtype=np.uint8)
    label[2:6, 3 : 7 + number % 2, 1:5] = 1
    label[8:12, 2:6, 2:4] = 2
    label[8:12, 8:11, 3] = 3
    return label


def save_volume(path: Path, array: NDArray[Any], matrix: NDArray[np.float64] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, affine() if matrix is None else matrix), path)


def patch_header(path: Path, **fields: Any) -> None:
    """Changes fields of the header in place: nibabel would not write all that others write."""
    content = path.read_bytes()
    header = nibabel.Nifti1Header(content[:348])
    for name, value in fields.items():
        header[name] = value
    path.write_bytes(header.binaryblock + content[348:])


def write_volumes(root: Path) -> Path:
    """{train,val,test}/images/v00.nii and masks/v00.nii."""
    for split, numbers in SPLITS.items():
        for number in numbers:
            save_volume(root / split / "images" / f"v{number:02d}.nii", scan(number))
            save_volume(root / split / "masks" / f"v{number:02d}.nii", organs(number))
    return root


def volumes(root: Path, **settings: Any) -> VolumeDataset:
    release = FolderVolumes(labels=VALUES, modality="ct")
    return VolumeDataset(root, release, {"ct": Window(0, 200)}, name="volumes", **settings)


# -------------------------------------------------------------------------------------------------------- faults


def copy(source: str, target: str) -> Callable[[Path], None]:
    def plant(root: Path) -> None:
        shutil.copyfile(root / source, root / target)

    return plant


def cut(name: str, keep: int) -> Callable[[Path], None]:
    """The file ends early."""

    def plant(root: Path) -> None:
        (root / name).write_bytes((root / name).read_bytes()[:keep])

    return plant


def remove(name: str) -> Callable[[Path], None]:
    return lambda root: (root / name).unlink()


def change(name: str, **at: Any) -> Callable[[Path], None]:
    """The first pixels of a mask get other values."""

    def plant(root: Path) -> None:
        pixels = np.asarray(Image.open(root / name)).copy()
        pixels[0, : len(at["to"])] = at["to"]
        save(root / name, pixels)

    return plant


def rewrite(name: str, make: Callable[[], Any], **options: Any) -> Callable[[Path], None]:
    return lambda root: save(root / name, make(), **options)


def revolume(name: str, make: Callable[[], Any], matrix: Any = None) -> Callable[[Path], None]:
    return lambda root: save_volume(root / name, make(), matrix)


def all_of(*plants: Callable[[Path], None]) -> Callable[[Path], None]:
    def plant(root: Path) -> None:
        for one in plants:
            one(root)

    return plant


def as_jpeg(name: str) -> Callable[[Path], None]:
    def plant(root: Path) -> None:
        pixels = np.asarray(Image.open(root / name))
        (root / name).unlink()
        save(root / Path(name).with_suffix(".jpg"), pixels, quality=80)

    return plant


def as_palette(name: str, indices: dict[int, int]) -> Callable[[Path], None]:
    """A mask by indices of red and blue."""

    def plant(root: Path) -> None:
        stored = np.asarray(Image.open(root / name))
        image = Image.fromarray(np.vectorize(indices.get)(stored).astype(np.uint8), mode="P")
        image.putpalette([0, 0, 0, 255, 0, 0, 0, 0, 255, 0, 255, 0, 9, 9, 200] + [7, 8, 9] * 251)
        image.save(root / name)

    return plant


def tagged(name: str, orientation: int, turn: int = 0) -> Callable[[Path], None]:
    """A camera's picture: stored turned by ``turn`` quarters, with the tag."""

    def plant(root: Path) -> None:
        image = Image.fromarray(np.rot90(np.asarray(Image.open(root / name)), turn))
        tags = Image.Exif()
        tags[0x0112] = orientation
        image.save(root / name, exif=tags)

    return plant


def nothing(root: Path) -> None:
    pass


def replace_everywhere(root: Path, old: int, new: int) -> None:
    for path in root.glob("*/masks/*"):
        label = np.asarray(nibabel.load(path).dataobj)
        save_volume(path, np.where(label == old, new, label).astype(np.uint8))
