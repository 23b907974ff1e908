"""A split that somebody else decided: a CSV, or nnU-Net's splits_final.json."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

from medsam2.data.records import SPLITS, DatasetError, Record


def check_named(splits: dict[str, str], records: Sequence[Record], path: Path) -> None:
    """Raises DatasetError if the file names a case that is not there."""
    known = {record.case_id for record in records} | {record.volume for record in records}
    if strange := sorted(set(splits) - known):
        raise DatasetError(
            f"dataset.split_file={path}: {len(strange)} cases are not in this dataset, as {strange[0]}; "
            f"its cases have names like {min(r.case_id for r in records) if records else 'none'}",
            kind="split file",
        )


def read_splits(path: Path, fold: int = 0) -> dict[str, str]:
    """case id -> split, of a CSV with the columns case_id and split or of nnU-Net's JSON as it stands there.

    Raises DatasetError naming the file and what is wrong with it: a case in two splits, too.
    """
    splits: dict[str, str] = {}
    for case, split in _read_pairs(path, fold):
        if splits.setdefault(case, split) != split:
            raise DatasetError(
                f"dataset.split_file={path}: case {case} is in two splits, {splits[case]} and {split}. Leave it in one "
                "of them.",
                kind="split file",
            )
    return splits


def _read_pairs(path: Path, fold: int) -> list[tuple[str, str]]:
    """(case id, split) in the order of the file."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix == ".json":
            entries = json.loads(text)
            return [(str(case), split) for split in SPLITS for case in entries[fold].get(split, ())]
        return [(row["case_id"], row["split"]) for row in csv.DictReader(text.splitlines())]
    except (OSError, ValueError, KeyError, IndexError, AttributeError, TypeError) as error:
        raise DatasetError(
            f"dataset.split_file={path} cannot be used ({type(error).__name__}: {error}): give a CSV with the columns "
            "case_id and split (train, val, test), or nnU-Net's splits_final.json with at least "
            f"{fold + 1} entries for dataset.fold={fold}",
            kind="split file",
        ) from error
