"""A contact sheet: a few cases of each split on one picture, with the outlines that every rater drew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from medsam2.data.records import Case

SIDE = 320  # pixels of a panel's longer side
GAP, LINE = 8, 18
INK, FAINT = (0, 0, 0), (100, 100, 100)
COLOURS = (
    (60, 220, 120), (255, 80, 170), (255, 205, 60), (70, 170, 255), (255, 120, 50), (170, 120, 255),
    (0, 225, 225), (200, 235, 80), (255, 150, 190), (150, 190, 230), (190, 140, 80), (240, 240, 240),
    (220, 40, 40), (60, 90, 255), (0, 150, 110), (200, 60, 255),
)  # fmt: skip


class Panel(NamedTuple):
    """One case: h×w×3 uint8, with a line of text below."""

    pixels: NDArray[np.uint8]
    caption: str


def draw_panel(case: Case) -> Panel:
    """A case with the outlines of every rater, a colour per structure, in the proportions it has in millimetres."""
    height, width = case.image.shape[:2]
    size = _fit(height, width, case.spacing)
    image = np.broadcast_to(case.image, (height, width, 3)) if case.image.shape[2] == 1 else case.image[..., :3]
    picture = Image.fromarray((image * 255).round().astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
    pixels = np.array(picture)
    for structure, colour in colours_of(tuple(case.labels)).items():
        for mask in case.raters.get(structure, case.labels[structure][None]):
            pixels[_outline(_shrink(mask, size))] = colour
    raters = max((len(masks) for masks in case.raters.values()), default=1)
    several = f", {raters} raters" if raters > 1 else ""
    return Panel(pixels, f"{case.record.case_id}  {width}x{height}{several}")


def colours_of(structures: Sequence[str]) -> dict[str, tuple[int, int, int]]:
    """structure -> colour; after sixteen they repeat."""
    return {structure: COLOURS[i % len(COLOURS)] for i, structure in enumerate(structures)}


def build_sheet(title: str, structures: Sequence[str], rows: Mapping[str, Sequence[Panel]]) -> Image.Image:
    """A row of panels per split, below the title and the names of the structures in their colours."""
    font = ImageFont.load_default(size=13)
    columns = max(2, *(len(panels) for panels in rows.values()))
    width = columns * (SIDE + GAP) + GAP
    legend = _legend(structures, width, font)
    heights = {split: max((len(p.pixels) for p in panels), default=0) for split, panels in rows.items()}
    total = 2 * LINE + legend.height + sum(height + 2 * LINE + 2 * GAP for height in heights.values())
    sheet = Image.new("RGB", (width, total), (255, 255, 255))
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP, GAP // 2), title, fill=INK, font=font)
    sheet.paste(legend, (0, LINE + GAP))
    top = 2 * LINE + legend.height
    for split, panels in rows.items():
        draw.text((GAP, top), split if panels else f"{split}: no case could be drawn", fill=INK, font=font)
        for column, panel in enumerate(panels):
            left = GAP + column * (SIDE + GAP)
            sheet.paste(Image.fromarray(panel.pixels), (left, top + LINE))
            draw.text((left, top + LINE + heights[split]), _clip(panel.caption, font), fill=FAINT, font=font)
        top += heights[split] + 2 * LINE + 2 * GAP
    return sheet


def _legend(structures: Sequence[str], width: int, font: Any) -> Image.Image:
    """The names on dark ground, where their colours can be read; in as many lines as they need."""
    places, x, y = [], GAP, 2
    for structure, colour in colours_of(structures).items():
        wide = int(font.getlength(structure)) + 2 * GAP
        if x + wide > width and x > GAP:
            x, y = GAP, y + LINE
        places.append((x, y, structure, colour))
        x += wide
    legend = Image.new("RGB", (width, y + LINE), (40, 40, 40))
    draw = ImageDraw.Draw(legend)
    for x, y, structure, colour in places:
        draw.text((x, y), structure, fill=colour, font=font)
    return legend


def _clip(text: str, font: Any) -> str:
    while font.getlength(text) > SIDE and len(text) > 1:
        text = text[:-2] + "…"
    return text


def _fit(height: int, width: int, spacing: tuple[float, float] | None) -> tuple[int, int]:
    """(width, height) of the panel."""
    high, wide = (height * spacing[0], width * spacing[1]) if spacing else (height, width)
    factor = SIDE / max(high, wide)
    return max(1, round(wide * factor)), max(1, round(high * factor))


def _shrink(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask at the size of the panel; what would vanish there is kept as the pixels it touches."""
    grey = Image.fromarray(mask.astype(np.uint8) * 255)
    covered = np.asarray(grey.resize(size, Image.Resampling.BOX))
    return np.asarray(covered >= 128 if (covered >= 128).any() else covered > 0)


def _outline(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask's border, one pixel wide, inside it."""
    padded = np.pad(mask, 1)
    inner = mask & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return np.asarray(mask & ~inner)
