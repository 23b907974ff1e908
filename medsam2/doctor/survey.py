"""A dataset read once from end to end: what is in it, and everything that is wrong with it.

Errors do not end it. What a single file tells is found by ``inspect_cases``, in several processes; what only many tell
together is found by ``compare_cases``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from medsam2.data.dataset import FileDataset
from medsam2.data.files import FileFacts
from medsam2.data.records import SPLITS, Dataset, DatasetError, Record, of_split
from medsam2.data.releases.folder import Folder
from medsam2.data.seeding import stable_rng
from medsam2.data.volume_dataset import VolumeDataset
from medsam2.doctor.compare_cases import (
    duplicate_images,
    empty_splits,
    label_gaps,
    mixed_axes,
    repeated_ids,
    shared_patients,
    uneven_raters,
    unused_labels,
)
from medsam2.doctor.contact_sheet import Panel
from medsam2.doctor.findings import Finding, Severity, from_problem, unique
from medsam2.doctor.inspect_cases import Inspector, Report
from medsam2.doctor.summary import Summary, find_splits
from medsam2.doctor.survey_processes import walk

Advance = Callable[[int, int], None]  # is told how many are done, of how many
# an eye sees at once whether these matter
SUSPECT = ("EXIF rotation", "mixed orientation", "palette mask", "inverted mask")
SPLITLESS = ("too few cases", "unused label")
SPLIT_KEYS = "see the dataset's keys val_fraction, test_fraction, fold, folds and split_file"


@dataclass(frozen=True)
class Survey:
    """What is known of a dataset after all of it was read."""

    summary: Summary
    findings: list[Finding]  # errors first
    panels: dict[str, list[Panel]]  # split -> some of its cases, drawn; "with warnings" -> those to look at

    def count(self, severity: Severity) -> int:
        return sum(finding.severity == severity for finding in self.findings)


def survey(
    dataset: Dataset, num_workers: int = 0, pictures: int = 4, seed: int = 0, advance: Advance | None = None
) -> Survey:
    """Decodes every image or volume once; keeps some numbers of each.

    Args:
        num_workers: processes that decode; 0 decodes in this one.
        pictures: images or volumes per split to be drawn, chosen by ``seed``.
        advance: called after each image or volume.

    Raises:
        DatasetError: there is nothing to list: no folder, not this dataset, settings that do not fit it.
        RuntimeError: one of the processes was ended by the system.
    """
    listed, found = list_records(dataset)
    reports = []
    for report in walk(Inspector(dataset, _choose(dataset, listed, pictures, seed)), listed, num_workers):
        reports.append(report)
        if advance:
            advance(len(reports), len(listed))
    placed, more = _place(dataset, reports)
    found += more + [finding for report in reports for finding in report.findings]
    splits = {record.case_id: record.split for record in placed}
    summary = Summary(dataset.name, dataset.structures, reports, splits)
    compared = _compare(dataset, reports, placed, summary, found)
    if more:  # the cases could not be split: what is said of splits would only hide why
        compared = [finding for finding in compared if finding.kind not in SPLITLESS]
    found += compared
    panels = {s: [r.panel for r in reports if r.panel and s in find_splits(r, splits)] for s in SPLITS}
    if suspects := _draw_suspects(dataset, reports, found, pictures):
        panels["with warnings"] = suspects
    return Survey(summary, unique(found), panels)


def _compare(
    dataset: Dataset, reports: Sequence[Report], placed: Sequence[Record], summary: Summary, found: Sequence[Finding]
) -> list[Finding]:
    splits = {record.case_id: record.split for record in placed}
    facts = dataset.facts if isinstance(dataset, FileDataset) else FileFacts()
    values = _find_values(dataset)
    used = [report for report in reports if find_splits(report, splits)]
    more = repeated_ids(placed) + empty_splits(summary) + mixed_axes(used)
    more += unused_labels(summary, values) + label_gaps(values, dataset.name)
    more += duplicate_images(used, splits, Path(dataset.root), facts)
    if not dataset.allow_shared_patient:
        more += shared_patients(placed)
    if not any(finding.kind == "missing rater" for finding in found):
        more += uneven_raters(used, dataset.structures)
    return more


def _find_values(dataset: Dataset) -> Mapping[str, Sequence[int]]:
    """structure -> the label values that mark it, where a dataset declares some."""
    if isinstance(dataset, VolumeDataset):
        return dataset.release.find_labels(dataset.root)
    release = dataset.release if isinstance(dataset, FileDataset) else None
    return release.labels or {} if isinstance(release, Folder) else {}


def _draw_suspects(dataset: Dataset, reports: Sequence[Report], found: Sequence[Finding], count: int) -> list[Panel]:
    places = {finding.where for finding in found if finding.kind in SUSPECT}
    suspects = [r.record for r in reports if r.digest and not places.isdisjoint(r.record.files)][:count]
    inspect = Inspector(dataset, frozenset(record.case_id for record in suspects))
    return [panel for record in suspects if (panel := inspect(record).panel)]


# ------------------------------------------------------------------------------------------- listing and splits


def list_records(dataset: Dataset) -> tuple[list[Record], list[Finding]]:
    """The images or volumes that can be read, and what is wrong with the list.

    Raises DatasetError where nothing can be listed.
    """
    if not isinstance(dataset, FileDataset):
        return dataset.records(), []
    listing = dataset.listing()
    records = listing.records
    if listing.problems:  # they say what is missing; to read the rest of such a case would say it again
        records = [record for record in records if _is_whole(record, dataset.root)]
    return records, [from_problem(problem, dataset.root) for problem in listing.problems]


def _is_whole(record: Record, root: Path) -> bool:
    return all(names for _, names in record.labels) and all((root / name).exists() for name in record.files)


def _place(dataset: Dataset, reports: Sequence[Report]) -> tuple[list[Record], list[Finding]]:
    """Every case with its split; a volume that cannot be read stands for its slices."""
    cases = [part for report in reports for part in report.parts or [_whole(report.record)]]
    if not isinstance(dataset, FileDataset):
        return cases, []
    try:
        return dataset.split.assign(cases), []
    except DatasetError as error:  # shown all the same, as if what has no split were for training
        rest = [replace(case, split=case.split or "train") for case in cases]
        unread = error.kind == "split file" and any(not report.parts for report in reports)
        finding = Finding("error", error.kind, dataset.name, str(error), SPLIT_KEYS)
        return rest, [] if unread else [finding]  # it may name slices of a volume that could not be read


def _whole(volume: Record) -> Record:
    return replace(volume, volume=volume.case_id)


def _choose(dataset: Dataset, records: Sequence[Record], count: int, seed: int) -> frozenset[str]:
    """The images or volumes to draw, ``count`` of each split."""
    if isinstance(dataset, FileDataset):
        try:
            records = dataset.split.assign(records)
        except DatasetError:  # also where a split file names slices
            records = [replace(record, split=record.split or "train") for record in records]
    chosen: set[str] = set()
    for split in SPLITS:
        ids = [record.case_id for record in of_split(records, split)]
        chosen |= {ids[i] for i in stable_rng("contact sheet", seed, split).permutation(len(ids))[:count]}
    return frozenset(chosen)


# -------------------------------------------------------------------------------------------------- before a run


def quick_check(dataset: Dataset) -> None:
    """What can be known of a dataset in a moment: its list, its splits, and that the first case of each can be decoded.

    That is remembered with the other facts about those files. Raises DatasetError for the first thing that is wrong;
    ``task=check`` finds the others.
    """
    records = dataset.records()
    for split in SPLITS:
        for record in of_split(records, split)[:1]:
            if isinstance(dataset, FileDataset):
                files = [dataset.root / name for name in record.files]
                name = f"decodes {record.case_id} {dataset.decoding()}"
                dataset.facts.find(files, name, partial(_loads, dataset, record))
            else:
                dataset.load(record)


def _loads(dataset: Dataset, record: Record) -> bool:
    dataset.load(record)
    return True
