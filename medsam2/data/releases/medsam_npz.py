"""Volumes as MedSAM's and MedSAM2's scripts prepare them: one .npz with image, label and spacing each.

``imgs`` and ``gts`` are slice×row×column as SimpleITK reads the file; ``imgs`` is windowed to 8 bits. ``spacing`` is
SimpleITK's GetSpacing(): column, row and slice in mm, the reverse of the array's order. The scripts turn nothing, so
slices are shown as stored. MedSAM's leaves out slices without a label: neighbours may be further apart than spacing
says. Its names begin with the modality, as CT_Abd_FLARE22_Tr_0001.npz.
Source: https://github.com/bowang-lab/MedSAM, pre_CT_MR.py; Ma et al., Nature Communications 15 (2024) 654.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medsam2.data.records import DatasetError, Record
from medsam2.data.releases.base import Listing, Volume, files_by_stem, missing
from medsam2.data.releases.folder_tree import PatientPattern
from medsam2.data.releases.labels import read_labels
from medsam2.data.releases.volume_pairs import make_record

SPLITS = {"MedSAM_train": "train", "MedSAM_test": "test"}  # folders of MedSAM's script


class MedSAMNpz:
    """Every .npz below the root that has ``imgs`` and ``gts``.

    Args:
        labels: structure -> value in ``gts``, or values; the files do not say it.
        patient_pattern: a regular expression whose one group is the patient in a file's name; null: each file is one.
    """

    tree = """<folder>/<name>.npz …               imgs (slice, row, column) uint8, gts the same, spacing in mm
MedSAM_train/…   MedSAM_test/…      are taken for train and test"""
    remedy = "Make them with pre_CT_MR.py of https://github.com/bowang-lab/MedSAM, or download its challenges' data."

    LISTING = ("patients",)

    def __init__(
        self, labels: Mapping[str, int | Sequence[int]] | None = None, patient_pattern: str | None = None
    ) -> None:
        self.labels = None if labels is None else read_labels(labels)
        self.patients = PatientPattern(patient_pattern)

    def find_structures(self, root: Path) -> tuple[str, ...]:
        """Those of ``labels``. Raises DatasetError without them, with the values that the first file holds."""
        return tuple(self.find_labels(root))

    def find_labels(self, root: Path) -> dict[str, tuple[int, ...]]:
        """structure -> values."""
        if self.labels is None:
            first = next(iter(self._files(root).values()))
            values = [value for value in np.unique(_read(first, "gts")).tolist() if value]
            raise DatasetError(
                f"dataset.release.labels is not given, and the files do not name their structures: {first} holds the "
                f"values {values}. Say what they are, as dataset.release.labels='{{liver: 1, spleen: 3}}'",
                kind="undeclared value",
            )
        return self.labels

    def list_cases(self, root: Path, structures: Sequence[str]) -> Listing:
        """Every file; train and test where folders say so."""
        records = []
        for name, path in self._files(root).items():
            file = path.relative_to(root).as_posix()
            split = next((split for folder, split in SPLITS.items() if folder in path.relative_to(root).parts), "")
            record = make_record(name, file, file, structures, split, "8bit")
            records.append(replace(record, patient_id=self.patients.find(name) or name))
        return Listing(records)

    def read_image(self, root: Path, record: Record) -> Volume:
        """Slice×row×column(×3), 0…255."""
        path = root / record.image
        image = _read(path, "imgs")
        if image.ndim not in (3, 4) or image.shape[3:] not in ((), (3,)):
            raise DatasetError(
                f"{path}: imgs is {'×'.join(map(str, image.shape))}, expected three axes", kind="channels"
            )
        return Volume(image, _read_affine(path))

    def read_label(self, root: Path, record: Record) -> Volume:
        """Slice×row×column."""
        path = root / record.image
        return Volume(_read(path, "gts"), _read_affine(path))

    def _files(self, root: Path) -> dict[str, Path]:
        found = files_by_stem(root, [".npz"])
        if not found:
            raise missing(self, root, "no .npz files")
        return found


def _read(path: Path, key: str) -> NDArray[Any]:
    """One array; the others stay packed."""
    try:
        with np.load(path) as arrays:
            if key in arrays:
                return np.asarray(arrays[key])
            known = ", ".join(arrays)
    except Exception as error:  # NumPy and zipfile raise many kinds for a damaged file
        raise DatasetError(f"{path} cannot be read ({error}): make or download it again") from error
    raise DatasetError(f"{path}: has no array {key!r}, it has {known}; take the file out if it is no volume")


def _read_affine(path: Path) -> NDArray[np.float64]:
    """Slices, rows and columns taken to run upwards, to the back and to the left, spaced as the file says."""
    spacing = _read(path, "spacing").astype(np.float64)
    if spacing.shape != (3,) or not (spacing > 0).all():
        raise DatasetError(f"{path}: spacing is {spacing.tolist()}, expected three lengths in mm (column, row, slice)")
    column, row, depth = spacing
    return np.array([[0, 0, -column, 0], [0, -row, 0, 0], [depth, 0, 0, 0], [0, 0, 0, 1.0]])
