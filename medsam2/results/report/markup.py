"""Grids as Markdown and as LaTeX (booktabs), for papers and notes."""

from __future__ import annotations

from medsam2.results.report.grid import DASH, Cell, Grid

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
    "±": r"$\pm$",
    "−": r"$-$",
    "∞": r"$\infty$",
    "×": r"$\times$",
    "–": "--",
    "…": r"\dots{}",
    "\n": " ",
}


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


def to_latex(grid: Grid) -> str:
    r"""A `table` for `\usepackage{booktabs}`; every special character is escaped."""
    shape = "".join("l" if column.textual else "r" for column in grid.columns)
    body = [" & ".join(escape(join(cells)) for cells in row.cells) + r" \\" for row in grid.rows]
    caption = escape(" ".join(filter(None, (grid.title, grid.note))))
    lines = [
        r"% \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{caption}}}",
        rf"\label{{tab:{grid.name}}}",
        rf"\begin{{tabular}}{{{shape}}}",
        r"\toprule",
        " & ".join(escape(column.heading) for column in grid.columns) + r" \\",
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def escape(words: str) -> str:
    """Text that LaTeX sets as it is."""
    return "".join(SPECIAL.get(letter, letter) for letter in words)
