r"""Grids as LaTeX (booktabs) for a paper: metrics by their printed names, no column that says the same in every row.

What a reader needs besides the numbers is in the caption: how many seeds, patients and cases where all rows have as
many, and what the headings mean. Counts that are 0 everywhere (undefined, missed, false positives) are left out.
"""

from __future__ import annotations

import re
from collections import defaultdict

from medsam2.results.figures.style import NAMES
from medsam2.results.report.grid import Cell, Column, Grid
from medsam2.results.report.markup import join
from medsam2.results.report.words import count

SPECIAL = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",  # at the beginning of a row it would be an argument of the line before
    "]": "{]}",
    '"': r"\textquotedbl{}",
    "±": r"$\pm$",
    "−": r"$-$",
    "∞": r"$\infty$",
    "×": r"$\times$",
    "Δ": r"$\Delta$",
    "χ": r"$\chi$",
    "²": r"\textsuperscript{2}",
    "→": r"$\rightarrow$",
    "←": r"$\leftarrow$",
    "–": "--",
    "’": "'",
    "…": r"\dots{}",
    "\u00a0": "~",
    "\n": " ",
}
METRIC = re.compile(rf"\b(?:(rater|slice|prompt)_)?({'|'.join(NAMES)})\b")
RARE = ("undefined", "missed", "false_positives")  # left out where they are 0 in every row
SIZES = ("runs", "seeds", "folds", "patients", "cases")  # in the caption where every row has as many


def to_latex(grid: Grid) -> str:
    r"""A `table` for `\usepackage{booktabs}`; every special character is escaped."""
    kept = [i for i in range(len(grid.columns)) if not _is_zero(grid, i) and _common(grid, i) is None]
    columns = [grid.columns[i] for i in kept]
    lines = [
        r"% \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escape(_caption(grid, columns))}}}",
        rf"\label{{tab:{grid.name}}}",
        rf"\begin{{tabular}}{{{''.join('l' if column.textual else 'r' for column in columns)}}}",
        r"\toprule",
        " & ".join(escape(name_metrics(column.heading)) for column in columns) + r" \\",
        r"\midrule",
        *(" & ".join(escape(_show(row.cells[i])) for i in kept) + r" \\" for row in grid.rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def escape(words: str) -> str:
    """Text that LaTeX sets as it is."""
    return "".join(SPECIAL.get(letter, letter) for letter in words)


def name_metrics(words: str) -> str:
    """`Δ dice` -> `Δ Dice`, `hd95 (mm)` -> `HD95 (mm)`, `rater_dice` -> `rater Dice`."""
    return METRIC.sub(lambda found: " ".join(filter(None, (found[1], NAMES[found[2]]))), words)


def _show(cells: tuple[Cell, ...]) -> str:
    return name_metrics(join(cells)) if cells[0].part.key == "metric" else join(cells)


def _is_zero(grid: Grid, column: int) -> bool:
    return grid.columns[column].parts[0].key in RARE and {row.cells[column][0].value for row in grid.rows} == {"0"}


def _common(grid: Grid, column: int) -> str | None:
    """How many all rows have, in words; None where rows differ, or where the column is no such count."""
    part, values = grid.columns[column].parts[0], {row.cells[column][0].value for row in grid.rows}
    (value,) = values if len(values) == 1 else (None,)
    if part.key not in SIZES or part.kind != "count" or value is None or float(value) % 1:
        return None
    return count(int(float(value)), part.key.removesuffix("s"))


def _as_many(runs: str, seeds: str) -> bool:
    """Whether every run has a seed of its own: then the seeds are said alone."""
    return runs.split()[1].startswith("run") and runs.split()[0] == seeds.split()[0] and "seed" in seeds


def _caption(grid: Grid, columns: list[Column]) -> str:
    """Title, sizes and what the headings mean, as sentences."""
    sizes = [said for i in range(len(grid.columns)) if (said := _common(grid, i))]
    sizes = sizes[1:] if sizes[1:] and _as_many(*sizes[:2]) else sizes
    each = " each" if len(grid.rows) > 1 else ""
    meanings: dict[str, list[str]] = defaultdict(list)
    for column in columns:
        if column.title:
            meanings[column.title].append(name_metrics(column.heading))
    told = [f"{', '.join(headings)}: {title}" for title, headings in meanings.items()]
    parts = [name_metrics(grid.title), grid.note, ", ".join(sizes) + each if sizes else "", *told]
    return " ".join(part if part.endswith((".", "?")) else f"{part}." for part in parts if part)
