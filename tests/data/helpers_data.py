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


class MemoryDataset:
    """``count`` cases in memory; ``present`` says which structures the i-th case shows."""

    name = "memory"
    structures = ("one", "two")
    allow_shared_patient = False
    exclusive = True
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
