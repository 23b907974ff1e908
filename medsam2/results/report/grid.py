"""A table between its numbers and its looks: what stands in which cell, how it reads, and why a cell is empty.

The page, Markdown and LaTeX show one and the same grid.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd

DASH = "–"
MINUS = "−"


@dataclass(frozen=True)
class Part:
    """One value of a column: its key in the frame, how it is written, and what it means where it is missing."""

    key: str
    kind: str = "score"
    before: str = ""
    after: str = ""
    why: str = "not recorded"


@dataclass(frozen=True)
class Column:
    """A heading over one or several values that are read together, such as `0.91 ± 0.01` or `[0.88, 0.94]`."""

    heading: str
    parts: tuple[Part, ...]
    title: str = ""

    @property
    def textual(self) -> bool:
        return self.parts[0].kind == "text"


@dataclass(frozen=True)
class Cell:
    """What is shown, and the value behind it in full precision (None: missing, and `title` says why)."""

    text: str
    value: str | None
    part: Part
    title: str = ""
    data: Mapping[str, str] = field(default_factory=dict)

    @property
    def shown(self) -> str:
        """The text with what stands around it; an empty cell is a dash alone."""
        return self.text if self.value is None else f"{self.part.before}{self.text}{self.part.after}"


@dataclass(frozen=True)
class Row:
    """The cells of a row by column, and what the row is about: `data-arm`, `data-metric` … of the page."""

    data: Mapping[str, str]
    cells: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True)
class Grid:
    """A table: `name` is its name in the page (data-table) and of its files.

    Attributes:
        heads: how many of the first columns name the row.
        total: how many rows there are; more than `rows` where only the first are shown.
        note: what a reader must know to read it.
        of: what it is a table of, where no heading above it says so.
    """

    name: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    heads: int = 1
    total: int = 0
    note: str = ""
    of: str = ""

    @property
    def title(self) -> str:
        """The caption where the table stands by itself."""
        return f"{self.caption}, {self.of}" if self.of else self.caption

    @property
    def cut(self) -> bool:
        return self.total > len(self.rows)

    def __bool__(self) -> bool:
        return bool(self.rows)


def text(key: str, heading: str, title: str = "") -> Column:
    """A column of words."""
    return Column(heading, (Part(key, "text", why="none"),), title)


def one(key: str, heading: str, kind: str = "score", title: str = "", why: str = "not recorded") -> Column:
    """A column of one number."""
    return Column(heading, (Part(key, kind, why=why),), title)


def interval(
    low: str = "low", high: str = "high", kind: str = "score", why: str = "one patient: no interval"
) -> Column:
    """A column of a 95 % interval."""
    parts = Part(low, kind, "[", ",", why), Part(high, kind, "", "]", why)
    return Column("95\u00a0%\u00a0interval", parts, "95 % bootstrap interval over patients and seeds")


def build(
    frame: pd.DataFrame,
    name: str,
    caption: str,
    columns: Sequence[Column],
    about: Sequence[str] = ("arm",),
    heads: int = 1,
    most: int | None = None,
    note: str = "",
    of: str = "",
) -> Grid:
    """The grid of a frame. A column whose keys the frame lacks is left out.

    Args:
        about: the keys of the frame that say what a row is about.
        most: how many rows are shown at most.
    """
    kept = tuple(c for c in columns if all(part.key in frame for part in c.parts))
    records = frame.head(most).to_dict("records") if most else frame.to_dict("records")
    rows = tuple(
        Row(
            {key.replace("_", "-"): str(record[key]) for key in about if key in record},
            tuple(tuple(make_cell(record[part.key], part) for part in column.parts) for column in kept),
        )
        for record in records
    )
    return Grid(name, caption, kept, rows, heads, len(frame), note, of)


def filled(frame: pd.DataFrame, columns: Sequence[Column], always: Sequence[str] = ()) -> list[Column]:
    """The columns that have something to say in some row, and those that stand there `always`."""
    keys = [part.key for column in columns for part in column.parts if part.key in frame]
    known = {key for key in keys if frame[key].notna().any()}
    return [c for c in columns if any(p.key in known or p.key in always for p in c.parts)]


def make_cell(value: Any, part: Part, **data: str) -> Cell:
    """A cell; what is missing is a dash that says why."""
    if part.kind == "text":
        words = "" if value is None or value is pd.NA or value != value else str(value)
        return Cell(words or DASH, words or None, part, "" if words else part.why, data)
    if value is None or value is pd.NA or math.isnan(float(value)):
        return Cell(DASH, None, part, part.why, data)
    title = "no number of them would decide it" if part.kind == "need" and math.isinf(float(value)) else ""
    return Cell(show(float(value), part.kind), exact(value), part, title, data)


def exact(value: Any) -> str:
    """A number so that reading it gives the same number back."""
    plain = value.item() if isinstance(value, np.generic) else value
    return repr(plain) if isinstance(plain, int) and not isinstance(plain, bool) else repr(float(plain))


def show(value: float, kind: str = "score") -> str:
    """A finite number as it is read: scores with three decimals, fewer where they are large."""
    if math.isinf(value) and kind != "level":
        return "∞" if value > 0 else f"{MINUS}∞"
    written = FORMATS[kind](value)
    return written.replace("-", MINUS, 1) if value < 0 else written


def _score(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.2f}" if abs(value) < 100 else f"{value:,.1f}"


def _spread(value: float) -> str:
    return f"{value:.4f}" if 0.00005 <= value < 0.0005 else _score(value)


def _signed(value: float) -> str:
    return ("+" if value > 0 else "") + _score(value)


def _p(value: float) -> str:
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def _seconds(value: float) -> str:
    minutes, seconds = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {seconds:02d} s" if minutes else f"{value:.1f} s"


def _bytes(value: float) -> str:
    return f"{value / 2**30:.2f} GiB" if value >= 2**30 else f"{value / 2**20:.0f} MiB"


def _date(value: float) -> str:
    return datetime.fromtimestamp(value, UTC).strftime("%Y-%m-%d %H:%M")


def _large(value: float) -> str:
    return f"{value / 1e6:.2f} M" if value >= 1e5 else f"{value:,.0f}"


FORMATS: dict[str, Callable[[float], str]] = {
    "score": _score,
    "spread": _spread,
    "difference": _signed,
    "effect": lambda v: f"{v:+.2f}",
    "p": _p,
    "share": lambda v: f"{100 * v:.0f} %",
    "count": lambda v: f"{v:,.0f}",
    "about": lambda v: f"{v:,.1f}",
    "rank": lambda v: f"{v:.2f}",
    "level": lambda v: "all" if math.isinf(v) else f"{v:g}",  # all slices
    "need": lambda v: f"{math.ceil(v):,}",
    "seconds": _seconds,
    "bytes": _bytes,
    "date": _date,
    "parameters": _large,
}
