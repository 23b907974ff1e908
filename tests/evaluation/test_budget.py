"""What the rows of a budget say: how many clicks are needed, and means that are never of two budgets."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from medsam2.data.batch import ObjectInfo
from medsam2.data.budget_prompt import Point
from medsam2.data.prompts import ClickPrompt
from medsam2.evaluation.budget import BudgetRecorder, count_clicks, describe_budget, name_level, summarise_budget
from medsam2.evaluation.evaluator import Evaluator
from medsam2.evaluation.rows import Row
from medsam2.methods.base import Prediction


def make_rows(
    curve: list[float | None], case: str = "a", structure: str = "cup", axis: str = "clicks", start: float = 1
) -> list[Row]:
    return [
        {"case_id": case, "structure": structure, "dice": dice, "axis": axis, "level": start + i, "draw": 0}
        for i, dice in enumerate(curve)
    ]


@pytest.mark.parametrize(
    ("curve", "target", "clicks", "failed"),
    [
        ([0.9, 0.95, 0.99], 0.8, 1, False),
        ([0.5, 0.8, 0.99], 0.8, 2, False),  # reached, not exceeded
        ([0.5, 0.85, 0.7], 0.8, 2, False),  # the first time counts, whatever comes then
        ([0.5, 0.6, 0.7], 0.8, 3, True),
        ([0.5, 0.6, 0.8], 0.8, 3, False),  # as many clicks, but there
    ],
)
def test_clicks_until_a_target(curve: list[float | None], target: float, clicks: int, failed: bool) -> None:
    (line,) = count_clicks(pd.DataFrame(make_rows(curve)), target).to_dict("records")
    assert line == {"case_id": "a", "structure": "cup", "clicks": clicks, "failed": failed}


def test_clicks_are_counted_of_each_case_and_structure_and_along_no_other_axis() -> None:
    rows = make_rows([0.7, 0.9]) + make_rows([0.9, 0.9], "b") + make_rows([0.1, 0.2], "b", "disc")
    rows += make_rows([1.0], axis="jitter", start=0) + make_rows([None, None], "c")
    needed = count_clicks(pd.DataFrame(rows), 0.8)
    assert needed.to_numpy().tolist() == [["a", "cup", 2, False], ["b", "cup", 1, False], ["b", "disc", 2, True]]


def test_a_summary_has_a_mean_for_every_budget_and_none_over_two() -> None:
    rows = make_rows([0.7, 0.9]) + make_rows([0.9, 0.95], "b") + make_rows([0.1, 0.2], "b", "disc")
    rows += [
        row | {"draw": draw}
        for draw, dice in enumerate((0.4, 0.6))
        for row in make_rows([dice], axis="jitter", start=0.1)
    ]
    summary = summarise_budget(rows, [0.85])
    assert summary == pytest.approx(
        {
            "budget/dice@1/cup": 0.8,
            "budget/dice@1/disc": 0.1,
            "budget/dice@1/mean": 0.45,
            "budget/dice@2/cup": 0.925,
            "budget/dice@2/disc": 0.2,
            "budget/dice@2/mean": 0.5625,
            "budget/dice@jitter0.1/cup": 0.5,
            "budget/dice@jitter0.1/mean": 0.5,
            "budget/noc85/cup": 1.5,
            "budget/noc85/disc": 2,
            "budget/noc85/mean": 1.75,
            "budget/noc85_failed/cup": 0,
            "budget/noc85_failed/disc": 1,
            "budget/noc85_failed/mean": 0.5,
        }
    )
    assert all(type(value) is float for value in summary.values())


def test_a_summary_can_be_read() -> None:
    rows = make_rows([0.7, 0.9]) + make_rows([0.1, 0.2], "b") + make_rows([0.5], axis="jitter", start=0.1)
    assert describe_budget(rows, [0.85]) == [
        "dice over clicks: 0.400 (1), 0.550 (2)",
        "dice over jitter: 0.500 (0.1)",
        "clicks to a dice of 0.85: 2.0 (50% of the cases never have it)",
    ]


def test_without_clicks_nothing_is_said_of_them() -> None:
    rows = [*make_rows([0.5, 0.6], axis="slices"), make_rows([0.9], axis="slices")[0] | {"level": math.inf}]
    keys = ["budget/dice@1slices", "budget/dice@2slices", "budget/dice@allslices"]
    assert list(summarise_budget(rows, [0.8])) == [f"{key}/{of}" for key in keys for of in ("cup", "mean")]
    assert summarise_budget([], [0.8]) == {}
    assert name_level("jitter", 0.05) == "jitter0.05"


# ------------------------------------------------------------------------------------------------ recorder

LABEL = np.zeros((2, 4), dtype=bool)
LABEL[:, 1:3] = True


def answer(logits: Tensor, case: str, volume: str = "", index: int = 0) -> Prediction:
    prompt = ClickPrompt(1, "center")(LABEL, np.random.default_rng(0))
    info = ObjectInfo(case, "p", "cup", prompt, (1.0, 1.0), LABEL, volume=volume, index=index, thickness=1.0)
    return Prediction(logits[None, None], torch.tensor([0.5]), [info])


RIGHT = torch.from_numpy(LABEL).float() - 0.5
HALF = torch.tensor([[-1.0, 1, -1, -1], [-1.0, 1, -1, -1]])  # 2 of 4 pixels: Dice 2/3


def test_a_volume_is_scored_at_each_point_when_all_its_slices_are_there() -> None:
    recorder = BudgetRecorder(Evaluator(["iou"]), "alone")
    one, two = Point("clicks", 1.0), Point("clicks", 2.0)
    for index, case, volume in ((0, "v0", "v"), (1, "v1", "v"), (0, "w0", "w")):
        recorder(one, answer(HALF, case, volume, index))
        recorder(two, answer(RIGHT, case, volume, index))
    assert list(recorder.scored) == ["v"]
    rows = recorder.rows()
    keys = ("phase", "case_id", "position", "prompted_slices", "level", "draw", "axis")
    assert [tuple(row[key] for key in keys) for row in rows] == [
        ("budget", "v", 0, 2, 1, 0, "clicks"),
        ("budget", "v", 0, 2, 2, 0, "clicks"),
        ("budget", "w", 1, 1, 1, 0, "clicks"),
        ("budget", "w", 1, 1, 2, 0, "clicks"),
    ]
    assert [row["dice"] for row in rows] == pytest.approx([2 / 3, 1, 2 / 3, 1])
    assert [row["iou"] for row in rows] == pytest.approx([0.5, 1, 0.5, 1])


def test_metrics_that_take_long_are_of_the_ordinary_rows_alone() -> None:
    evaluator = Evaluator(["hd95", "iou", "ece"], vcdr=["cup", "disc"])
    recorder = BudgetRecorder(evaluator, "alone")
    recorder(Point("clicks", 1.0), answer(HALF, "a"))
    (row,) = recorder.rows()
    assert row["dice"] == pytest.approx(2 / 3)
    assert {"dice", "iou"} <= row.keys()
    assert not {"hd95", "ece"} & row.keys()
    assert evaluator.names == ("hd95", "iou", "ece")  # it stays as it was
    assert evaluator.scorer.vcdr == ("cup", "disc")


def test_a_budget_is_scored_with_the_evaluators_own_definitions() -> None:
    recorder = BudgetRecorder(Evaluator(["dice"], probability=0.9), "alone")
    recorder(Point("clicks", 1.0), answer(RIGHT, "a"))  # logit 0.5 is probability 0.62
    assert [row["dice"] for row in recorder.rows()] == [0]
