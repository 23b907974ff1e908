"""Curves over what a user gives, clicks that a score takes, calibration, and raters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from medsam2.evaluation.calibration import compute_ece, count_bins
from medsam2.evaluation.rows import Row, load_rows, save_rows
from medsam2.results.collect import collect
from medsam2.results.compare import Comparison, compare
from tests.studies import FakeRun, write_run

CASES, STRUCTURES = tuple("abcdef"), ("cup", "disc")
MODELS = {"m": 0.75, "n": 0.6}


def dice_after(model: str, seed: int, case: str, structure: str, level: float) -> float:
    """After so many clicks; the cup is harder."""
    start = MODELS[model] + seed / 100 + CASES.index(case) / 50 - (structure == "cup") / 10
    return min(0.95, start + 0.05 * (level - 1))


def rows_of(model: str, seed: int, path: Path) -> list[Row]:
    """Five clicks, and jitter of the box on one structure alone."""
    rows = []
    for row in load_rows(path / "rows", "test"):
        for level in range(1, 6):
            dice = dice_after(model, seed, row["case_id"], row["structure"], level)
            rows.append(row | {"axis": "clicks", "level": float(level), "dice": dice, "budget": f"{level} clicks"})
        if row["structure"] == "disc":
            rows += [row | {"axis": "jitter", "level": level, "dice": 0.9 - level} for level in (0.0, 0.1)]
    return rows


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    folder = tmp_path_factory.mktemp("budgets")
    raters = {"rater1_dice": 0.6, "rater2_dice": 0.8, "rater_dice": 0.7, "rater_ceiling": 0.75}
    for model in MODELS:
        for seed in (0, 1):
            scores = {(c, s): dice_after(model, seed, c, s, 1) for c in CASES for s in STRUCTURES}
            run = FakeRun(scores, model=model, seed=seed, budget="1 click", extra=raters)
            path = write_run(folder, run)
            save_rows(rows_of(model, seed, path), path / "rows", "budget")
            bins = [
                {"phase": "test", "structure": s, "bin": b, "number": 10.0 * (b + seed), "expected": b / 2,
                 "actual": b / 3}
                for s in STRUCTURES for b in range(15)
            ]  # fmt: skip
            save_rows(bins, path / "rows", "test_bins")
    return compare(collect(folder), resamples=100)


def test_intervals_of_curves_and_clicks_are_of_possible_values(tmp_path: Path) -> None:
    """Two patients: one is good after a click, the other never."""
    path = write_run(tmp_path, FakeRun({("a", "cup"): 0.99, ("b", "cup"): 0.01}, budget="1 click"))
    tested = load_rows(path / "rows", "test")
    rows = [row | {"axis": "clicks", "level": float(level)} for row in tested for level in range(1, 6)]
    save_rows(rows, path / "rows", "budget")
    made = compare(collect(tmp_path), resamples=100)
    assert made.curves[["low", "high"]].drop_duplicates().to_numpy().tolist() == [[0, 1]]
    assert made.clicks_needed[["mean", "low", "high"]].drop_duplicates().to_numpy().tolist() == [[3, 1, 5]]


def of(frame: pd.DataFrame, **values: Any) -> pd.DataFrame:
    for column, value in values.items():
        frame = frame[frame[column] == value]
    return frame


def test_curves_are_means_at_each_level(comparison: Comparison) -> None:
    clicks = of(comparison.curves, axis="clicks", arm="m")
    assert clicks["level"].tolist() == [1, 2, 3, 4, 5]
    for level, mean in zip(clicks["level"], clicks["mean"], strict=True):
        values = [dice_after("m", seed, c, s, level) for seed in (0, 1) for s in STRUCTURES for c in CASES]
        assert mean == pytest.approx(np.mean(values))
    assert ((clicks["low"] < clicks["mean"]) & (clicks["mean"] < clicks["high"])).all()
    assert set(clicks["patients"]) == {6}
    assert set(clicks["seeds"]) == {2}
    assert set(clicks["metric"]) == {"dice"}
    jitter = of(comparison.curves, axis="jitter", arm="n")
    assert jitter["mean"].tolist() == pytest.approx([0.9, 0.8])
    assert set(comparison.curves["dataset"]) == {"phantom"}
    first = clicks["mean"].iat[0]
    (board,) = comparison.boards
    assert first == pytest.approx(of(board.scores, arm="m", structure="mean", metric="dice")["mean"].iat[0])


@pytest.mark.parametrize("target", [0.8, 0.85, 0.9])
@pytest.mark.parametrize("arm", MODELS)
def test_clicks_that_a_score_takes(comparison: Comparison, arm: str, target: float) -> None:
    numbers, failed = [], []
    for seed in (0, 1):
        for case in CASES:
            for structure in STRUCTURES:
                reached = [k for k in range(1, 6) if dice_after(arm, seed, case, structure, k) >= target]
                numbers.append(min(reached, default=5))
                failed.append(not reached)
    (found,) = of(comparison.clicks_needed, arm=arm, target=target).iloc
    assert found["mean"] == pytest.approx(np.mean(numbers))
    assert found["failed"] == pytest.approx(np.mean(failed))
    assert found["limit"] == 5
    assert found["low"] <= found["mean"] <= found["high"]


def test_calibration_is_of_the_pooled_bins(comparison: Comparison) -> None:
    (board,) = comparison.boards
    rows = board.cases[board.cases["arm"] == "m"]
    counted = count_bins(rows["iou_predicted"].to_numpy(), rows["iou"].to_numpy())
    found = of(comparison.calibration, arm="m", kind="iou").set_index("bin")
    assert found["ece"].to_numpy() == pytest.approx(compute_ece(counted))
    assert found["number"].sum() == len(rows) == 24
    for number in found.index:
        assert found["expected"][number] == pytest.approx(counted[1, number] / counted[0, number])
        assert found["actual"][number] == pytest.approx(counted[2, number] / counted[0, number])
    pixels = of(comparison.calibration, arm="n", kind="pixels").set_index("bin")
    assert pixels["number"][3] == 2 * (30 + 40)
    assert pixels["expected"][3] == pytest.approx(4 * 1.5 / 140)
    assert pixels["actual"][3] == pytest.approx(4 * 1.0 / 140)
    assert pixels["ece"].iat[0] == pytest.approx(sum(4 * b / 6 for b in range(15)) / pixels["number"].sum())


def test_raters_are_scored_one_by_one(comparison: Comparison) -> None:
    (board,) = comparison.boards
    found = of(comparison.raters, arm="m", structure="mean").set_index("rater")["mean"]
    expected = {"rater 1": 0.6, "rater 2": 0.8, "mean of raters": 0.7, "raters among themselves": 0.75}
    assert found.drop("majority").to_dict() == pytest.approx(expected)
    assert found["majority"] == pytest.approx(of(board.scores, arm="m", structure="mean", metric="dice")["mean"].iat[0])
    assert set(comparison.raters["structure"]) == {"mean", *STRUCTURES}


def test_without_such_rows_the_frames_are_empty(tmp_path: Path) -> None:
    write_run(tmp_path, FakeRun({(c, "cup"): 0.5 for c in CASES}))
    comparison = compare(collect(tmp_path), resamples=50)
    assert comparison.curves.empty
    assert comparison.clicks_needed.empty
    assert comparison.raters.empty
    assert set(comparison.calibration["kind"]) == {"iou"}
    assert {"axis", "level", "mean"} <= set(comparison.curves.columns)
