"""Somebody's own volumes and masks, without a line of code: NIfTI, NRRD, MetaImage files or DICOM series."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from medsam2.data.records import DatasetError, Record
from medsam2.data.releases.base import Listing, Volume, join
from medsam2.data.releases.folder_table import Table
from medsam2.data.releases.folder_tree import PatientPattern, find_parts, in_split, no_images
from medsam2.data.releases.image_pairs import Files, pair
from medsam2.data.releases.labels import read_labels
from medsam2.data.releases.volume_pairs import check_channels
from medsam2.data.volumes import ITK, NIFTI, read_volume


class FolderVolumes:
    """Volumes below ``images``, label volumes on the same grid below ``masks``, with the same names but for the suffix.

    Args:
        labels: {structure: value in the mask, or a list of values}.
        modality: ct, mr or another key of dataset.intensity, which says how intensities are shown.
        table: a CSV with the columns image and mask that names the files instead, see folder_table; relative to the
            root.
        mask_ending: what masks' names carry behind the case: "_seg" for a.nii.gz and a_seg.nii.gz.
        patient_pattern: a regular expression whose one group finds the patient in a case's name.
        channels: of volumes with a fourth axis: one ([0]) or three ([0, 1, 2]) of it.
    """

    tree = """
images/<case>.nii.gz                or .nii .nrrd .nhdr .mha .mhd, or a folder images/<case>/ with one DICOM series
masks/<case>.nii.gz                 whole numbers, 0 for the background
all that below train/, val/, test/  where the split is known
cases.csv                           or a table instead, in any tree: dataset.release.table=cases.csv"""
    remedy = (
        "Give the folder as dataset.root=DIR, and say what it holds: dataset.release.modality=ct "
        "dataset.release.labels='{liver: 1, tumour: 2}'. Images (PNG, JPEG, TIFF) are read by dataset=folder."
    )

    LISTING = ("patients", "table", "mask_ending")

    def __init__(
        self,
        labels: Mapping[str, int | Sequence[int]] | None = None,
        modality: str | None = None,
        table: str | None = None,
        mask_ending: str = "",
        patient_pattern: str | None = None,
        channels: Sequence[int] | None = None,
    ) -> None:
        self.labels = read_labels(labels or {}) if labels is not None else None
        self.modality = modality
        self.table = table
        self.mask_ending = mask_ending
        self.patients = PatientPattern(patient_pattern)
        self.channels = check_channels(channels)

    def find_labels(self, root: Path) -> Mapping[str, tuple[int, ...]]:
        """The labels as given. Raises DatasetError if none were."""
        if self.labels is None:
            raise DatasetError(
                "dataset.release.labels is not set: say which value marks which structure, "
                "dataset.release.labels='{liver: 1, tumour: 2}'"
            )
        return self.labels

    def find_structures(self, root: Path) -> tuple[str, ...]:
        """Those of the labels."""
        return tuple(self.find_labels(root))

    def list_cases(self, root: Path, structures: Sequence[str]) -> Listing:
        """Every volume with its mask. Raises DatasetError without a modality, or if folders or columns are missing."""
        if self.modality is None:
            raise DatasetError(
                "dataset.release.modality is not set: ct is shown in a window of HU, mr by percentiles "
                "(dataset.release.modality=ct; dataset.intensity says how)"
            )
        if self.table is not None:
            listing = self._list_table(root, Table(root / self.table), structures)
        else:
            listing = join(self._list_part(root, part, split, structures) for part, split in find_parts(self, root))
        return Listing([replace(r, modality=self.modality) for r in listing.records], listing.problems)

    def read_image(self, root: Path, record: Record) -> Volume:
        """The intensities as stored."""
        return read_volume(root / record.image, self.channels)

    def read_label(self, root: Path, record: Record) -> Volume:
        """The label values as stored."""
        return read_volume(root / record.labels[0][1][0])

    def _list_table(self, root: Path, table: Table, structures: Sequence[str]) -> Listing:
        listing = (
            table.list_cases(root, dict.fromkeys(structures, "mask"), self.patients) if not table.structures else None
        )
        if listing is None or any(len(names) > 1 for record in listing.records for _, names in record.labels):
            raise DatasetError(
                f"{table.path}: names several masks of one volume. Give one in the column mask, with a value for each "
                "structure.",
                kind="table",
            )
        return listing

    def _list_part(self, root: Path, part: Path, split: str, structures: Sequence[str]) -> Listing:
        suffixes = NIFTI + ITK
        masks = Files(part / "masks", self.mask_ending, suffixes)
        listing = pair(root, Files(part / "images", "", suffixes, series=True), {s: [masks] for s in structures})
        if not listing.records and not listing.problems:
            what = f"volumes ({' '.join(suffixes)}, or folders with DICOM files)"
            raise no_images(self, root, part / "images", what)
        return in_split(listing, split, self.patients)
