"""Pictures of single cases: the right cases, and colours in the right places."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medsam2.data.batch import ObjectInfo
from medsam2.data.prompts import Prompt
from medsam2.evaluation.metrics import Mask
from medsam2.evaluation.pictures import LABEL, PANEL, PREDICTION, PROMPT, choose_cases, draw_case, save_picture

TOP, GAP = 40, 8  # pixels above and left of the first panel
SHAPE = (40, 80)  # panels of 160 × 320: four screen pixels for one of the image


def rows(*dice: float, structure: str = "cup") -> list[dict[str, Any]]:
    return [{"case_id": f"c{i}", "structure": structure, "dice": d} for i, d in enumerate(dice)]


@pytest.mark.parametrize(
    ("dice", "expected"),
    [
        ([0.5, 0.1, 0.9, 0.7, 0.6], [("worst", "c1"), ("median", "c4"), ("best", "c2")]),
        ([0.5, 0.1, 0.9], [("worst", "c1"), ("median", "c0"), ("best", "c2")]),
        ([0.5, 0.1], [("worst", "c1"), ("best", "c0")]),
        ([0.5], [("worst", "c0")]),
        ([0.5, 0.5, 0.5], [("worst", "c0"), ("median", "c1"), ("best", "c2")]),
        ([], []),
    ],
)
def test_worst_median_and_best_are_chosen(dice: list[float], expected: list[tuple[str, str]]) -> None:
    assert [(rank, row["case_id"]) for rank, row in choose_cases(rows(*dice))] == expected


def test_each_structure_has_its_own_cases_by_the_chosen_metric() -> None:
    table = rows(0.1, 0.2) + rows(0.3, 0.4, structure="disc")
    for row in table:
        row["iou"] = -row["dice"]
    chosen = [(rank, row["structure"], row["case_id"]) for rank, row in choose_cases(table, "iou")]
    assert chosen == [
        ("worst", "cup", "c1"),
        ("best", "cup", "c0"),
        ("worst", "disc", "c1"),
        ("best", "disc", "c0"),
    ]


def draw(points: list[list[float]], labels: list[int], mask: Mask | None = None) -> np.ndarray[Any, Any]:
    label, prediction = np.zeros(SHAPE, dtype=bool), np.zeros(SHAPE, dtype=bool)
    label[10:20, 10:30] = True
    prediction[10:20, 50:70] = True
    prompt = Prompt(np.array(points, dtype=np.float32), np.array(labels), "box", "box", mask)
    info = ObjectInfo("c1", "p1", "cup", prompt, None, label, np.full((*SHAPE, 3), 100, dtype=np.uint8))
    return np.asarray(draw_case(info, prediction, "worst: cup"))


def at(picture: np.ndarray[Any, Any], panel: int, x: float, y: float) -> tuple[int, ...]:
    """The colour in a panel at (x, y) of the image."""
    left = GAP + panel * (PANEL + GAP)
    return tuple(int(v) for v in picture[TOP + round((y + 0.5) * 4), left + round((x + 0.5) * 4)])


GREY = (100, 100, 100)


def mixed(colour: tuple[int, int, int]) -> tuple[int, ...]:
    return tuple(50 + c // 2 for c in colour)


def test_panels_show_label_prediction_and_both_outlines() -> None:
    picture = draw([[10, 10], [29, 19]], [2, 3])
    assert picture.shape == (TOP + 160 + GAP, 4 * (PANEL + GAP) + GAP, 3)
    inside_label, inside_prediction, outside = (20, 15), (60, 15), (40, 30)
    assert at(picture, 1, *inside_label) == mixed(LABEL)
    assert at(picture, 1, *inside_prediction) == GREY
    assert at(picture, 2, *inside_prediction) == mixed(PREDICTION)
    assert at(picture, 2, *inside_label) == GREY
    assert [at(picture, 3, *where) for where in (inside_label, inside_prediction, outside)] == [GREY] * 3
    assert tuple(picture[TOP + 10 * 4, GAP + 3 * (PANEL + GAP) + 20 * 4]) == LABEL
    assert tuple(picture[TOP + 10 * 4, GAP + 3 * (PANEL + GAP) + 60 * 4]) == PREDICTION


def test_prompts_are_drawn_at_x_and_y() -> None:
    box = draw([[10, 10], [29, 19]], [2, 3])
    assert at(box, 0, 20, 10) == PROMPT  # upper edge
    assert at(box, 0, 10, 15) == PROMPT  # left edge
    assert at(box, 0, 20, 15) == GREY
    clicks = draw([[70, 5], [5, 30]], [1, 0])
    assert at(clicks, 0, 70, 5) == PROMPT
    assert at(clicks, 0, 5, 30) == PREDICTION
    assert at(clicks, 0, 5, 5) == GREY


def test_pictures_are_saved_with_their_folder(tmp_path: Path) -> None:
    path = tmp_path / "test" / "cup_worst.png"
    save_picture(Image.new("RGB", (3, 2), (1, 2, 3)), path)
    with Image.open(path) as saved:
        assert saved.size == (3, 2)
        assert saved.getpixel((0, 0)) == (1, 2, 3)


def test_a_mask_prompt_is_outlined_on_the_first_panel() -> None:
    mask = np.zeros(SHAPE, dtype=bool)
    mask[5:15, 5:25] = True
    sheet = draw([], [], mask)
    panel = sheet[TOP : TOP + 160, GAP : GAP + 320]
    rows, columns = np.nonzero((panel == PROMPT).all(axis=-1))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (20, 59, 20, 99)
