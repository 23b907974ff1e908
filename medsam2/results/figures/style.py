"""The house style: one look per arm in every figure, text sizes for print, nothing of the user's matplotlibrc.

The colours are those of Okabe and Ito (jfly.uni-koeln.de/color, 2008) less black and yellow, which vanish on a dark and
on a light page, with a grey in their place; each arm has a shape as well, so colour never says anything alone. All text
and all lines are of one ink, `INK`, lighter only by transparency: on a page it becomes the page's own text colour.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import wraps
from typing import Any, NamedTuple, ParamSpec

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK = "#1b1b1d"  # also how `save.to_svg` finds what takes the page's colour
INCH = 25.4  # mm
NARROW, WIDE = 85.0, 180.0  # mm: one column and the full width of a journal's page
SIZE, SMALL = 7.5, 6.5  # points
FAINT = 0.68  # opacity of what is read second
GRID = 0.14
BLUE, ORANGE, GREEN, VERMILLION, PURPLE, SKY, GREY = (
    "#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#8c8c8c"
)  # fmt: skip
COLOURS = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY, GREY)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
NAMES = {"dice": "Dice", "iou": "IoU", "nsd": "NSD", "hd95": "HD95", "assd": "ASSD", "ece": "ECE"}
WITHIN_ONE = {"dice", "iou", "nsd", "rater_dice", "prompt_dice", "slice_dice", "slice_iou", "ece"}  # 0..1
OF_CEILING = {"dice", "rater_dice"}
STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same on every machine
    "font.size": SIZE,
    "text.parse_math": False,  # an arm's name may have dollars
    "text.hinting": "none",  # as wide on a screen as it is measured
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.linewidth": 0.6,
    "axes.labelsize": SIZE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,  # every tick says its own value
    "axes.grid": False,
    "grid.color": INK,
    "grid.alpha": GRID,
    "grid.linewidth": 0.5,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "lines.linewidth": 1.2,
    "legend.frameon": False,
    "legend.fontsize": SMALL,
    "legend.handlelength": 1.6,
    "legend.borderaxespad": 0.0,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "figure.dpi": 100,
    "svg.fonttype": "path",  # looks and measures the same where the font is not installed
    "svg.hashsalt": "medsam2",
    "pdf.fonttype": 42,
}

P = ParamSpec("P")


class Look(NamedTuple):
    """How an arm is drawn wherever it is drawn."""

    colour: str
    marker: str


Looks = Mapping[str, Look]
OTHER = Look(GREY, "o")


def assign_looks(arms: Iterable[str]) -> dict[str, Look]:
    """arm -> look; 49 differ, and any seven in a row differ in colour and in shape."""
    count = len(COLOURS)
    shapes = ((i, (i + i // count) % count) for i in range(count**2))
    looks = [Look(COLOURS[i % count], MARKERS[shape]) for i, shape in shapes]
    return {arm: looks[i % len(looks)] for i, arm in enumerate(dict.fromkeys(arms))}


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Runs `draw` in the house style and leaves matplotlib's settings as they were."""

    @wraps(draw)
    def inside(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with matplotlib.style.context(STYLE, after_reset=True):
            return draw(*args, **kwargs)

    return inside


def name_metric(metric: str, unit: str = "") -> str:
    """`hd95` -> `HD95 (mm)`."""
    name = NAMES.get(metric, metric.replace("_", " "))
    return f"{name} ({unit})" if unit else name


def limit_scores(values: Iterable[float], metric: str, pad: float = 0.04) -> tuple[float, float]:
    """Axis limits that hide no finite value, with a little air; a single value gets some of both sides."""
    finite = np.array([v for v in values if np.isfinite(v)])
    if not len(finite):
        return (0.0, 1.0)
    low, high = float(finite.min()), float(finite.max())
    air = max((high - low) * pad, 0.005 if metric in WITHIN_ONE else 0.02 * max(abs(low), abs(high)), 1e-6)
    return low - air, high + air


def tick_scores(axis: Any, metric: str, limits: tuple[float, float], most: int = 6) -> None:
    """Round ticks within the limits, and within 0..1 where the metric is."""
    from matplotlib.ticker import MaxNLocator

    low, high = limits
    if metric in WITHIN_ONE:
        low, high = max(low, 0.0), min(high, 1.0)
    ticks = MaxNLocator(most, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    axis.set_ticks([tick for tick in ticks if low - 1e-9 <= tick <= high + 1e-9])


def draw_ceiling(axes: Axes, value: float, along: str, side: str = "right") -> None:
    """The raters' agreement as a dashed line with its number; nothing where it is not known.

    Args:
        along: the axis that has the scores, "x" or "y". side: of its text, for "y".
    """
    if not np.isfinite(value):
        return
    line = axes.axvline if along == "x" else axes.axhline
    line(value, color=INK, alpha=FAINT, linewidth=0.9, linestyle=(0, (4, 2.5)), zorder=1.5, label="ceiling")
    label = f"raters among themselves {value:.3f}"
    if along == "x":
        right = value > np.mean(axes.get_xlim())
        axes.annotate(
            label, (value, 1), xycoords=axes.get_xaxis_transform(), xytext=(2 if right else -2, 2),
            textcoords="offset points", ha="right" if right else "left", va="bottom", fontsize=SMALL, alpha=FAINT,
        )  # fmt: skip
    else:
        axes.annotate(
            label, (side == "right", value), xycoords=axes.get_yaxis_transform(), ha=side, va="bottom",
            xytext=(3 if side == "left" else 0, 1.5), textcoords="offset points", fontsize=SMALL, alpha=FAINT,
        )  # fmt: skip


def find_ceiling(rows: Any, metric: str) -> float:
    """The one ceiling of some rows of scores; NaN where there is none, or where the scores are no Dice as it is."""
    values = rows["ceiling"].dropna() if "ceiling" in rows and metric in OF_CEILING else ()
    return float(np.mean(values)) if len(values) else float("nan")


def each(frame: Any) -> list[Any]:
    """The rows of a frame, columns as attributes."""
    return list(frame.itertuples())


def check_rows(rows: Any, frame: Any, wanted: Mapping[str, object]) -> None:
    """ValueError where nothing is left to draw, with what there would be."""
    if len(rows):
        return
    asked = ", ".join(f"{key}={value!r}" for key, value in wanted.items())
    there = "; ".join(f"{key}: {_list(frame[key].unique())}" for key in wanted if key in frame)
    raise ValueError(f"Nothing to draw for {asked}. There is {there or 'no row at all'}.")


def _list(values: Sequence[object]) -> str:
    return ", ".join(map(str, values[:8])) + (" …" if len(values) > 8 else "")
