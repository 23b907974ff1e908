"""Rows survive the disk, and means are means of means."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medsam2.evaluation.rows import load_rows, save_rows, summarise


def row(case: str, structure: str, dice: float | None, **more: Any) -> dict[str, Any]:
    head = {"phase": "test", "case_id": case, "patient_id": "p" + case, "structure": structure, "prompt": "box"}
    return head | {"budget": "box", "dice": dice} | more


ROWS = [
    row("1", "cup", 0.2, prompt_dice=None, area_label=3.0, area_prediction=4.0, area_unit="mm2", iou_predicted=0.9),
    row("2", "cup", 0.4, prompt_dice=0.5, area_label=3.0, area_prediction=4.0, area_unit="mm2", iou_predicted=0.9),
    row("3", "cup", 0.9, prompt_dice=0.7, area_label=3.0, area_prediction=4.0, area_unit="mm2", iou_predicted=0.9),
    row("1", "disc", 1.0, prompt_dice=None, area_label=3.0, area_prediction=4.0, area_unit="mm2", iou_predicted=0.9),
]


def test_the_mean_is_over_structures_of_means_over_cases() -> None:
    assert summarise(ROWS, "val") == pytest.approx(
        {
            "val/dice/cup": 0.5,
            "val/dice/disc": 1.0,
            "val/dice/mean": 0.75,  # not 0.625, the mean over rows
            "val/prompt_dice/cup": 0.6,  # the case without a box is left out
            "val/prompt_dice/mean": 0.6,
            "val/cases/cup": 3.0,
            "val/cases/disc": 1.0,
        }
    )


def test_a_metric_that_never_applies_has_no_mean() -> None:
    summary = summarise([row("1", "cup", 0.5, prompt_dice=None), row("2", "cup", 0.7, prompt_dice=None)], "test")
    assert summary == pytest.approx({"test/dice/cup": 0.6, "test/dice/mean": 0.6, "test/cases/cup": 2.0})


def test_a_score_of_zero_counts() -> None:
    assert summarise([row("1", "cup", 0.0), row("2", "cup", 1.0)], "test")["test/dice/cup"] == 0.5


def test_no_rows_no_summary() -> None:
    assert summarise([], "test") == {}


def test_parquet_gives_back_what_was_saved(tmp_path: Path) -> None:
    save_rows(ROWS, tmp_path, "test")
    loaded = load_rows(tmp_path, "test")
    assert [list(r) for r in loaded] == [list(r) for r in ROWS]
    for got, saved in zip(loaded, ROWS, strict=True):
        assert {k: v for k, v in got.items() if k != "prompt_dice"} == {
            k: v for k, v in saved.items() if k != "prompt_dice"
        }
        assert saved["prompt_dice"] == got["prompt_dice"] or np.isnan(got["prompt_dice"])
    assert summarise(loaded, "test") == summarise(ROWS, "test")


def test_csv_is_readable_with_numbers_to_six_digits(tmp_path: Path) -> None:
    save_rows([row("01", "cup", 1 / 3), row("02", "cup", None)], tmp_path, "val")
    with (tmp_path / "val.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [(line["case_id"], line["structure"], line["dice"]) for line in lines] == [
        ("01", "cup", "0.333333"),
        ("02", "cup", ""),
    ]


def test_saving_again_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    save_rows(ROWS, tmp_path, "val")
    save_rows(ROWS[:1], tmp_path, "val")
    assert len(load_rows(tmp_path, "val")) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["val.csv", "val.parquet"]


def test_a_kill_while_saving_leaves_the_old_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_rows(ROWS, tmp_path, "val")

    def killed(source: object, target: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        save_rows(ROWS[:1], tmp_path, "val")
    assert len(load_rows(tmp_path, "val")) == 4
