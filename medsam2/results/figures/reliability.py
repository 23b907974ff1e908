"""Reliability diagrams (Guo et al. 2017): what a model expects against what happens, a panel per arm."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from medsam2.results.figures.labels import fold, fold_all, say_best
from medsam2.results.figures.style import (
    FAINT,
    INCH,
    INK,
    OTHER,
    SIZE,
    SMALL,
    WIDE,
    Look,
    Looks,
    check_rows,
    styled,
)

BINS = 15
MOST_PANELS = 12
AXES = {"pixels": ("mask probability", "share of object"), "iou": ("predicted IoU", "measured IoU")}


@styled
def reliability(calibration: pd.DataFrame, dataset: str, kind: str, looks: Looks, width: float = WIDE) -> Figure:
    """Bars are what happened in each bin, the dashed diagonal what should have, and the area of a dot at (expected,
    actual) grows with the logarithm of how many there were. The expected calibration error stands in each panel.

    Of more than twelve arms those with the lowest error are shown.

    Args:
        calibration: `Comparison.calibration`: expected and actual are means of a bin, 0..1.
        kind: "pixels" or "iou".
    """
    rows = calibration[(calibration["dataset"] == dataset) & (calibration["kind"] == kind)]
    check_rows(rows, calibration, {"dataset": dataset, "kind": kind})
    errors = rows.groupby("arm", sort=False, observed=True)["ece"].first().sort_values(kind="stable")
    arms = [str(arm) for arm in errors.index[:MOST_PANELS]]
    columns = min(len(arms), max(1, int(width // 44)))
    side = min(38.0, (width - 12) / columns - 6)  # mm of a panel
    titles = fold_all(arms, side, most=2)
    note = f"Dots grow with the number in a bin. {say_best(len(arms), len(errors))}".strip()
    figure, panels = _make_panels(len(arms), columns, side, width, max(map(len, titles)), note)
    figure.set_label(_describe(errors, kind))
    for i, (arm, axes) in enumerate(zip(arms, panels, strict=True)):
        _draw_bins(axes, rows[rows["arm"] == arm], looks.get(arm, OTHER))
        _finish(axes, titles[i], float(errors[arm]), i % columns == 0, i + columns >= len(arms), AXES[kind])
    return figure


def _make_panels(
    count: int, columns: int, side: float, width: float, lines: int, note: str
) -> tuple[Figure, list[Axes]]:
    """Square panels of `side` mm in rows, with `lines` of title above each and the note below all."""
    rows, head = math.ceil(count / columns), 3.3 * lines + 2.5
    below = 8 + 2.9 * len(fold(note, width - 2, SMALL)) + 1
    step_x, step_y = side + 6, side + head + 2.5
    height = rows * step_y + below
    figure = Figure(figsize=(width / INCH, height / INCH))
    panels = []
    for i in range(count):
        left, top = 11 + (i % columns) * step_x, head + (i // columns) * step_y
        panels.append(figure.add_axes((left / width, 1 - (top + side) / height, side / width, side / height)))
    for i, line in enumerate(reversed(fold(note, width - 2, SMALL))):
        figure.text(1 / width, (1 + 2.9 * i) / height, line, fontsize=SMALL, alpha=FAINT, va="bottom")
    return figure, panels


def _draw_bins(axes: Axes, rows: pd.DataFrame, look: Look) -> None:
    found = rows[rows["number"] > 0].dropna(subset=["expected", "actual"])
    expected, actual = found["expected"].to_numpy(float), found["actual"].to_numpy(float)
    if len(found) and (min(expected.min(), actual.min()) < -1e-6 or max(expected.max(), actual.max()) > 1 + 1e-6):
        raise ValueError("expected and actual are sums: divide them by number, so that they are means in 0..1.")
    left = found["bin"].to_numpy(float) / BINS
    axes.bar(left, actual, 1 / BINS, align="edge", color=look.colour, alpha=0.3, linewidth=0, label="bin")
    axes.plot([0, 1], [0, 1], color=INK, alpha=FAINT, lw=0.8, ls=(0, (4, 2.5)), label="diagonal")
    number = np.log1p(found["number"].to_numpy(float))
    area = 3 + 22 * number / max(number.max(initial=0), 1e-9)
    axes.scatter(
        expected, actual, area, look.colour, linewidths=0.5, edgecolors=INK, label="bins", clip_on=False, zorder=3
    )


def _finish(axes: Axes, title: list[str], error: float, first: bool, last: bool, names: tuple[str, str]) -> None:
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"] if last else [])
    axes.set_yticks([0, 0.5, 1], ["0", "0.5", "1"] if first else [])
    axes.set_title("\n".join(title), fontsize=SIZE, loc="left", pad=3)
    axes.text(0.04, 0.96, f"ECE {error:.3f}", transform=axes.transAxes, va="top", fontsize=SMALL)
    if last:
        axes.set_xlabel(names[0], fontsize=SMALL)
    if first:
        axes.set_ylabel(names[1], fontsize=SMALL)


def _describe(errors: pd.Series[float], kind: str) -> str:
    said = ", ".join(f"{arm} {error:.3f}" for arm, error in errors.head(8).items())
    return f"Reliability of {AXES[kind][0]}. Expected calibration error: {said}."
