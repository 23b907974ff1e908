"""Grids as Markdown, for notes; `latex.py` has them for papers."""

from __future__ import annotations

from medsam2.results.report.grid import DASH, Cell, Grid


def join(cells: tuple[Cell, ...]) -> str:
    """The values of a column as one text: `0.912 ± 0.010`; what is missing is left out, a dash if all is."""
    there = [cell.shown for cell in cells if cell.value is not None]
    return " ".join(there) or DASH


def to_markdown(grid: Grid) -> str:
    """A pipe table under its caption; numbers are aligned to the right."""
    heads = [_plain(column.heading) for column in grid.columns]
    rules = ["---" if column.textual else "---:" for column in grid.columns]
    lines = [heads, rules, *([_plain(join(cells)) for cells in row.cells] for row in grid.rows)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{grid.title}\n\n{table}\n" + (f"\n{grid.note}\n" if grid.note else "")


def _plain(words: str) -> str:
    return words.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")
