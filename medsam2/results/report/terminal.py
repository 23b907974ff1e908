"""The answer on the terminal: the main table of each board, and what it allows to be said."""

from __future__ import annotations

from typing import Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from medsam2.results.compare.comparison import Comparison
from medsam2.results.report.answer import find
from medsam2.results.report.board_tables import score_sheets
from medsam2.results.report.grid import Grid
from medsam2.results.report.markup import join
from medsam2.results.report.words import count_states

LEFT_TO_THE_PAGE = ("runs",)  # columns


def print_answer(comparison: Comparison) -> None:
    """Prints tables, sentences and notes."""
    console = Console()
    # a log file has no width of its own: the table must not be folded there
    console = Console(width=None if console.is_terminal else 160)
    for number, board in enumerate(comparison.boards):
        found = find(comparison, board)
        console.print(to_table(score_sheets(comparison, number)[0].grid))
        more = [f"{found.more} more pairs: see the report"] if found.more else []
        sentences = [f"- {sentence}" for sentence in (*found.sentences, *more)]
        for line in (found.headline, *sentences, *(f"({note})" for note in found.notes)):
            console.print(line, soft_wrap=True, markup=False, highlight=False)
    for note in comparison.notes:
        console.print(f"({note})", soft_wrap=True, markup=False, highlight=False)
    if len(comparison.left_out):
        said = f"not counted: {count_states(comparison.left_out)} (see Left out in the page)"
        console.print(said, soft_wrap=True, markup=False, highlight=False)


def to_table(grid: Grid) -> Table:
    """A grid for the terminal."""
    table = Table(title=escape(grid.title), title_justify="left")
    kept = [i for i, column in enumerate(grid.columns) if column.heading not in LEFT_TO_THE_PAGE]
    for i in kept:
        column = grid.columns[i]
        whole = i >= grid.heads  # where room is short, names are folded, numbers never
        side: Literal["left", "right"] = "left" if column.textual else "right"
        table.add_column(escape(column.heading), justify=side, no_wrap=whole, overflow="fold")
    for row in grid.rows:
        table.add_row(*(escape(join(row.cells[i])) for i in kept))
    return table
