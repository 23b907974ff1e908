"""A dataset: a release's cases, split by patient, with the structures that were asked for."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from medsam2.data.files import FileFacts
from medsam2.data.images import check_same_size
from medsam2.data.records import (
    Case,
    DatasetError,
    Record,
    check_structures,
    compute_consensus,
    compute_fingerprint,
)
from medsam2.data.releases.base import ImageRelease, Listing, Problem, Release, explain, missing
from medsam2.data.splits import Split, check_contents, check_disjoint


class FileDataset:
    """What image and volume datasets share: listing, splitting, checking; ``load`` is theirs.

    Args:
        root: the folder of the release.
        release: knows the files.
        structures: those to segment, null for all that are labelled.
        name: of the dataset in results.
        val_fraction, test_fraction, split_seed, fold, folds, split_file: as Split.
        cache_dir: where facts about files are kept between runs; null keeps them for this process alone.
    """

    allow_shared_patient = False

    def __init__(
        self,
        root: str | Path,
        release: Release,
        structures: str | Sequence[str] | None,
        name: str,
        split: Split,
        cache_dir: str | None,
    ) -> None:
        self.root = Path(root).expanduser()
        self.release = release
        self.name = name
        self.split = split
        self.facts = FileFacts(cache_dir)
        self._wanted = structures

    @cached_property
    def structures(self) -> tuple[str, ...]:
        """The chosen structures. Raises DatasetError where the root is missing or does not label one of them."""
        if not self.root.is_dir():
            raise missing(self.release, self.root, f"nothing of {self.name} is there")
        known = self.release.find_structures(self.root)
        return check_structures(known if self._wanted is None else self._wanted, known, self.name)

    def listing(self) -> Listing:
        """Every case with its split, and what is wrong with the files; nothing is decoded.

        Raises DatasetError where there is nothing to list.
        """
        structures = self.structures
        listing = self.release.list_cases(self.root, structures)
        if not listing.records and not listing.problems:
            raise missing(self.release, self.root, f"no cases of {self.name}")
        listing.records.sort(key=lambda record: record.case_id)
        return listing

    def records(self) -> list[Record]:
        """Every case, sorted by id. Raises DatasetError if files are missing or splits share a patient or an image."""
        return list(self._records)

    @cached_property
    def _records(self) -> list[Record]:
        listing = self.listing()
        if listing.problems:
            raise _half_unpacked(self.release, self.root, listing.problems)
        records = self.divide(listing.records)
        check_disjoint(records, self.allow_shared_patient)
        check_contents(records, self.root, self.facts)
        return records

    def divide(self, records: list[Record]) -> list[Record]:
        """The listed cases with a split each. Raises DatasetError if there are too few of them."""
        return self.split.assign(records)

    def fingerprint(self) -> str:
        """Changes with the cases, the split, the chosen structures and the files' contents."""
        text = " ".join((compute_fingerprint(self.records(), self.root, self.facts), *self.structures))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def decoding(self) -> dict[str, Any]:
        """Everything but the files' content that decides what ``load`` returns, as plain values."""
        return {"structures": self.structures, "release": describe(self.release)}


def _half_unpacked(release: Release, root: Path, problems: Sequence[Problem]) -> DatasetError:
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    lines = [f"{root} is half unpacked, {count}:", *(f"  {problem.text}" for problem in problems[:5])]
    if len(problems) > 5:
        lines.append(f"  … and {len(problems) - 5} more")
    lines += ["Unpack the release again, or delete the incomplete cases;", explain(release)]
    return DatasetError("\n".join(lines), kind=problems[0].kind)


def have_own_values(values: Mapping[str, Sequence[int]], structures: Sequence[str]) -> bool:
    """Whether every structure is marked by values of one label map that mark no other; without values it may not be."""
    marks = [value for structure in structures for value in values.get(structure, ())]
    return all(structure in values for structure in structures) and len(marks) == len(set(marks))


def describe(value: Any) -> Any:
    """An object made of plain settings as plain values: its class with the hash of its source, and its attributes."""
    if isinstance(value, dict):
        return {str(key): describe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [describe(item) for item in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    kind = type(value)
    source = hashlib.sha256(Path(inspect.getfile(kind)).read_bytes()).hexdigest()[:16]
    listing = getattr(kind, "LISTING", ())  # what decides which files belong together, not how they are read
    settings = {k: describe(v) for k, v in sorted(vars(value).items()) if not k.startswith("_") and k not in listing}
    return {"class": f"{kind.__module__}.{kind.__qualname__}", "source": source, **settings}


class ImageDataset(FileDataset):
    """Single images; arguments as FileDataset and Split."""

    release: ImageRelease

    def __init__(
        self,
        root: str | Path,
        release: ImageRelease,
        structures: str | Sequence[str] | None = None,
        name: str = "images",
        val_fraction: float = 0.1,
        test_fraction: float = 0.2,
        split_seed: int = 0,
        fold: int | None = None,
        folds: int = 5,
        split_file: str | None = None,
        cache_dir: str | None = None,
    ) -> None:
        split = Split(val_fraction, test_fraction, split_seed, fold, folds, split_file)
        super().__init__(root, release, structures, name, split, cache_dir)

    @property
    def exclusive(self) -> bool:
        """Not where structures have files of their own, as cup and disc do, of which one holds the other."""
        return have_own_values(getattr(self.release, "labels", None) or {}, self.structures)

    def load(self, record: Record) -> Case:
        """Image, raters, majority. Raises DatasetError for damaged files, undeclared values, other sizes."""
        decoded = self.release.read(self.root, record)
        raters = {}
        for structure, names in record.labels:
            masks = decoded.raters[structure]
            check_same_size(self.root / record.image, decoded.image.shape, self.root / names[0], masks.shape[1:])
            raters[structure] = np.ascontiguousarray(masks)
        labels = {structure: compute_consensus(masks) for structure, masks in raters.items()}
        return Case(record, decoded.image, labels, raters, decoded.spacing)
