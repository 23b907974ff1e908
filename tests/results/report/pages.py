"""A report's page as a test reads it: its tables by name, its sections, and what is wrong with its markup."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"meta", "link", "img", "br", "path", "use", "rect"}
Cells = dict[tuple[str, str], dict[str, str]]  # (metric of the cell or "", column) -> attributes and text


@dataclass
class Row:
    """What a row is about, without `data-`, and its cells."""

    about: dict[str, str]
    cells: Cells = field(default_factory=dict)

    def value(self, column: str, metric: str = "") -> float | None:
        """The number behind a cell, None where it is missing."""
        found = self.cells[metric, column]
        return float(found["data-value"]) if "data-value" in found else None


class PageReader(HTMLParser):
    """Reads `text`; `problems` are in words."""

    def __init__(self, text: str):
        super().__init__()
        self.tables: dict[str, list[Row]] = {}
        self.headings: list[tuple[str, str]] = []
        self.addresses: list[str] = []
        self.ids: Counter[str] = Counter()
        self.targets: set[str] = set()
        self.problems: list[str] = []
        self.styles: list[str] = []
        self._open: list[str] = []
        self._table = ""
        self._cell: dict[str, str] | None = None
        self.feed(text)
        self.close()
        self.problems += [f"not closed: {self._open}"] if self._open else []
        self.problems += [f"id {name} {number} times" for name, number in self.ids.items() if number > 1]
        self.problems += [f"no element {name}" for name in self.targets - set(self.ids)]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {key: value or "" for key, value in attrs}
        if len(found) < len(attrs):
            self.problems.append(f"<{tag}> has an attribute twice: {attrs}")
        self._note(tag, found)
        if tag not in VOID:
            self._open.append(tag)
        if tag == "table":
            self._table = found["data-table"]
            self.tables[self._table] = []
        elif tag == "tr" and "thead" not in self._open:
            about = {key.removeprefix("data-"): value for key, value in found.items() if key.startswith("data-")}
            self.tables[self._table].append(Row(about))
        elif tag in ("td", "th") and "tbody" in self._open:
            self._cell = found | {"text": ""}
            self.tables[self._table][-1].cells[found.get("data-metric", ""), found["data-column"]] = self._cell
        elif tag in ("h1", "h2", "h3"):
            self.headings.append((tag, ""))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._note(tag, {key: value or "" for key, value in attrs})

    def _note(self, tag: str, found: dict[str, str]) -> None:
        if "id" in found:
            self.ids[found["id"]] += 1
        for key in ("aria-labelledby", "aria-describedby"):
            self.targets |= set(found.get(key, "").split())
        self.addresses += [found[key] for key in ("href", "src", "xlink:href") if key in found]
        if tag == "img" and not found.get("alt"):
            self.problems.append("a picture without words")

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID and (not self._open or self._open[-1] != tag):
            return
        if not self._open or self._open.pop() != tag:
            self.problems.append(f"</{tag}> at {self.getpos()} closes nothing")
        if tag in ("td", "th"):
            self._cell = None

    def handle_data(self, data: str) -> None:
        if self._cell is not None:
            self._cell["text"] += data
        elif self._open and self._open[-1] in ("h1", "h2", "h3"):
            tag, before = self.headings[-1]
            self.headings[-1] = tag, before + data
        elif self._open and self._open[-1] == "style":
            self.styles.append(data)
