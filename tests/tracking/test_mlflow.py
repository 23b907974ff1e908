"""The live mirror in a real store: what is written is read back, and no failure of the store reaches the run."""

from __future__ import annotations

import math
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from helpers_tracking import (
    INFO,
    JOB,
    artifacts,
    check_jobs,
    eventually,
    history,
    log_epochs,
    make_run,
    runs_of,
    said,
    write_files,
)

from medsam2.config import PROJECT
from medsam2.runs import RunDirectory
from medsam2.tracking import attendant, mlflow
from medsam2.tracking.base import Offline, Tracker
from medsam2.tracking.mlflow import MlflowTracker


@pytest.fixture
def tracker(store: Path) -> MlflowTracker:
    return MlflowTracker(store)


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    """A run of its own in a store that others share."""
    return make_run(tmp_path / "run", tags={"run_dir": str(tmp_path / "run")}, begun=time.time())


def start(tracker: MlflowTracker, directory: RunDirectory) -> str:
    run = tracker.start(directory)
    assert run is not None
    return run


def test_a_run_is_stored_with_params_tags_and_dataset(tracker: MlflowTracker, directory: RunDirectory) -> None:
    run = tracker.store.client.get_run(start(tracker, directory))
    assert run.data.params == {
        "seed": "0",
        "optim.betas": "[0.9, 0.999]",
        "model.checkpoint": "None",
        "trainer.monitor": "val/dice/mean",
    }
    assert run.info.run_name == INFO.name
    assert run.info.status == "RUNNING"
    assert run.info.start_time == int(directory.description()["begun"] * 1000)
    assert tracker.store.client.get_experiment(run.info.experiment_id).name == "a study"
    assert run.data.tags["run_id"] == "aaa"
    assert run.data.tags["run_dir"] == str(directory.path)
    assert run.data.tags["state"] == "running"
    assert "mlflow.parentRunId" not in run.data.tags
    (dataset,) = run.inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.dataset.digest) == ("blobs", "0123456789abcdef")
    assert {t.key: t.value for t in dataset.tags} == {"mlflow.data.context": "train, val, test"}
    tracker.finish("finished")


def test_a_run_shows_what_was_chosen_and_what_was_given_of_a_network(tracker: MlflowTracker, tmp_path: Path) -> None:
    params = {"model.name": "sam2_s", "model.network.trunk.depth": 3, "model.network.trunk.width": 8, "optim.lr": 1e-4}
    directory = make_run(
        tmp_path / "run",
        params=params | {"loss._convert_": "all", "loss._target_": "x.Loss"},
        choices={"model": "sam2_s", "loss": "dice_ce"},
        typed=["model", "model.network.trunk.depth", "model.net"],
        begun=4.0,
    )
    (directory.path / "provenance.json").write_text('{"revision": "abc"}')
    run = tracker.store.client.get_run(start(tracker, directory))
    tracker.finish("finished")
    shown = {"model": "sam2_s", "loss": "dice_ce", "model.name": "sam2_s", "optim.lr": "0.0001"}
    assert run.data.params == shown | {"model.network.trunk.depth": "3", "loss._target_": "x.Loss"}
    assert run.data.tags["mlflow.source.git.commit"] == "abc"
    experiment = tracker.store.client.get_experiment(run.info.experiment_id)
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"


def test_more_params_than_one_call_takes_and_names_that_mlflow_refuses(tracker: MlflowTracker, tmp_path: Path) -> None:
    params = {f"key{i}": i for i in range(250)} | {"dataset.structures.GTV (1)": "ü"}
    run = start(tracker, make_run(tmp_path / "run", params=params, begun=2.0))
    tracker.finish("finished")
    expected = {k: str(v) for k, v in params.items()}
    expected["dataset.structures.GTV _1_"] = expected.pop("dataset.structures.GTV (1)")
    assert tracker.store.client.get_run(run).data.params == expected


def test_a_password_in_a_parameter_is_not_stored(tracker: MlflowTracker, tmp_path: Path) -> None:
    url = "https://me:secret99@host/files"
    run = start(tracker, make_run(tmp_path / "run", params={"model.url": url}, begun=3.0))
    tracker.finish("finished")
    assert tracker.store.client.get_run(run).data.params == {"model.url": "https://me:***@host/files"}


def test_metrics_are_mirrored_at_once_with_their_times_and_nan_is_left_out(
    tracker: MlflowTracker, directory: RunDirectory
) -> None:
    run = start(tracker, directory)
    client = tracker.store.client
    directory.log_metrics({"val/dice/mean": 0.25, "train/loss": math.nan, "train/lr": math.inf}, 0)
    tracker.update()
    assert eventually(lambda: history(client, run) == [(0, 0.25)])
    directory.log_metrics({"val/dice/mean": 0.5}, 3)
    directory.log_metrics({"train/loss": math.nan}, 4)
    tracker.finish("finished")
    assert history(client, run) == [(0, 0.25), (3, 0.5)]
    times = [m.timestamp for m in client.get_metric_history(run, "val/dice/mean")]
    assert times == [int(line["time"] * 1000) for line in directory.metrics()[:2]]
    assert client.get_run(run).data.metrics == {"val/dice/mean": 0.5}
    assert not tracker.warned


@pytest.mark.parametrize(
    ("state", "status"),
    [
        ("finished", "FINISHED"),
        ("failed", "FAILED"),
        ("interrupted", "KILLED"),
        ("preempted", "KILLED"),
        ("pruned", "KILLED"),
    ],
)
def test_a_run_ends_in_its_state(tracker: MlflowTracker, directory: RunDirectory, state: str, status: str) -> None:
    run = start(tracker, directory)
    directory.update(state=state, reason="data" if state == "failed" else None)
    tracker.finish(state)
    stored = tracker.store.client.get_run(run)
    assert stored.info.status == status
    assert stored.info.end_time >= stored.info.start_time
    assert stored.data.tags["state"] == state
    assert stored.data.tags.get("reason", "") == ("data" if state == "failed" else "")


def test_artifacts_are_copied_but_no_checkpoints(
    tracker: MlflowTracker, directory: RunDirectory, tmp_path: Path
) -> None:
    write_files(directory.path)
    run = start(tracker, directory)
    assert artifacts(tracker.store.client, run) == []  # they change as long as it runs
    tracker.finish("finished")
    files = ["pictures/test/cup_best.png", "rows/test.csv", "rows/test.parquet", "run.json", "run.log", "status.json"]
    assert artifacts(tracker.store.client, run) == ["config.yaml", *files]
    copied = Path(tracker.store.client.download_artifacts(run, "rows/test.csv", str(tmp_path)))
    assert copied.read_text() == "rows/test.csv"
    assert (tracker.store.output_dir / "mlartifacts").is_dir()
    assert not (PROJECT / "mlruns").exists()


def test_artifacts_can_be_switched_off(store: Path, directory: RunDirectory) -> None:
    write_files(directory.path)
    tracker = MlflowTracker(store, artifacts=False)
    run = start(tracker, directory)
    tracker.finish("finished")
    assert artifacts(tracker.store.client, run) == []


@pytest.mark.parametrize("remembered", [True, False], ids=["known id", "by its tags"])
@pytest.mark.parametrize("state", ["failed", "preempted"])
def test_a_resumed_run_keeps_its_id_and_no_epoch_is_there_twice(
    tracker: MlflowTracker, store: Path, directory: RunDirectory, remembered: bool, state: str
) -> None:
    run = start(tracker, directory)
    log_epochs(directory, 0, 1)
    directory.update(state=state, error="it broke")
    tracker.finish(state)
    directory.forget_after(0)
    directory.update(state="running", error=None, mlflow_run_id=run if remembered else None)
    again = MlflowTracker(store)
    assert start(again, directory) == run
    open_again = again.store.client.get_run(run)
    assert (open_again.info.status, open_again.data.tags["state"]) == ("RUNNING", "running")
    assert open_again.data.tags.get("error", "") == ""
    time.sleep(0.002)
    log_epochs(directory, 1, 2)  # 1 was computed again after the last checkpoint
    directory.update(state=state)
    again.finish(state)
    client = again.store.client
    assert client.get_run(run).info.status == ("FAILED" if state == "failed" else "KILLED")
    assert history(client, run) == [(0, 0.25), (1, 0.375), (2, 0.5)]
    assert history(client, run, "train/loss") == [(0, 1.0), (1, 0.5), (2, 1 / 3)]


def test_a_run_that_starts_over_is_a_new_one_and_the_old_is_not_left_open(
    tracker: MlflowTracker, store: Path, directory: RunDirectory
) -> None:
    old = start(tracker, directory)  # killed: nobody closes it
    directory.clear()
    make_run(directory.path, tags=directory_tags(directory), begun=time.time())
    new = start(MlflowTracker(store), directory)
    assert new != old
    assert tracker.store.client.get_run(old).info.status == "KILLED"
    assert tracker.store.client.get_run(new).info.status == "RUNNING"


def directory_tags(directory: RunDirectory) -> dict[str, str]:
    return {"run_dir": str(directory.path)}


@pytest.mark.parametrize("known", ["0" * 32, "deleted"])
def test_an_id_that_the_store_does_not_have_is_replaced(
    tracker: MlflowTracker, store: Path, directory: RunDirectory, known: str
) -> None:
    if known == "deleted":
        known = start(tracker, directory)
        tracker.store.client.delete_run(known)
    directory.update(mlflow_run_id=known)
    again = MlflowTracker(store)
    run = start(again, directory)
    assert run != known
    assert again.store.client.get_run(run).data.params["seed"] == "0"
    assert not again.warned


def test_a_sweep_has_one_parent_however_often_it_is_opened(store: Path, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("a,b\n")
    parents = {MlflowTracker(store).open_sweep("s1", "a study", "sweep", {"axes": "seed"}) for _ in range(2)}
    (parent,) = parents
    assert parent is not None
    other = MlflowTracker(store).open_sweep("s2", "a study", "sweep", {})
    assert other not in (None, parent)
    tracker = MlflowTracker(store)
    child = start(tracker, make_run(tmp_path / "run", parent_run_id=parent, begun=4.0))
    client = tracker.store.client
    assert client.get_run(child).data.tags["mlflow.parentRunId"] == parent
    assert client.get_run(parent).info.status == "FINISHED"  # not left open, whatever becomes of the head
    (tmp_path / "table.md").write_text("| a |\n")
    tracker.log_sweep(parent, [tmp_path / "table.csv", tmp_path / "table.md"], "interrupted")
    assert client.get_run(parent).data.tags["mlflow.note.content"] == "| a |\n"
    stored = client.get_run(parent)
    assert stored.info.status == "KILLED"
    assert (stored.data.tags["sweep_id"], stored.data.tags["axes"]) == ("s1", "seed")
    assert artifacts(client, parent) == ["table.csv", "table.md"]


def test_a_run_that_goes_on_in_a_sweep_becomes_its_child(
    tracker: MlflowTracker, store: Path, directory: RunDirectory
) -> None:
    run = start(tracker, directory)
    tracker.finish("preempted")
    directory.describe(parent_run_id="f" * 32)
    again = MlflowTracker(store)
    assert start(again, directory) == run
    assert again.store.client.get_run(run).data.tags["mlflow.parentRunId"] == "f" * 32


def test_the_environment_cannot_put_one_jobs_metrics_into_another_run(
    tracker: MlflowTracker, directory: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = start(tracker, directory)
    monkeypatch.setenv("MLFLOW_RUN_ID", first)
    assert start(MlflowTracker(tracker.store.output_dir), make_run(tmp_path / "other", begun=5.0)) != first


def test_the_store_is_used_through_the_uri(tmp_path: Path) -> None:
    assert MlflowTracker(tmp_path).store.uri == f"sqlite:///{tmp_path}/mlflow.db"
    assert MlflowTracker(tmp_path, uri="http://127.0.0.1:1").store.uri == "http://127.0.0.1:1"
    assert str(MlflowTracker(tmp_path, uri="postgresql+psycopg2://me:secret@host/mlflow").store) == (
        "postgresql+psycopg2://me:***@host/mlflow"
    )


# ------------------------------------------------------------------------------------- stores that fail


def use_everything(tracker: Tracker, folder: Path) -> None:
    directory = make_run(folder)
    write_files(folder)
    assert tracker.start(directory) is None
    for epoch in range(3):
        log_epochs(directory, epoch)
        tracker.update()
    tracker.finish("finished")
    assert tracker.open_sweep("s1", "a study", "sweep", {}) is None
    tracker.log_sweep("parent", [], "finished")


@contextmanager
def port(answers: bool = False) -> Iterator[int]:
    """A port at which nobody listens, or somebody who never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if answers:
            listener.listen(50)
        yield listener.getsockname()[1]


def test_a_server_that_is_not_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with port() as number:
        uri = f"http://me:secret@127.0.0.1:{number}"
        use_everything(MlflowTracker(tmp_path, uri=uri), tmp_path / "run")
    (message,) = said(caplog)
    assert message == (
        f"MLflow store http://me:***@127.0.0.1:{number}: [Errno 111] Connection refused. "
        "The run goes on without it; `python run.py task=sync` brings it up to date."
    )


def test_no_step_waits_for_a_server_that_hangs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlflow, "START", 0.2)
    with port(answers=True) as number:
        tracker = MlflowTracker(tmp_path, uri=f"http://127.0.0.1:{number}", patience=0.4)
        directory, begin = make_run(tmp_path / "run"), time.monotonic()
        assert tracker.start(directory) is None
        started = time.monotonic()
        for _ in range(100):
            tracker.update()
        stepped = time.monotonic()
        tracker.finish("finished")
        ended = time.monotonic()
    assert started - begin < 1.5
    assert stepped - started < 0.2
    assert ended - stepped < 1.5
    assert len(said(caplog)) == 1


@pytest.mark.parametrize("kind", ["no folder", "not a database", "unknown scheme"])
def test_a_store_that_cannot_be_opened(tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str) -> None:
    (tmp_path / "file").write_text("this is no database, and longer than its header of a hundred bytes. " * 3)
    uri = {
        "no folder": f"sqlite:///{tmp_path}/file/mlflow.db",
        "not a database": f"sqlite:///{tmp_path}/file",
        "unknown scheme": "nosuch://somewhere",
    }[kind]
    use_everything(MlflowTracker(tmp_path, uri=uri), tmp_path / "run")
    assert len(said(caplog)) == 1


def test_a_store_that_becomes_unwritable(fresh: Path, caplog: pytest.LogCaptureFixture) -> None:
    tracker, directory = MlflowTracker(fresh), make_run(fresh / "run")
    start(tracker, directory)
    with sqlite3.connect(fresh / "mlflow.db") as connection:
        connection.execute("drop table metrics")
    for epoch in range(3):
        log_epochs(directory, epoch)
        tracker.update()
    tracker.finish("finished")
    assert len(said(caplog)) == 1


@pytest.mark.parametrize("retried", ["in mid-run", "at the end"])
def test_a_store_that_failed_gets_what_it_missed(
    fresh: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, retried: str
) -> None:
    monkeypatch.setattr(attendant, "FIRST_PAUSE", 0.05 if retried == "in mid-run" else 100.0)
    tracker, directory = MlflowTracker(fresh), make_run(fresh / "run")
    run = start(tracker, directory)
    with sqlite3.connect(fresh / "mlflow.db") as connection:
        connection.execute("alter table metrics rename to elsewhere")
    log_epochs(directory, 0)
    tracker.update()
    assert eventually(lambda: tracker.warned)
    with sqlite3.connect(fresh / "mlflow.db") as connection:
        connection.execute("alter table elsewhere rename to metrics")
    log_epochs(directory, 1)
    tracker.update()
    client = MlflowTracker(fresh).store.client
    if retried == "in mid-run":
        assert eventually(lambda: history(client, run) == [(0, 0.25), (1, 0.375)])
    tracker.finish("finished")
    assert len(said(caplog)) == 1
    assert client.get_run(run).info.status == "FINISHED"
    assert history(client, run) == [(0, 0.25), (1, 0.375)]
    assert len(runs_of(client)) == 1


def test_an_exception_of_a_signal_handler_is_not_taken_for_the_stores(tracker: MlflowTracker) -> None:
    """A dead loader worker raises wherever the main thread is; so does Ctrl-C."""
    import _thread

    class Slow(MlflowTracker):
        def _mirror_run(self, last: bool) -> None:
            if last:
                _thread.interrupt_main()
                time.sleep(1)

    slow = Slow(tracker.store.output_dir)
    slow.start(RunDirectory(Path("nowhere")))
    with pytest.raises(KeyboardInterrupt):
        slow.finish("failed")
    assert not slow.warned


@pytest.mark.slow
def test_a_store_that_is_locked(fresh: Path, caplog: pytest.LogCaptureFixture) -> None:
    tracker, directory = MlflowTracker(fresh), make_run(fresh / "run")
    run = start(tracker, directory)
    connection = sqlite3.connect(fresh / "mlflow.db", isolation_level=None)
    connection.execute("begin exclusive")
    begin = time.monotonic()
    for epoch in range(3):
        log_epochs(directory, epoch)
        tracker.update()
    assert time.monotonic() - begin < 0.2
    assert eventually(lambda: tracker.warned, seconds=60)
    connection.execute("rollback")
    tracker.finish("finished")
    (message,) = said(caplog)
    assert "locked" in message
    assert tracker.store.client.get_run(run).info.status == "FINISHED"
    assert [epoch for epoch, _ in history(tracker.store.client, run)] == [0, 1, 2]


# ------------------------------------------------------------------------------- many processes, one store


def test_four_processes_open_one_fresh_store_at_once(opened_at_once: tuple[Path, list[int]]) -> None:
    folder, statuses = opened_at_once
    assert statuses == [0] * 4
    check_jobs(MlflowTracker(folder), 4)


@pytest.mark.slow
def test_sixteen_processes_open_one_fresh_store_at_once(tmp_path: Path) -> None:
    command, env = [sys.executable, "-c", JOB, str(tmp_path)], os.environ | {"OMP_NUM_THREADS": "1"}
    processes = [subprocess.Popen([*command, str(i)], cwd=PROJECT, env=env) for i in range(16)]
    assert [p.wait(timeout=290) for p in processes] == [0] * 16
    check_jobs(MlflowTracker(tmp_path), 16)


def test_no_tracker_takes_everything(tmp_path: Path) -> None:
    use_everything(Offline(), tmp_path / "run")
    shutil.rmtree(tmp_path / "run")
    assert list(tmp_path.iterdir()) == []
