"""What releases of files that lie side by side share: images and masks with the same id in their names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medsam2.data.images import SUFFIXES, check_same_size, read_mask
from medsam2.data.records import DatasetError, Record
from medsam2.data.releases.base import Listing, Problem, collect, strip_ending
from medsam2.data.volumes import is_volume


class Files(NamedTuple):
    """The files lying in ``folder`` whose names are a case's id, then ``ending``, then one of ``suffixes``.

    With ``series``, folders that hold a DICOM series count too, by their whole name.
    """

    folder: Path
    ending: str = ""
    suffixes: tuple[str, ...] = SUFFIXES
    series: bool = False

    def find(self) -> dict[str, Path]:
        """case id -> file, sorted; hidden files and links to nothing do not count.

        Raises DatasetError for two files with one id, for nothing but such links, and where listing is not allowed.
        """
        return collect(self._entries(), self._case)

    def _entries(self) -> list[Path]:
        try:
            return sorted(self.folder.iterdir())
        except PermissionError as error:
            raise DatasetError(
                f"{self.folder} cannot be listed (no permission): ask its owner for it, or copy it"
            ) from error

    def _case(self, path: Path) -> str:
        """The id in a name, "" if the file is none of these."""
        if self.series and path.is_dir():
            return path.name if is_volume(path) else ""
        return strip_ending(path, self._endings)

    @property
    def _endings(self) -> list[str]:
        return [self.ending.lower() + suffix for suffix in self.suffixes]

    def name(self, case: str, root: Path) -> str:
        """What a message calls the file of a case that is not there."""
        suffix = self.suffixes[0] if len(self.suffixes) == 1 else ".*"
        return f"{case}{self.ending}{suffix} in {_relative(self.folder, root)}"


def pair(
    root: Path,
    images: Files,
    masks: Mapping[str, Sequence[Files]],
    split: str = "",
    patient_of: Callable[[str], str] = str,
) -> Listing:
    """A record per image with the masks of all raters of each structure: ``masks`` is structure -> files per rater.

    An image that lacks a mask is a problem, and so is a mask without its image.
    """
    pictures = images.find()
    found = {files: files.find() for files in dict.fromkeys(files for each in masks.values() for files in each)}
    kind = "missing rater" if any(len(each) > 1 for each in masks.values()) else "missing mask"
    listing = Listing([])
    for case, image in pictures.items():
        name = _relative(image, root)
        lacking = [files for files, there in found.items() if case not in there]
        listing.problems += [Problem(kind, f"{name}: no mask {files.name(case, root)}") for files in lacking]
        if not lacking:
            labels = [(s, tuple(_relative(found[files][case], root) for files in each)) for s, each in masks.items()]
            listing.records.append(Record(case, patient_of(case), split, name, tuple(labels)))
    orphans = {path: case for there in found.values() for case, path in there.items() if case not in pictures}
    listing.problems += [
        Problem("missing image", f"{_relative(path, root)}: no image {images.name(case, root)}")
        for path, case in orphans.items()
    ]
    return listing


def read_raters(
    root: Path,
    record: Record,
    shape: tuple[int, ...],
    load: Callable[[Path], NDArray[Any]] = read_mask,
    select: Callable[[NDArray[Any], str], NDArray[Any]] = lambda stored, structure: stored > 0,
) -> dict[str, NDArray[np.bool_]]:
    """Every rater's mask, R×H×W per structure: ``load`` reads a file, ``select`` finds a structure in what it holds.

    Raises DatasetError where a mask is not of the image's ``shape``.
    """
    stored = {name: load(root / name) for name in dict.fromkeys(n for _, names in record.labels for n in names)}
    for name, mask in stored.items():
        check_same_size(root / record.image, shape, root / name, mask.shape)
    return {s: np.stack([select(stored[name], s) for name in names]) for s, names in record.labels}


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()
