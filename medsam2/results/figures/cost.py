"""What a score costs: time, memory or parameters."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from medsam2.results.figures.labels import many, say_best
from medsam2.results.figures.layout import fold_names, make_axes, name_scores
from medsam2.results.figures.style import (
    GREY,
    INK,
    OTHER,
    SIZE,
    WIDE,
    Look,
    Looks,
    check_rows,
    draw_ceiling,
    each,
    find_ceiling,
    limit_scores,
    name_metric,
    styled,
    tick_scores,
)

MOST_NAMED = 8
HEIGHT = 62.0  # mm
TITLES = {
    "seconds": "time of a run",
    "peak_memory": "peak memory",
    "parameters": "parameters",
    "trained_parameters": "parameters trained",
}


@styled
def cost(
    frame: pd.DataFrame,
    scores: pd.DataFrame,
    metric: str,
    looks: Looks,
    by: str = "seconds",
    structure: str = "mean",
    unit: str = "",
    width: float = WIDE,
) -> Figure:
    """A point per arm with its 95 % interval: the score over seconds, peak_memory, parameters or trained_parameters.

    The axis is logarithmic where the costs span more than tenfold. Arms of unknown cost are named in the note.

    Args:
        frame: `Comparison.cost` of one dataset and one task; scores: `Board.scores`, best arm first.
    """
    rows = scores[(scores["metric"] == metric) & (scores["structure"] == structure)].dropna(subset="mean")
    check_rows(rows, scores, {"metric": metric, "structure": structure})
    costs = frame.set_index("arm")[by].astype(float)
    if not costs.index.is_unique:
        raise ValueError("cost has several rows of one arm: hand over those of one dataset and one task.")
    both = rows.assign(cost=rows["arm"].map(costs))
    known = both[both["cost"] > 0]
    check_rows(known, frame, {by: "known"})
    named, ceiling = list(known["arm"].head(MOST_NAMED)), find_ceiling(rows, metric)
    blocks, room = fold_names(named, width)
    note = _say_left_out(list(both.loc[~(both["cost"] > 0), "arm"]), len(named), len(known))
    label = f"{name_metric(metric, unit)} over {TITLES[by]}, {many(len(known), 'arm')}."
    figure, axes = make_axes(width, HEIGHT, (13.0, room, 3.5, 10.0), note=note, label=label)
    axes.set_ylim(limit_scores([*known[["mean", "low", "high"]].to_numpy(float).ravel(), ceiling], metric))
    _set_costs(axes, known["cost"].to_numpy(float), by)
    for row in each(known.iloc[::-1]):  # the best on top
        _draw_arm(
            axes, row.cost, (row.mean, row.low, row.high), looks.get(row.arm, OTHER) if row.arm in named else None
        )
    tick_scores(axes.yaxis, metric, axes.get_ylim())
    name_scores(axes, name_metric(metric, unit))
    axes.grid(axis="y")
    draw_ceiling(axes, ceiling, "y")
    _list_names(axes, ["\n".join(block) for block in blocks], [looks.get(arm, OTHER) for arm in named])
    return figure


def _draw_arm(axes: Axes, x: float, mean_low_high: tuple[float, float, float], look: Look | None) -> None:
    mean, low, high = mean_low_high
    if look is None:
        axes.plot([x], [mean], "o", color=GREY, markersize=3, label="other")
        return
    if np.isfinite(low) and np.isfinite(high):
        axes.plot([x, x], [low, high], color=look.colour, lw=1.1, alpha=0.8, label="interval")
    axes.plot([x], [mean], look.marker, color=look.colour, markersize=6, markeredgecolor=INK, markeredgewidth=0.6,
              label="arm", zorder=3)  # fmt: skip


def _set_costs(axes: Axes, costs: np.ndarray[tuple[int], np.dtype[np.float64]], by: str) -> None:
    low, high = float(costs.min()), float(costs.max())
    if high > 10 * low:
        axes.set_xscale("log")
        air = (high / low) ** 0.06
        axes.set_xlim(low / air, high * air)
        axes.xaxis.set_major_locator(LogLocator(10, subs=(1, 3) if high < 1000 * low else (1,)))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        air = (high - low) * 0.06 or 0.2 * high
        axes.set_xlim(max(low - air, 0), high + air)
        axes.xaxis.set_major_locator(MaxNLocator(6))
    if by == "seconds":
        axes.xaxis.set_major_locator(FixedLocator(_choose_times(*axes.get_xlim())))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: say_cost(value, by)))
    axes.set_xlabel(TITLES[by])


def _choose_times(low: float, high: float) -> list[float]:
    """Times that are round in what they are said in; a few at least."""
    steps = [float(s * u) for u in (1, 60, 3600, 86400) for s in (1, 2, 5, 10, 15, 20, 30, 45)]
    steps += [s * 3600.0 for s in (1, 2, 3, 4, 6, 8, 12, 18)]
    if high > 10 * max(low, 1e-9):
        places = [float(s * u) for u in (1, 60, 3600, 86400) for s in (1, 5, 20)]
        return [place for place in places if low <= place <= high]
    step = min((s for s in steps if (high - low) / s <= 6), default=86400.0 * max(1, round((high - low) / 5 / 86400)))
    return [float(place) for place in np.arange(np.ceil(low / step) * step, high, step)]


def say_cost(value: float, by: str) -> str:
    """Seconds as `45 s`, `2 min`, `1.5 h`; bytes as `3.2 GiB`; parameters as `38.9 M`."""
    if by == "seconds":
        size, name = next((p for p in ((86400, "d"), (3600, "h"), (60, "min")) if value >= p[0]), (1, "s"))
        return f"{value / size:.3g} {name}"
    if by == "peak_memory":
        return f"{value / 2**30:.3g} GiB"
    size, name = next((p for p in ((10**9, " G"), (10**6, " M"), (10**3, " k")) if value >= p[0]), (1, ""))
    return f"{value / size:.3g}{name}"


def _list_names(axes: Axes, names: list[str], looks: list[Look]) -> None:
    """Best first, beside the axes."""
    handles = [
        axes.plot([], [], look.marker, color=look.colour, markersize=5, markeredgecolor=INK, markeredgewidth=0.5)[0]
        for look in looks
    ]
    axes.legend(handles, names, loc="upper left", bbox_to_anchor=(1.01, 1.0), borderpad=0, labelspacing=0.55,
                handletextpad=0.3, fontsize=SIZE)  # fmt: skip


def _say_left_out(unknown: list[str], named: int, there: int) -> str:
    parts = [f"{say_best(named, there).replace('shown', 'named')} The others are grey."] if named < there else []
    if unknown:
        few = ", ".join(unknown[:5]) + (f" and {len(unknown) - 5} more" if len(unknown) > 5 else "")
        parts.append(f"Of unknown cost: {few}.")
    return " ".join(parts)
