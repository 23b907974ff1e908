"""Small datasets on disk and in memory, with values that tests can state."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medsam2.data.records import Case, Record, compute_consensus

SHAPE = (20, 30)  # height, width: not square, so that a swap shows


def square(top: int, left: int, height: int, width: int, shape: tuple[int, int] = SHAPE) -> NDArray[np.bool_]:
    mask = np.zeros(shape, dtype=bool)
    mask[top : top + height, left : left + width] = True
    return mask


def save_grey(path: Path, values: NDArray[np.generic]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values.astype(np.uint8))
    image.save(path, quality=95) if path.suffix == ".jpg" else image.save(path)


def save_photo(path: Path, shape: tuple[int, int] = SHAPE, colour: tuple[int, int, int] = (200, 100, 50)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*shape, 3), colour, dtype=np.uint8)).save(path, quality=95)


def write_multi_rater(
    root: Path,
    raters: Sequence[NDArray[np.bool_]],
    train: int = 4,
    test: int = 2,
    folders: tuple[str, str] = ("Training-400", "Test-400"),
) -> Path:
    """A multi-rater REFUGE where every case has the cup masks ``raters`` and discs of the whole left half."""
    disc = square(0, 0, SHAPE[0], 15)
    for number in range(train + test):
        case_id = f"g{number:04d}"
        folder = root / folders[number >= train] / case_id
        save_photo(folder / f"{case_id}.jpg")
        save_photo(folder / f"{case_id}_cropped.jpg", (10, 10))
        for rater, cup in enumerate(raters, start=1):
            save_grey(folder / f"{case_id}_seg_cup_{rater}.png", cup * 255)
            save_grey(folder / f"{case_id}_seg_disc_{rater}.png", disc * 255)
            save_grey(folder / f"{case_id}_seg_cup_{rater}_cropped.jpg", cup[:10, :10] * 255)
            save_grey(folder / f"{case_id}_seg_disc_{rater}_cropped.jpg", disc[:10, :10] * 255)
    return root


def write_official(root: Path) -> Path:
    """An official REFUGE of two training, one val and one test case: 255 background, 128 rim, 0 cup."""
    mask = np.full(SHAPE, 255)
    mask[5:15, 5:15] = 128
    mask[8:12, 8:12] = 0
    cases = {
        "Training400/Glaucoma/g0001": "Annotation-Training400/Disc_Cup_Masks/Glaucoma/g0001",
        "Training400/Non-Glaucoma/n0001": "Annotation-Training400/Disc_Cup_Masks/Non-Glaucoma/n0001",
        "REFUGE-Validation400/V0001": "REFUGE-Validation400-GT/Disc_Cup_Masks/V0001",
        "Test400/T0001": "REFUGE-Test-GT/Disc_Cup_Masks/G/T0001",
    }
    for image, label in cases.items():
        save_photo(root / f"{image}.jpg")
        save_grey(root / f"{label}.bmp", mask)
    return root


class MemoryDataset:
    """``count`` cases in memory; ``present`` says which structures the i-th case shows."""

    name = "memory"
    structures = ("one", "two")
    allow_shared_patient = False
    root = Path()

    def __init__(self, count: int = 6, shape: tuple[int, int] = SHAPE, absent: Sequence[tuple[int, str]] = ()) -> None:
        self.count, self.shape, self.absent = count, shape, set(absent)

    def records(self) -> list[Record]:
        return [Record(f"case{i}", f"case{i}", "train", index=i) for i in range(self.count)]

    def load(self, record: Record) -> Case:
        rows = np.linspace(0, 1, self.shape[0], dtype=np.float32)[:, None, None]
        image = np.broadcast_to(rows, (*self.shape, 3)) * np.float32(0.9)
        image = np.ascontiguousarray(image)
        masks = {"one": square(2, 20, 5, 8, self.shape), "two": square(10, 3, 8, 6, self.shape)}
        for structure in self.structures:
            if (record.index, structure) in self.absent:
                masks[structure][:] = False
        raters = {name: mask[None] for name, mask in masks.items()}
        labels = {name: compute_consensus(mask) for name, mask in raters.items()}
        return Case(record, image, labels, raters, (2.0, 3.0))

    def fingerprint(self) -> str:
        return "0" * 16

    def decoding(self) -> dict[str, object]:
        return {"shape": self.shape, "absent": sorted(self.absent)}
