"""What is wrong with a dataset: single findings, and groups of them as a report shows them."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Literal, NamedTuple

from medsam2.data.records import DatasetError, Record
from medsam2.data.releases.base import Problem

Severity = Literal["error", "warning"]

REMEDIES = {  # where the message itself has none
    "missing": "unpack the release again, or delete the incomplete cases",
    "missing image": "unpack the release again, or delete the masks that have no image",
    "missing mask": "unpack the release again, or delete the images that have no mask",
    "missing rater": "unpack the release again, or delete the cases that lack a rater",
    "duplicate image": "delete the copies, or put them into one split with dataset.split_file",
    "duplicate id": "give every case a name of its own",
    "patient in two splits": "put all cases of a patient into one split with dataset.split_file",
    "too few cases": "add cases, or divide them otherwise: dataset.split_file, val_fraction, test_fraction, fold",
    "empty volume": "correct if the scan shows none of the structures, else export the label again",
    "unused label": "leave it out of dataset.structures, or correct the values that are declared for it",
    "gap in label ids": "declare what they mean if any mask holds them; other programs expect consecutive numbers",
    "EXIF rotation": "save image and mask upright and without the tag, then look whether they fit",
    "mixed orientation": "see the pictures: if these volumes are turned, take the geometry of the scanner's files",
    "inverted mask": "see the pictures: if the background is marked and not the object, invert the mask",
    "palette mask": "save the mask as grey values, so that every program reads the same numbers",
}
UNEXPECTED = (
    "no mistake that is known: look at the file; if it is as it should be, this is a fault of the code that reads it"
)


@dataclass(frozen=True)
class Finding:
    """One thing wrong: with an error training must not start, a warning is for somebody to look at."""

    severity: Severity
    kind: str  # a word or two, by which findings are counted
    where: str  # the file below the dataset's root, or the case
    text: str
    remedy: str

    @property
    def order(self) -> tuple[bool, str, str, str]:
        """Errors first, then by kind and place."""
        return self.severity != "error", self.kind, self.where, self.text


class Group(NamedTuple):
    """Findings of one kind with one remedy."""

    severity: Severity
    kind: str
    remedy: str
    places: tuple[str, ...]
    text: str  # of the first


def make_finding(severity: Severity, kind: str, where: str, text: str) -> Finding:
    """A finding with the remedy that its kind has."""
    return Finding(severity, kind, where, text, REMEDIES[kind])


def from_error(error: Exception, record: Record, root: Path) -> Finding:
    """What a dataset raised while a record was read; anything but a DatasetError is shown with its type."""
    where = find_file(str(error), record, root)
    if not isinstance(error, DatasetError):
        text = f"{record.case_id}: {type(error).__name__} while it was read: {error}"
        return Finding("error", "unreadable", where, text, UNEXPECTED)
    text, remedy = split_remedy(shorten(str(error), root))
    return Finding("error", error.kind, where, text, remedy or REMEDIES.get(error.kind, ""))


def from_problem(problem: Problem, root: Path) -> Finding:
    """What a release found while listing: its text begins with the file or folder."""
    text = shorten(problem.text, root)
    return Finding(
        "error", problem.kind, text.partition(": ")[0], text, REMEDIES.get(problem.kind, REMEDIES["missing"])
    )


def shorten(text: str, root: Path) -> str:
    """File names relative to the root."""
    return text.replace(f"{root}/", "")


def split_remedy(message: str) -> tuple[str, str]:
    """A message of this project as (what is wrong, what to do): the sentences after the first, or what follows `: `."""
    if match := re.search(r"(?<=[.)])\s+(?=[A-Z])", message):
        return message[: match.start()].removesuffix("."), message[match.end() :]
    if match := re.search(r"\): (?=[a-z])|(?<=[^:]): (?=[a-z][^:]*$)", message):
        return message[: match.end() - 2], message[match.end() :]
    return message, ""


def find_file(text: str, record: Record, root: Path) -> str:
    """The file of a record that a message names, a label before the image; the case's id if it names none."""
    labels = [name for _, names in record.labels for name in names]
    for name in dict.fromkeys((*labels, record.image)):
        if name and str(root / name) in text:
            return name
    return record.case_id


def group(findings: Iterable[Finding]) -> list[Group]:
    """Findings of a kind with the same remedy together, errors first, then the most frequent."""
    found: dict[tuple[Severity, str, str], list[Finding]] = {}
    for finding in sorted(findings, key=lambda finding: finding.order):
        found.setdefault((finding.severity, finding.kind, finding.remedy), []).append(finding)
    groups = [Group(*key, tuple(f.where for f in same), same[0].text) for key, same in found.items()]
    return sorted(groups, key=lambda group: (group.severity != "error", -len(group.places), group.kind))


def unique(findings: Iterable[Finding]) -> list[Finding]:
    """Each finding once, in order: the cases of one file may all have met the same."""
    return sorted(set(findings), key=lambda finding: finding.order)


def to_csv(findings: Sequence[Finding]) -> str:
    """A table with a line per finding."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(field.name for field in fields(Finding))
    writer.writerows(astuple(finding) for finding in findings)
    return text.getvalue()
