"""Train, val and test: carved by patient, checked to be disjoint, saved as a file and known by a hash."""

from __future__ import annotations

import csv
import hashlib
import io
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from medsam2.data.files import FileFacts, measure
from medsam2.data.records import SPLITS, DatasetError, Record
from medsam2.data.seeding import stable_rng
from medsam2.data.split_file import check_named, read_splits
from medsam2.files import write_atomic

T = TypeVar("T")
SPLIT_COLUMNS = ("case_id", "patient_id", "split")


@dataclass(frozen=True)
class Split:
    """How cases that a release has put into no split, or into too few, are divided: by patient, from a seed.

    The release's own splits stay. Where it has no test cases, ``test_fraction`` of the patients become test; where it
    has no val, ``val_fraction`` of the training patients become val. With ``fold`` k, one of ``folds`` equal parts of
    the patients takes the place of that fraction: of test where the release has none, else of val. ``split_file``
    decides where it is given: a CSV with the columns case_id and split, as every run saves one, alone; or nnU-Net's
    ``splits_final.json``, of which ``fold`` chooses the entry. That one names train and val: released test cases stay
    test; where there are none its val, on which nnU-Net reports, becomes test, and a val is carved from its train.
    """

    val_fraction: float = 0.1
    test_fraction: float = 0.2
    split_seed: int = 0
    fold: int | None = None
    folds: int = 5
    split_file: str | None = None

    def __post_init__(self) -> None:
        for key, value in (("val_fraction", self.val_fraction), ("test_fraction", self.test_fraction)):
            if not 0 < value < 1:
                raise DatasetError(f"dataset.{key}={value} must lie between 0 and 1 (0.1 is a tenth of the patients)")
        if self.folds < 2 or (self.fold is not None and not 0 <= self.fold < self.folds):
            raise DatasetError(
                f"dataset.fold={self.fold} of dataset.folds={self.folds}: name one of 0 to folds - 1, of 2 folds "
                "or more"
            )

    def assign(self, records: Sequence[Record]) -> list[Record]:
        """The records with a split each, sorted by case id.

        Raises DatasetError if there are too few patients, or if split_file does not fit the cases.
        """
        if self.split_file is not None:
            return self._by_file(records, Path(self.split_file).expanduser())
        done = [replace(record, split=record.split or "train") for record in records]
        fold = self.fold
        if not any(record.split == "test" for record in records):
            done, fold = self._carve(done, "test", self.test_fraction, fold), None
        if all(record.split == "test" for record in records):
            return sorted(done, key=lambda record: record.case_id)  # can be evaluated, not trained on
        if not any(record.split == "val" for record in records):
            done, fold = self._carve(done, "val", self.val_fraction, fold), None
        elif fold is not None:
            done = [replace(r, split="train") if r.split == "val" else r for r in done]
            done = self._carve(done, "val", self.val_fraction, fold)
        return sorted(done, key=lambda record: record.case_id)

    def _by_file(self, records: Sequence[Record], path: Path) -> list[Record]:
        splits = read_splits(path, self.fold or 0)
        check_named(splits, records, path)
        found = [replace(r, split=splits.get(r.case_id, splits.get(r.volume, ""))) for r in records]
        if path.suffix == ".json" and "test" not in splits.values():
            found = self._complete(found, released=records)
        return sorted((r for r in found if r.split), key=lambda record: record.case_id)

    def _complete(self, found: list[Record], released: Sequence[Record]) -> list[Record]:
        """The cases by a file of train and val alone, with a test."""
        done = [
            before if before.split == "test" and not after.split else after
            for before, after in zip(released, found, strict=True)
        ]
        if not any(record.split == "test" for record in done):
            done = [replace(r, split="test") if r.split == "val" else r for r in done]
        if not any(record.split == "val" for record in done):
            done = carve(done, "val", self.val_fraction, self.split_seed)
        return done

    def _carve(self, records: list[Record], split: str, fraction: float, fold: int | None) -> list[Record]:
        if fold is None:
            return carve(records, split, fraction, self.split_seed)
        return carve_fold(records, split, fold, self.folds, self.split_seed)


def carve(records: Sequence[Record], split: str, fraction: float, seed: int) -> list[Record]:
    """Move ``fraction`` of the training patients (rounded, at least one) to ``split``; the rest stays as it is.

    Patients are drawn by a generator of their own from ``seed``, so the same records and seed give the same
    split everywhere. Raises DatasetError if no training patient would be left.
    """
    drawn = _draw_patients(records, seed, "" if split == "val" else split)
    count = max(1, round(fraction * len(drawn)))
    if count >= len(drawn):
        raise DatasetError(
            f"dataset.{split}_fraction={fraction} of {len(drawn)} training patients leaves none to train on: "
            "lower it or add cases",
            kind="too few cases",
        )
    return _move(records, split, set(drawn[:count]))


def carve_fold(records: Sequence[Record], split: str, fold: int, folds: int, seed: int) -> list[Record]:
    """Move part ``fold`` of the training patients to ``split``; the parts are disjoint and complete, by patient."""
    drawn = _draw_patients(records, seed, "fold")
    if len(drawn) < folds:
        raise DatasetError(
            f"dataset.folds={folds} of {len(drawn)} training patients: lower it or add cases", kind="too few cases"
        )
    return _move(records, split, {drawn[int(i)] for i in np.array_split(np.arange(len(drawn)), folds)[fold]})


def _draw_patients(records: Sequence[Record], seed: int, purpose: str) -> list[str]:
    """The training patients in a random order of their own for each purpose."""
    patients = sorted({record.patient_id for record in records if record.split == "train"})
    generator = stable_rng("split", seed, purpose) if purpose else np.random.default_rng(seed)
    return [patients[i] for i in generator.permutation(len(patients))]


def _move(records: Sequence[Record], split: str, patients: set[str]) -> list[Record]:
    return [
        replace(record, split=split) if record.split == "train" and record.patient_id in patients else record
        for record in records
    ]


def contiguous_blocks(ids: Sequence[T], blocks: Sequence[tuple[str, float]], gap: int) -> dict[str, list[T]]:
    """Cut a sequence into contiguous blocks of (split, fraction), in their order, leaving ``gap`` items between.

    For the slices of one volume: neighbours look alike, so a random split would test on the training data. A split
    may have several blocks. Raises DatasetError if the fractions do not sum to 1, a split is unknown or missing, or a
    block would be empty.
    """
    _check_blocks(blocks, gap)
    usable = len(ids) - gap * (len(blocks) - 1)
    edges = [max(0, round(usable * float(edge))) for edge in np.cumsum([0.0, *(fraction for _, fraction in blocks)])]
    cut: dict[str, list[T]] = defaultdict(list)
    for position, (split, _) in enumerate(blocks):
        block = ids[edges[position] + position * gap : edges[position + 1] + position * gap]
        if not block:
            raise DatasetError(
                f"{len(ids)} slices with split_blocks={_show(blocks)} and gap={gap} leave nothing for block "
                f"{position + 1}, {split}: raise its fraction, lower the gap, use fewer blocks or choose a structure "
                "that is seen on more slices"
            )
        cut[split] += list(block)
    return dict(cut)


def _check_blocks(blocks: Sequence[tuple[str, float]], gap: int) -> None:
    fractions = [fraction for _, fraction in blocks]
    if {split for split, _ in blocks} != set(SPLITS) or min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-6:
        raise DatasetError(
            f"split_blocks={_show(blocks)} must name train, val and test, with fractions above 0 that sum to 1"
        )
    if gap < 0:
        raise DatasetError(f"gap={gap} must be 0 or more slices")


def _show(blocks: Sequence[tuple[str, float]]) -> str:
    return "[" + ", ".join(f"{split}: {fraction:g}" for split, fraction in blocks) + "]"


def check_disjoint(records: Iterable[Record], allow_shared_patient: bool = False) -> None:
    """Raises DatasetError if a case is listed twice, a split is unknown or a patient is in several splits.

    ``allow_shared_patient`` is for datasets of a single patient, whose docstring must say what that means.
    """
    splits_of: dict[str, set[str]] = defaultdict(set)
    seen: set[str] = set()
    for record in records:
        if record.split not in SPLITS:
            raise DatasetError(f"case {record.case_id} has split={record.split!r}; known splits: {', '.join(SPLITS)}")
        if record.case_id in seen:
            raise DatasetError(
                f"case {record.case_id} is listed twice: case ids must be unique within a dataset", kind="duplicate id"
            )
        seen.add(record.case_id)
        splits_of[record.patient_id].add(record.split)
    shared = [f"{patient} ({', '.join(sorted(s))})" for patient, s in sorted(splits_of.items()) if len(s) > 1]
    if shared and not allow_shared_patient:
        raise DatasetError(
            f"{len(shared)} patients are in more than one split, so the test would see training patients: "
            f"{'; '.join(shared[:5])}. Put all cases of a patient into one split.",
            kind="patient in two splits",
        )


def split_table(records: Iterable[Record]) -> list[tuple[str, str, str]]:
    """Rows (case_id, patient_id, split), sorted by case_id: the split as it is saved and hashed."""
    return sorted((record.case_id, record.patient_id, record.split) for record in records)


def split_hash(records: Iterable[Record]) -> str:
    """16 hex digits of the sha256 of the split table: two runs with the same value used the same split."""
    text = "\n".join("\t".join(row) for row in split_table(records))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def save_split(records: Iterable[Record], path: str | Path) -> Path:
    """Write the split table as CSV; given back as ``dataset.split_file`` it makes the same split."""
    path, text = Path(path), io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(SPLIT_COLUMNS)
    writer.writerows(split_table(records))
    write_atomic(path, text.getvalue())
    return path


def check_contents(records: Iterable[Record], root: Path, facts: FileFacts) -> None:
    """Raises DatasetError if an image, a file or a folder, is in two splits, by its name or by its content.

    Only what has the same size can have the same content, so only that is read. A file that holds many images, told
    apart by ``index`` or ``volume``, may be in several splits.
    """
    splits_of: dict[str, set[str]] = defaultdict(set)
    many: set[str] = set()
    for record in records:
        if record.image:
            splits_of[record.image].add(record.split)
        if record.index or record.volume:
            many.add(record.image)
    shared = [[name] for name, splits in splits_of.items() if len(splits) > 1 and name not in many]
    if twins := shared + list(_find_copies(splits_of, root, facts)):
        shown = "; ".join(
            " = ".join(f"{name} ({', '.join(sorted(splits_of[name]))})" for name in names) for names in twins[:5]
        )
        raise DatasetError(
            f"{len(twins)} images are in more than one split, so the test would see training images: {shown}. Delete "
            "the copies, or put all cases of an image into one split with dataset.split_file.",
            kind="duplicate image",
        )


def _find_copies(splits_of: dict[str, set[str]], root: Path, facts: FileFacts) -> Iterator[list[str]]:
    """The names of each content that has several names, in several splits."""
    by_size: dict[int, list[str]] = defaultdict(list)
    for name in splits_of:
        if (root / name).exists():
            by_size[measure(root / name)].append(name)
    by_content: dict[str, list[str]] = defaultdict(list)
    for names in by_size.values():
        if _apart(names, splits_of):
            for name in names:
                by_content[facts.digest(root / name)].append(name)
    return (names for names in by_content.values() if _apart(names, splits_of))


def _apart(names: Sequence[str], splits_of: dict[str, set[str]]) -> bool:
    """Whether there are several names, and several splits among them."""
    return len(names) > 1 and len(set().union(*(splits_of[name] for name in names))) > 1
