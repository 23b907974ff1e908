"""What is in a dataset, in numbers, from the reports of its images or volumes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from medsam2.data.records import SPLITS
from medsam2.doctor.inspect_cases import BINS, Report


class StructureSummary:
    """One structure: how many cases show it, how large it is where they do, how many raters drew it."""

    def __init__(self) -> None:
        self.shown: Counter[str] = Counter()  # split -> cases
        self.empty = 0
        self.pixels: list[float] = []  # of the cases that show it
        self.mm2: list[float] = []
        self.raters: Counter[int] = Counter()  # how many -> cases

    def add(self, area: int, split: str, spacing: tuple[float, float] | None) -> None:
        if not area:
            self.empty += 1
            return
        self.shown[split] += 1
        self.pixels.append(area)
        if spacing:
            self.mm2.append(area * spacing[0] * spacing[1])

    def as_dict(self) -> dict[str, Any]:
        return {
            "shown": {split: self.shown[split] for split in SPLITS},
            "empty": self.empty,
            "pixels": spread(self.pixels),
            "mm2": spread(self.mm2),
            "raters": {str(number): cases for number, cases in sorted(self.raters.items())},
        }


class Summary:
    """A dataset; ``splits`` says where its cases belong, those that are not in it were left out by a split file."""

    def __init__(
        self, name: str, structures: Sequence[str], reports: Iterable[Report], splits: Mapping[str, str]
    ) -> None:
        self.name = name
        self.structures = {structure: StructureSummary() for structure in structures}
        self.cases: Counter[str] = Counter()  # split -> images or slices
        self.volumes: Counter[str] = Counter()
        self.unreadable: Counter[str] = Counter()  # split -> images or volumes
        self.patients: dict[str, set[str]] = defaultdict(set)
        self.sizes: Counter[tuple[int, int]] = Counter()
        self.spacings: Counter[tuple[float, float] | None] = Counter()
        self.slices: Counter[int] = Counter()  # of a volume
        self.axes: Counter[str] = Counter()
        self.limits: tuple[float, float] | None = None
        self.grey = np.zeros(BINS, dtype=np.int64)
        for report in reports:
            self._add(report, splits)

    def _add(self, report: Report, splits: Mapping[str, str]) -> None:
        homes = find_splits(report, splits)
        for split in homes:
            self.patients[split].add(report.record.patient_id)
            if report.is_volume:
                self.volumes[split] += 1
            if not report.digest:
                self.unreadable[split] += 1
        if not report.digest or not homes:
            return
        if report.is_volume:
            self.slices[len(report.parts)] += 1
            self.axes[report.axes or "not stated"] += 1
        self._add_pixels(report)
        for case, areas in report.cases:
            if case.case_id in splits:
                self._add_case(report, areas, splits[case.case_id])

    def _add_pixels(self, report: Report) -> None:
        if report.limits:
            low, high = self.limits or report.limits
            self.limits = min(low, report.limits[0]), max(high, report.limits[1])
        if report.grey is not None:
            self.grey += report.grey

    def _add_case(self, report: Report, areas: Sequence[int], split: str) -> None:
        self.cases[split] += 1
        self.sizes[report.size] += 1
        mm = report.spacing
        self.spacings[mm and (round(mm[0], 4), round(mm[1], 4))] += 1
        raters = report.raters or (0,) * len(areas)
        for structure, area, number in zip(self.structures.values(), areas, raters, strict=True):
            structure.add(area, split, mm)
            if number:
                structure.raters[number] += 1

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a JSON file; of what has many values the most frequent ones."""
        counts = {"cases": self.cases, "volumes": self.volumes, "unreadable": self.unreadable}
        return {
            "dataset": self.name,
            "splits": {
                split: {name: counted[split] for name, counted in counts.items()}
                | {"patients": len(self.patients.get(split, ()))}
                for split in SPLITS
            },
            "sizes": [{"height": h, "width": w, "cases": n} for (h, w), n in self.sizes.most_common(20)],
            "spacings": [{"mm": mm, "cases": n} for mm, n in self.spacings.most_common(20)],
            "slices": spread(list(self.slices.elements())),
            "axes": dict(self.axes.most_common()),
            "intensities": self.limits,
            "grey": self.grey.tolist(),
            "structures": {name: structure.as_dict() for name, structure in self.structures.items()},
        }


def find_splits(report: Report, splits: Mapping[str, str]) -> list[str]:
    """Where an image or the slices of a volume belong: a split, none if a split file leaves it out, by mistake two."""
    homes = {splits.get(part.case_id, "") for part in (report.parts or [report.record])}
    return [split for split in SPLITS if split in homes]


def spread(values: Sequence[float]) -> tuple[float, float, float] | None:
    """Smallest, median, largest."""
    return (min(values), float(np.median(values)), max(values)) if values else None
