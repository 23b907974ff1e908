"""Scores are what runs print, with everything that has to stand beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from medsam2.evaluation.rows import Row, load_rows, save_rows, summarise
from medsam2.results.collect import collect
from medsam2.results.compare import Board, Comparison, compare
from medsam2.results.compare.comparison import range_of
from tests.studies import FakeRun, write_run

SCORES = {("a", "cup"): 0.5, ("a", "disc"): 0.9, ("b", "cup"): 0.7, ("b", "disc"): 0.8, ("c", "disc"): 0.6}


def make(folder: Path, *runs: FakeRun, **question: Any) -> Comparison:
    for run in runs:
        write_run(folder, run)
    return compare(collect(folder), resamples=200, **question)


def shifted(by: float, **replaced: float) -> dict[tuple[str, str], float]:
    return {key: replaced.get("".join(key), score + by) for key, score in SCORES.items()}


def rewrite(path: Path, change: Any) -> dict[str, float]:
    """Changes each row of phase test; returns what the run would print."""
    rows: list[Row] = [row for old in load_rows(path / "rows", "test") for row in change(dict(old))]
    save_rows(rows, path / "rows", "test")
    return summarise(rows, "test")


def line(board: Board, arm: str, structure: str = "mean", metric: str = "dice") -> pd.Series[Any]:
    scores = board.scores
    (found,) = scores[(scores.arm == arm) & (scores.structure == structure) & (scores.metric == metric)].iloc
    return found


def test_intervals_are_of_possible_values(tmp_path: Path) -> None:
    """Two patients, far apart: an interval of what a Dice or a distance cannot be would say nothing."""
    dice = {("a", "cup"): 0.999, ("b", "cup"): 0.01}
    for seed in (0, 1):
        path = write_run(tmp_path, FakeRun(dice, seed=seed))
        rewrite(path, lambda row: [row | {"hd95": 100 * row["dice"], "excess": row["dice"]}])
    (board,) = compare(collect(tmp_path), resamples=200).boards
    assert tuple(line(board, "sam2_nano", "mean", "dice")[["low", "high"]]) == (0, 1)
    assert line(board, "sam2_nano", "mean", "hd95")["low"] == 0
    assert line(board, "sam2_nano", "mean", "hd95")["high"] > 100
    assert line(board, "sam2_nano", "mean", "excess")["low"] < 0  # of a metric that is not known


@pytest.mark.parametrize(
    ("metrics", "limits"),
    [
        (("dice", "iou", "nsd", "slice_dice", "prompt_dice", "rater_dice", "ece", "prompt_free_dice"), (0, 1)),
        (("hd95", "assd", "volume_error", "vcdr_error", "prompt_free_hd95"), (0, np.inf)),
        (("loss",), (-np.inf, np.inf)),
    ],
)
def test_between_what_a_metric_lies(metrics: tuple[str, ...], limits: tuple[float, float]) -> None:
    assert {range_of(metric) for metric in metrics} == {limits}


def test_means_are_those_that_runs_print(tmp_path: Path) -> None:
    paths = [
        write_run(tmp_path, FakeRun(shifted(by), model=model, seed=seed, patients={"a": "x", "b": "y", "c": "y"}))
        for model, seed, by in [("m", 0, 0.0), ("m", 1, 0.04), ("n", 0, -0.1)]
    ]
    printed = [
        summarise(load_rows(path / "rows", "test"), "test")
        | summarise(load_rows(path / "rows", "zero_shot"), "zero_shot")
        for path in paths
    ]
    (board,) = compare(collect(tmp_path), resamples=200).boards
    for structure in ("mean", "cup", "disc"):
        for metric in ("dice", "iou", "prompt_dice"):
            of_runs = [metrics[f"test/{metric}/{structure}"] for metrics in printed]
            assert line(board, "m", structure, metric)["mean"] == pytest.approx(np.mean(of_runs[:2]), abs=1e-12)
            assert line(board, "m", structure, metric)["sd"] == pytest.approx(np.std(of_runs[:2], ddof=1), abs=1e-12)
            assert line(board, "n", structure, metric)["mean"] == pytest.approx(of_runs[2], abs=1e-12)
    zero_shot = [metrics["zero_shot/dice/mean"] for metrics in printed]
    assert line(board, "m")["zero_shot"] == pytest.approx(np.mean(zero_shot[:2]))
    assert line(board, "n")["zero_shot"] == pytest.approx(zero_shot[2])
    assert line(board, "m")["mean"] == pytest.approx((0.6 + 2.3 / 3) / 2 + 0.02)  # by hand: structures weigh the same
    assert np.isnan(line(board, "n")["sd"])
    assert [line(board, "m")[key] for key in ("runs", "seeds", "patients", "cases", "rows")] == [2, 2, 2, 3, 10]
    assert [line(board, "m", "cup")[key] for key in ("patients", "cases", "rows")] == [2, 2, 4]
    assert line(board, "m")["low"] < line(board, "m")["mean"] < line(board, "m")["high"]
    assert board.name == "phantom"
    assert set(board.cases["arm"]) == {"m", "n"}
    assert len(board.cases) == 15


def test_what_is_undefined_missed_or_made_up_is_counted(tmp_path: Path) -> None:
    def change(row: Row) -> list[Row]:
        if row["case_id"] == "a" and row["structure"] == "cup":
            return [row | {"size_label": 0.0, "size_prediction": 0.0, "dice": None}]  # skipped
        return [row | ({"size_label": 0.0, "dice": 0.0} if row["case_id"] == "c" else {})]

    runs = [FakeRun(shifted(0, bcup=0.0), model="m", seed=seed) for seed in (0, 1)]
    printed = [rewrite(write_run(tmp_path, run), change) for run in runs]
    write_run(tmp_path, FakeRun(SCORES, model="n"))
    (board,) = compare(collect(tmp_path), resamples=200).boards
    counts = ["undefined", "missed", "false_positives", "rows", "cases"]
    assert line(board, "m")[counts].tolist() == [2, 2, 2, 10, 3]
    assert line(board, "m", "cup")[counts].tolist() == [2, 2, 0, 4, 1]
    assert line(board, "m", "disc")[counts].tolist() == [0, 0, 2, 6, 3]
    assert line(board, "n")[counts].tolist() == [0, 0, 0, 5, 3]
    assert line(board, "m")["mean"] == pytest.approx(printed[0]["test/dice/mean"])
    assert any(
        "dice is undefined (NaN) in 2 rows of m" in note and "not the same number" in note for note in board.notes
    )


def test_prompted_and_prompt_free_rows_never_share_a_mean(tmp_path: Path) -> None:
    def change(row: Row) -> list[Row]:
        return [row | ({"budget": "none", "dice": row["dice"] - 0.3} if row["case_id"] != "b" else {})]

    printed = [rewrite(write_run(tmp_path, FakeRun(SCORES, model=model)), change) for model in ("m", "n")]
    (board,) = compare(collect(tmp_path), resamples=200).boards
    assert line(board, "m")["mean"] == pytest.approx(printed[0]["test/dice/mean"]) == pytest.approx(0.75)
    free = line(board, "m", metric="prompt_free_dice")
    assert free["mean"] == pytest.approx(printed[0]["test/prompt_free_dice/mean"])
    assert [free["cases"], line(board, "m")["cases"]] == [2, 1]
    (other,) = compare(collect(tmp_path), metric="prompt_free_dice", resamples=200).boards
    assert set(other.pairs["metric"]) == {"prompt_free_dice"}


def test_the_cup_to_disc_ratio_is_about_no_single_structure(tmp_path: Path) -> None:
    def change(row: Row) -> list[Row]:
        head = {key: row[key] for key in ("phase", "protocol", "position", "case_id", "patient_id", "prompt", "budget")}
        ratio = head | {"structure": "cup_to_disc", "vcdr": 0.5, "vcdr_label": 0.4, "vcdr_error": row["dice"] / 5}
        return [row, ratio] if row["structure"] == "cup" else [row]

    for seed in (0, 1):
        for model, by in (("m", 0.0), ("n", 0.1)):
            rewrite(write_run(tmp_path, FakeRun(shifted(by), model=model, seed=seed)), change)
    (board,) = compare(collect(tmp_path), resamples=200).boards
    assert set(board.scores.query("metric == 'dice'")["structure"]) == {"mean", "cup", "disc"}
    assert line(board, "m")["mean"] == pytest.approx((0.6 + 2.3 / 3) / 2)
    assert line(board, "m", "cup_to_disc", "vcdr_error")["mean"] == pytest.approx(0.12)
    asked = compare(collect(tmp_path), metric="vcdr_error", resamples=200)
    assert not asked.higher_is_better
    assert asked.boards[0].headline == "cup_to_disc"
    assert set(asked.boards[0].pairs["structure"]) == {"cup_to_disc"}
    assert asked.boards[0].scores["arm"].iat[0] == "m"  # the smaller error is the better one


def test_folds_of_a_seed_are_one_replicate_and_incomplete_seeds_are_left_out(tmp_path: Path) -> None:
    runs = [
        FakeRun(
            {(f"case{fold}{i}", "cup"): 0.5 + fold / 10 + seed / 100 for i in range(fold + 1)},
            seed=seed, fold=fold, split_hash=f"hash{fold}", model=model, params={"dataset.folds": 3},
        )
        for model in ("m", "n") for seed in (0, 1) for fold in (0, 1, 2) if (model, seed, fold) != ("n", 1, 2)
    ]  # fmt: skip
    (board,) = make(tmp_path, *runs).boards
    mean = line(board, "m")
    assert mean["mean"] == pytest.approx((0.5 + 2 * 0.6 + 3 * 0.7) / 6 + 0.005)  # over cases, wherever their fold is
    assert mean["sd"] == pytest.approx(np.std([0, 0.01], ddof=1))
    assert mean[["runs", "seeds", "folds", "cases", "patients"]].tolist() == [6, 2, 3, 6, 6]
    assert line(board, "n")[["runs", "seeds", "folds", "cases"]].tolist() == [3, 1, 3, 6]
    assert any("n: seed 1 is left out" in note and "fold 2" in note for note in board.notes)


@pytest.mark.parametrize(("metric", "best"), [("dice", "m"), ("hd95", "n"), ("rater_dice", "n")])
def test_the_best_comes_first_whichever_way_is_up(tmp_path: Path, metric: str, best: str) -> None:
    extra = {"rater1_dice": 0.6, "rater2_dice": 0.8, "rater_ceiling": 0.75}
    comparison = make(
        tmp_path,
        FakeRun(shifted(0.05), model="m", extra=extra | {"hd95": 5.0, "rater_dice": 0.6}),
        FakeRun(SCORES, model="n", extra=extra | {"hd95": 3.0, "rater_dice": 0.7}),
        metric=metric,
    )
    (board,) = comparison.boards
    assert board.scores["metric"].iat[0] == metric
    first = board.scores.drop_duplicates(["metric", "structure"]).query("metric == @metric").set_index("structure")
    assert first["arm"].to_dict() == dict.fromkeys(("mean", "cup", "disc"), best)
    assert board.pairs["a"].iat[0] == best
    assert not {"rater_ceiling", "rater1_dice", "iou_predicted", "size_label"} & set(board.scores["metric"])
    ceilings = board.scores.groupby("metric")["ceiling"].first()
    assert ceilings["dice"] == ceilings["rater_dice"] == 0.75
    assert np.isnan(ceilings["hd95"])
