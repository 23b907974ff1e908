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
    row("1", "cup", 0.2, prompt_dice=None, size_label=3.0, size_prediction=4.0, size_unit="mm2", iou_predicted=0.9),
    row("2", "cup", 0.4, prompt_dice=0.5, size_label=3.0, size_prediction=4.0, size_unit="mm2", iou_predicted=0.9),
    row("3", "cup", 0.9, prompt_dice=0.7, size_label=3.0, size_prediction=4.0, size_unit="mm2", iou_predicted=0.9),
    row("1", "disc", 1.0, prompt_dice=None, size_label=3.0, size_prediction=4.0, size_unit="mm2", iou_predicted=0.9),
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
            "val/prompted/share": 1.0,
        }
    )


def test_a_metric_that_never_applies_has_no_mean() -> None:
    summary = summarise([row("1", "cup", 0.5, prompt_dice=None), row("2", "cup", 0.7, prompt_dice=None)], "test")
    expected = {"test/dice/cup": 0.6, "test/dice/mean": 0.6, "test/cases/cup": 2.0, "test/prompted/share": 1.0}
    assert summary == pytest.approx(expected)


def test_a_score_of_zero_counts() -> None:
    assert summarise([row("1", "cup", 0.0), row("2", "cup", 1.0)], "test")["test/dice/cup"] == 0.5


def test_prompted_and_prompt_free_rows_share_no_mean() -> None:
    free = [row("1", "cup", 0.1, prompt="learned", budget="none"), row("2", "lens", 0.3, prompt="none", budget="none")]
    mixed = summarise(ROWS[:2] + free, "test")
    assert mixed == pytest.approx(
        {
            "test/dice/cup": 0.3,
            "test/dice/mean": 0.3,
            "test/prompt_dice/cup": 0.5,
            "test/prompt_dice/mean": 0.5,
            "test/cases/cup": 2.0,
            "test/prompt_free_dice/cup": 0.1,
            "test/prompt_free_dice/lens": 0.3,
            "test/prompt_free_dice/mean": 0.2,
            "test/prompt_free_cases/cup": 1.0,
            "test/prompt_free_cases/lens": 1.0,
            "test/prompted/share": 0.5,
        }
    )
    alone = summarise(free, "test")
    assert alone["test/dice/mean"] == pytest.approx(0.2)
    assert alone["test/prompted/share"] == 0.0
    assert not any("prompt_free" in key for key in alone)


def test_the_cup_to_disc_row_is_no_case_and_has_no_other_mean() -> None:
    ratio = {"vcdr": 0.5, "vcdr_label": 0.4, "vcdr_error": 0.1, "prompt": "learned", "budget": "none"}
    ratios = [row(case, "cup_to_disc", None) | ratio | {"vcdr_error": e} for case, e in (("1", 0.1), ("2", 0.3))]
    with_ratio = summarise(ROWS + [r | {"prompt": "box", "budget": "box"} for r in ratios], "test")
    error = {"test/vcdr_error/cup_to_disc": 0.2, "test/vcdr_error/mean": 0.2}
    assert with_ratio == pytest.approx(summarise(ROWS, "test") | error)
    free = [r | {"prompt": "learned", "budget": "none"} for r in ROWS]
    assert summarise(free + ratios, "test")["test/prompted/share"] == 0.0


def test_the_predicted_iou_is_compared_with_the_measured_one() -> None:
    def judged(case: str, structure: str, iou: float, expected: float, **more: Any) -> dict[str, Any]:
        return row(case, structure, 0.5, iou=iou, iou_predicted=expected, **more)

    rows = [judged("1", "cup", 0.5, 0.9), judged("2", "cup", 0.9, 0.92), judged("3", "cup", 0.3, 0.1)]
    # 0.9 and 0.92 fall into one bin: |0.91 - 0.70| for two of three, |0.1 - 0.3| for the third
    cup = (2 * 0.21 + 0.2) / 3
    rows += [judged("1", "disc", 0.8, 1.7)]  # a head that is not bounded counts as certain
    summary = summarise(rows, "val")
    ece = {key: value for key, value in summary.items() if "iou_ece" in key}
    assert ece == pytest.approx({"val/iou_ece/cup": cup, "val/iou_ece/disc": 0.2, "val/iou_ece/mean": (cup + 0.2) / 2})
    # of a volume the head has judged slices
    volumes = [judged("v", "cup", 0.1, 0.7, slice_iou=0.6), judged("1", "cup", 0.4, 0.2, slice_iou=None)]
    assert summarise(volumes, "val")["val/iou_ece/cup"] == pytest.approx((0.1 + 0.2) / 2)


def test_it_is_said_what_distances_are_measured_in() -> None:
    rows = [row(str(i), "cup", 0.5, hd95=3.0, size_unit=u) for i, u in enumerate(["mm2", "mm3", "pixel", "voxel"])]
    assert summarise(rows, "test")["test/in_mm/share"] == 0.5
    assert "test/in_mm/share" not in summarise(ROWS, "test")


def test_what_a_volume_cost_is_said_of_volumes_alone() -> None:
    volumes = [row("1", "cup", 0.5, prompted_slices=4, slice_dice=0.4), row("2", "cup", 0.5, prompted_slices=1)]
    assert summarise(volumes, "test")["test/prompted_slices/cup"] == 2.5
    images = [{k: v for k, v in one.items() if k != "slice_dice"} for one in volumes]
    assert not [key for key in summarise(images, "test") if "slices" in key]


def test_the_order_of_cases_is_no_metric() -> None:
    ordered = [one | {"position": i} for i, one in enumerate(ROWS)]
    assert summarise(ordered, "test") == summarise(ROWS, "test")


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
