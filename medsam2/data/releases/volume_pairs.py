"""What releases of volumes have in common: a volume file and a label file for each case."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medsam2.data.records import DatasetError, Record
from medsam2.data.releases.base import Listing, Problem, Release, Volume, missing
from medsam2.data.volumes import read_volume


class VolumePairs:
    """Reads what ``list_pairs`` listed; a release adds ``tree``, ``remedy``, ``labels`` and ``list_cases``."""

    labels: Mapping[str, int]  # structure -> value

    def find_structures(self, root: Path) -> tuple[str, ...]:
        """Every structure, in the order of the values."""
        return tuple(self.find_labels(root))

    def find_labels(self, root: Path) -> dict[str, tuple[int, ...]]:
        """structure -> the one value that marks it."""
        return {structure: (value,) for structure, value in self.labels.items()}

    def read_image(self, root: Path, record: Record) -> Volume:
        """The intensities, raw."""
        return read_volume(root / record.image)

    def read_label(self, root: Path, record: Record) -> Volume:
        """The label values."""
        return read_volume(root / record.labels[0][1][0])


def list_pairs(
    root: Path,
    images: Mapping[str, Path],
    labels: Mapping[str, Path],
    structures: Sequence[str],
    split: str = "",
    modality: str = "ct",
) -> Listing:
    """A record for each case with both files, a patient of its own; a problem for each with one of them."""
    listing = Listing([])
    for case in sorted({*images, *labels}):
        if case not in labels:
            listing.problems.append(Problem("missing mask", f"{_name(images[case], root)}: no label of {case}"))
        elif case not in images:
            listing.problems.append(Problem("missing image", f"{_name(labels[case], root)}: no image of {case}"))
        else:
            files = _name(labels[case], root), _name(images[case], root)
            listing.records.append(make_record(case, *files, structures, split, modality))
    return listing


def make_record(case: str, label: str, image: str, structures: Sequence[str], split: str, modality: str) -> Record:
    """The record of a volume that is a patient of its own; all its structures are in one label file."""
    return Record(case, case, split, image, tuple((s, (label,)) for s in structures), modality=modality)


def _name(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


# ------------------------------------------------------------------------------------------- dataset.json


def read_dataset_json(release: Release, root: Path) -> dict[str, Any]:
    """The description that MSD and nnU-Net put beside the files. Raises DatasetError if it is missing or damaged."""
    path = root / "dataset.json"
    if not path.is_file():
        raise missing(release, root, "no dataset.json")
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
        if not isinstance(found["labels"], dict):
            raise TypeError(f"its labels are {found['labels']!r}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(
            f"{path} cannot be used ({type(error).__name__}: {error}): unpack or download it again"
        ) from error
    return dict(found)


def parse_labels(labels: Mapping[str, Any], path: Path) -> dict[str, tuple[int, ...]]:
    """{value: name} as MSD writes it, or {name: value or values} as nnU-Net does, as structure -> values.

    Names become lower case with underscores, so that metric keys are words. Background is left out. Raises DatasetError
    if two names become one, or a value is no whole number.
    """
    found: dict[str, tuple[int, ...]] = {}
    for key, item in labels.items():
        name, values = (item, key) if isinstance(item, str) else (key, item)
        structure = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
        try:
            numbers = tuple(int(value) for value in (values if isinstance(values, list) else [values]))
        except (TypeError, ValueError):
            numbers = ()
        if structure in found or not structure or not numbers:
            raise DatasetError(f"{path}: the label {name!r}: {values!r} is not usable, or its name is there twice")
        if numbers != (0,):
            found[structure] = numbers
    return dict(sorted(found.items(), key=lambda item: item[1]))


def check_channels(channels: Sequence[int] | None) -> tuple[int, ...] | None:
    """``dataset.release.channels``: one or three, as an image has. Raises DatasetError for another number of them."""
    if channels is None:
        return None
    if len(channels) not in (1, 3) or not all(isinstance(c, int) and c >= 0 for c in channels):
        raise DatasetError(
            f"dataset.release.channels={list(channels)} must name one channel, or three to be shown as red, green and "
            "blue, counted from 0; the same may be named three times"
        )
    return tuple(channels)


def choose_channels(channels: tuple[int, ...] | None, names: Mapping[str, str], path: Path) -> tuple[int, ...]:
    """The channels to read. Raises DatasetError if several are there and none was chosen, or one is not there."""
    if (channels is None and len(names) > 1) or any(str(c) not in names for c in channels or ()):
        known = ", ".join(f"{number} {name}" for number, name in names.items())
        raise DatasetError(
            f"dataset.release.channels={None if channels is None else list(channels)}: {path} has the channels "
            f"{known}; choose one ([0]) or three ([0, 1, 2])",
            kind="channels",
        )
    return channels or (0,)


def find_modality(name: str) -> str:
    """``ct`` for CT, whose intensities have a unit; ``mr`` for everything else, whose intensities have none."""
    return "ct" if name.strip().lower() == "ct" else "mr"
