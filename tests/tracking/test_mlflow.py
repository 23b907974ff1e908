"""The mirror in a real store: what is written is read back, and no failure of the store reaches the run."""

from __future__ import annotations

import logging
import math
import os
import socket
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from medsam2.config import PROJECT
from medsam2.tracking.base import Offline, RunInfo, Tracker
from medsam2.tracking.mlflow import MlflowTracker

INFO = RunInfo(
    run_id="aaa",
    name="sam2_nano blobs seed 0 (aaa)",
    study="a study",
    params={"seed": 0, "optim.betas": [0.9, 0.999], "model.checkpoint": None, "trainer.monitor": "val/dice/mean"},
    tags={"run_dir": "/somewhere"},
    dataset="blobs",
    split_hash="0123456789abcdef",
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose mlflow.db exists: making its tables takes seconds."""
    folder = tmp_path_factory.mktemp("store")
    MlflowTracker(folder).client  # noqa: B018
    return folder


@pytest.fixture
def tracker(store: Path) -> MlflowTracker:
    return MlflowTracker(store)


def start(tracker: MlflowTracker, info: RunInfo = INFO) -> str:
    run = tracker.start(info)
    assert run is not None
    return run


def test_a_run_is_stored_with_params_tags_and_dataset(tracker: MlflowTracker) -> None:
    run = tracker.client.get_run(start(tracker))
    assert run.data.params == {
        "seed": "0",
        "optim.betas": "[0.9, 0.999]",
        "model.checkpoint": "None",
        "trainer.monitor": "val/dice/mean",
    }
    assert run.info.run_name == INFO.name
    assert run.info.status == "RUNNING"
    assert tracker.client.get_experiment(run.info.experiment_id).name == "a study"
    assert run.data.tags["run_id"] == "aaa"
    assert run.data.tags["run_dir"] == "/somewhere"
    assert "mlflow.parentRunId" not in run.data.tags
    (dataset,) = run.inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.dataset.digest) == ("blobs", "0123456789abcdef")
    assert {t.key: t.value for t in dataset.tags} == {"mlflow.data.context": "train, val, test"}


def test_more_params_than_one_call_takes(tracker: MlflowTracker) -> None:
    params = {f"key{i}": i for i in range(250)}
    run = tracker.client.get_run(start(tracker, replace(INFO, params=params)))
    assert run.data.params == {k: str(v) for k, v in params.items()}


def test_metrics_come_back_with_their_epochs_and_nan_is_left_out(tracker: MlflowTracker) -> None:
    run = start(tracker)
    before = int(time.time() * 1000)
    tracker.log_metrics({"val/dice/mean": 0.25, "train/loss": math.nan, "train/lr": math.inf}, 0)
    tracker.log_metrics({"val/dice/mean": 0.5}, 3)
    tracker.log_metrics({"train/loss": math.nan}, 4)
    history = tracker.client.get_metric_history(run, "val/dice/mean")
    assert [(m.step, m.value) for m in history] == [(0, 0.25), (3, 0.5)]
    assert all(before <= m.timestamp <= time.time() * 1000 for m in history)
    assert tracker.client.get_run(run).data.metrics == {"val/dice/mean": 0.5}
    assert not tracker.down


@pytest.mark.parametrize(
    ("state", "status"), [("finished", "FINISHED"), ("failed", "FAILED"), ("interrupted", "KILLED")]
)
def test_a_run_ends_in_its_state(tracker: MlflowTracker, state: str, status: str) -> None:
    run = start(tracker)
    tracker.finish(state)
    info = tracker.client.get_run(run).info
    assert info.status == status
    assert info.end_time >= info.start_time


def run_folder(tmp_path: Path) -> Path:
    files = ["config.yaml", "metrics.jsonl", "run.log", "rows/test.csv", "rows/test.parquet"]
    for name in [*files, "pictures/test/cup_best.png", "checkpoints/last.pt", "notes.txt"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


def artifacts(tracker: MlflowTracker, run: str, path: str | None = None) -> list[str]:
    found = []
    for item in tracker.client.list_artifacts(run, path):
        found += artifacts(tracker, run, item.path) if item.is_dir else [item.path]
    return sorted(found)


def test_artifacts_are_copied_but_no_checkpoints(tracker: MlflowTracker, tmp_path: Path) -> None:
    run = start(tracker)
    tracker.log_files(run_folder(tmp_path / "run"))
    expected = ["config.yaml", "metrics.jsonl", "pictures/test/cup_best.png", "rows/test.csv", "rows/test.parquet"]
    assert artifacts(tracker, run) == [*expected, "run.log"]
    copied = Path(tracker.client.download_artifacts(run, "rows/test.csv", str(tmp_path)))
    assert copied.read_text() == "rows/test.csv"
    assert (tracker.output_dir / "mlartifacts").is_dir()
    assert not (PROJECT / "mlruns").exists()


def test_artifacts_can_be_switched_off(store: Path, tmp_path: Path) -> None:
    tracker = MlflowTracker(store, artifacts=False)
    run = start(tracker)
    tracker.log_files(run_folder(tmp_path))
    assert artifacts(tracker, run) == []


def test_a_resumed_run_keeps_its_id(tracker: MlflowTracker, store: Path) -> None:
    run = start(tracker)
    tracker.log_metrics({"val/dice/mean": 0.25}, 0)
    tracker.finish("failed")
    again = MlflowTracker(store)
    assert start(again, replace(INFO, known_id=run)) == run
    assert again.client.get_run(run).info.status == "RUNNING"
    again.log_metrics({"val/dice/mean": 0.25}, 0)  # computed again after the last checkpoint
    again.log_metrics({"val/dice/mean": 0.5}, 1)
    again.finish("finished")
    stored = again.client.get_run(run)
    assert stored.info.status == "FINISHED"
    assert [m.step for m in again.client.get_metric_history(run, "val/dice/mean")] == [0, 1]


@pytest.mark.parametrize("known", ["0" * 32, "deleted"])
def test_an_id_that_the_store_does_not_have_is_replaced(tracker: MlflowTracker, known: str) -> None:
    if known == "deleted":
        known = start(tracker)
        tracker.client.delete_run(known)
    run = start(tracker, replace(INFO, known_id=known))
    assert run != known
    assert tracker.client.get_run(run).data.params["seed"] == "0"
    assert not tracker.down


def test_a_sweep_has_one_parent_however_often_it_is_opened(store: Path, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("a,b\n")
    parents = {MlflowTracker(store).open_sweep("s1", "a study", "sweep", {"axes": "seed"}) for _ in range(2)}
    (parent,) = parents
    assert parent is not None
    other = MlflowTracker(store).open_sweep("s2", "a study", "sweep", {})
    assert other not in (None, parent)
    tracker = MlflowTracker(store)
    child = start(tracker, replace(INFO, parent_run_id=parent))
    assert tracker.client.get_run(child).data.tags["mlflow.parentRunId"] == parent
    tracker.log_sweep(parent, [tmp_path / "table.csv"], "interrupted")
    stored = tracker.client.get_run(parent)
    assert stored.info.status == "KILLED"
    assert (stored.data.tags["sweep_id"], stored.data.tags["axes"]) == ("s1", "seed")
    assert artifacts(tracker, parent) == ["table.csv"]


def test_the_environment_cannot_put_one_jobs_metrics_into_another_run(
    tracker: MlflowTracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = start(tracker)
    monkeypatch.setenv("MLFLOW_RUN_ID", first)
    second = start(MlflowTracker(tracker.output_dir))
    assert second != first


def test_the_store_is_used_through_the_uri(tmp_path: Path) -> None:
    assert MlflowTracker(tmp_path).uri == f"sqlite:///{tmp_path}/mlflow.db"
    assert MlflowTracker(tmp_path, uri="http://127.0.0.1:1").uri == "http://127.0.0.1:1"


# ------------------------------------------------------------------------------------- stores that fail


def use_everything(tracker: Tracker, folder: Path) -> None:
    assert tracker.start(INFO) is None
    for epoch in range(3):
        tracker.log_metrics({"val/dice/mean": 0.5}, epoch)
    tracker.log_files(folder)
    tracker.finish("finished")
    assert tracker.open_sweep("s1", "a study", "sweep", {}) is None
    tracker.log_sweep("parent", [], "finished")


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What a user would read on the terminal."""
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


def test_a_server_that_is_not_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{free.getsockname()[1]}"
    use_everything(MlflowTracker(tmp_path, uri=uri), run_folder(tmp_path))
    (message,) = said(caplog)
    assert message.startswith(f"MLflow store {uri}: ")
    assert message.endswith("The run goes on without it; its directory has it all.")
    assert "\n" not in message


@pytest.mark.parametrize("kind", ["no folder", "not a database", "unknown scheme"])
def test_a_store_that_cannot_be_opened(tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str) -> None:
    (tmp_path / "file").write_text("this is no database, and longer than its header of a hundred bytes. " * 3)
    uri = {
        "no folder": f"sqlite:///{tmp_path}/file/mlflow.db",
        "not a database": f"sqlite:///{tmp_path}/file",
        "unknown scheme": "nosuch://somewhere",
    }[kind]
    use_everything(MlflowTracker(tmp_path, uri=uri), run_folder(tmp_path / "run"))
    assert len(said(caplog)) == 1


def test_a_store_that_becomes_unwritable(tmp_path: Path, store: Path, caplog: pytest.LogCaptureFixture) -> None:
    copy = tmp_path / "mlflow.db"
    copy.write_bytes((store / "mlflow.db").read_bytes())
    tracker = MlflowTracker(tmp_path)
    start(tracker)
    with sqlite3.connect(copy) as connection:
        connection.execute("drop table metrics")
    for epoch in range(3):
        tracker.log_metrics({"val/dice/mean": 0.5}, epoch)
    tracker.finish("finished")
    assert len(said(caplog)) == 1


def test_a_store_that_failed_once_gets_what_it_missed_at_the_end(
    tmp_path: Path, store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copy = tmp_path / "mlflow.db"
    copy.write_bytes((store / "mlflow.db").read_bytes())
    tracker = MlflowTracker(tmp_path)
    run = start(tracker)
    with sqlite3.connect(copy) as connection:
        connection.execute("alter table metrics rename to elsewhere")
    tracker.log_metrics({"val/dice/mean": 0.25}, 0)
    with sqlite3.connect(copy) as connection:
        connection.execute("alter table elsewhere rename to metrics")
    tracker.log_metrics({"val/dice/mean": 0.5}, 1)
    tracker.finish("finished")
    assert len(said(caplog)) == 1
    assert tracker.client.get_run(run).info.status == "FINISHED"
    history = tracker.client.get_metric_history(run, "val/dice/mean")
    assert sorted((m.step, m.value) for m in history) == [(0, 0.25), (1, 0.5)]


def test_a_run_that_goes_on_in_a_sweep_becomes_its_child(tracker: MlflowTracker, store: Path) -> None:
    run = start(tracker)
    again = MlflowTracker(store)
    start(again, replace(INFO, known_id=run, parent_run_id="f" * 32))
    assert again.client.get_run(run).data.tags["mlflow.parentRunId"] == "f" * 32


def test_a_parent_is_not_left_open(store: Path) -> None:
    tracker = MlflowTracker(store)
    parent = tracker.open_sweep("s3", "a study", "sweep", {})
    assert tracker.client.get_run(str(parent)).info.status == "FINISHED"


@pytest.mark.slow
def test_a_store_that_is_locked(tmp_path: Path, store: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "mlflow.db").write_bytes((store / "mlflow.db").read_bytes())
    tracker = MlflowTracker(tmp_path)
    run = start(tracker)
    connection = sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None)
    connection.execute("begin exclusive")
    tracker.log_metrics({"val/dice/mean": 0.5}, 0)
    begin = time.monotonic()
    tracker.log_metrics({"val/dice/mean": 0.5}, 1)
    assert time.monotonic() - begin < 1  # waits once, not for every call
    connection.execute("rollback")
    tracker.finish("finished")
    (message,) = said(caplog)
    assert "locked" in message
    assert tracker.client.get_run(run).info.status == "FINISHED"
    assert [m.step for m in tracker.client.get_metric_history(run, "val/dice/mean")] == [0, 1]


@pytest.mark.slow
def test_eight_processes_open_one_fresh_store(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from medsam2.tracking.base import RunInfo
from medsam2.tracking.mlflow import MlflowTracker
tracker = MlflowTracker(Path(sys.argv[1]))
run = tracker.start(RunInfo(sys.argv[2], "n", "a study", {"a": 1}, {}, "blobs", "0123"))
tracker.log_metrics({"x": float(sys.argv[2])}, 0)
tracker.finish("finished")
sys.exit(tracker.down or run is None)
"""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path), str(i)], cwd=PROJECT, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
        for i in range(8)
    ]
    assert [p.wait(timeout=250) for p in processes] == [0] * 8
    client = MlflowTracker(tmp_path).client
    (experiment,) = [e for e in client.search_experiments() if e.name == "a study"]
    runs = client.search_runs([experiment.experiment_id])
    assert sorted(r.data.metrics["x"] for r in runs) == [float(i) for i in range(8)]
    assert {r.info.status for r in runs} == {"FINISHED"}


def test_no_tracker_takes_everything(tmp_path: Path) -> None:
    use_everything(Offline(), tmp_path)
    assert list(tmp_path.iterdir()) == []
