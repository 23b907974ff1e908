"""Pictures of single cases: image with prompt, label, prediction, and both outlines on one image."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from medsam2.data.loader import Batch, ObjectInfo, PromptedCases
from medsam2.data.records import Record
from medsam2.evaluation.answers import Answer
from medsam2.evaluation.metrics import BOX_CORNERS, LOWER_IS_BETTER, Mask
from medsam2.evaluation.rows import Row

if TYPE_CHECKING:
    from medsam2.evaluation.evaluator import Autocast, Evaluator, Support
    from medsam2.methods.base import Method

PANEL = 320  # pixels
LABEL, PREDICTION, PROMPT = (60, 220, 120), (255, 70, 160), (255, 210, 60)
RANKS = ("worst", "median", "best")


def choose_cases(rows: Sequence[Row], metric: str = "dice") -> list[tuple[str, Row]]:
    """The worst, median and best row of each structure, as (rank, row); fewer rows give fewer.

    Rows to which the metric does not apply are left out.
    """
    sign = -1 if metric in LOWER_IS_BETTER else 1
    scored = [row for row in rows if not pd.isna(row.get(metric))]
    chosen = []
    for structure in sorted({row["structure"] for row in scored}):
        ranked = [row for row in scored if row["structure"] == structure]
        ranked.sort(key=lambda row: (sign * row[metric], row["case_id"]))
        positions = dict.fromkeys((0, len(ranked) // 2, len(ranked) - 1))
        names = RANKS if len(positions) == 3 else RANKS[:1] if len(positions) == 1 else RANKS[::2]
        chosen += [(name, ranked[i]) for name, i in zip(names, positions, strict=True)]
    return chosen


def draw_cases(
    evaluator: Evaluator,
    method: Method,
    cases: PromptedCases,
    loader: Iterable[Batch],
    rows: Sequence[Row],
    device: str,
    autocast: Autocast,
    support: Support | None = None,
) -> Iterator[tuple[str, Image.Image]]:
    """(file name, picture) of the worst, median and best row of each structure, each predicted once more.

    A volume is shown by the slice on which the structure is largest. Only the chosen cases are asked about, unless an
    answer depends on those before: then all are, in the order of `loader`, which is over `cases` with pictures.
    """
    metric = evaluator.names[0]
    chosen = choose_cases(rows, metric)
    wanted = {(row["case_id"], row["structure"]) for _, row in chosen}
    batches = loader if method.in_order else _select(cases, {name for name, _ in wanted})
    if method.in_order:
        evaluator.start(method, device, autocast, support)
    shown: dict[tuple[str, str], Answer] = {}
    for batch in batches:
        for answer in evaluator.predict(method, batch, device, autocast):
            for name in {answer.info.case_id, answer.info.volume}:
                key = name, answer.info.structure
                if key in wanted and (key not in shown or answer.areas > shown[key].areas):
                    shown[key] = answer
    for rank, row in chosen:
        answer = shown[row["case_id"], row["structure"]]
        of_slice = f", slice {answer.info.index} ({row['budget']})" if answer.info.volume else ""
        caption = f"{rank}: {row['structure']}, case {row['case_id']}{of_slice}, {metric} {row[metric]:.3f}"
        yield f"{row['structure']}_{rank}_{row['case_id']}.png", draw_case(answer.info, answer.mask, caption)


def _select(cases: PromptedCases, names: set[str]) -> Iterator[Batch]:
    """The cases of these names, and those of the volumes of these names, one by one."""
    slices: Sequence[Sequence[Record]] = getattr(cases, "volumes", [[record] for record in cases.records])
    for i, records in enumerate(slices):
        if any({record.case_id, record.volume} & names for record in records):
            yield cases.collate([cases[i]])


def draw_case(info: ObjectInfo, prediction: Mask, caption: str) -> Image.Image:
    """Four panels side by side with a caption: image and prompt; label; prediction; outlines of both."""
    assert info.image is not None
    assert info.label is not None
    height, width = info.label.shape
    scale = PANEL / max(height, width)
    size = (round(width * scale), round(height * scale))
    base = np.asarray(Image.fromarray(info.image).resize(size, Image.Resampling.BICUBIC))
    label, predicted = _resize(info.label, size), _resize(prediction, size)
    both = _outline(_outline(base, label, LABEL), predicted, PREDICTION)
    panels = [
        _with_prompt(base, info, scale),
        _fill(base, label, LABEL),
        _fill(base, predicted, PREDICTION),
        both,
    ]
    titles = [f"image and prompt ({info.prompt.budget})", "label", "prediction", "outlines"]
    return _sheet(panels, titles, caption)


def save_picture(picture: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


def _resize(mask: Mask, size: tuple[int, int]) -> Mask:
    return np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))


def _fill(image: NDArray[np.uint8], mask: Mask, colour: tuple[int, int, int]) -> NDArray[np.uint8]:
    mixed = image.copy()
    mixed[mask] = (0.5 * image[mask] + 0.5 * np.array(colour)).astype(np.uint8)
    return mixed


def _outline(image: NDArray[np.uint8], mask: Mask, colour: tuple[int, int, int]) -> NDArray[np.uint8]:
    """The mask's border, two pixels wide, drawn inside it."""
    inner = mask.copy()
    for _ in range(2):
        padded = np.pad(inner, 1)
        inner = padded[1:-1, 1:-1] & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    drawn = image.copy()
    drawn[mask & ~inner] = colour
    return drawn


def _with_prompt(image: NDArray[np.uint8], info: ObjectInfo, scale: float) -> NDArray[np.uint8]:
    if info.prompt.mask is not None:
        image = _outline(image, _resize(info.prompt.mask, (image.shape[1], image.shape[0])), PROMPT)
    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    points = (info.prompt.points + 0.5) * scale
    corners = points[np.isin(info.prompt.labels, BOX_CORNERS)]
    if len(corners) == 2:
        draw.rectangle([tuple(corners[0]), tuple(corners[1])], outline=PROMPT, width=2)
    for (x, y), kind in zip(points, info.prompt.labels, strict=True):
        if kind in (0, 1):
            draw.ellipse([x - 4, y - 4, x + 4, y + 4], fill=PROMPT if kind == 1 else PREDICTION, outline=(0, 0, 0))
    return np.asarray(picture)


def _sheet(panels: Sequence[NDArray[np.uint8]], titles: Sequence[str], caption: str) -> Image.Image:
    height, width = panels[0].shape[:2]
    gap, line = 8, 20
    sheet = Image.new("RGB", (len(panels) * (width + gap) + gap, height + 2 * line + gap), (255, 255, 255))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=13)
    draw.text((gap, 2), caption, fill=(0, 0, 0), font=font)
    for i, (panel, title) in enumerate(zip(panels, titles, strict=True)):
        left = gap + i * (width + gap)
        draw.text((left, line), title, fill=(90, 90, 90), font=font)
        sheet.paste(Image.fromarray(panel), (left, 2 * line))
    return sheet
