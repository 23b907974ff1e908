"""The tables that a check of a dataset prints: its splits, its images, its structures, its findings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from medsam2.data.records import SPLITS
from medsam2.doctor.findings import Finding, group
from medsam2.doctor.summary import StructureSummary, Summary
from medsam2.doctor.survey import Survey

BARS = " ▁▂▃▄▅▆▇█"
PLACES = 3  # files named of a kind of finding
COLOURS = {"error": "red", "warning": "yellow"}


def print_survey(seen: Survey, root: Path) -> None:
    """The tables on the terminal; a log file has no width of its own, and they must not be folded there."""
    console = Console()
    console = Console(width=None if console.is_terminal else 160, highlight=False)
    summary = seen.summary
    console.print(f"\n[bold]{escape(summary.name)}[/] in {escape(str(root))}")
    tables: list[Table | str] = [_splits(summary), _images(summary), _structures(summary)]
    if all(len(summary.patients[split]) == (summary.volumes or summary.cases)[split] for split in SPLITS):
        tables.insert(1, "  every case counts as a patient of its own")
    console.print(*tables, *([_findings(seen.findings)] if seen.findings else []), sep="\n")


def _splits(summary: Summary) -> Table:
    columns: dict[str, Mapping[str, int]] = {
        "cases": summary.cases,
        "patients": {split: len(patients) for split, patients in summary.patients.items()},
        "volumes": summary.volumes,
        "unreadable": summary.unreadable,
    }
    shown = {name: counts for name, counts in columns.items() if name in ("cases", "patients") or any(counts.values())}
    table = _table("split", *shown)
    for split in SPLITS:
        table.add_row(split, *(f"{counts.get(split, 0)}" for counts in shown.values()))
    return table


def _images(summary: Summary) -> Table:
    """Sizes, spacings and grey values."""
    rows = {"width×height": show_common({f"{w}×{h}": n for (h, w), n in sorted(summary.sizes.items(), key=_area)})}
    if spacings := sorted((mm[1], mm[0], cases) for mm, cases in summary.spacings.items() if mm):
        rows["mm per pixel"] = show_common({f"{x:g}×{y:g}": cases for x, y, cases in spacings})
    if summary.slices:
        rows["slices"] = show_common({str(count): volumes for count, volumes in sorted(summary.slices.items())})
        rows["axes"] = show_common(dict(summary.axes.most_common()), ordered=False)
    if summary.limits and summary.volumes:
        rows["intensities"] = f"{summary.limits[0]:g} to {summary.limits[1]:g}"
    if summary.grey.any():
        rows["black to white"] = f"▕{draw_bars(summary.grey)}▏"
    table = Table(box=box.SIMPLE, show_header=False)
    for name, text in rows.items():
        table.add_row(name, text)
    return table


def _area(item: tuple[tuple[int, int], int]) -> tuple[int, tuple[int, int]]:
    (height, width), _ = item
    return height * width, (height, width)


def _structures(summary: Summary) -> Table:
    """A row per structure; areas are those of the cases that show it."""
    drawn = any(structure.raters for structure in summary.structures.values())
    physical = any(structure.mm2 for structure in summary.structures.values())
    headings = ["shown in " + "/".join(SPLITS), "empty", *(["raters"] if drawn else [])]
    headings += ["pixels: least", "median", "most", *(["mm²: least", "median", "most"] if physical else [])]
    table = _table("structure", *headings)
    for name, structure in summary.structures.items():
        table.add_row(escape(name), *_cells(structure, drawn, physical))
    return table


def _cells(structure: StructureSummary, drawn: bool, physical: bool) -> list[str]:
    cells = ["/".join(str(structure.shown[split]) for split in SPLITS), str(structure.empty)]
    if drawn:
        cells.append(show_common({str(n): cases for n, cases in sorted(structure.raters.items())}))
    facts = structure.as_dict()
    for values in (facts["pixels"], *([facts["mm2"]] if physical else [])):
        cells += [f"{value:,.0f}" if value >= 10 else f"{value:.3g}" for value in values] if values else ["-"] * 3
    return cells


def _findings(findings: Sequence[Finding]) -> Table:
    """A row per kind and remedy, errors first."""
    table = _table("", "finding", "how many", "where", "what to do", lines=True)
    for column in table.columns:
        column.justify = "right" if column.header == "how many" else "left"
    for found in group(findings):
        more = len(found.places) - PLACES
        where = [*found.places[:PLACES], *([f"… {more} more"] if more > 0 else [])]
        severity = f"[{COLOURS[found.severity]}]{found.severity}[/]"
        advice = found.text.removeprefix(f"{found.places[0]}: ") + (f"\n→ {found.remedy}" if found.remedy else "")
        table.add_row(severity, found.kind, str(len(found.places)), *(escape(t) for t in ("\n".join(where), advice)))
    return table


def _table(first: str, *others: str, lines: bool = False) -> Table:
    table = Table(box=box.SIMPLE, show_lines=lines)
    table.add_column(first)
    for heading in others:
        table.add_column(heading, justify="right")
    return table


def show_common(counts: Mapping[str, int], ordered: bool = True, limit: int = 4) -> str:
    """Few values each with its count; of many the first and the last if they have an order, and the most frequent."""
    items = list(counts.items())
    if len(items) <= limit:
        return ", ".join(f"{value} ({count})" if len(items) > 1 else value for value, count in items)
    usual, count = max(items, key=lambda item: item[1])
    return f"{items[0][0]} to {items[-1][0]}, " * ordered + f"{len(items)} different, most often {usual} ({count})"


def draw_bars(counts: NDArray[np.int64]) -> str:
    """A histogram on one line; heights are square roots, so that a black background hides nothing."""
    heights = np.sqrt(counts / counts.max())
    return "".join(BARS[level] for level in np.ceil(heights * (len(BARS) - 1)).astype(int))
