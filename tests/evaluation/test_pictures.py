"""Pictures of single cases: the right cases, and colours in the right places."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from medsam2.data.batch import Batch, ObjectInfo
from medsam2.data.loader import PromptedCases, build_loader
from medsam2.data.prompts import BoxPrompt, Prompt
from medsam2.data.records import Case, Record, of_split
from medsam2.evaluation.evaluator import Evaluator
from medsam2.evaluation.metrics import Mask
from medsam2.evaluation.pictures import (
    LABEL,
    PANEL,
    PREDICTION,
    PROMPT,
    _select,
    choose_cases,
    draw_case,
    draw_cases,
    save_picture,
)
from medsam2.methods.base import Method, Prediction
from tests.fakes import SIZE, Blobs

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


def test_of_a_distance_the_worst_is_the_largest() -> None:
    table = [r | {"hd95": 10 * r["dice"]} for r in rows(0.5, 0.1, 0.9)]
    assert [(rank, row["case_id"]) for rank, row in choose_cases(table, "hd95")] == [
        ("worst", "c2"),
        ("median", "c0"),
        ("best", "c1"),
    ]


def test_rows_without_the_metric_are_not_shown() -> None:
    ratio = {"case_id": "c0", "structure": "cup_to_disc", "vcdr_error": 0.1}
    skipped = [{"case_id": "c8", "structure": "cup", "dice": value} for value in (None, float("nan"))]
    assert [row["case_id"] for _, row in choose_cases([*rows(0.5), *skipped, ratio])] == ["c0"]


# ------------------------------------------------------------------------------------------ predicted again


class Bright(Method):
    """Finds what is brighter than the mean; it counts the cases it was asked about."""

    def __init__(self, in_order: bool = False) -> None:
        super().__init__(nn.Identity())
        self.in_order = in_order
        self.asked: list[str] = []
        self.starts = 0

    def start_evaluation(self, support: Callable[[], Iterable[Batch]]) -> None:
        self.asked, self.starts = [], self.starts + 1

    def predict(self, batch: Batch) -> Prediction:
        self.asked += batch.case_ids
        logits = batch.images.mean(dim=1, keepdim=True)[batch.image_index] - 0.35
        return Prediction(logits, torch.ones(len(logits)), batch.objects)


class Volumes(Blobs):
    """The blobs as slices of two volumes."""

    def records(self) -> list[Record]:
        records = [r for r in super().records() if r.split == "test"]
        return [
            replace(r, case_id=f"v{i // 3}_z{i % 3}", volume=f"v{i // 3}", index=i % 3) for i, r in enumerate(records)
        ]


def draw_chosen(dataset: Blobs, method: Bright, batch_size: int = 2) -> dict[str, Image.Image]:
    cases = PromptedCases(dataset, of_split(dataset.records(), "test"), BoxPrompt(), SIZE, seed=0)
    loader = build_loader(cases, batch_size, num_workers=0, shuffle=False, seed=0)
    evaluator = Evaluator(["dice"])
    rows = evaluator.evaluate(method, loader, "test", "cpu", nullcontext)
    method.asked = []
    cases.pictures = True
    return dict(draw_cases(evaluator, method, cases, loader, rows, "cpu", nullcontext))


def test_only_the_chosen_cases_are_asked_about_again() -> None:
    method = Bright()
    pictures = draw_chosen(Blobs(test=6), method)
    structures, ranks, names = zip(*(name.removesuffix(".png").split("_") for name in pictures), strict=True)
    assert structures == ("blob",) * 3
    assert ranks == ("worst", "median", "best")
    assert sorted(names) == method.asked
    assert method.starts == 1


def test_where_the_order_matters_all_cases_are_asked_again_in_order() -> None:
    method = Bright(in_order=True)
    pictures = draw_chosen(Blobs(test=6), method)
    assert method.asked == [f"test{i}" for i in range(6)]
    assert method.starts == 2
    assert list(pictures) == list(draw_chosen(Blobs(test=6), Bright()))


def test_a_volume_is_shown_by_the_slice_on_which_the_structure_is_largest(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[tuple[str, str]] = []

    def note(info: ObjectInfo, prediction: Mask, caption: str) -> Image.Image:
        shown.append((info.case_id, caption))
        return draw_case(info, prediction, caption)

    monkeypatch.setattr("medsam2.evaluation.pictures.draw_case", note)
    dataset, method = Volumes(test=6), Bright()
    load = dataset.load

    def load_larger(record: Record) -> Case:
        case = load(record)
        case.raters["blob"][..., -1] |= record.case_id in ("v0_z1", "v1_z2")  # a column more than on other slices
        return replace(case, labels={"blob": case.raters["blob"][0]})

    monkeypatch.setattr(dataset, "load", load_larger)
    pictures = draw_chosen(dataset, method)
    assert sorted(pictures) in (["blob_best_v0.png", "blob_worst_v1.png"], ["blob_best_v1.png", "blob_worst_v0.png"])
    assert sorted(case for case, _ in shown) == ["v0_z1", "v1_z2"]
    assert any("case v0, slice 1 (box on 3 slices), dice 0." in caption for _, caption in shown)
    assert method.asked == [f"v{v}_z{z}" for v in (0, 1) for z in (0, 1, 2)]


def test_clips_are_found_by_the_volumes_they_are_of() -> None:
    records = [Record(f"v{v}_z{z}", "p", "test", volume=f"v{v}") for v in range(3) for z in range(2)]

    class Clips:
        volumes = (records[:2], records[2:4], records[4:])

        def __init__(self) -> None:
            self.records = records

        def __getitem__(self, index: int) -> int:
            return index

        def collate(self, items: list[int]) -> list[int]:
            return items

    clips: Any = Clips()
    assert list(_select(clips, {"v1"})) == [[1]]
    assert list(_select(clips, {"v0_z1", "v2"})) == [[0], [2]]


# -------------------------------------------------------------------------------------------------- panels


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
