"""What only many cases tell together: copies, shared patients, empty splits, the few that differ from the rest."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from medsam2.data.files import FileFacts
from medsam2.data.records import SPLITS, Record
from medsam2.doctor.findings import Finding, make_finding
from medsam2.doctor.inspect_cases import Report
from medsam2.doctor.summary import Summary, find_splits

FEW = 5  # one of so many may differ from the rest before the rest is no rule any more
GREY = 100  # label values from here on are levels such as 128 and 255


def shared_patients(records: Sequence[Record]) -> list[Finding]:
    """Patients in several splits."""
    splits_of: dict[str, set[str]] = defaultdict(set)
    for record in records:
        splits_of[record.patient_id].add(record.split)
    return [
        make_finding("error", "patient in two splits", patient, f"patient {patient} is in {_enumerate(splits)}")
        for patient, splits in splits_of.items()
        if len(splits) > 1
    ]


def repeated_ids(records: Sequence[Record]) -> list[Finding]:
    """Cases listed twice."""
    times = Counter(record.case_id for record in records)
    return [
        make_finding("error", "duplicate id", case_id, f"case {case_id} is listed {number} times")
        for case_id, number in times.items()
        if number > 1
    ]


def empty_splits(summary: Summary) -> list[Finding]:
    """Splits without a case; not where files that cannot be read are the reason."""
    lacking = [split for split in SPLITS if not summary.cases[split] and not summary.unreadable[split]]
    what = "no slice that shows one of the structures" if summary.volumes else "no cases"
    return [make_finding("error", "too few cases", split, f"{split} has {what}") for split in lacking]


def unused_labels(summary: Summary, values: Mapping[str, Sequence[int]]) -> list[Finding]:
    """Structures that no case shows, or none of a split; ``values`` says how labels mark them, where it is known."""
    found = []
    used = sorted(v for name, s in summary.structures.items() if s.pixels for v in values.get(name, ()))
    for name, structure in summary.structures.items():
        marks = f" (value {', '.join(map(str, values[name]))})" if name in values else ""
        if structure.pixels:
            lacking = [split for split in SPLITS if summary.cases[split] and not structure.shown[split]]
            texts = [f"no case of {split} shows {name}{marks}" for split in lacking]
        else:
            others = f", though there is {', '.join(map(str, used))}" if used else ""
            texts = [f"no case shows {name}{marks}{others}"] if structure.empty else []
        found += [make_finding("warning", "unused label", name, text) for text in texts]
    return found


def label_gaps(values: Mapping[str, Sequence[int]], name: str) -> list[Finding]:
    """Numbers that the declared label values leave out; from GREY on they are grey levels, not numbers."""
    declared = sorted({value for marks in values.values() for value in marks})
    skipped = sorted(set(range(1, max(declared, default=0))) - set(declared))
    if not skipped or declared[-1] >= GREY:
        return []
    shown = [", ".join(map(str, numbers)) for numbers in (declared, skipped)]
    return [
        make_finding("warning", "gap in label ids", name, f"the declared label values {shown[0]} leave out {shown[1]}")
    ]


def mixed_axes(reports: Sequence[Report]) -> list[Finding]:
    """The few volumes whose axes run otherwise than those of the rest."""
    axes = {report.record.image: report.axes for report in reports if report.axes}
    usual, odd = find_odd(axes)
    return [
        make_finding(
            "warning", "mixed orientation", file, f"{file}: its axes are {axes[file]}, those of the rest {usual}"
        )
        for file in odd
    ]


def uneven_raters(reports: Sequence[Report], structures: Sequence[str]) -> list[Finding]:
    """The few cases of a released split that have fewer or more raters than the rest."""
    found = []
    for split in sorted({report.record.split for report in reports}):
        raters = {
            report.record.case_id: ", ".join(f"{n} of {s}" for s, n in zip(structures, report.raters, strict=True))
            for report in reports
            if report.record.split == split and report.raters
        }
        usual, odd = find_odd(raters)
        texts = {case: f"{case}: raters {raters[case]}, where the rest has {usual}" for case in odd}
        found += [make_finding("warning", "missing rater", case, text) for case, text in texts.items()]
    return found


def find_odd(values: Mapping[str, str]) -> tuple[str, list[str]]:
    """The most frequent value, and the names of those that have another one: none where they are too many."""
    if len(values) < 3:
        return "", []
    usual, _ = Counter(values.values()).most_common(1)[0]
    odd = [name for name, value in values.items() if value != usual]
    return usual, odd if len(odd) <= max(1, len(values) // FEW) else []


# --------------------------------------------------------------------------------------------------- duplicates


def duplicate_images(
    reports: Sequence[Report], splits: Mapping[str, str], root: Path, facts: FileFacts
) -> list[Finding]:
    """Images or volumes that are there twice, as files or as pixels: an error across splits, else a warning."""
    groups = _same_pixels(reports) | _same_files(reports, root, facts)
    largest = [group for group in groups if not any(group < other for other in groups)]
    cases = Counter(report.record.image for report in reports)
    found = []
    for group in largest:
        same = [reports[i] for i in sorted(group)]
        homes = {split for report in same for split in find_splits(report, splits)}
        single = all(cases[report.record.image] == 1 for report in same)
        names = [report.record.image if single else report.record.case_id for report in same]
        how = "files" if single and len({facts.digest(root / name) for name in names}) == 1 else "pixels"
        where = [f"{name} ({_enumerate(find_splits(r, splits))})" for name, r in zip(names, same, strict=True)]
        text = f"{' = '.join(where)}: the same {how}"
        found.append(make_finding("error" if len(homes) > 1 else "warning", "duplicate image", names[0], text))
    return found


def _same_pixels(reports: Sequence[Report]) -> set[frozenset[int]]:
    """Groups of positions; slices without an object may be black in every volume, and are left out."""
    by_digest: dict[bytes, list[int]] = defaultdict(list)
    for i, report in enumerate(reports):
        blank = report.limits is not None and report.limits[0] == report.limits[1]
        if report.digest and not (blank and report.record.volume):
            by_digest[report.digest].append(i)
    return _several(by_digest)


def _same_files(reports: Sequence[Report], root: Path, facts: FileFacts) -> set[frozenset[int]]:
    """Copies of images that could not be decoded, or whose masks could not; only files of their sizes are read."""
    first = {report.record.image: i for i, report in reversed(list(enumerate(reports)))}
    sizes = {i: (root / name).stat().st_size for name, i in first.items() if (root / name).is_file()}
    wanted = {size for i, size in sizes.items() if not reports[i].digest}
    by_content: dict[str, list[int]] = defaultdict(list)
    for i, size in sizes.items():
        if size in wanted:
            by_content[facts.digest(root / reports[i].record.image)].append(i)
    return {group for group in _several(by_content) if not all(reports[i].digest for i in group)}


def _several(groups: Mapping[Any, list[int]]) -> set[frozenset[int]]:
    return {frozenset(group) for group in groups.values() if len(group) > 1}


def _enumerate(splits: Iterable[str]) -> str:
    return " and ".join(sorted(splits, key=SPLITS.index))
