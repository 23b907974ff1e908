"""Every case of every arm: boxes, points and means; and the means alone, over seeds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from medsam2.results.figures.labels import many, say_best
from medsam2.results.figures.layout import Margins, count_rows, key_dot, make_rows
from medsam2.results.figures.style import (
    FAINT,
    INK,
    OTHER,
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

MANY_POINTS = 2500  # drawn as one picture inside the vector graphic
LEAST_BOX = 5  # cases
GOLDEN = 0.6180339887498949


@styled
def box_plot(
    cases: pd.DataFrame,
    scores: pd.DataFrame,
    metric: str,
    structure: str,
    looks: Looks,
    unit: str = "",
    width: float = WIDE,
) -> Figure:
    """A row per arm: all cases as points, their box, a cross on each missed one, and the mean with its 95 % interval.

    A case is averaged over the arm's runs, and over structures where `structure` is "mean". The box spans the
    quartiles, its line is the median and its whiskers reach the furthest case within 1.5 times the box. Cases without
    a value are counted, not drawn. Fewer than five cases have no box.

    Args:
        cases: `Board.cases`; scores: `Board.scores`, best arm first.
    """
    chosen = _choose(scores, metric, structure)
    row = 9.5 if len(chosen) <= 12 else 8.0
    ceiling, shown = find_ceiling(chosen, metric), chosen.head(count_rows(list(chosen["arm"]), width, row))
    points = {arm: gather_cases(cases[cases["arm"] == arm], metric, structure) for arm in shown["arm"]}
    texts = [_count_cases(points[arm]) for arm in shown["arm"]]
    what = f"{name_metric(metric, unit)} of every case, {_of(structure)}"
    figure, axes = make_rows(
        list(shown["arm"]), texts, width, row, _margins(ceiling),
        _explain(missed=any(frame["missed"].any() for frame in points.values())), say_best(len(shown), len(chosen)),
        label=f"Box plots: {what}, {many(len(shown), 'arm')}. {_say_means(shown)}",
    )  # fmt: skip
    values = [*shown[["mean", "low", "high"]].to_numpy(float).ravel(), ceiling]
    limits = limit_scores([*values, *(v for frame in points.values() for v in frame["value"])], metric)
    axes.set_xlim(limits)
    total = sum(len(frame) for frame in points.values())
    for i, arm in enumerate(each(shown)):
        look = looks.get(arm.arm, OTHER)
        _draw_cases(axes, i, points[arm.arm], look, total > MANY_POINTS)
        draw_mean(axes, i + 0.31, (arm.mean, arm.low, arm.high), look)
    _finish(axes, metric, unit, limits, ceiling)
    return figure


@styled
def dot_plot(
    scores: pd.DataFrame, metric: str, structure: str, looks: Looks, unit: str = "", width: float = WIDE
) -> Figure:
    """A row per arm: the mean, its 95 % interval as a line, and the sd over seeds, where there are several, as a bar.

    Args:
        scores: `Board.scores`, best arm first.
    """
    chosen = _choose(scores, metric, structure)
    ceiling, shown = find_ceiling(chosen, metric), chosen.head(count_rows(list(chosen["arm"]), width, 7.4))
    texts = [f"{many(row.seeds, 'seed')}, {many(row.cases, 'case')}" for row in each(shown)]
    figure, axes = make_rows(
        list(shown["arm"]), texts, width, 7.4, _margins(ceiling),
        _explain(sd=bool(shown["sd"].notna().any()), median=False), say_best(len(shown), len(chosen)),
        label=f"Means of {name_metric(metric, unit)}, {_of(structure)}. {_say_means(shown)}",
    )  # fmt: skip
    mean, sd = shown["mean"].to_numpy(float), shown["sd"].to_numpy(float)
    drawn = [*shown[["mean", "low", "high"]].to_numpy(float).ravel(), *(mean - sd), *(mean + sd), ceiling]
    limits = limit_scores(drawn, metric)
    axes.set_xlim(limits)
    for i, row in enumerate(each(shown)):
        look = looks.get(row.arm, OTHER)
        if np.isfinite(row.sd):
            ends = [row.mean - row.sd, row.mean + row.sd]
            axes.plot(ends, [i, i], color=look.colour, alpha=0.32, lw=7, solid_capstyle="butt", label="sd")
        draw_mean(axes, i, (row.mean, row.low, row.high), look, size=5.5)
    _finish(axes, metric, unit, limits, ceiling)
    return figure


def gather_cases(cases: pd.DataFrame, metric: str, structure: str) -> pd.DataFrame:
    """One row per case of one arm, index case_id: `value`, its mean over runs (and structures), NaN where it has none;
    `missed`, whether some run answered nothing where there was something.
    """
    rows = cases if structure == "mean" else cases[cases["structure"] == structure]
    sized = {"size_label", "size_prediction"} <= set(rows.columns)
    missed = (rows["size_label"] > 0) & (rows["size_prediction"] == 0) if sized else pd.Series(False, rows.index)
    frame = pd.DataFrame({"case": rows["case_id"], "value": rows[metric].astype(float), "missed": missed})
    by_case = frame.groupby("case", sort=True, observed=True)
    return pd.DataFrame({"value": by_case["value"].mean(), "missed": by_case["missed"].any()})


def draw_mean(axes: Axes, y: float, mean_low_high: tuple[float, float, float], look: Look, size: float = 4.5) -> None:
    """A filled shape at the mean, a line over the interval where there is one; nothing for NaN."""
    mean, low, high = mean_low_high
    if np.isfinite(low) and np.isfinite(high):
        axes.plot([low, high], [y, y], color=INK, lw=1.1, solid_capstyle="butt", label="interval")
    if np.isfinite(mean):
        axes.plot(
            [mean], [y], look.marker, color=look.colour, markersize=size, markeredgecolor=INK, markeredgewidth=0.6,
            label="mean", clip_on=False, zorder=3,
        )  # fmt: skip


def _choose(scores: pd.DataFrame, metric: str, structure: str) -> pd.DataFrame:
    """The rows of the metric and the structure that have a mean."""
    rows = scores[(scores["metric"] == metric) & (scores["structure"] == structure)]
    check_rows(rows, scores, {"metric": metric, "structure": structure})
    check_rows(rows.dropna(subset="mean"), rows, {"metric": metric, "structure": structure, "mean": "a number"})
    return rows.dropna(subset="mean")


def _draw_cases(axes: Axes, i: int, frame: pd.DataFrame, look: Look, many: bool) -> None:
    found = frame.dropna(subset="value").sort_values("value", kind="stable")
    values = found["value"].to_numpy(float)
    if not len(values):
        return
    y = i - 0.15 + jitter(len(values)) * 0.34
    missed = found["missed"].to_numpy(bool)
    area = float(np.clip(700 / len(values), 2.5, 9))
    axes.scatter(
        values[~missed],
        y[~missed],
        area,
        look.colour,
        alpha=0.5,
        linewidths=0,
        rasterized=many,
        label="cases",
        zorder=1.95,
    )
    axes.scatter(
        values[missed], y[missed], 14, INK, marker="x", linewidths=0.9, label="missed", clip_on=False, zorder=4
    )
    if len(values) >= LEAST_BOX:
        _draw_box(axes, i - 0.15, values, look)


def _draw_box(axes: Axes, y: float, values: NDArray[np.float64], look: Look) -> None:
    first, median, third = np.percentile(values, (25, 50, 75))
    near = values[(values >= first - 1.5 * (third - first)) & (values <= third + 1.5 * (third - first))]
    box = Rectangle((first, y - 0.23), third - first, 0.46, facecolor=look.colour, alpha=0.22, lw=0, zorder=1.9)
    axes.add_patch(box).set_label("box")
    for quartile, end in ((first, near.min()), (third, near.max())):
        axes.plot([quartile, end], [y, y], color=INK, alpha=FAINT, lw=0.7, zorder=1.9, label="whisker")
        axes.plot([end, end], [y - 0.1, y + 0.1], color=INK, alpha=FAINT, lw=0.7, zorder=1.9)
    axes.plot([median, median], [y - 0.23, y + 0.23], color=INK, lw=1.4, zorder=2.5, label="median")


def jitter(count: int) -> NDArray[np.float64]:
    """Places in -½..½ that fill evenly and are the same every time: multiples of the golden ratio."""
    return np.asarray((np.arange(count) * GOLDEN + 0.5) % 1 - 0.5, dtype=np.float64)


def _finish(axes: Axes, metric: str, unit: str, limits: tuple[float, float], ceiling: float) -> None:
    tick_scores(axes.xaxis, metric, limits)
    axes.set_xlabel(name_metric(metric, unit))
    draw_ceiling(axes, ceiling, "x")


def _explain(missed: bool = False, sd: bool = False, median: bool = True) -> dict[str, Artist]:
    """What is drawn, for the line above the axes."""
    key: dict[str, Artist] = {"mean, 95 % interval": key_dot("D", INK, 3.5, lw=1.1)}
    if sd:
        key["± sd over seeds"] = Line2D([], [], color=INK, alpha=0.32, lw=6, solid_capstyle="butt")
    if median:
        key["median"] = key_dot("|", INK, 7)
        key["case"] = Line2D([], [], color=INK, alpha=0.5, lw=0, marker="o", markersize=2.6, markeredgewidth=0)
    if missed:
        key["missed case"] = key_dot("x", INK, 3.7)
    return key


def _count_cases(frame: pd.DataFrame) -> str:
    undefined, missed = int(frame["value"].isna().sum()), int(frame["missed"].sum())
    parts = [f"n = {len(frame) - undefined}"]
    parts += [f"{missed} missed"] if missed else []
    parts += [f"{undefined} undefined"] if undefined else []
    return ", ".join(parts)


def _of(structure: str) -> str:
    return "mean over structures" if structure == "mean" else structure.replace("_", " ")


def _margins(ceiling: float) -> Margins:
    return (0.0, 3.0, 4.5 if np.isfinite(ceiling) else 1.5, 9.5)


def _say_means(shown: pd.DataFrame, most: int = 6) -> str:
    rows: Sequence[str] = [f"{row.arm} {row.mean:.3f}" for row in each(shown.head(most))]
    return "Means: " + ", ".join(rows) + ("." if len(shown) <= most else f" and {len(shown) - most} more.")
