"""Somebody's own images and masks, without a line of code: folders with matching names, or a table of files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from medsam2.data.images import SUFFIXES, read_image, read_jpeg_mask, read_mask
from medsam2.data.intensity import Intensity
from medsam2.data.records import DatasetError, Record
from medsam2.data.releases.base import Decoded, Listing, join, missing
from medsam2.data.releases.folder_table import MASK, Table
from medsam2.data.releases.folder_tree import PatientPattern, find_parts, in_split, no_images, subfolders
from medsam2.data.releases.image_pairs import Files, pair, read_raters
from medsam2.data.releases.labels import declare, read_labels, select


class Folder:
    """Images below ``images``, masks below ``masks``, with the same names but for the suffix.

    Without ``labels`` every mask is of one structure, 0 and 1 or 0 and 255, and folders in masks/ name structures,
    folders in those raters. With ``labels`` one mask holds all structures, and folders in masks/ name raters.

    Args:
        labels: {structure: value in the mask, or a list of values}; null where masks are of one structure each.
        object_name: of the one structure, where neither labels nor folders name any.
        table: a CSV that names the files instead, see folder_table; relative to the root.
        threshold: masks are cut at this grey value: for JPEG and soft masks.
        mask_ending: what masks' names carry behind the case: "_mask" for a.png and a_mask.png.
        patient_pattern: a regular expression whose one group finds the patient in a case's name.
        intensity: what becomes black and white; null: 8 bits as they are, more by percentiles of each image.
    """

    tree = """
images/<case>.png                        or .jpg .tif .bmp …; 8 or 16 bits, grey or colour
masks/<case>.png                         one structure (0 and 1, or 0 and 255); or several, with dataset.release.labels
masks/<structure>/<case>.png             or a folder for each structure
masks/<structure>/<rater>/<case>.png     and a folder for each rater (masks/<rater>/<case>.png with labels)
all that below train/, val/, test/       where the split is known
cases.csv                                or a table instead, in any tree: dataset.release.table=cases.csv"""
    remedy = "Give the folder as dataset.root=DIR. Volumes (NIfTI, NRRD, DICOM) are read by dataset=folder_volumes."

    LISTING = ("patients", "table", "mask_ending", "object_name")

    def __init__(
        self,
        labels: Mapping[str, int | Sequence[int]] | None = None,
        object_name: str = "object",
        table: str | None = None,
        threshold: float | None = None,
        mask_ending: str = "",
        patient_pattern: str | None = None,
        intensity: Intensity | None = None,
    ) -> None:
        if labels is not None and threshold is not None:
            raise DatasetError(
                f"dataset.release.threshold={threshold} makes two values of a mask, so dataset.release.labels cannot "
                "name more: leave one of them out"
            )
        self.labels = None if labels is None else read_labels(labels)
        self.object_name = object_name
        self.table = table
        self.threshold = threshold
        self.mask_ending = mask_ending
        self.patients = PatientPattern(patient_pattern)
        self.intensity = intensity

    def find_structures(self, root: Path) -> tuple[str, ...]:
        """Those of the labels, the table or the folders in masks/; else the one object."""
        if self.table is not None:
            return tuple(self._columns(Table(root / self.table)))
        if self.labels is not None:
            return tuple(self.labels)
        named = {p.name for part, _ in find_parts(self, root) for p in subfolders(part / "masks")}
        return tuple(sorted(named)) or (self.object_name,)

    def list_cases(self, root: Path, structures: Sequence[str]) -> Listing:
        """Every image with its masks. Raises DatasetError if folders are missing or hold both files and folders."""
        if self.table is not None:
            table = Table(root / self.table)
            columns = self._columns(table)
            return table.list_cases(root, {structure: columns[structure] for structure in structures}, self.patients)
        return join(self._list_part(root, part, split, structures) for part, split in find_parts(self, root))

    def read(self, root: Path, record: Record) -> Decoded:
        """Image and raters."""
        image = read_image(root / record.image, self.intensity)
        if self.labels is not None:
            load = partial(read_mask, values=declare(self.labels))
            return Decoded(image, read_raters(root, record, image.shape, load, partial(select, self.labels)))
        return Decoded(image, read_raters(root, record, image.shape, self._read_one))

    def _read_one(self, path: Path) -> NDArray[Any]:
        return read_mask(path) if self.threshold is None else read_jpeg_mask(path, self.threshold)

    def _columns(self, table: Table) -> dict[str, str]:
        """structure -> column of the table."""
        if table.structures and self.labels is not None:
            raise DatasetError(
                f"{table.path}: has a column for each structure ({', '.join(table.structures)}), so "
                "dataset.release.labels cannot name others. Leave the labels out, or give one column mask.",
                kind="table",
            )
        return {s: MASK + s for s in table.structures} or dict.fromkeys(self.labels or (self.object_name,), "mask")

    def _list_part(self, root: Path, part: Path, split: str, structures: Sequence[str]) -> Listing:
        masks = part / "masks"
        folders = dict.fromkeys(structures, masks)
        if self.labels is None and subfolders(masks):
            folders = {s: masks / s for s in structures}
        if absent := [folder.relative_to(root).as_posix() for folder in folders.values() if not folder.is_dir()]:
            raise missing(self, root, f"{' and '.join(absent)} missing")
        raters = {structure: self._find_raters(folder) for structure, folder in folders.items()}
        listing = pair(root, Files(part / "images"), raters)
        if not listing.records and not listing.problems:
            raise no_images(self, root, part / "images", f"images ({' '.join(SUFFIXES)})")
        return in_split(listing, split, self.patients)

    def _find_raters(self, folder: Path) -> list[Files]:
        files, raters = Files(folder, self.mask_ending), subfolders(folder)
        if raters and files.find():
            raise DatasetError(
                f"{folder}: holds masks beside the folders {', '.join(p.name for p in raters)}. Folders there stand "
                "for raters: put the masks of each rater into one."
            )
        return [Files(rater, self.mask_ending) for rater in raters] or [files]
