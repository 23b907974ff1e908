"""Every number in the tables of a report, computed again from the rows by `tests.recompute`."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

from medsam2.tasks.compare import compare
from tests.recompute import Page, Runs, every_line
from tests.studies import FakeRun, write_run

PROJECT = Path(__file__).parents[2]
PATIENTS = 14
DRAWN = {"low", "high", "mean_rank", "first"}  # by a bootstrap: equal but for chance
PLAIN = {"begun", "seconds", "seed", "board", "runs"}  # of the tables runs and settings: copied, not computed


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three arms, one much worse, one alike; two cases of a patient, a miss, a case without a value."""
    folder, rng = tmp_path_factory.mktemp("study"), np.random.default_rng(3)
    cases = [f"case{i:02d}" for i in range(2 * PATIENTS - 3)]
    patients = {case: f"patient{i // 2:02d}" for i, case in enumerate(cases)}
    hardness = rng.beta(2, 8, (len(cases), 2))
    for arm, cost in (("alpha", 0.0), ("beta", 0.004), ("gamma", 0.08)):
        for seed in (0, 1, 2):
            noise = rng.normal(0, 0.01, hardness.shape) + rng.normal(0, 0.004)
            dice = (1 - 0.4 * hardness - cost + noise).clip(0.01, 1)
            scores = {(c, s): dice[i, k] for i, c in enumerate(cases) for k, s in enumerate(("cup", "disc"))}
            scores[cases[3], "disc"] = 0.0 if arm == "gamma" else 0.5
            scores[cases[5], "cup"] = float("nan")
            write_run(folder, FakeRun(scores, model=arm, seed=seed, patients=patients, seconds=10.0 + seed))
    return folder


def test_every_number_follows_from_the_rows(folder: Path) -> None:
    page = compare(folder, track=False)
    counts = check(folder, page)
    assert counts["scores-0"] == 3 * 12
    assert counts["pairs-0"] >= 3 * 9  # difference, interval, three tests, three effects
    assert counts["pairs-all-0"] == 3 * 3 * 6  # of the mean and two structures: three tests, three counts
    assert {"structures-0", "structure-pairs-0", "stability-0", "rejection", "calibration", "cost"} <= set(counts)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_number_of_a_real_sweep_follows_from_its_rows(tmp_path: Path) -> None:
    words = ["model=litemedsam,sam2_nano", "dataset=chest_ct", "seed=0,1,2"]
    for command in (["-m", *words], ["task=compare"]):
        subprocess.run([sys.executable, "run.py", *command, f"paths.output_dir={tmp_path}"], cwd=PROJECT, check=True)
    counts = check(tmp_path, tmp_path / "reports" / "all" / "report.html")
    assert counts["scores-0"] >= 2 * 12
    assert counts["pairs-0"] >= 9
    assert counts["pairs-all-0"] == 3 * 3  # one pair: nothing was adjusted


def check(folder: Path, page: Path) -> dict[str, int]:
    """Holds every number against the recomputed one; returns how many there were in each table."""
    numbers = Numbers(folder)
    counts: dict[str, int] = {}
    for table, about, column, value in read(page):
        expected = numbers.find(table, about, column)
        where = f"{table} {about} {column}"
        assert expected is not None, f"{where}: nobody knows where this number comes from"
        assert value == pytest.approx(expected, **numbers.tolerance(column, about)), where
        counts[table] = counts.get(table, 0) + 1
    return counts


def read(page: Path) -> Iterator[tuple[str, dict[str, str], str, float]]:
    for table, rows in Page(page).tables.items():
        for about, cells in rows:
            for cell in cells:
                metric = {"metric": cell["data-metric"]} if "data-metric" in cell else {}
                yield table, about | metric, cell["data-column"], float(cell["data-value"])


class Numbers:
    """Where each number of a page comes from."""

    def __init__(self, folder: Path) -> None:
        self.runs = Runs.read(folder)
        frames = [frame for arm in self.runs.arms.values() for frame in arm.rows.values()]
        self.lines = every_line(self.runs, sorted({name for frame in frames for name in frame.structure}), "dice")
        self.score, self.interval = lru_cache(None)(self.runs.score), lru_cache(None)(self.runs.interval)
        self.ranks = self.runs.ranks("dice")
        self.stored = {}
        for file in folder.glob("runs/*/*/status.json"):
            about, status = json.loads((file.parent / "run.json").read_text()), json.loads(file.read_text())
            self.stored[about["run_id"]] = about | status | {"seed": about["params"]["seed"]}

    def find(self, table: str, about: dict[str, str], column: str) -> float | None:
        kind = table.split("-")[0]
        if kind in ("scores", "structures", "all", "metrics"):
            arm, structure, metric = about["arm"], about["structure"], about["metric"]
            if column in ("low", "high"):
                return self.interval((arm,), structure, metric)[column == "high"]
            return self.score(arm, structure, metric).get(column)
        if kind in ("pairs", "structure"):
            return self.pair(about["a"], about["b"], about["structure"], column)
        if table == "stability-0":
            return float(self.ranks.at[about["arm"], column])
        if table == "rejection":
            return self.runs.rejection(about["arm"], float(column))
        if (table, column) == ("calibration", "iou"):
            return self.runs.iou_error(about["arm"])
        if table == "cost":
            mine = [run for run in self.stored.values() if run["params"]["model.name"] == about["arm"]]
            if column == "runs":
                return len(mine)
            return float(np.mean([run["seconds"] if column == "seconds" else run["cost"][column] for run in mine]))
        if table == "runs" and column in PLAIN:
            return float(self.stored[about["run-id"]][column])
        if table == "settings":
            return {"board": 0, "runs": len(self.stored)}.get(column)
        return None

    def pair(self, a: str, b: str, structure: str, column: str) -> float | None:
        if column in ("low", "high"):
            return self.interval((a, b), structure, "dice")[column == "high"]
        if column.startswith("more"):
            return self.runs.plan(a, b, structure, "dice", len(self.runs.pairs))[column]
        known = self.lines[structure]
        if (a, b) in known or column.startswith("p_"):
            return known[(a, b) if (a, b) in known else (b, a)].get(column)
        return self.runs.pair(a, b, structure, "dice").get(column)

    def tolerance(self, column: str, about: dict[str, str]) -> dict[str, float]:
        """How far two draws may lie apart: limits by a part of the interval, p of drawn flips by their chance error."""
        if column in ("low", "high"):
            arms = (about["arm"],) if "arm" in about else (about["a"], about["b"])
            low, high = self.interval(arms, about["structure"], about["metric"])
            return {"abs": 0.08 * (high - low) + 1e-9}
        if column.startswith("p_permutation"):
            return {"rel": 0.12, "abs": 0.004}
        if column.startswith("p_joint"):
            return {"rel": 0.02}  # read off a table of levels that lie 5 % apart
        return {"abs": 0.06} if column in DRAWN else {"rel": 1e-9, "abs": 1e-9}
