"""Critical-difference diagram (Demšar 2006, Statistical comparisons of classifiers over multiple data sets, JMLR 7)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from medsam2.results.figures.labels import fold, fold_all, many, say_best, widest
from medsam2.results.figures.layout import EDGE, LINE, SMALL_LINE, make_axes, size_of
from medsam2.results.figures.style import FAINT, INK, OTHER, SIZE, SMALL, WIDE, Looks, check_rows, styled

STEP = 1.7  # mm between two bars of cliques
ELBOW = 9.0  # mm from the ends of the axis out to the names
ABOVE = 10.5  # mm from the axis up to the critical difference, over the ticks and "better"
HIGHEST = 215.0  # mm of names below each other


@styled
def critical_difference(
    mean_ranks: pd.Series[float],
    cliques: Sequence[Sequence[str]],
    distance: float,
    looks: Looks,
    datasets: int = 0,
    width: float = WIDE,
) -> Figure:
    """The arms' mean ranks over datasets on one axis, the best on the right; bars join arms that are not told apart.

    Args:
        mean_ranks: arm -> mean rank, 1 is best. `cliques`: the arms under each bar. `distance`: the critical difference
            of two mean ranks. `datasets`: over how many the ranks are means.
    """
    check_rows(mean_ranks, mean_ranks.to_frame(), {"mean_ranks": "arms"})
    ranks = mean_ranks.sort_values(kind="stable")
    shown, blocks, line = _fit(ranks, 0.3 * width)
    bars = [bar for clique in cliques if len(bar := [arm for arm in clique if arm in shown.index]) > 1]
    right = (len(shown) + 1) // 2
    gap = STEP * (len(bars) + 1) + 1.0  # mm from the axis down to the first name
    height, side = gap + line * right, widest(blocks) + 3
    note = " ".join(part for part in (_say_datasets(datasets), say_best(len(shown), len(ranks))) if part)
    said = fold(_say_distance(distance, max(len(ranks) - 1, 1)), width - side - ELBOW - EDGE, SMALL)
    margins = side, side, ABOVE + SMALL_LINE * len(said) + 2.5, 1.0
    figure, axes = make_axes(width, height, margins, note=note, label=_describe(shown, distance))
    _draw_axis(axes, len(ranks), distance, "\n".join(said))
    for i, (arm, block) in enumerate(zip(shown.index, blocks, strict=True)):
        below = gap + line * (i if i < right else len(shown) - 1 - i) + line / 2
        _draw_arm(axes, float(shown[arm]), height - below, block, i < right, looks.get(str(arm), OTHER).colour)
    for i, under in enumerate(sorted(sorted(float(shown[arm]) for arm in bar) for bar in bars)):
        y, ends = height - STEP * (i + 1), [under[0], under[-1]]
        axes.plot(ends, [y, y], color=INK, lw=2.6, solid_capstyle="round", label="clique", zorder=3)
    return figure


def _fit(ranks: pd.Series[float], room: float) -> tuple[pd.Series[float], list[list[str]], float]:
    """The arms that fit on a page, their names on lines of `room` mm, and the mm that one name takes."""
    for count in range(len(ranks), 0, -1):
        shown = ranks.head(count)
        blocks = fold_all([str(arm) for arm in shown.index], room)
        line = LINE * max(map(len, blocks)) + 1.3
        if count <= 10 or line * (count + 1) / 2 <= HIGHEST:
            break
    return shown, blocks, line


def _draw_axis(axes: Axes, count: int, distance: float, said: str) -> None:
    """Ranks on top, growing to the left, and the critical difference to scale."""
    width, height = size_of(axes)
    span = max(count - 1, 1)
    air = span * ELBOW / (width - 2 * ELBOW)
    axes.set_xlim(1 + span + air, 1 - air)
    axes.set_ylim(0, height)
    for side in ("left", "right", "bottom"):
        axes.spines[side].set_visible(False)
    axes.spines["top"].set_visible(True)
    axes.spines["top"].set_bounds(1, 1 + span)
    axes.xaxis.tick_top()
    axes.set_yticks([])
    axes.set_xticks(range(1, 2 + span, max(1, round(span / 12))))
    axes.annotate("better →", (1, height), xytext=(0, 17), textcoords="offset points", ha="right", va="bottom",
                  fontsize=SMALL, alpha=FAINT)  # fmt: skip
    if np.isfinite(distance):
        _draw_distance(axes, 1.0 + span, height + ABOVE, distance, span, said)


def _say_distance(distance: float, span: int) -> str:
    return f"critical difference {distance:.2f}" + (", more than there are ranks" if distance > span else "")


def _draw_distance(axes: Axes, start: float, y: float, distance: float, span: int, said: str) -> None:
    """From the left end of the axis, as far as the figure goes."""
    far = distance > span
    ends = [start, start - min(distance, span)]
    axes.plot(ends, [y, y], color=INK, lw=1.1, marker="|", markersize=5, markevery=[0] if far else None, clip_on=False,
              label="distance")  # fmt: skip
    axes.annotate(
        said, (start, y), xytext=(0, 4), textcoords="offset points", ha="left", va="bottom", fontsize=SMALL,
        annotation_clip=False,
    )  # fmt: skip


def _draw_arm(axes: Axes, rank: float, y: float, block: Sequence[str], to_right: bool, colour: str) -> None:
    """From the axis down to the height of the name, and out to it."""
    end, top, side = axes.get_xlim()[1 if to_right else 0], axes.get_ylim()[1], 1 if to_right else -1
    near, far = ("left", "right") if to_right else ("right", "left")
    axes.plot([rank, rank, end], [top, y, y], color=colour, lw=1.0, clip_on=False, label="arm")
    axes.plot([rank], [top], "o", color=colour, markersize=4, clip_on=False, zorder=4)
    offset: dict[str, Any] = {"textcoords": "offset points", "annotation_clip": False}
    axes.annotate("\n".join(block), (end, y), xytext=(side * 4, 0), fontsize=SIZE, va="center", ha=near, **offset)
    axes.annotate(
        f"{rank:.2f}", (end, y), xytext=(-side, 1), fontsize=SMALL, alpha=FAINT, va="bottom", ha=far, **offset
    )


def _say_datasets(datasets: int) -> str:
    return f"Mean ranks over {many(datasets, 'dataset')}. A bar joins arms that are not told apart." if datasets else ""


def _describe(shown: pd.Series[float], distance: float) -> str:
    said = ", ".join(f"{arm} {rank:.2f}" for arm, rank in shown.head(8).items())
    return f"Critical-difference diagram, critical difference {distance:.2f}. Mean ranks: {said}."
