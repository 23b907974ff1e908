"""Figures as files and as part of a page, the same bytes every time."""

from __future__ import annotations

import io
import logging
import re
from functools import lru_cache
from html import escape
from pathlib import Path

import matplotlib.style
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from medsam2.files import write_atomic
from medsam2.results.figures.style import INK, STYLE

logging.getLogger("fontTools").setLevel(logging.WARNING)  # tells of every glyph that it puts into a PDF

DPI = 220  # of what is a picture inside a vector graphic
NO_SVG = {"Date": None, "Creator": None, "Format": None, "Type": None}
NO_PDF = {"CreationDate": None, "Creator": None, "Producer": None}
NUMBERS = re.compile(r"(?<= d=\")[^\"]+|(?<= x=\")[^\"]+|(?<= y=\")[^\"]+")
DECIMALS = re.compile(r"(-?\d+\.\d\d)\d+")


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Writes NAME.svg and NAME.pdf into `folder`, each all or not at all; returns both."""
    paths = [folder / f"{name}.svg", folder / f"{name}.pdf"]
    write_atomic(paths[0], '<?xml version="1.0" encoding="utf-8"?>\n' + _to_svg(figure, name))
    write_atomic(paths[1], _to_pdf(figure))
    return paths


def to_svg(figure: Figure, prefix: str) -> str:
    """The figure as an <svg> element to stand in a page.

    What is of the style's ink takes the page's text colour, so that it reads on light and on dark. Nothing in it
    reaches beyond it: its ids begin with `prefix`, which no other figure of the page may have, and it has no style
    sheet. Its title is the figure's label.
    """
    svg = _to_svg(figure, prefix).replace(INK, "currentColor")
    return svg.replace("<svg ", '<svg style="max-width:100%;height:auto" ', 1)


def to_png(figure: Figure, dpi: float = 150) -> bytes:
    """The figure on white, for where neither SVG nor PDF can be shown."""
    buffer, canvas = io.BytesIO(), FigureCanvasAgg(figure)
    with matplotlib.style.context(STYLE, after_reset=True):
        canvas.print_figure(buffer, format="png", dpi=dpi, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


@lru_cache(maxsize=1)  # a figure is saved, and then put into a page
def _to_svg(figure: Figure, prefix: str) -> str:
    buffer = io.StringIO()
    with matplotlib.style.context(STYLE, after_reset=True):
        FigureCanvasSVG(figure).print_figure(buffer, format="svg", dpi=DPI, metadata=NO_SVG)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg ") :]
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"\s*<style type=\"text/css\">.*?</style>", "", svg, flags=re.DOTALL)  # would hold for the whole page
    svg = re.sub(r"\n *<!--.*?-->", "", svg)
    svg = re.sub(r"(fill: #\w{6}); opacity:", r"\1; fill-opacity:", svg)  # a layer of its own is drawn blurred
    svg = NUMBERS.sub(lambda found: DECIMALS.sub(r"\1", found[0]), svg)
    svg = _prefix_ids(svg, re.sub(r"[^\w-]+", "-", prefix))
    return _add_title(svg, figure.get_label(), re.sub(r"[^\w-]+", "-", prefix))


def _to_pdf(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    with matplotlib.style.context(STYLE, after_reset=True):
        FigureCanvasPdf(figure).print_figure(buffer, format="pdf", dpi=DPI, metadata=NO_PDF)
    return buffer.getvalue()


def _prefix_ids(svg: str, prefix: str) -> str:
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    svg = re.sub(r'href="#', f'href="#{prefix}-', svg)
    return svg.replace("url(#", f"url(#{prefix}-")


def _add_title(svg: str, text: object, prefix: str) -> str:
    """With the stroke joins of matplotlib's style sheet on the root, from where all inherit them."""
    head = f'<svg role="img" aria-labelledby="{prefix}-title" stroke-linejoin="round" '
    svg = svg.replace("<svg ", head, 1)
    end = svg.index(">") + 1
    return f'{svg[:end]}\n <title id="{prefix}-title">{escape(str(text))}</title>{svg[end:]}'
