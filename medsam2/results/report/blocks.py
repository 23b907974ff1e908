"""What a page is made of. A section or fold without content is left out, heading and all."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from medsam2.results.report.grid import Grid
from medsam2.results.report.sheet import Sheet


@dataclass(frozen=True)
class Words:
    """A paragraph."""

    kind: ClassVar[str] = "words"
    text: str
    style: str = ""


@dataclass(frozen=True)
class Items:
    """A list of sentences."""

    kind: ClassVar[str] = "items"
    items: Sequence[str]
    style: str = ""


@dataclass(frozen=True)
class Facts:
    """Terms and what they are."""

    kind: ClassVar[str] = "facts"
    entries: Mapping[str, str]


@dataclass(frozen=True)
class Method:
    """How numbers are computed: always the same text, `method.html.j2`."""

    kind: ClassVar[str] = "method"


@dataclass(frozen=True)
class Code:
    """Commands to type, each in a box of its own."""

    kind: ClassVar[str] = "code"
    lines: Sequence[str]


@dataclass(frozen=True)
class Table:
    """A grid, and its files relative to the page."""

    kind: ClassVar[str] = "table"
    grid: Grid
    files: Mapping[str, str]

    @classmethod
    def of(cls, sheet: Sheet, folder: str = "tables") -> Table:
        """The table of a sheet that is saved in `folder`."""
        names = {"CSV": "csv", "Markdown": "md", "LaTeX": "tex"}
        return cls(sheet.grid, {name: f"{folder}/{sheet.name}.{suffix}" for name, suffix in names.items()})


@dataclass(frozen=True)
class Drawing:
    """A figure as SVG, or a picture as PNG (a data address), and its files relative to the page; `alt` says what is
    to be seen.
    """

    kind: ClassVar[str] = "drawing"
    name: str
    caption: str
    alt: str = ""
    svg: str = ""
    png: str = ""
    files: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Fold:
    """What is read on demand; on paper it is open."""

    kind: ClassVar[str] = "fold"
    summary: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Part:
    """Blocks under a heading of their own, within a section."""

    kind: ClassVar[str] = "part"
    title: str
    blocks: Sequence[Block]


Block = Words | Items | Facts | Method | Code | Table | Drawing | Fold | Part


@dataclass(frozen=True)
class Section:
    """Blocks under a heading that the table of contents has."""

    title: str
    blocks: Sequence[Block]

    @property
    def id(self) -> str:
        return re.sub(r"[^\w]+", "-", self.title.lower()).strip("-")


def keep(blocks: Iterable[Block | None]) -> list[Block]:
    """The blocks that have something in them."""
    return [block for block in blocks if block is not None and _content(block)]


def _content(block: Block) -> object:
    if isinstance(block, Fold | Part):
        return block.blocks
    if isinstance(block, Table):
        return block.grid
    values = {Words: "text", Items: "items", Facts: "entries", Method: "kind", Code: "lines", Drawing: "name"}
    return getattr(block, values[type(block)])


def to_data_uri(png: bytes) -> str:
    """A picture as an address that holds it."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
