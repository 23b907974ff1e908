"""Paired differences with their intervals, the verdict in colour, in shape and in words."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from medsam2.results.figures.labels import many, signed
from medsam2.results.figures.layout import count_rows, key_dot, make_rows
from medsam2.results.figures.style import (
    BLUE,
    FAINT,
    GREY,
    INK,
    SMALL,
    VERMILLION,
    WIDE,
    Look,
    check_rows,
    each,
    name_metric,
    styled,
)

VERDICTS = {"better": Look(BLUE, "^"), "worse": Look(VERMILLION, "v"), "undecided": Look(GREY, "o")}


@styled
def forest(
    pairs: pd.DataFrame,
    structure: str = "mean",
    higher_is_better: bool = True,
    unit: str = "",
    width: float = WIDE,
) -> Figure:
    """A row per pair "a − b": the difference of the means, its 95 % interval, and the verdict of a.

    Of more pairs than fit on a page those of the best arm are shown, with the arms that are nearest to it.

    Args:
        pairs: `Board.pairs`.
    """
    rows = pairs[pairs["structure"] == structure]
    check_rows(rows, pairs, {"structure": structure})
    shown, note = _choose(rows, 1 if higher_is_better else -1, width)
    name, drawn = name_metric(str(rows["metric"].iloc[0]), unit), each(shown)
    numbers = [_say_numbers(row.difference, row.low, row.high) for row in drawn]
    beside = width > 120  # the numbers in a column of their own, else below the names
    counts, of_all = _count_all(shown)
    both = [f"{number}, {count}" for number, count in zip(numbers, counts, strict=True)] if counts else numbers
    texts, names = counts if beside else both, _name_pairs(shown)
    common = _find_common(names, shown, width)
    said = f"Each row: {common} − the arm that is named." if common else ""
    figure, axes = make_rows(
        list(shown["b"]) if common else names, texts, width, 7.6 if any(texts) else 6.4,
        (0.0, 36.0 if beside else 3.0, 1.5, 13.0), _explain(), " ".join(filter(None, (of_all, note, said))),
        _describe(shown, name),
    )  # fmt: skip
    axes.set_xlim(_limits(shown))
    axes.axvline(0, color=INK, lw=0.8, label="zero", zorder=1.5)
    for i, row in enumerate(drawn):
        _draw_pair(axes, i, (row.difference, row.low, row.high), str(row.verdict))
        if beside:
            _write(axes, i, numbers[i], str(row.verdict))
    axes.xaxis.set_major_locator(MaxNLocator(6 if beside else 4, steps=[1, 2, 2.5, 5, 10]))
    axes.set_xlabel(f"difference in {name}", labelpad=11)
    _say_sides(axes, higher_is_better)
    return figure


def _draw_pair(axes: Axes, i: int, drawn: tuple[float, float, float], verdict: str) -> None:
    difference, low, high = drawn
    colour, marker = VERDICTS[verdict]
    if np.isfinite(low) and np.isfinite(high):
        axes.plot([low, high], [i, i], color=colour, lw=1.6, solid_capstyle="butt", label="interval")
    if np.isfinite(difference):
        face = "none" if verdict == "undecided" else colour
        axes.plot([difference], [i], marker, color=colour, markerfacecolor=face, markersize=6, label="difference")


def _write(axes: Axes, i: int, numbers: str, verdict: str) -> None:
    for text, up, alpha in ((numbers, 4.2, 1.0), (verdict, -4.2, FAINT)):
        axes.annotate(
            text, (1, i), xycoords=axes.get_yaxis_transform(), xytext=(6, up), textcoords="offset points", ha="left",
            va="center_baseline", fontsize=SMALL, alpha=alpha, annotation_clip=False,
        )  # fmt: skip


def _say_numbers(difference: float, low: float, high: float) -> str:
    if not np.isfinite(difference):
        return "no common case"
    interval = f" [{signed(low)}, {signed(high)}]" if np.isfinite(low) and np.isfinite(high) else ""
    return signed(difference) + interval


def _choose(rows: pd.DataFrame, sign: int, width: float) -> tuple[pd.DataFrame, str]:
    most = count_rows(_name_pairs(rows), width, 7.6)
    if most == len(rows):
        return rows, ""
    gains = sign * rows["difference"]
    lead = pd.concat([gains.groupby(rows["a"]).sum(), -gains.groupby(rows["b"]).sum()]).groupby(level=0).sum()
    best = lead.idxmax()
    with_best = rows[(rows["a"] == best) | (rows["b"] == best)]
    nearest = with_best["difference"].abs().sort_values(kind="stable").index[:most]
    shown = with_best[with_best.index.isin(nearest)]
    return (
        shown,
        f"{len(shown)} of {len(rows)} pairs are shown: those of the best arm, {best}, with the arms nearest to it.",
    )


def _find_common(names: list[str], shown: pd.DataFrame, width: float) -> str:
    """The one arm that all pairs begin with, to be named once where names are long; else nothing."""
    first = set(shown["a"])
    if len(names) == 1 or len(first) > 1 or count_rows(names, width, 7.6) == len(names) <= 12:
        return ""
    return str(first.pop())


def _name_pairs(rows: pd.DataFrame) -> list[str]:
    return [f"{a}\n− {b}" for a, b in zip(rows["a"], rows["b"], strict=True)]


def _limits(shown: pd.DataFrame) -> tuple[float, float]:
    """All that is drawn, and zero."""
    values = [v for v in shown[["difference", "low", "high"]].to_numpy(float).ravel() if np.isfinite(v)]
    low, high = min([0.0, *values]), max([0.0, *values])
    air = (high - low) * 0.06 or 0.01
    return low - air, high + air


def _say_sides(axes: Axes, higher_is_better: bool) -> None:
    left, right = ("second better", "first better") if higher_is_better else ("first better", "second better")
    for x, text, side in ((0, f"← {left}", "left"), (1, f"{right} →", "right")):
        axes.annotate(
            text, (x, 0), xycoords="axes fraction", xytext=(0, -14), textcoords="offset points", ha=side, va="top",
            fontsize=SMALL, alpha=FAINT,
        )  # fmt: skip


def _explain() -> dict[str, Artist]:
    texts = {"better": "first is better", "worse": "first is worse", "undecided": "undecided"}
    return {
        texts[name]: key_dot(look.marker, look.colour, 5.5, "none" if name == "undecided" else None)
        for name, look in VERDICTS.items()
    }


def _count_all(shown: pd.DataFrame) -> tuple[list[str], str]:
    """What each difference rests on: by row, or in a sentence where it is the same for all."""
    rows = [
        ", ".join(many(n, what) for n, what in ((row.patients, "patient"), (row.seeds, "seed")) if np.isfinite(n))
        for row in each(shown)
    ]
    if len(set(rows)) > 1 or not rows[0]:
        return rows, ""
    return [], f"Each difference is over {rows[0]}."


def _describe(shown: pd.DataFrame, name: str) -> str:
    counts = {verdict: int((shown["verdict"] == verdict).sum()) for verdict in VERDICTS}
    said = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
    return f"Paired differences in {name} with 95 % intervals, {many(len(shown), 'pair')}: {said}."
