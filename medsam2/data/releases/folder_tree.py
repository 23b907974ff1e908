"""What folders of somebody's own images and of their own volumes share: splits by subfolder, patients by name."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from medsam2.data.records import DatasetError
from medsam2.data.releases.base import Listing, Release, missing, show_folder

ALIASES = {"train": "train training", "val": "val valid validation", "test": "test testing"}
SPLIT_NAMES = {name: split for split, names in ALIASES.items() for name in names.split()}  # what people call a split


def find_parts(release: Release, root: Path) -> list[tuple[Path, str]]:
    """(folder with images/ and masks/, its split): the root itself with "", or its folders train, val and test.

    Raises DatasetError if there is neither, or both.
    """
    named = [p for p in subfolders(root) if p.name.lower() in SPLIT_NAMES]
    whole = (root / "images").is_dir() or (root / "masks").is_dir()
    if named and whole:
        raise DatasetError(
            f"{root}: holds images and {', '.join(p.name for p in named)}, so it is not clear which to read. Keep "
            "images/ and masks/ either right there or in train/, val/ and test/."
        )
    parts = [(p, SPLIT_NAMES[p.name.lower()]) for p in named] or [(root, "")]
    if absent := [
        (part / name).relative_to(root).as_posix()
        for part, _ in parts
        for name in ("images", "masks")
        if not (part / name).is_dir()
    ]:
        raise missing(release, root, f"{' and '.join(absent)} missing")
    return parts


def no_images(release: Release, root: Path, folder: Path, what: str) -> DatasetError:
    """The error for a folder of images below the root that holds none of ``what``."""
    name = folder.relative_to(root).as_posix()
    return missing(release, root, f"no {what} right below {name}/ (in it: {show_folder(folder)})")


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, sorted, hidden ones left out."""
    return [p for p in sorted(folder.iterdir()) if p.is_dir() and not p.name.startswith((".", "__"))]


def in_split(listing: Listing, split: str, pattern: PatientPattern) -> Listing:
    """The cases of a split's folder; the split comes before their ids, for folders often use the same names."""
    records = []
    for record in listing.records:
        case = f"{split}_{record.case_id}" if split else record.case_id
        records.append(replace(record, case_id=case, patient_id=pattern.find(record.case_id) or case, split=split))
    return Listing(records, listing.problems)


class PatientPattern:
    """A regular expression whose one group is the patient in a case's name; null where a case is a patient."""

    def __init__(self, pattern: str | None) -> None:
        self.pattern = pattern
        try:
            self._compiled = re.compile(pattern or "()")
        except re.error as error:
            raise DatasetError(
                f"dataset.release.patient_pattern={pattern!r} is no regular expression ({error}): "
                "\"dataset.release.patient_pattern='(P[0-9]+)_'\" finds P07 in P07_left"
            ) from error
        if self._compiled.groups != 1:
            raise DatasetError(
                f"dataset.release.patient_pattern={pattern!r} has {self._compiled.groups} groups, expected one, the "
                "patient: \"dataset.release.patient_pattern='(P[0-9]+)_'\" finds P07 in P07_left"
            )

    def find(self, name: str) -> str:
        """The patient in a name, "" without a pattern. Raises DatasetError if the pattern does not match."""
        match = self._compiled.search(name)
        if match is None or (self.pattern and not match[1]):
            raise DatasetError(
                f"dataset.release.patient_pattern={self.pattern!r} finds no patient in {name!r}. Change it, or name "
                "the patients in a table (dataset.release.table)."
            )
        return match[1]
