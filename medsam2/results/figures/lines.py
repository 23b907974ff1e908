"""Scores that follow from something: curves with bands of intervals, and the mean of what is not rejected."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from medsam2.results.figures.labels import fold, many, say_best, widest
from medsam2.results.figures.layout import LINE, fold_names, make_axes, name_ends, name_scores, size_of
from medsam2.results.figures.style import (
    GREY,
    OTHER,
    SMALL,
    WIDE,
    Looks,
    check_rows,
    draw_ceiling,
    limit_scores,
    name_metric,
    styled,
    tick_scores,
)

MOST_NAMED = 8  # lines with a name and a colour; others are grey
HEIGHT, LEFT = 62.0, 13.0  # mm
AXES = {
    "clicks": "clicks",
    "jitter": "jitter of the box, in % of its sides",
    "slices": "prompted slices per volume",
    "rejected": "cases rejected, those of the lowest predicted IoU first",
}
PERCENT = ("jitter", "rejected")


@styled
def curves(
    frame: pd.DataFrame,
    axis: str,
    metric: str,
    dataset: str,
    looks: Looks,
    structure: str = "mean",
    ceiling: float = float("nan"),
    unit: str = "",
    higher_is_better: bool = True,
    width: float = WIDE,
) -> Figure:
    """A line per arm over clicks, box jitter or prompted slices, in a band of its 95 % intervals.

    Args:
        frame: `Comparison.curves`.
        axis: "clicks", "jitter" or "slices".
    """
    wanted = {"dataset": dataset, "axis": axis, "structure": structure}
    rows = frame[(frame["dataset"] == dataset) & (frame["axis"] == axis) & (frame["structure"] == structure)]
    check_rows(rows, frame, wanted)
    return _draw(rows.rename(columns={"level": "x"}), axis, name_metric(metric, unit), metric, looks, ceiling,
                 higher_is_better, width)  # fmt: skip


@styled
def rejection(
    frame: pd.DataFrame,
    dataset: str,
    metric: str,
    looks: Looks,
    ceiling: float = float("nan"),
    unit: str = "",
    higher_is_better: bool = True,
    width: float = WIDE,
) -> Figure:
    """The mean of the cases that are left when a share of them, of which the model expects the least, is rejected.

    A model that knows when it is wrong gains much by rejecting little.

    Args:
        frame: `Comparison.rejection`.
    """
    rows = frame[frame["dataset"] == dataset]
    check_rows(rows, frame, {"dataset": dataset})
    name = f"{name_metric(metric, unit)} of the rest"
    return _draw(rows.rename(columns={"rejected": "x"}), "rejected", name, metric, looks, ceiling, higher_is_better,
                 width)  # fmt: skip


def _draw(
    rows: pd.DataFrame,
    axis: str,
    name: str,
    metric: str,
    looks: Looks,
    ceiling: float,
    higher_is_better: bool,
    width: float,
) -> Figure:
    """`rows`: arm, x, mean and, where they are known, low and high."""
    everything = _place_all(rows["x"])
    rows = rows.assign(x=rows["x"].replace(math.inf, everything))
    lines = {str(arm): part.sort_values("x") for arm, part in rows.groupby("arm", sort=False, observed=True)}
    ends = _best(lines, higher_is_better)
    blocks, room = fold_names(list(ends), width)
    note, label = _say_grey(len(ends), len(lines)), _describe(lines, axis, name)
    below = fold(AXES.get(axis, axis), width - LEFT - room)
    margins = LEFT, room, 3.5, 10.0 + LINE * (len(below) - 1)
    figure, axes = make_axes(width, HEIGHT, margins, note=note, label=label)
    values = [ceiling, *(v for column in ("mean", "low", "high") if column in rows for v in rows[column])]
    axes.set_ylim(limit_scores(values, metric))
    for arm in sorted(lines, key=lambda arm: arm in ends):  # the grey ones lie below
        _draw_line(axes, arm, lines[arm], looks, arm in ends)
    tick_scores(axes.yaxis, metric, axes.get_ylim())
    name_scores(axes, name)
    axes.set_xlabel("\n".join(below))
    _finish(axes, axis, sorted(set(rows["x"])), everything)
    draw_ceiling(axes, ceiling, "y", "right" if axis == "jitter" else "left")  # where the curves are low
    colours = [looks.get(arm, OTHER).colour for arm in ends]
    name_ends(axes, list(ends.values()), blocks, colours)
    return figure


def _draw_line(axes: Axes, arm: str, rows: pd.DataFrame, looks: Looks, named: bool) -> None:
    x, mean = rows["x"].to_numpy(float), rows["mean"].to_numpy(float)
    if not named:
        axes.plot(x, mean, color=GREY, alpha=0.45, lw=0.7, label=f"other {arm}")
        return
    look = looks.get(arm, OTHER)
    if "low" in rows:
        low, high = rows["low"].to_numpy(float), rows["high"].to_numpy(float)
        axes.fill_between(x, low, high, color=look.colour, alpha=0.15, linewidth=0, label=f"band {arm}")
    axes.plot(x, mean, color=look.colour, marker=look.marker, markersize=4, label=f"line {arm}", clip_on=False)


def _best(lines: dict[str, pd.DataFrame], higher_is_better: bool) -> dict[str, float]:
    """The arms to name, those with the best last values, by that value from top to bottom."""
    last = {arm: float(rows["mean"].dropna().iloc[-1]) for arm, rows in lines.items() if rows["mean"].notna().any()}
    best = sorted(last, key=lambda arm: last[arm], reverse=higher_is_better)[:MOST_NAMED]
    return {arm: last[arm] for arm in sorted(best, key=lambda arm: -last[arm])}


def _place_all(levels: pd.Series[float]) -> float:
    """Where "all slices", which is inf, is drawn: a step beyond the largest number. NaN where it is no level."""
    if not (levels == math.inf).any():
        return math.nan
    known = levels[levels < math.inf]
    return float(known.max() + max(1.0, 0.25 * (known.max() - known.min()))) if len(known) else 1.0


def _finish(axes: Axes, axis: str, levels: Sequence[float], everything: float) -> None:
    air = 0.03 * (levels[-1] - levels[0]) or 0.5
    axes.set_xlim(levels[0] - air, levels[-1] + air)
    axes.grid(axis="y")
    says = _say_percent if axis in PERCENT else lambda value: "all" if value == everything else f"{value:g}"
    step = widest([[says(level) for level in levels]], SMALL) + 1.5  # mm from one number to the next
    axes.set_xticks(_thin(levels, step * (levels[-1] - levels[0] + 2 * air) / size_of(axes)[0]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: says(value)))


def _say_percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _thin(levels: Sequence[float], gap: float) -> list[float]:
    """The levels from the first on that are no nearer to each other than `gap`."""
    kept = [levels[0]]
    for level in levels[1:]:
        if level - kept[-1] >= gap:
            kept.append(level)
    return kept


def _say_grey(named: int, there: int) -> str:
    return f"{say_best(named, there).replace('shown', 'named')} The others are grey." if named < there else ""


def _describe(lines: dict[str, pd.DataFrame], axis: str, name: str) -> str:
    parts = []
    for arm, rows in list(lines.items())[:6]:
        values = rows.dropna(subset="mean")
        if len(values):
            first, last = values.iloc[0], values.iloc[-1]
            parts.append(f"{arm} from {first['mean']:.3f} at {first['x']:g} to {last['mean']:.3f} at {last['x']:g}")
    return f"{name} over {AXES.get(axis, axis)}, {many(len(lines), 'arm')}: {'; '.join(parts)}."
