"""Axes of a known size in millimetres, around labels whose width is measured, with a key above and a note below.

A figure's label (`figure.get_label()`) is its description in a sentence, for those who do not see it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from medsam2.results.figures.labels import fold, fold_all, measure, widest
from medsam2.results.figures.style import FAINT, INCH, NARROW, SIZE, SMALL, WIDE

LINE, SMALL_LINE = 3.3, 2.9  # mm from line to line
EDGE = 1.0  # mm that stay free all around
AIR = 1.6  # mm between the texts of two rows
PAGE = 245.0  # mm of rows on one page
LEAST_ROWS, MOST_ROWS = 10, 30  # arms in one figure; of more, the best are shown
Margins = tuple[float, float, float, float]  # left, right, top, bottom in mm
Key = Mapping[str, Artist]  # text -> what it explains


def make_axes(
    width: float, height: float, margins: Margins, key: Key | None = None, note: str = "", label: str = ""
) -> tuple[Figure, Axes]:
    """A figure `width` mm wide with axes `height` mm high, the key above and the note below.

    Raises:
        ValueError: the width is none that prints on a page.
    """
    if not NARROW <= width <= WIDE:
        raise ValueError(f"width={width:g} mm does not print well: choose {NARROW:g} to {WIDE:g}.")
    left, right, top, bottom = margins
    lines, keys = fold(note, width - 2 * EDGE, SMALL), _fold_key(key or {}, width - 2 * EDGE)
    top += 4.2 * len(keys)
    total = top + height + bottom + SMALL_LINE * len(lines) + (EDGE if lines else 0)
    figure = Figure(figsize=(width / INCH, total / INCH))
    figure.set_label(label)
    box = (left / width, 1 - (top + height) / total, (width - left - right) / width, height / total)
    for i, line in enumerate(reversed(lines)):
        y = (EDGE + SMALL_LINE * i) / total
        figure.text(EDGE / width, y, line, fontsize=SMALL, alpha=FAINT, va="bottom")
    for i, texts in enumerate(keys):
        _draw_key(figure, {text: (key or {})[text] for text in texts}, 1 - (EDGE + 4.2 * i) / total, EDGE / width)
    return figure, figure.add_axes(box)


def _fold_key(key: Key, width: float) -> list[list[str]]:
    """The texts by line."""
    lines: list[list[str]] = []
    room = 0.0
    for text in key:
        need = measure(text, SMALL) + 9.0
        if need > room or not lines:
            lines.append([])
            room = width
        lines[-1].append(text)
        room -= need
    return lines


def _draw_key(figure: Figure, key: Key, top: float, left: float) -> None:
    figure.legend(
        list(key.values()), list(key), ncols=len(key), loc="upper left", bbox_to_anchor=(left, top), borderpad=0,
        borderaxespad=0, columnspacing=1.5, handletextpad=0.6, fontsize=SMALL, labelspacing=0,
    )  # fmt: skip


def make_rows(
    names: Sequence[str],
    notes: Sequence[str] = (),
    width: float = WIDE,
    row: float = 7.0,
    margins: Margins = (0.0, 3.0, 2.0, 9.5),
    key: Key | None = None,
    note: str = "",
    label: str = "",
) -> tuple[Figure, Axes]:
    """Axes with a named row per arm, the first on top at y = 0, and what is noted of it in small letters below.

    A row is `row` mm high, or more where a name needs several lines. The left margin follows from the names.
    """
    room = _room(width)
    blocks = fold_all(names, room)
    smaller = [fold(text, room, SMALL) for text in notes] or [[] for _ in names]
    heights = [LINE * len(b) + SMALL_LINE * len(s) for b, s in zip(blocks, smaller, strict=True)]
    left = max(widest(blocks), widest(smaller, SMALL), 10.0) + 3.5
    row = max(row, *(height + AIR for height in heights))
    figure, axes = make_axes(width, row * len(names), (left, *margins[1:]), key, note, label)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    for i, (block, small) in enumerate(zip(blocks, smaller, strict=True)):
        _name_row(axes, i, block, small, heights[i])
    return figure, axes


def count_rows(names: Sequence[str], width: float, row: float, notes: int = 1) -> int:
    """How many of the first names fit on a page as rows with so many lines of notes: ten at least, thirty at most."""
    lines = [len(block) for block in fold_all(names[:MOST_ROWS], _room(width))]
    for count in range(len(lines), LEAST_ROWS, -1):
        if count * max(row, LINE * max(lines[:count]) + SMALL_LINE * notes + AIR) <= PAGE:
            return count
    return min(LEAST_ROWS, len(lines))


def _room(width: float) -> float:
    """mm for names."""
    return (0.42 if width > 120 else 0.46) * width - 3.5


def _name_row(axes: Axes, i: int, block: Sequence[str], small: Sequence[str], height: float) -> None:
    """The lines from the top down, centred on the row as a whole."""
    up = height / 2
    for text, size, step, alpha in (
        *((text, SIZE, LINE, 1.0) for text in block),
        *((text, SMALL, SMALL_LINE, FAINT) for text in small),
    ):
        axes.annotate(
            text, (0, i), xycoords=axes.get_yaxis_transform(), xytext=(-6, (up - step / 2) / INCH * 72),
            textcoords="offset points", ha="right", va="center_baseline", fontsize=size, alpha=alpha,
            annotation_clip=False,
        )  # fmt: skip
        up -= step


def fold_names(names: Sequence[str], width: float) -> tuple[list[list[str]], float]:
    """Names for the right side of a figure, on two lines at most, and the mm that they need there."""
    blocks = fold_all(names, 0.36 * width, most=2)
    return blocks, widest(blocks) + 9.0


def name_ends(axes: Axes, ends: Sequence[float], blocks: Sequence[Sequence[str]], colours: Sequence[str]) -> None:
    """Names of lines beside their right ends, at falling `ends` in data units, moved apart where they would touch."""
    low, high = axes.get_ylim()
    wanted = (np.array(ends, dtype=float) - low) / (high - low)
    gap = (LINE * max(map(len, blocks), default=1) + 0.5) / size_of(axes)[1]
    for block, colour, at, place in zip(blocks, colours, wanted, spread(wanted, gap), strict=True):
        axes.annotate(
            "\n".join(block), (1, at), xycoords="axes fraction", xytext=(1 + 5 / size_of(axes)[0], place), ha="left",
            textcoords="axes fraction", va="center", fontsize=SIZE, annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.8, "shrinkA": 1, "shrinkB": 1, "relpos": (0, 0.5)},
        )  # fmt: skip


def spread(wanted: NDArray[np.float64], gap: float) -> NDArray[np.float64]:
    """Falling places at least `gap` apart, as near as may be to those wanted, which fall as well; in 0..1 if they fit.

    Neighbours that touch move as one block to where they are nearest on the whole.
    """
    steps = gap * np.arange(len(wanted))
    blocks: list[list[float]] = []
    for value in wanted + steps:
        blocks.append([float(value)])
        while len(blocks) > 1 and np.mean(blocks[-1]) > np.mean(blocks[-2]):
            last = blocks.pop()
            blocks[-1] += last
    places = np.array([float(np.mean(block)) for block in blocks for _ in block]) - steps
    return np.maximum(np.minimum(places, 1 - steps), steps[::-1])


def name_scores(axes: Axes, name: str) -> None:
    """Names the upright axis, whose ticks stand; its left edge moves to the right where they need more room."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    lines = fold(name, size_of(axes)[1])
    axes.set_ylabel("\n".join(lines))
    ticks = axes.yaxis.get_major_formatter().format_ticks(list(axes.get_yticks()))
    need = EDGE + LINE * len(lines) + widest([ticks], SMALL) + 4.0  # and the ticks with what stands between
    box = axes.get_position()
    left = max(box.x0, need / (figure.get_figwidth() * INCH))
    axes.set_position((left, box.y0, box.x1 - left, box.height))


def size_of(axes: Axes) -> tuple[float, float]:
    """Width and height of the axes in mm."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    width, height = figure.get_size_inches() * INCH
    return float(axes.get_position().width * width), float(axes.get_position().height * height)


def key_dot(marker: str, colour: str, size: float = 5.0, face: str | None = None, lw: float = 0.0) -> Line2D:
    """A shape for a key, on a line where `lw` is not 0."""
    return Line2D([], [], color=colour, marker=marker, markersize=size, markerfacecolor=face or colour, lw=lw)
