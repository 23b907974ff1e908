"""Frames as a comparison has them, and what is drawn in a figure by its label."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from medsam2.results.figures.style import STYLE

NAN = float("nan")
LONG = "model=sam2_s image_size=512 method=memory_stream dataset.augmentation=heavy optim.lr={:.5f}"


def make_arms(count: int, long: bool = False) -> list[str]:
    return [LONG.format(i / 1e5) if long else f"arm{i:02d}" for i in range(count)]


def make_cases(values: dict[str, Sequence[Sequence[float]]], structure: str = "liver") -> pd.DataFrame:
    """arm -> seeds × cases; a value of 0 is a miss."""
    rows = [
        {
            "run_id": f"{arm}-{seed}", "arm": arm, "case_id": f"c{i}", "patient_id": f"p{i}", "structure": structure,
            "dice": value, "size_label": 50.0, "size_prediction": 0.0 if value == 0 else 40.0,
        }
        for arm, seeds in values.items() for seed, scores in enumerate(seeds) for i, value in enumerate(scores)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def make_scores(means: dict[str, tuple[float, float, float]], **further: Any) -> pd.DataFrame:
    """arm -> mean, low, high; best first as given."""
    known = {"structure": "liver", "metric": "dice", "sd": 0.01, "runs": 3, "seeds": 3, "cases": 4, "ceiling": NAN}
    rows = [{"arm": arm, "mean": m, "low": low, "high": high} for arm, (m, low, high) in means.items()]
    return pd.DataFrame(rows).assign(**(known | further))


def make_pairs(rows: Sequence[tuple[str, str, float, float, float, str]], **further: Any) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["a", "b", "difference", "low", "high", "verdict"])
    return frame.assign(**({"structure": "mean", "metric": "dice", "patients": 20, "seeds": 3} | further))


def axes_of(figure: Figure) -> Axes:
    assert len(figure.axes) == 1
    return figure.axes[0]


def drawn(axes: Axes, label: str) -> list[Any]:
    """The artists with this label, in the order in which they were drawn."""
    return [artist for artist in axes.get_children() if artist.get_label() == label]


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def boxes_of_texts(figure: Figure) -> list[tuple[str, Any]]:
    """Every text with its place in pixels."""
    with matplotlib.style.context(STYLE, after_reset=True):
        renderer = FigureCanvasAgg(figure).get_renderer()
        figure.draw_without_rendering()
        found = (text for text in figure.findobj(Text) if text.get_text().strip() and text.get_visible())
        return [(text.get_text(), Text.get_window_extent(text, renderer)) for text in found]


def assert_legible(figure: Figure, most_mm: float = 290.0) -> None:
    """All texts lie on the page, none on another, and a page holds the figure."""
    placed = boxes_of_texts(figure)
    width, height = figure.bbox.width, figure.bbox.height
    for text, box in placed:
        outside = max(-box.x0, box.x1 - width, -box.y0, box.y1 - height)
        assert outside <= 1, f"{text!r} leaves the page by {outside:.1f} pixels"
    for i, (text, box) in enumerate(placed):
        for other, there in placed[:i]:
            wide = min(box.x1, there.x1) - max(box.x0, there.x0)
            high = min(box.y1, there.y1) - max(box.y0, there.y0)
            assert wide < 1 or high < 2.5, f"{text!r} lies on {other!r}"
    assert figure.get_figheight() * 25.4 <= most_mm


def assert_free(figure: Figure) -> None:
    """No line of the axes runs through a text."""
    placed = boxes_of_texts(figure)
    for line in axes_of(figure).get_lines():
        points = line.get_transform().transform(np.asarray(line.get_xydata(), dtype=float))
        for (x0, y0), (x1, y1) in pairwise(points.tolist()):
            for text, box in placed:
                across = min(max(x0, x1), box.x1) - max(min(x0, x1), box.x0)
                along = min(max(y0, y1), box.y1) - max(min(y0, y1), box.y0)
                assert across <= 0.5 or along < 0, f"a line runs through {text!r}"


def offsets(collection: Any) -> np.ndarray[Any, Any]:
    return np.asarray(collection.get_offsets())
