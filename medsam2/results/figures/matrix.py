"""What was trained on one dataset, tested on others: a heat map with its numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from medsam2.results.figures.labels import fold, measure
from medsam2.results.figures.layout import SMALL_LINE, count_rows, make_rows
from medsam2.results.figures.style import FAINT, INK, NARROW, SMALL, WIDE, check_rows, name_metric, styled

DARK, LIGHT = "#000000", "#ffffff"  # of numbers in cells: they stay as they are on every page
MAP = "cividis"  # reads the same with and without colour vision


@styled
def matrix(
    frame: pd.DataFrame, metric: str, higher_is_better: bool = True, unit: str = "", width: float | None = None
) -> Figure:
    """Rows are arms and what they were trained on, columns the datasets of the test; a frame marks those where both are
    the same, and "–" what nobody measured. Lighter is better.

    Args:
        frame: `Comparison.matrix`, index (arm, trained_on).
        width: mm; what the cells need unless given.
    """
    check_rows(frame, frame, {"matrix": "rows"})
    names = [f"{arm}\n← {trained}" for arm, trained in frame.index]
    width = width or float(np.clip(70 + 18 * frame.shape[1], NARROW, WIDE))
    shown = frame.head(count_rows(names, width, 6.6, notes=0))
    heads = [fold(str(name), _cell_width(width, shown.shape[1]), SMALL) for name in shown.columns]
    top = SMALL_LINE * max(map(len, heads)) + 2.5
    figure, axes = make_rows(
        names[: len(shown)], width=width, row=6.6, margins=(0.0, 1.5, top, 2.0),
        note=_explain(shown, name_metric(metric, unit)) + _say_first(len(shown), len(frame)),
        label=_describe(shown, metric, unit),
    )  # fmt: skip
    axes.set_xlim(-0.5, shown.shape[1] - 0.5)
    axes.set_xticks([])
    axes.grid(False)
    axes.spines["bottom"].set_visible(False)
    _draw_cells(axes, shown, higher_is_better)
    for j, lines in enumerate(heads):
        axes.annotate(
            "\n".join(lines), (j, 1), xycoords=axes.get_xaxis_transform(), xytext=(0, 3), textcoords="offset points",
            ha="center", va="bottom", fontsize=SMALL, annotation_clip=False,
        )  # fmt: skip
    return figure


def _draw_cells(axes: Axes, shown: pd.DataFrame, higher_is_better: bool) -> None:
    values = shown.to_numpy(float)
    finite = values[np.isfinite(values)]
    low, high = (finite.min(), finite.max()) if len(finite) else (0.0, 1.0)
    size = SMALL if shown.shape[1] <= 12 else SMALL - 1
    for (i, j), value in np.ndenumerate(values):
        text: dict[str, Any] = {"ha": "center", "va": "center_baseline", "fontsize": size}
        if not np.isfinite(value):
            axes.text(j, i, "–", alpha=FAINT, **text)
            continue
        share = 0.5 if low == high else (value - low) / (high - low)
        red, green, blue, _ = colormaps[MAP](float(share if higher_is_better else 1 - share))
        own = is_own(shown.index[i][1], shown.columns[j])
        axes.add_patch(_cell(i, j, 0.03 * own, facecolor=to_hex((red, green, blue)), lw=0, label="cell"))
        axes.text(j, i, f"{value:.3f}", color=choose_ink((red, green, blue)), **text)
        if own:
            axes.add_patch(_cell(i, j, fill=False, edgecolor=INK, lw=1.4, label="own"))


def is_own(trained: object, tested: object) -> bool:
    """Whether a column is about the dataset of training: by its name, or by `name, which prompts (2)`."""
    return f"{tested},".startswith(f"{trained},")


def _cell(i: int, j: int, inset: float = 0.0, **look: Any) -> Rectangle:
    """Smaller by `inset` on the sides and three times that above and below, which is about as many mm."""
    return Rectangle((j - 0.48 + inset, i - 0.46 + 3 * inset), 0.96 - 2 * inset, 0.92 - 6 * inset, **look)


def choose_ink(colour: tuple[float, float, float]) -> str:
    """Black or white, whichever has the higher contrast with a colour (WCAG 2.2, relative luminance)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
    luminance = float(np.dot(linear, (0.2126, 0.7152, 0.0722)))
    return DARK if (luminance + 0.05) ** 2 > 0.05 * 1.05 else LIGHT


def _explain(shown: pd.DataFrame, name: str) -> str:
    own = any(is_own(trained, tested) for _, trained in shown.index for tested in shown.columns)
    framed = " Framed: trained and tested on the same dataset." if own else ""
    return f"{name}; lighter is better. Rows: arm ← what it was trained on. Columns: what it was tested on.{framed}"


def _say_first(shown: int, there: int) -> str:
    return f" The first {shown} of {there} rows are shown." if shown < there else ""


def _cell_width(width: float, columns: int) -> float:
    return max(0.56 * width / columns - 1, measure("0.000", SMALL))


def _describe(shown: pd.DataFrame, metric: str, unit: str) -> str:
    return (
        f"Heat map of {name_metric(metric, unit)}: {len(shown)} rows, an arm and its training data each, "
        f"tested on {', '.join(map(str, shown.columns))}."
    )
