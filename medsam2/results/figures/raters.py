"""Scores against each rater, against their majority, and what the raters reach among themselves."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from medsam2.results.figures.labels import many, say_best
from medsam2.results.figures.layout import count_rows, key_dot, make_rows
from medsam2.results.figures.style import (
    INK,
    OTHER,
    WIDE,
    Look,
    Looks,
    check_rows,
    draw_ceiling,
    limit_scores,
    name_metric,
    styled,
    tick_scores,
)

MAJORITY, MEAN, AMONG = "majority", "mean of raters", "raters among themselves"


@styled
def rater_lines(
    raters: pd.DataFrame,
    dataset: str,
    structure: str,
    looks: Looks,
    metric: str = "dice",
    higher_is_better: bool = True,
    width: float = WIDE,
) -> Figure:
    """A row per arm: small circles against each rater, the arm's shape against their mean, a bar against the majority,
    and the raters' own agreement as a line through all.

    Args:
        raters: `Comparison.raters`.
    """
    rows = raters[(raters["dataset"] == dataset) & (raters["structure"] == structure)]
    check_rows(rows, raters, {"dataset": dataset, "structure": structure})
    table = rows.pivot_table(index="arm", columns="rater", values="mean", sort=False, observed=True)
    order = table.get(MEAN, table.get(MAJORITY, table.mean(axis=1)))
    table = table.loc[order.sort_values(ascending=not higher_is_better, kind="stable").index]
    ceiling = float(table[AMONG].mean()) if AMONG in table else float("nan")
    shown = table.drop(columns=AMONG, errors="ignore")
    shown = shown.head(count_rows(list(map(str, shown.index)), width, 6.4, notes=0))
    figure, axes = make_rows(
        list(map(str, shown.index)), (), width, 6.4, (0.0, 3.0, 4.5 if np.isfinite(ceiling) else 1.5, 9.5),
        _explain(shown), say_best(len(shown), len(table)), _describe(shown, ceiling, structure),
    )  # fmt: skip
    limits = limit_scores([*shown.to_numpy(float).ravel(), ceiling], metric)
    axes.set_xlim(limits)
    for i, (arm, values) in enumerate(shown.iterrows()):
        _draw_arm(axes, i, values, looks.get(str(arm), OTHER))
    tick_scores(axes.xaxis, metric, limits)
    axes.set_xlabel(name_metric(metric))
    draw_ceiling(axes, ceiling, "x")
    return figure


def _draw_arm(axes: Axes, i: int, values: pd.Series[float], look: Look) -> None:
    single = values.drop([MAJORITY, MEAN], errors="ignore").dropna().to_numpy(float)
    if len(single):
        axes.plot([single.min(), single.max()], [i, i], color=look.colour, alpha=0.5, lw=1, zorder=1.9)
        axes.plot(single, np.full(len(single), i), "o", color=look.colour, markerfacecolor="none", markersize=4, lw=0,
                  label="rater", clip_on=False)  # fmt: skip
    for name, marker, size in ((MAJORITY, "|", 11), (MEAN, look.marker, 5.5)):
        value = float(values.get(name, np.nan))
        if np.isfinite(value):
            edge = 1.5 if name == MAJORITY else 0.6
            axes.plot([value], [i], marker, color=look.colour, markersize=size, markeredgewidth=edge,
                      markeredgecolor=INK, label=name, clip_on=False, zorder=3)  # fmt: skip


def _explain(shown: pd.DataFrame) -> dict[str, Artist]:
    key: dict[str, Artist] = {}
    if set(shown.columns) - {MAJORITY, MEAN}:
        key["one rater"] = key_dot("o", INK, 4, "none")
    if MEAN in shown:
        key["mean of raters"] = key_dot("D", INK, 4)
    if MAJORITY in shown:
        key["majority of raters"] = key_dot("|", INK, 8)
    return key


def _describe(shown: pd.DataFrame, ceiling: float, structure: str) -> str:
    among = f" Raters among themselves reach {ceiling:.3f}." if np.isfinite(ceiling) else ""
    return f"Scores of {many(len(shown), 'arm')} against each rater, {structure.replace('_', ' ')}.{among}"
