"""Train, val and test: carved by patient, checked to be disjoint, saved as a file and known by a hash."""

from __future__ import annotations

import csv
import hashlib
import os
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from medsam2.data.records import SPLITS, DatasetError, Record

T = TypeVar("T")
SPLIT_COLUMNS = ("case_id", "patient_id", "split")


def carve_validation(records: Sequence[Record], fraction: float, seed: int) -> list[Record]:
    """Move ``fraction`` of the training patients (rounded, at least one) to val; the rest stays as it is.

    Patients are drawn by a generator of their own from ``seed``, so the same records and seed give the same
    split everywhere. Raises DatasetError if val exists already, or if no training patient would be left.
    """
    if not 0 < fraction < 1:
        raise DatasetError(
            f"val_fraction={fraction} must lie between 0 and 1 (0.1 moves a tenth of the patients to val)"
        )
    if any(record.split == "val" for record in records):
        raise DatasetError("these records have a val split already; carving a second one would change it")
    patients = sorted({record.patient_id for record in records if record.split == "train"})
    count = max(1, round(fraction * len(patients)))
    if count >= len(patients):
        raise DatasetError(
            f"val_fraction={fraction} of {len(patients)} training patients leaves none to train on: "
            "lower it or add cases"
        )
    drawn = np.random.default_rng(seed).permutation(len(patients))[:count]
    chosen = {patients[i] for i in drawn}
    return [
        replace(record, split="val") if record.split == "train" and record.patient_id in chosen else record
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
            raise DatasetError(f"case {record.case_id} is listed twice: case ids must be unique within a dataset")
        seen.add(record.case_id)
        splits_of[record.patient_id].add(record.split)
    shared = [f"{patient} ({', '.join(sorted(s))})" for patient, s in sorted(splits_of.items()) if len(s) > 1]
    if shared and not allow_shared_patient:
        raise DatasetError(
            f"{len(shared)} patients are in more than one split, so the test would see training patients: "
            f"{'; '.join(shared[:5])}. Put all cases of a patient into one split."
        )


def split_table(records: Iterable[Record]) -> list[tuple[str, str, str]]:
    """Rows (case_id, patient_id, split), sorted by case_id: the split as it is saved and hashed."""
    return sorted((record.case_id, record.patient_id, record.split) for record in records)


def split_hash(records: Iterable[Record]) -> str:
    """16 hex digits of the sha256 of the split table: two runs with the same value used the same split."""
    text = "\n".join("\t".join(row) for row in split_table(records))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def save_split(records: Iterable[Record], path: str | Path) -> Path:
    """Write the split table as CSV. Written beside and renamed, so a reader never sees half a file."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(SPLIT_COLUMNS)
            writer.writerows(split_table(records))
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path
