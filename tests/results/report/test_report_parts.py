"""Prompted and prompt-free rows in one study: each figure and picture is of the rows that its metric is about."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from medsam2.evaluation.rows import load_rows, save_rows
from medsam2.results.compare.cells import select_rows
from medsam2.tasks.compare import compare
from tests.studies import write_study


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two arms of two seeds that found the disc without a prompt, and hardly."""
    for path in write_study(tmp_path, {"a": 0.9, "b": 0.8}, seeds=(0, 1), cases=8):
        for phase in ("zero_shot", "test"):
            rows = load_rows(path / "rows", phase)
            free = {"budget": "none", "prompted_slices": 0, "dice": 0.25}
            save_rows([row | (free if row["structure"] == "disc" else {}) for row in rows], path / "rows", phase)
    return tmp_path


def test_rows_are_chosen_by_what_a_metric_is_about() -> None:
    frame = pd.DataFrame({"structure": ["cup", "disc"], "budget": ["box", "none"], "dice": [0.9, 0.25]})
    assert select_rows(frame, "dice")["dice"].tolist() == [0.9]
    assert select_rows(frame, "prompt_free_dice")["prompt_free_dice"].tolist() == [0.25]
    assert select_rows(frame[:1], "dice")["dice"].tolist() == [0.9]
    assert select_rows(frame, "hd95").empty


@pytest.mark.parametrize(("metric", "lowest"), [("dice", 0.6), ("prompt_free_dice", 0.2)])
def test_a_report_in_either_metric_shows_its_own_cases(folder: Path, metric: str, lowest: float) -> None:
    page = compare(folder, metric=metric, resamples=100, track=False)
    assert (page.parent / "figures" / "boxes-0.svg").exists()
    scores = pd.read_csv(page.parent / "tables" / "scores-0.csv")
    means = scores[(scores["metric"] == metric) & (scores["structure"] == "mean")]["mean"]
    assert len(means) == 2
    assert (means > lowest).all()
    assert (means < 0.3).all() == (metric != "dice")
