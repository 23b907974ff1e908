"""What a dataset is: a list of records (cheap) and a way to load one of them as a case (decoded)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from medsam2.data.files import FileFacts

SPLITS = ("train", "val", "test")


class DatasetError(ValueError):
    """The data on disk, or the settings that describe it, are not what the dataset needs; says what to do.

    ``kind`` names the sort of mistake in a word or two, so that many of them can be counted: "undeclared value".
    """

    def __init__(self, message: str, kind: str = "unreadable") -> None:
        # a loader's worker hands it on as a new one, made of its traceback, at whose end is what was meant
        super().__init__(message.rpartition("DatasetError: ")[2].strip())
        self.kind = kind


@dataclass(frozen=True)
class Record:
    """One case as listed, not decoded; ``image`` and ``labels`` name files (or folders) below the dataset's root."""

    case_id: str
    patient_id: str
    split: str = ""  # "train" | "val" | "test"; "" as long as nobody has decided
    image: str = ""
    labels: tuple[tuple[str, tuple[str, ...]], ...] = ()  # (structure, files of its raters)
    index: int = 0  # slice or image number where one file holds many cases
    volume: str = ""  # the volume this is a slice of
    modality: str = ""  # "ct", "mr", … where it decides how intensities are shown
    others: tuple[str, ...] = ()  # further files that are read with them: the other channels of an image

    @property
    def files(self) -> tuple[str, ...]:
        """Every file this case is read from, sorted, each once."""
        named = {self.image, *self.others, *(name for _, names in self.labels for name in names)}
        return tuple(sorted(named - {""}))


@dataclass
class Case:
    """One decoded case at its native size.

    ``image`` is float32 H×W×3, or H×W×1 where it is grey, in [0, 1]; ``raters[structure]`` is bool R×H×W, one
    mask per rater;
    ``labels[structure]`` is bool H×W, the consensus of the raters; ``spacing`` is (row, column) in mm, None
    where pixels have no physical size; ``thickness`` is mm from one slice of a volume to the next, None for an image.
    """

    record: Record
    image: NDArray[np.float32]
    labels: dict[str, NDArray[np.bool_]]
    raters: dict[str, NDArray[np.bool_]] = field(default_factory=dict)
    spacing: tuple[float, float] | None = None
    thickness: float | None = None


class Dataset(Protocol):
    """What the rest of the project may ask of a dataset."""

    name: str
    allow_shared_patient: bool  # True only where one patient is all there is

    @property
    def exclusive(self) -> bool:
        """Whether a pixel can be of one structure only."""

    @property
    def structures(self) -> tuple[str, ...]:
        """What is segmented, in the order of results."""

    @property
    def root(self) -> Path:
        """The folder below which the files of the records are."""

    def records(self) -> list[Record]:
        """Every case, sorted by case_id, not decoded. Raises DatasetError if the data is not as expected."""

    def load(self, record: Record) -> Case:
        """Decode one case. Raises DatasetError naming the file that is damaged or holds undeclared values."""

    def fingerprint(self) -> str:
        """16 hex digits that change when the cases, their split or their files (names, contents) change."""

    def decoding(self) -> dict[str, Any]:
        """Everything but the files' content that decides what ``load`` returns, as plain values."""


def compute_consensus(raters: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Majority of R×H×W rater masks; a tie (possible with an even number of raters) counts as foreground."""
    if len(raters) == 1:
        return raters[0]
    votes = raters.sum(axis=0, dtype=np.uint16)
    return np.asarray(2 * votes >= len(raters))


def of_split(records: Iterable[Record], split: str) -> list[Record]:
    """The records of one split, in their order. Raises DatasetError for a name that is no split."""
    if split not in SPLITS:
        raise DatasetError(f"split={split!r} is not one of {', '.join(SPLITS)}")
    return [record for record in records if record.split == split]


def check_structures(structures: str | Sequence[str], known: Sequence[str], dataset: str) -> tuple[str, ...]:
    """The chosen structures as a tuple. Raises DatasetError for none, unknown or repeated names."""
    chosen = (structures,) if isinstance(structures, str) else tuple(structures)
    unknown = [name for name in chosen if name not in known]
    if unknown or not chosen or len(set(chosen)) != len(chosen):
        raise DatasetError(
            f"dataset.structures={list(chosen)} does not fit {dataset}: "
            f"name one or more of {', '.join(known)}, each once"
        )
    return chosen


def compute_fingerprint(records: Iterable[Record], root: Path, facts: FileFacts) -> str:
    """16 hex digits of the sha256 over cases, patients, splits, and the names and contents of their files."""
    digest = hashlib.sha256()
    contents: dict[str, str] = {}  # slices of one volume share a file
    for record in sorted(records, key=lambda record: record.case_id):
        digest.update(f"{record.case_id}\t{record.patient_id}\t{record.split}\t{record.index}\n".encode())
        digest.update(f"{record.image}\t{record.others}\t{record.labels}\n".encode())  # which file is what
        for name in record.files:
            if name not in contents:
                contents[name] = facts.digest(root / name)
            digest.update(f"{name}\t{contents[name]}\n".encode())
    return digest.hexdigest()[:16]
