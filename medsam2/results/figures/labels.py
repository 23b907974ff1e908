"""Names that fit: measured in millimetres, folded onto lines, cut in the middle only as a last resort."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

from medsam2.results.figures.style import INCH, SIZE

MOST_LINES = 4


@lru_cache(maxsize=20_000)
def measure(text: str, size: float = SIZE) -> float:
    """The width of a line of text in mm."""
    font = FontProperties(family="DejaVu Sans", size=size)  # type: ignore[arg-type]
    width, _, _ = text_to_path.get_text_width_height_descent(text, font, ismath=False)
    return float(width) / 72 * INCH * 1.01


def fold(text: str, width: float, size: float = SIZE) -> list[str]:
    """The lines of a text in `width` mm, broken between words; at a line break in it first, where it needs one at all.

    A word that is too long for a line loses its middle.
    """
    joined = text.replace("\n", " ")
    if measure(joined, size) <= width:
        return [joined] if joined else []
    lines: list[str] = []
    for part in text.split("\n"):
        line = ""
        for word in part.split():
            longer = f"{line} {word}".strip()
            if line and measure(longer, size) > width:
                lines.append(line)
                longer = word
            line = longer
        lines.append(line)
    return [_cut(line, width, size) for line in lines]


def fold_all(labels: Sequence[str], width: float, size: float = SIZE, most: int = MOST_LINES) -> list[list[str]]:
    """Each label folded onto at most `most` lines, and no two alike: those that were cut to the same are numbered."""
    folded = [fold(label, width, size) for label in labels]
    folded = [lines if len(lines) <= most else _drop_middle(lines, most, width, size) for lines in folded]
    count = Counter(map(tuple, folded))
    found: Counter[tuple[str, ...]] = Counter()
    for i, lines in enumerate(folded):
        key = tuple(lines)
        if count[key] > 1 and labels.count(labels[i]) == 1:
            found[key] += 1
            tail = f" #{found[key]}"
            folded[i] = [*lines[:-1], _cut(lines[-1], width - measure(tail, size), size) + tail]
    return folded


def shorten(labels: Sequence[str], width: float, size: float = SIZE) -> list[str]:
    """Labels on one line each."""
    cut = [_cut(label, width, size) for label in labels]
    count = Counter(cut)
    found: Counter[str] = Counter()
    for i, text in enumerate(list(cut)):
        if count[text] > 1 and labels.count(labels[i]) == 1:
            found[text] += 1
            tail = f" #{found[text]}"
            cut[i] = _cut(labels[i], width - measure(tail, size), size) + tail
    return cut


def widest(blocks: Sequence[Sequence[str]], size: float = SIZE) -> float:
    """mm of the longest line of all."""
    return max((measure(line, size) for lines in blocks for line in lines), default=0.0)


def _drop_middle(lines: list[str], most: int, width: float, size: float) -> list[str]:
    first = (most + 1) // 2
    return [*lines[: first - 1], _cut(f"{lines[first - 1]} …", width, size), *lines[len(lines) - (most - first) :]]


def _cut(text: str, width: float, size: float) -> str:
    """The text less its middle; at least its first letter stays."""
    if measure(text, size) <= width:
        return text
    low, high = 1, len(text) - 1
    while low < high:  # the most letters that fit
        kept = (low + high + 1) // 2
        low, high = (kept, high) if measure(_without_middle(text, kept), size) <= width else (low, kept - 1)
    return _without_middle(text, low)


def _without_middle(text: str, kept: int) -> str:
    return text[: (kept + 1) // 2].rstrip() + "…" + text[len(text) - kept // 2 :].lstrip()


def many(count: float, what: str) -> str:
    """`1 seed`, `3 seeds`."""
    return f"{int(count)} {what}" + ("" if count == 1 else "s")


def signed(value: float) -> str:
    """`+0.012`, `−0.012`: with a minus as long as the plus."""
    return f"{value:+.3f}".replace("-", "−")


def say_best(shown: int, there: int, what: str = "arms") -> str:
    """`The best 30 of 100 arms are shown.`, nothing where all are."""
    return f"The best {shown} of {there} {what} are shown." if shown < there else ""
