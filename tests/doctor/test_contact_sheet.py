"""Panels and sheets, pixel by pixel where it matters: every rater's outline, in the proportions of the scan."""

from __future__ import annotations

import numpy as np
from PIL import Image

from medsam2.data.records import Case, Record
from medsam2.doctor.contact_sheet import COLOURS, GAP, LINE, SIDE, Panel, build_sheet, draw_panel


def case(height: int = 40, width: int = 80, channels: int = 1, spacing: tuple[float, float] | None = None) -> Case:
    raters = np.zeros((2, height, width), dtype=bool)
    raters[0, 10:20, 20:40] = True
    raters[1, 5:35, 50:60] = True
    empty = np.zeros((1, height, width), dtype=bool)
    image = np.full((height, width, channels), 0.5, dtype=np.float32)
    labels = {"cup": raters[0], "disc": empty[0]}
    return Case(Record("e1", "e1"), image, labels, {"cup": raters, "disc": empty}, spacing)


def test_every_rater_is_outlined() -> None:
    panel = draw_panel(case())
    assert panel.pixels.shape == (SIDE // 2, SIDE, 3)
    drawn = (panel.pixels == COLOURS[0]).all(axis=-1)
    expected = np.zeros((SIDE // 2, SIDE), dtype=bool)
    for top, bottom, left, right in ((40, 80, 80, 160), (20, 140, 200, 240)):  # four times as large
        expected[top:bottom, left:right] = True
        expected[top + 1 : bottom - 1, left + 1 : right - 1] = False
    assert (drawn == expected).all()
    assert (panel.pixels[~expected] == 128).all()
    assert panel.caption == "e1  80x40, 2 raters"


def test_a_panel_has_the_proportions_of_the_scan() -> None:
    assert draw_panel(case(spacing=(4.0, 1.0))).pixels.shape == (SIDE, SIDE // 2, 3)
    assert draw_panel(case(channels=3)).pixels.shape == (SIDE // 2, SIDE, 3)


def test_an_object_of_a_pixel_is_seen_in_a_large_image() -> None:
    large = case(2000, 2000)
    large.raters["disc"][0, 999, 1001] = True
    assert (draw_panel(large).pixels == COLOURS[1]).all(axis=-1).sum() == 1


def test_a_sheet_has_a_row_for_each_split() -> None:
    def panel(value: int, height: int = SIDE) -> Panel:
        return Panel(np.full((height, SIDE, 3), value, dtype=np.uint8), "a long caption " * 20)

    rows = {"train": [panel(10), panel(20), panel(30)], "val": [panel(50, 100)], "test": []}
    sheet = np.asarray(build_sheet("eyes", [f"structure {i}" for i in range(30)], rows))
    assert sheet.shape[1] == 3 * (SIDE + GAP) + GAP
    for value, size in ((10, SIDE), (20, SIDE), (30, SIDE), (50, 100)):
        assert (sheet == value).all(axis=-1).sum() >= size * SIDE
    tops = [int(np.flatnonzero((sheet == value).all(axis=-1).sum(axis=1) >= SIDE)[0]) for value in (10, 20, 30, 50)]
    assert tops[0] == tops[1] == tops[2] < tops[3] - SIDE - 2 * LINE + 1
    Image.fromarray(sheet)
