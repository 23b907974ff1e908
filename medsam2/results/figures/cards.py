"""Cards: a case's image with outlines, a strip of text below each, arranged on one PNG.

They are dark on a transparent ground, so that they stand on a light and on a dark page and on paper.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from medsam2.results.figures.style import COLOURS, SKY

SIDE, GAP, LINE, WIDTH = 224, 6, 15, 930  # pixels: a panel's longer side, between panels, of a line of text, of all
MOST_LINES = 3  # of a name
CARD, TEXT, FAINT_TEXT = "#262628", "#f0f0f0", "#b9b9bc"
LABEL, EDGE, PREDICTION = "#ffffff", "#000000", SKY  # they show on grey as on reddish images
RESERVED = (CARD, TEXT, FAINT_TEXT, LABEL, EDGE, *COLOURS)  # of the palette

Mask = NDArray[np.bool_]
Pixels = NDArray[np.uint8]


class Shot(NamedTuple):
    """One arm's answer about a case: H×W×3 uint8 and two H×W bool arrays, its colour, and its score in words."""

    arm: str
    colour: str
    score: str
    image: Pixels
    label: Mask
    prediction: Mask


def draw_cards(shots: Sequence[Shot]) -> bytes:
    """The image with the label's outline, then each prediction filled below the same outline; a PNG with a palette."""
    size = _fit(*shots[0].image.shape[:2])
    image, label, _ = _resize(shots[0], size)
    names = [_fold(shot.arm, size[0] - 12) for shot in shots]
    lines = 1 + max(map(len, names))
    panels = [_card(_draw_label(image, label), lines, ["image"], [("label", LABEL), ("prediction", PREDICTION)])]
    for shot, name in zip(shots, names, strict=True):
        image, label, prediction = _resize(shot, size)
        image = _outline(_fill(image, prediction, PREDICTION), prediction, PREDICTION, 2)
        panels.append(_card(_draw_label(image, label), lines, name, [(shot.score, FAINT_TEXT)], shot.colour))
    return _encode(*_arrange(panels))


def _fit(height: int, width: int) -> tuple[int, int]:
    """(width, height) of a panel."""
    scale = SIDE / max(height, width)
    return max(48, round(width * scale)), max(48, round(height * scale))


def _resize(shot: Shot, size: tuple[int, int]) -> tuple[Pixels, Mask, Mask]:
    """Image, label and prediction."""
    image = Image.fromarray(shot.image).convert("RGB").resize(size, Image.Resampling.BICUBIC)
    label, prediction = (
        np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
        for mask in (shot.label, shot.prediction)
    )
    return np.asarray(image), label, prediction


def _fill(image: Pixels, mask: Mask, colour: str) -> Pixels:
    mixed = image.copy()
    mixed[mask] = (0.65 * image[mask] + 0.35 * np.array(_rgb(colour))).astype(np.uint8)
    return mixed


def _outline(image: Pixels, mask: Mask, colour: str, width: int = 2) -> Pixels:
    """The mask's border, drawn inside it."""
    inner = mask
    for _ in range(width):
        padded = np.pad(inner, 1)
        inner = inner & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    drawn = image.copy()
    drawn[mask & ~inner] = _rgb(colour)
    return drawn


def _draw_label(image: Pixels, label: Mask) -> Pixels:
    """White with a dark edge around it."""
    padded = np.pad(label, 1)
    around = label | padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]
    return _outline(_outline(image, around, EDGE, 1), label, LABEL, 1)


def _card(
    pixels: Pixels, lines: int, name: Sequence[str], words: Sequence[tuple[str, str]], bar: str = CARD
) -> Image.Image:
    """The image above a strip of so many lines: the name, and below it words in colours."""
    height, width = pixels.shape[:2]
    card = Image.new("RGB", (width, height + LINE * lines + 9), CARD)
    card.paste(Image.fromarray(pixels), (0, 0))
    paint, font, x = ImageDraw.Draw(card), _font(), 6.0
    paint.rectangle([0, height, width, height + 2], fill=bar)
    for i, line in enumerate(name):
        paint.text((x, height + 5 + LINE * i), line, fill=TEXT, font=font)
    for word, colour in words:
        paint.text((x, height + 5 + LINE * len(name)), word, fill=colour, font=font)
        x += font.getlength(word) + 10
    return card


def _font() -> Any:
    return ImageFont.load_default(size=13)


def _fold(text: str, width: float) -> list[str]:
    """The lines of a name; what is too long loses its middle."""
    font, lines = _font(), [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    if len(lines) > MOST_LINES:
        lines = [*lines[:1], f"… {lines[-2]}", lines[-1]]
    return [_clip(line, font, width) for line in lines]


def _clip(text: str, font: Any, width: float) -> str:
    """The text less its middle where it is too long."""
    for kept in range(len(text), 1, -1):
        cut = text if kept == len(text) else text[: (kept + 1) // 2] + "…" + text[len(text) - kept // 2 :]
        if font.getlength(cut) <= width:
            return cut
    return text[:1]


def _arrange(panels: Sequence[Image.Image]) -> tuple[Image.Image, Mask]:
    """All panels in rows, and where there is none."""
    wide, high = panels[0].size
    columns = min(len(panels), max(1, (WIDTH + GAP) // (wide + GAP)))
    columns = -(-len(panels) // -(-len(panels) // columns))  # rows of nearly the same length
    rows = -(-len(panels) // columns)
    sheet = Image.new("RGB", (columns * (wide + GAP) - GAP, rows * (high + GAP) - GAP), CARD)
    empty = np.ones((sheet.height, sheet.width), dtype=np.bool_)
    for i, panel in enumerate(panels):
        left, top = (i % columns) * (wide + GAP), (i // columns) * (high + GAP)
        sheet.paste(panel, (left, top))
        empty[top : top + high, left : left + wide] = False
    return sheet, empty


def _encode(sheet: Image.Image, empty: Mask) -> bytes:
    """255 colours, those of texts and arms exactly, and a transparent one."""
    fixed = [value for colour in RESERVED for value in _rgb(colour)]
    count = 255 - len(RESERVED)
    common = sheet.quantize(count, method=Image.Quantize.MEDIANCUT).getpalette() or []
    colours = [*common[: 3 * count], *fixed]
    palette = Image.new("P", (1, 1))
    palette.putpalette(colours + colours[-3:] * (256 - len(colours) // 3))
    indices = np.asarray(sheet.quantize(palette=palette, dither=Image.Dither.NONE)).copy()
    indices[empty] = 255
    picture = Image.fromarray(indices).convert("P")
    picture.putpalette(palette.getpalette() or [])
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", transparency=255, optimize=True)
    return buffer.getvalue()


def _rgb(colour: str) -> tuple[int, int, int]:
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    return red, green, blue
