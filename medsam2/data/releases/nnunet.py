"""Any dataset in nnU-Net's raw format (version 2): folders of NIfTI, NRRD or MetaImage, described by ``dataset.json``.

Format: https://github.com/MIC-DKFZ/nnUNet, documentation/dataset_format.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from medsam2.data.records import DatasetError, Record
from medsam2.data.releases.base import Listing, Volume, join, missing
from medsam2.data.releases.folder_tree import PatientPattern
from medsam2.data.releases.image_pairs import Files
from medsam2.data.releases.volume_pairs import (
    VolumePairs,
    check_channels,
    choose_channels,
    find_modality,
    list_pairs,
    parse_labels,
    read_dataset_json,
)
from medsam2.data.volume_checks import check_same_grid
from medsam2.data.volumes import ITK, NIFTI, read_volume

IGNORE = "ignore"  # nnU-Net leaves these voxels out of its loss; here they are background


class NNUNet(VolumePairs):
    """Labels and regions of ``dataset.json`` are the structures; labelled test cases (labelsTs) are test.

    Args:
        channels: of datasets with several images a case: one ([0]) or three ([0, 1, 2]) of them.
        patient_pattern: a regular expression whose one group is the patient in a case's name; null: each case is one.
    """

    tree = """dataset.json                               channel_names, labels, file_ending
imagesTr/<case>_0000.nii.gz, _0001 …       one file for each channel
labelsTr/<case>.nii.gz
imagesTs/…   labelsTs/…                    used as test if there are labels"""
    remedy = "Convert the data as https://github.com/MIC-DKFZ/nnUNet says in documentation/dataset_format.md."

    LISTING = ("patients",)

    def __init__(self, channels: Sequence[int] | None = None, patient_pattern: str | None = None) -> None:
        self.channels = check_channels(channels)
        self.patients = PatientPattern(patient_pattern)

    def find_structures(self, root: Path) -> tuple[str, ...]:
        """Labels and regions; background and the ignore label are none."""
        return tuple(name for name in self.find_labels(root) if name != IGNORE)

    def find_labels(self, root: Path) -> dict[str, tuple[int, ...]]:
        """structure -> its value or, of a region, values; with the ignore label, which the files may hold."""
        return parse_labels(read_dataset_json(self, root)["labels"], root / "dataset.json")

    def list_cases(self, root: Path, structures: Sequence[str]) -> Listing:
        """Every labelled case; one without its image, or the other way round, is a problem."""
        described = read_dataset_json(self, root)
        if "channel_names" not in described:
            raise missing(self, root, "dataset.json has no channel_names (the Decathlon's is read with dataset=msd)")
        ending = _find_ending(described, root)
        names = {str(k): str(v) for k, v in described["channel_names"].items()}
        channels = choose_channels(self.channels, names, root / "dataset.json")
        parts = {"Tr": "train", "Ts": "test"} if (root / "labelsTs").is_dir() else {"Tr": ""}
        if absent := [k + p for p in parts for k in ("images", "labels") if not (root / (k + p)).is_dir()]:
            raise missing(self, root, f"no folder {' and '.join(absent)}")
        listing = join(
            list_pairs(
                root,
                _find_images(root / f"images{part}", channels, ending),
                Files(root / f"labels{part}", "", (ending,)).find(),
                structures,
                split,
                find_modality(names[str(channels[0])]),
            )
            for part, split in parts.items()
        )
        patients = self.patients
        records = []
        for record in listing.records:
            others = [file.relative_to(root).as_posix() for file in _channel_files(root / record.image, channels)[1:]]
            patient = patients.find(record.case_id) or record.case_id
            records.append(replace(record, patient_id=patient, others=tuple(others)))
        return Listing(records, listing.problems)

    def read_image(self, root: Path, record: Record) -> Volume:
        """The intensities, raw; of three channels X×Y×Z×3. Raises DatasetError if their files have other grids."""
        files = _channel_files(root / record.image, self.channels or (0,))
        volumes = [read_volume(file) for file in files]
        for volume, file in zip(volumes[1:], files[1:], strict=True):
            check_same_grid(volumes[0], volume, files[0], file)
        if len(volumes) == 1:
            return volumes[0]
        return Volume(np.stack([volume.array for volume in volumes], axis=-1), volumes[0].affine)


def _find_images(folder: Path, channels: Sequence[int], ending: str) -> dict[str, Path]:
    """case -> its file of the first channel, where it has one of every channel."""
    found = [Files(folder, f"_{channel:04d}", (ending,)).find() for channel in channels]
    return {case: path for case, path in found[0].items() if all(case in files for files in found)}


def _channel_files(first: Path, channels: Sequence[int]) -> list[Path]:
    """The files of a case's channels, of which ``first`` is the first."""
    stem, ending = first.name.rsplit(f"_{channels[0]:04d}", 1)
    return [first.with_name(f"{stem}_{channel:04d}{ending}") for channel in channels]


def _find_ending(described: dict[str, Any], root: Path) -> str:
    ending = str(described.get("file_ending", ".nii.gz"))
    if ending.lower() not in NIFTI + ITK:
        raise DatasetError(
            f"{root / 'dataset.json'}: file_ending {ending!r} is no volume format ({', '.join(NIFTI + ITK)}); sets of "
            "2-D images are read with dataset=folder",
            kind="channels",
        )
    return ending
