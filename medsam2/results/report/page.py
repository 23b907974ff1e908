"""The page: sections through a template, with styles, script and figures inside. It loads nothing from anywhere."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from medsam2.results.compare.comparison import Comparison
from medsam2.results.figures import Looks
from medsam2.results.report.blocks import Section
from medsam2.results.report.grid import Cell
from medsam2.results.report.words import count, listing

HERE = Path(__file__).parent
ARMS = ("arm", "a", "b")  # columns of arms' names, which carry the arms' marks
GLYPHS = {"o": "●", "s": "■", "^": "▲", "D": "◆", "v": "▼", "P": "✚", "X": "✖"}


def render(comparison: Comparison, sections: list[Section], looks: Looks) -> str:
    """The HTML of a report. All text is escaped; of the figures only the SVG is markup."""
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals |= {"attributes": _attributes, "kind": _kind, "mark": lambda cell: _mark(cell, looks)}
    page = environment.get_template("report.html.j2").render(
        title=_title(comparison),
        subtitle=f"on {listing(dict.fromkeys(comparison.study.runs['dataset']), 6)}",
        sections=sections,
        style=Markup((HERE / "style.css").read_text(encoding="utf-8")),
        script=Markup((HERE / "sort.js").read_text(encoding="utf-8")),
    )
    return page.lstrip()


def _title(comparison: Comparison) -> str:
    if len(comparison.arms) == 1:
        return f"{comparison.arms[0]} in {comparison.metric}"
    if len(comparison.arms) <= 3:
        return f"{' and '.join([', '.join(comparison.arms[:-1]), comparison.arms[-1]])} compared in {comparison.metric}"
    return f"{count(len(comparison.arms), 'arm')} compared in {comparison.metric}"


def _attributes(data: Mapping[str, str]) -> dict[str, str]:
    return {f"data-{key}": value for key, value in data.items()}


def _kind(cell: Cell, joined: bool) -> str:
    """The classes of a cell."""
    kinds = ["words" if cell.part.kind == "text" else "number"]
    return " ".join(kinds + ["joined"] * joined + ["none"] * (cell.value is None))


def _mark(cell: Cell, looks: Looks) -> dict[str, Any]:
    """The arm's shape and colour, as its figures have them."""
    if cell.part.key not in ARMS or cell.text not in looks:
        return {}
    look = looks[cell.text]
    return {"data-mark": GLYPHS.get(look.marker, "●"), "style": f"--mark:{look.colour}"}
