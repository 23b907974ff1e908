"""task=evaluate prompt=click_budget from its command to its rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from medsam2.config_check import find_problems
from medsam2.experiment import run
from tests.conftest import Compose

SMALL = (
    "task=evaluate",
    "prompt=click_budget",
    "prompt.clicks=2",
    "prompt.jitter=[0, 0.1]",
    "prompt.draws=2",
    "prompt.slices=[1, null]",
    "dataset=phantom",
    "dataset.volumes={train: 1, val: 1, test: 2}",
    "dataset.depth=8",
    "model.checkpoint=null",
    "image_size=64",
    "device=cpu",
    "cache=none",
    "num_workers=0",
    "metrics.overlays=false",
)


def execute(config: Compose, folder: Path, *overrides: str) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, Any]]:
    """The rows of a run's test and of its budget, and its metrics."""
    run(config(*SMALL, *overrides, f"run_dir={folder}"))
    status = json.loads((folder / "status.json").read_text())
    assert status["state"] == "finished"
    test, budget = (pd.read_parquet(folder / "rows" / f"{name}.parquet") for name in ("test", "budget"))
    return test, budget, status["metrics"]


def check_first(test: pd.DataFrame, budget: pd.DataFrame, axis: str, level: float) -> None:
    """The run's ordinary rows are those of its first point."""
    first = budget[(budget["axis"] == axis) & (budget["level"] == level)].reset_index(drop=True)
    assert set(budget.columns) - set(test.columns) == {"axis", "level", "draw"}
    assert first["prompt_dice"].isna().all()  # of clicks there is none
    columns = [column for column in test.columns if column not in ("phase", "prompt_dice")]
    pd.testing.assert_frame_equal(test[columns], first[columns])


def test_images_are_measured_along_clicks_and_jitter(config: Compose, tmp_path: Path) -> None:
    test, budget, metrics = execute(config, tmp_path / "run", "batch_size=3")
    check_first(test, budget, "clicks", 1)
    assert budget.groupby(["axis", "level", "draw"]).size().to_dict() == {
        ("clicks", 1, 0): 6,  # two volumes of three structures
        ("clicks", 2, 0): 6,
        ("jitter", 0, 0): 6,
        ("jitter", 0.1, 0): 6,
        ("jitter", 0.1, 1): 6,
    }
    jittered = budget[budget["level"] == 0.1]
    means = jittered.groupby("structure")["dice"].mean()
    assert metrics["budget/dice@jitter0.1/mean"] == pytest.approx(means.mean())
    assert metrics["budget/noc80/mean"] == 2
    assert metrics["budget/noc80_failed/mean"] == 1  # random weights
    assert metrics["test/dice/mean"] == pytest.approx(metrics["budget/dice@1/mean"])
    logged = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert any("budget/dice@2/lobe" in line["metrics"] for line in logged)


@pytest.mark.slow
def test_volumes_are_measured_along_slices(config: Compose, tmp_path: Path) -> None:
    test, budget, metrics = execute(
        config, tmp_path / "run", "method=volume", "dataset.slices=all", "metrics.overlays=true"
    )
    check_first(test, budget, "slices", 1)
    assert set(test["budget"]) == {"1 click on 1 slice"}
    assert set(budget["level"]) == {1, float("inf")}
    assert {"budget/dice@1slices/mean", "budget/dice@allslices/mean"} <= set(metrics)
    assert not [key for key in metrics if "noc" in key]
    assert list((tmp_path / "run" / "pictures" / "test").glob("*.png"))


def test_it_trains_nothing(config: Compose) -> None:
    fine, training = config(*SMALL), config(*SMALL, "task=train")
    assert find_problems(fine) == []
    (problem,) = find_problems(training)
    assert problem.startswith("prompt=click_budget measures a model and trains none: use task=evaluate")


def test_its_settings_are_checked_before_any_work(config: Compose) -> None:
    (problem,) = find_problems(config(*SMALL, "prompt.clicks=0"))
    assert problem.startswith("prompt: prompt.clicks=0: a whole number, 1 or more")
