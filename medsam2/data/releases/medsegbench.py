"""MedSegBench: 35 sets of 2-D images resized to a square, each set one .npz that is read an image at a time.

An .npz is a zip archive; going forward in it is cheap, going back starts again, so cases are named in the order of the
file and the cache asks for them in that order. Which images show the same patient is not kept in these files.
Source: https://github.com/zekikus/MedSegBench; Kuş and Aydin, Scientific Data 11 (2024),
doi 10.1038/s41597-024-04159-2.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medsam2.data.images import BINARY, check_same_size, scale_pixels
from medsam2.data.records import SPLITS, DatasetError, Record
from medsam2.data.releases.base import Decoded, Listing, missing
from medsam2.data.releases.labels import declare, read_labels, select

INSTRUMENTS = ("grasper", "bipolar", "hook", "scissors", "clipper", "irrigator", "specimen_bag", "trocars", "clip")
ORGANS = ("liver", "gallbladder", "fat", "organ", "artery", "intestine", "bile", "blood", "black")
CLASSES = {  # values 1, 2, … of the sets with several classes, as the source names them
    "wbc": ("cytoplasm", "nucleus"),
    "monusac": ("epithelial", "lymphocyte", "macrophage", "neutrophil", "ambiguous"),
    "bkai-igh": ("neoplastic_polyp", "non_neoplastic_polyp"),
    "m2caiseg": (*INSTRUMENTS, *ORGANS),
    "abdomenus": ("liver", "kidney", "pancreas", "vessels", "adrenals", "gallbladder", "bones", "spleen"),
    "fhpsaop": ("pubic_symphysis", "fetal_head"),
}
DAMAGE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)  # what a damaged archive raises
BLOCK = 2**20  # bytes unpacked at a time on the way to an image
NONZERO = ("pandental", "dynamicnuclear")  # every value but 0 is the object


class MedSegBench:
    """One of its sets.

    Args:
        flag: its name, as the .npz begins: kvasir, isic2018, wbc, …
        size: pixels a side, 128, 256 or 512.
        category: C1, C2, … of the sets that are divided into some; null is the whole set.
        object_name: what the one structure of a binary set is called.
        labels: {structure: value}, where the names of the source will not do.
    """

    remedy = "Download <flag>_<size>.npz from https://zenodo.org/records/13358372 (wbc, yeaz: 13359660)."

    def __init__(
        self,
        flag: str,
        size: int = 256,
        category: str | None = None,
        object_name: str = "object",
        labels: Mapping[str, int | Sequence[int]] | None = None,
    ) -> None:
        names = CLASSES.get(flag, ())
        self.flag = flag
        self.size = size
        self.category = category
        self.object_name = object_name
        self.binary = not labels and not names
        self.labels = read_labels(labels or dict(zip(names, range(1, 256), strict=False)) or {object_name: 1})
        self._open: dict[tuple[Path, str], _Member] = {}
        self._owner = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_open": {}}

    @property
    def tree(self) -> str:
        return (
            f"{self.flag}_{self.size}.npz      with train_images, train_label, val_images, val_label, test_images, "
            "test_label\n                (of a category C1: train_images_C1, train_label_C1, …)"
        )

    @property
    def file(self) -> str:
        """Its name below the root."""
        return f"{self.flag}_{self.size}.npz"

    def find_structures(self, root: Path) -> tuple[str, ...]:
        """The classes, or the one object."""
        return tuple(self.labels)

    def list_cases(self, root: Path, structures: Sequence[str]) -> Listing:
        """Every image in its split. Raises DatasetError if the file is missing, damaged or has no such category."""
        if not (root / self.file).is_file():
            raise missing(self, root, f"{self.file} missing")
        labels = tuple((structure, (self.file,)) for structure in structures)
        records = []
        for split in SPLITS:
            images, stored = (self._member(root, split, kind) for kind in ("images", "label"))
            if images.shape[0] != stored.shape[0]:
                raise DatasetError(
                    f"{root / self.file}: has {images.shape[0]} {images.name} and {stored.shape[0]} {stored.name}. "
                    "Download it again.",
                    kind="size mismatch",
                )
            cases = [(f"{split}_{index:05d}", index) for index in range(images.shape[0])]
            records += [Record(case, case, split, self.file, labels, index) for case, index in cases]
        return Listing(records)

    def read(self, root: Path, record: Record) -> Decoded:
        """One image and the structures of its label."""
        split = record.case_id.partition("_")[0]  # where it lies in the file; the record's split may be another
        images, labels = (self._member(root, split, kind) for kind in ("images", "label"))
        where = root / self.file
        image = scale_pixels(images.read(record.index), f"{where}, {images.name} {record.index}")
        stored = labels.read(record.index)
        stored = stored[..., 0] if stored.ndim == 3 else stored
        check_same_size(where, image.shape, where, stored.shape)
        self._check_values(stored, f"{where}: {labels.name} {record.index}")
        masks = {s: stored > 0 if self.binary else select(self.labels, stored, s) for s, _ in record.labels}
        return Decoded(image, {structure: mask[None] for structure, mask in masks.items()})

    def _check_values(self, stored: NDArray[Any], where: str) -> None:
        found = set(np.unique(stored).tolist())
        allowed = [set(values) for values in BINARY] if self.binary else declare(self.labels)
        if any(found <= values for values in allowed) or (self.binary and self.flag in NONZERO):
            return
        raise DatasetError(
            f"{where}: label with an undeclared value ({sorted(found)[:8]} found, declared "
            f"{' or '.join(str(sorted(values)) for values in allowed)}). Name its classes with "
            "dataset.release.labels='{name: value}'.",
            kind="undeclared value",
        )

    def _member(self, root: Path, split: str, kind: str) -> _Member:
        if self._owner != os.getpid():  # a forked process shares the positions of open files with its parent
            self._open, self._owner = {}, os.getpid()
        key = root / self.file, f"{split} {kind}"
        if key not in self._open:
            self._open[key] = _Member(key[0], *self._names(split, kind))
        return self._open[key]

    def _names(self, split: str, kind: str) -> list[str]:
        """What the member may be called; the images of some sets are the same for every category."""
        plain = f"{split}_{kind}"
        if self.category is None:
            return [plain]
        return [f"{plain}_{self.category}"] + [plain] * (kind == "images")


class _Member:
    """An array of an .npz, the first there is of ``names``, of which ``read`` gives one item; never all at once."""

    def __init__(self, path: Path, *names: str) -> None:
        self.path = path
        try:
            archive = zipfile.ZipFile(path)
            there = [name.removesuffix(".npy") for name in archive.namelist()]
            self.name = next((name for name in names if name in there), "")
            if self.name:
                self._file = archive.open(f"{self.name}.npy")
                self.shape, self._dtype = _read_header(self._file)
                self._start = self._file.tell()
        except DAMAGE as error:
            raise self._damaged(error) from error
        if not self.name:
            raise DatasetError(
                f"{path}: has no {' or '.join(names)}, but {', '.join(sorted(there))}. Choose one of these with "
                "dataset.release.category, or download the file again.",
                kind="missing",
            )

    def read(self, index: int) -> NDArray[Any]:
        """Item ``index`` along the first axis."""
        size = int(np.prod(self.shape[1:])) * self._dtype.itemsize
        place = self._start + index * size
        try:
            if place < self._file.tell():
                self._file.seek(0)
            while (ahead := place - self._file.tell()) > 0:  # at once, it would be unpacked into memory at once
                self._file.seek(min(ahead, BLOCK), os.SEEK_CUR)
            return np.frombuffer(self._file.read(size), dtype=self._dtype).reshape(self.shape[1:])
        except DAMAGE as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> DatasetError:
        return DatasetError(f"{self.path} cannot be read ({str(error) or type(error).__name__}): download it again")


def _read_header(file: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type of the .npy that begins here; ``file`` stands at its first value afterwards."""
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    shape, fortran, dtype = readers[np.lib.format.read_magic(file)](file)
    if fortran or dtype.hasobject or len(shape) not in (3, 4):
        raise ValueError(f"an array {shape} of {dtype} is no stack of images")
    return shape, dtype
