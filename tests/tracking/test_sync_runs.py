"""Bringing a store up to date from run directories alone: the same history, whatever happened before, and only once."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock
from helpers_tracking import INFO, artifacts, history, log_epochs, make_run, runs_of, write_files

from medsam2.runs import RunDirectory
from medsam2.tracking.mlflow import MlflowTracker
from medsam2.tracking.store import Store
from medsam2.tracking.sync import Report, Sync


def sync(folder: Path, **filters: str) -> Report:
    return Sync(Store(folder), folder, **filters)()


def counts(report: Report) -> tuple[int, int, int, int]:
    return len(report.sent), len(report.current), len(report.skipped), len(report.failed)


def add_run(
    folder: Path, name: str = "aaa", state: str = "finished", epochs: int = 3, study: str = "a study"
) -> RunDirectory:
    path = folder / "runs" / "blobs" / name
    directory = make_run(path, state, run_id=name, study=study, tags={"run_dir": str(path)})
    log_epochs(directory, *range(epochs))
    return directory


def add_sweep(folder: Path, sweep: str, runs: list[str], submitted: float, **more: object) -> None:
    jobs = [{"run_id": run, "run_dir": str(folder / "runs" / "blobs" / run), "overrides": []} for run in runs]
    content = {"sweep_id": sweep, "axes": ["seed"], "submitted": submitted, "jobs": jobs} | more
    (folder / "sweeps" / sweep).mkdir(parents=True)
    (folder / "sweeps" / sweep / "manifest.json").write_text(json.dumps(content))
    (folder / "sweeps" / sweep / "table.csv").write_text(f"{sweep}\n")


def test_runs_made_offline_are_stored_whole_and_once(fresh: Path) -> None:
    for name, state in (("aaa", "finished"), ("bbb", "failed")):
        write_files(add_run(fresh, name, state).path)
    report = sync(fresh)
    assert counts(report) == (2, 0, 0, 0)
    client = Store(fresh).client
    first, second = sorted(runs_of(client), key=lambda run: run.data.tags["run_id"])
    assert (first.info.status, second.info.status) == ("FINISHED", "FAILED")
    assert first.info.start_time == int(INFO.begun * 1000)
    assert first.data.params["optim.betas"] == "[0.9, 0.999]"
    assert first.inputs.dataset_inputs[0].dataset.digest == INFO.split_hash
    assert history(client, first.info.run_id) == [(0, 0.25), (1, 0.375), (2, 0.5)]
    directory = RunDirectory(fresh / "runs" / "blobs" / "aaa")
    times = {m.step: m.timestamp for m in client.get_metric_history(first.info.run_id, "val/dice/mean")}
    assert times == {line["epoch"]: int(line["time"] * 1000) for line in directory.metrics()}
    assert first.info.end_time == int(directory.status()["updated"] * 1000)
    assert "rows/test.csv" in artifacts(client, first.info.run_id)
    assert counts(sync(fresh)) == (0, 2, 0, 0)
    assert len(runs_of(client)) == 2


def test_what_the_live_mirror_stored_is_not_sent_again(fresh: Path) -> None:
    directory = add_run(fresh, state="running")
    tracker = MlflowTracker(fresh)
    tracker.start(directory)
    directory.update(state="finished")
    tracker.finish("finished")
    assert counts(sync(fresh)) == (0, 1, 0, 0)


@pytest.mark.parametrize("lost", [0, 1, 2], ids=["nothing", "one epoch", "two epochs"])
def test_a_killed_run_is_closed_and_completed(fresh: Path, lost: int) -> None:
    directory = add_run(fresh, state="running", epochs=3 - lost)
    run = MlflowTracker(fresh).start(directory)  # and then its process is gone
    assert run is not None
    log_epochs(directory, *range(3 - lost, 3))
    client = Store(fresh).client
    assert client.get_run(run).info.status == "RUNNING"
    sync(fresh)
    stored = client.get_run(run)
    assert (stored.info.status, stored.data.tags["state"], stored.data.tags["reason"]) == ("KILLED", "failed", "killed")
    assert history(client, run) == [(0, 0.25), (1, 0.375), (2, 0.5)]
    assert len(runs_of(client)) == 1
    assert counts(sync(fresh)) == (0, 1, 0, 0)


@pytest.mark.parametrize(("state", "status"), [("preempted", "KILLED"), ("queued", "SCHEDULED")])
def test_a_run_that_waits_is_not_left_running(fresh: Path, state: str, status: str) -> None:
    directory = add_run(fresh, state="running")
    run = MlflowTracker(fresh).start(directory)
    directory.update(state=state)
    sync(fresh)
    assert Store(fresh).client.get_run(str(run)).info.status == status


def test_a_run_that_is_computed_right_now_stays_open_and_goes_on(fresh: Path) -> None:
    directory = add_run(fresh, state="running")
    write_files(directory.path)
    with directory.claim():
        assert counts(sync(fresh)) == (1, 0, 0, 0)
        client = Store(fresh).client
        (run,) = runs_of(client)
        assert run.info.status == "RUNNING"
        assert artifacts(client, run.info.run_id) == []
        assert counts(sync(fresh)) == (0, 1, 0, 0)
        log_epochs(directory, 3)
        assert counts(sync(fresh)) == (1, 0, 0, 0)
    directory.update(state="finished")
    sync(fresh)
    (run,) = runs_of(client)
    assert run.info.status == "FINISHED"
    assert [epoch for epoch, _ in history(client, run.info.run_id)] == [0, 1, 2, 3]


def test_an_epoch_computed_again_is_there_once(fresh: Path) -> None:
    directory = add_run(fresh, state="preempted")
    sync(fresh)
    directory.forget_after(1)
    time.sleep(0.002)
    log_epochs(directory, 2, 3)
    directory.update(state="finished")
    sync(fresh)
    client = Store(fresh).client
    (run,) = runs_of(client)
    assert run.info.status == "FINISHED"
    assert history(client, run.info.run_id) == [(0, 0.25), (1, 0.375), (2, 0.5), (3, 0.625)]


def test_a_mirror_that_died_half_way_is_completed(fresh: Path) -> None:
    directory = add_run(fresh)
    about = directory.description()
    store = Store(fresh)
    made = store.create("a study", "half", {"run_id": "aaa", "begun": str(about["begun"])}, about["begun"])
    assert counts(sync(fresh)) == (1, 0, 0, 0)
    (run,) = runs_of(store.client)
    assert run.info.run_id == made.info.run_id
    assert run.data.params["seed"] == "0"
    assert run.data.tags["run_dir"] == str(directory.path)
    assert len(run.inputs.dataset_inputs) == 1
    assert run.info.status == "FINISHED"


def test_a_run_that_was_started_over_is_another_one(fresh: Path) -> None:
    directory = add_run(fresh)
    sync(fresh)
    directory.describe(begun=INFO.begun + 1)
    sync(fresh)
    assert len(runs_of(Store(fresh).client)) == 2


def test_a_run_that_was_deleted_in_mlflow_stays_so(fresh: Path) -> None:
    directory = add_run(fresh)
    sync(fresh)
    client = Store(fresh).client
    client.delete_run(runs_of(client)[0].info.run_id)
    report = sync(fresh)
    assert report.skipped == {directory.path: "was deleted in MLflow"}
    assert runs_of(client) == []


def test_what_is_no_run_yet_and_what_cannot_be_read_is_named(fresh: Path) -> None:
    add_run(fresh, "good")
    early = RunDirectory(fresh / "runs" / "blobs" / "early")
    early.update(state="failed", run_id="early")
    early.describe(run_id="early", params={})
    broken = add_run(fresh, "broken")
    (broken.path / "run.json").write_text("{")
    worse = add_run(fresh, "worse")
    (worse.path / "status.json").write_text("{")
    report = sync(fresh)
    assert [path.name for path in report.sent] == ["good"]
    assert report.skipped[early.path] == "never started"
    assert report.skipped[broken.path].startswith("run.json: ")
    assert list(report.failed) == [worse.path]
    assert "Expecting property name" in report.failed[worse.path]


def test_a_directory_that_another_process_mirrors_is_left_to_it(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from medsam2.tracking import mirror

    monkeypatch.setattr(mirror, "PATIENCE", 0.1)
    directory = add_run(fresh)
    with FileLock(directory.path / ".mirror.lock"):
        report = sync(fresh)
    assert report.skipped == {directory.path: "another process brings it up to date"}


def test_only_one_run_or_study(fresh: Path) -> None:
    add_run(fresh, "aaa")
    add_run(fresh, "bbb")
    add_run(fresh, "ccc", study="other")
    assert [path.name for path in sync(fresh, run="bbb").sent] == ["bbb"]
    assert [path.name for path in sync(fresh, study="other").sent] == ["ccc"]
    assert counts(sync(fresh)) == (1, 2, 0, 0)


def test_sweeps_are_made_again_with_their_runs_below_them(fresh: Path) -> None:
    for name in ("aaa", "bbb", "ccc"):
        add_run(fresh, name)
    sync(fresh)  # finished before any sweep
    add_sweep(fresh, "s1", ["aaa", "bbb"], submitted=10.0, state="finished")
    add_sweep(fresh, "s2", ["bbb", "ccc"], submitted=20.0, state="failed", study="a study", name="sweep of my own")
    report = sync(fresh)
    assert (counts(report), report.sweeps) == ((3, 0, 0, 0), 2)
    client = Store(fresh).client
    runs = runs_of(client)
    parents = {run.data.tags["sweep_id"]: run for run in runs if "sweep_id" in run.data.tags}
    assert {name: run.info.status for name, run in parents.items()} == {"s1": "FINISHED", "s2": "FAILED"}
    assert (parents["s1"].info.run_name, parents["s2"].info.run_name) == ("sweep seed (s1)", "sweep of my own")
    assert parents["s1"].info.start_time == 10_000
    assert artifacts(client, parents["s1"].info.run_id) == ["table.csv"]
    below = {r.data.tags["run_id"]: r.data.tags["mlflow.parentRunId"] for r in runs if "run_id" in r.data.tags}
    first, second = (parents[name].info.run_id for name in ("s1", "s2"))
    assert below == {"aaa": first, "bbb": second, "ccc": second}
    inside = {r.data.tags["run_id"]: r.data.tags["in_sweep"] for r in runs if "run_id" in r.data.tags}
    assert inside == {"aaa": "s1", "bbb": "s1 s2", "ccc": "s2"}
    report = sync(fresh)
    assert (counts(report), report.sweeps) == ((0, 3, 0, 0), 0)
    assert len(runs_of(client)) == 5
    assert [client.get_run(run).info.status for run in (first, second)] == ["FINISHED", "FAILED"]
    (fresh / "sweeps" / "s2" / "table.csv").write_text("more\n")
    assert sync(fresh).sweeps == 1
    copied = client.download_artifacts(second, "table.csv", str(fresh))
    assert Path(copied).read_text() == "more\n"


def test_a_manifest_that_cannot_be_read_is_named(fresh: Path, caplog: pytest.LogCaptureFixture) -> None:
    add_run(fresh)
    add_sweep(fresh, "s1", ["aaa"], submitted=10.0)
    (fresh / "sweeps" / "s1" / "manifest.json").write_text("{")
    assert counts(sync(fresh)) == (1, 0, 0, 0)
    assert "s1/manifest.json: cannot be read" in caplog.text


def test_a_sweep_that_the_head_opened_is_the_same_one(fresh: Path) -> None:
    add_run(fresh)
    parent = MlflowTracker(fresh).open_sweep("s1", "a study", "sweep seed (s1)", {"axes": "seed"})
    add_sweep(fresh, "s1", ["aaa"], submitted=10.0)
    sync(fresh)
    client = Store(fresh).client
    (stored,) = [run for run in runs_of(client) if "sweep_id" in run.data.tags]
    assert stored.info.run_id == parent
    assert stored.info.status == "FINISHED"  # closed at once, although the sweep goes on


def test_runs_outside_of_the_usual_folder_are_found_through_their_sweep(fresh: Path) -> None:
    directory = add_run(fresh)
    elsewhere = fresh / "elsewhere"
    shutil.move(directory.path, elsewhere)
    add_sweep(fresh, "s1", ["aaa"], submitted=10.0)
    manifest = fresh / "sweeps" / "s1" / "manifest.json"
    content = json.loads(manifest.read_text())
    content["jobs"][0]["run_dir"] = str(elsewhere)
    manifest.write_text(json.dumps(content))
    assert sync(fresh).sent == [elsewhere]


def test_a_store_that_fails_in_between_ends_it_with_what_is_left(fresh: Path) -> None:
    for name in ("aaa", "bbb", "ccc"):
        add_run(fresh, name)
    work = Sync(Store(fresh), fresh)
    ask, calls = work._ask, 0

    def gone() -> None:
        nonlocal calls
        calls += 1
        if calls > 1:
            work.store.client.search_experiments = lambda **_: 1 / 0
        ask()

    work._ask = gone  # type: ignore[method-assign]
    work.store.client.log_inputs = lambda *_: 1 / 0
    with pytest.raises(ConnectionError, match=r"division by zero; 3 runs are left, the same command goes on"):
        work()
    assert counts(sync(fresh)) == (3, 0, 0, 0)
    assert len(runs_of(Store(fresh).client)) == 3


@pytest.mark.slow
def test_five_hundred_runs_that_are_up_to_date_take_seconds(fresh: Path) -> None:
    for number in range(500):
        add_run(fresh, f"run{number}", epochs=10)
    assert counts(sync(fresh)) == (500, 0, 0, 0)
    begin = time.monotonic()
    assert counts(sync(fresh)) == (0, 500, 0, 0)
    assert time.monotonic() - begin < 20


Change = Callable[[RunDirectory], None]


@pytest.mark.parametrize(
    "change",
    [
        lambda run: log_epochs(run, 9),
        lambda run: run.update(state="failed", error="x"),
        lambda run: (run.path / "rows").mkdir() or (run.path / "rows" / "test.csv").write_text("new"),
        lambda run: run.describe(tags={"run_dir": "moved"}),
    ],
    ids=["metrics", "state", "rows", "tags"],
)
def test_any_change_is_noticed(fresh: Path, change: Change) -> None:
    directory = add_run(fresh)
    sync(fresh)
    change(directory)
    assert counts(sync(fresh)) == (1, 0, 0, 0)
    assert counts(sync(fresh)) == (0, 1, 0, 0)
