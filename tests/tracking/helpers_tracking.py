"""Run directories as an experiment leaves them, and what a store says about a run."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from medsam2.runs import RunDirectory
from medsam2.tracking.base import RunInfo
from medsam2.tracking.mlflow import MlflowTracker

INFO = RunInfo(
    run_id="aaa",
    name="sam2_nano blobs seed 0 (aaa)",
    study="a study",
    params={"seed": 0, "optim.betas": [0.9, 0.999], "model.checkpoint": None, "trainer.monitor": "val/dice/mean"},
    tags={"run_dir": "/somewhere"},
    dataset="blobs",
    split_hash="0123456789abcdef",
    begun=1_700_000_000.25,
)


def make_run(path: Path, state: str = "running", info: RunInfo = INFO, **changes: Any) -> RunDirectory:
    """A run that has looked at its data."""
    directory = RunDirectory(path)
    path.mkdir(parents=True, exist_ok=True)
    directory.update(state=state, run_id=info.run_id)
    directory.describe(**asdict(replace(info, **changes)))
    return directory


def write_files(folder: Path) -> None:
    files = ["config.yaml", "run.log", "rows/test.csv", "rows/test.parquet", "pictures/test/cup_best.png"]
    for name in [*files, "checkpoints/last.pt", "notes.txt"]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def log_epochs(directory: RunDirectory, *epochs: int) -> None:
    for epoch in epochs:
        directory.log_metrics({"val/dice/mean": 0.25 + epoch / 8, "train/loss": 1 / (epoch + 1)}, epoch)


def history(client: MlflowClient, run: str, key: str = "val/dice/mean") -> list[tuple[int, float]]:
    """Epochs and values as stored, repetitions included."""
    return sorted((m.step, m.value) for m in client.get_metric_history(run, key))


def runs_of(client: MlflowClient, study: str = "a study") -> list[Run]:
    experiment = client.get_experiment_by_name(study)
    return list(client.search_runs([experiment.experiment_id])) if experiment else []


def artifacts(client: MlflowClient, run: str, path: str | None = None) -> list[str]:
    found = []
    for item in client.list_artifacts(run, path):
        found += artifacts(client, run, item.path) if item.is_dir else [item.path]
    return sorted(found)


def eventually(question: Callable[[], bool], seconds: float = 10.0) -> bool:
    """Whether the answer becomes yes within some time."""
    until = time.monotonic() + seconds
    while not (answer := question()) and time.monotonic() < until:
        time.sleep(0.02)
    return answer


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What a user would read on the terminal."""
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


JOB = """
import sys, time
from pathlib import Path
from dataclasses import asdict
from medsam2.runs import RunDirectory
from medsam2.tracking.base import RunInfo
from medsam2.tracking.mlflow import MlflowTracker
number, folder = sys.argv[2], Path(sys.argv[1])
directory = RunDirectory(folder / "runs" / number)
directory.update(state="running")
directory.describe(**asdict(RunInfo(number, "n", "many", {"a": 1}, {}, "blobs", "0123", time.time())))
tracker = MlflowTracker(folder, uri=sys.argv[3] if len(sys.argv) > 3 else None, patience=280)
tracker.start(directory)
directory.log_metrics({"x": float(number)}, 0)
tracker.update()
tracker.finish("finished")
sys.exit(tracker.warned)
"""  # what a process does: python -c JOB FOLDER NUMBER [URI]


def fork_jobs(folder: Path, count: int) -> list[int]:
    """Does JOB in this many processes at once, which need not import anything any more; their exit statuses."""
    import mlflow.store.tracking.sqlalchemy_store  # noqa: F401  # once, for all of them

    children = []
    for number in range(count):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                sys.argv = ["job", str(folder), str(number)]
                exec(JOB, {"__name__": "job"})
            except SystemExit as end:
                status = int(end.code or 0)
            finally:
                os._exit(status)
        children.append(child)
    return [os.waitpid(child, 0)[1] for child in children]


def check_jobs(tracker: MlflowTracker, count: int) -> None:
    runs = runs_of(tracker.store.client, "many")
    assert sorted(r.data.metrics["x"] for r in runs) == [float(i) for i in range(count)]
    assert {r.info.status for r in runs} == {"FINISHED"}
    assert [e.name for e in tracker.store.client.search_experiments()].count("many") == 1
