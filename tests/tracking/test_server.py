"""A real `mlflow server` that is killed and started again while runs report to it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from helpers_servers import mlflow_server
from helpers_tracking import artifacts, eventually, history, log_epochs, make_run, runs_of, said, write_files

from medsam2.runs import RunDirectory
from medsam2.tracking import attendant
from medsam2.tracking.mlflow import MlflowTracker
from medsam2.tracking.store import Store
from medsam2.tracking.sync import Sync

pytestmark = pytest.mark.slow


def add_run(folder: Path, name: str) -> RunDirectory:
    directory = make_run(folder / "runs" / "blobs" / name, run_id=name, begun=time.time())
    write_files(directory.path)
    return directory


def test_the_server_is_killed_and_started_again_in_mid_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One run ends while the server is down, one lives on; both have the history of one that nothing disturbed."""
    monkeypatch.setattr(attendant, "FIRST_PAUSE", 0.2)
    with mlflow_server(tmp_path) as server:
        ends, lives, calm = (add_run(tmp_path, name) for name in ("ends", "lives", "calm"))
        trackers = {run: MlflowTracker(tmp_path, server.uri, patience=20) for run in (ends, lives, calm)}
        log_epochs(calm, *range(40))
        for run, tracker in trackers.items():
            tracker.start(run)
        assert eventually(lambda: all(tracker.run for tracker in trackers.values()), seconds=60)
        calm.update(state="finished")
        trackers[calm].finish("finished")
        for epoch in range(20):
            for run in (ends, lives):
                log_epochs(run, epoch)
                trackers[run].update()
            if epoch == 10:
                server.kill()  # in the middle of their requests
        assert eventually(lambda: trackers[ends].warned and trackers[lives].warned)
        log_epochs(ends, *range(20, 40))
        ends.update(state="finished")
        begin = time.monotonic()
        trackers[ends].finish("finished")
        assert time.monotonic() - begin < 21
        server.start()
        log_epochs(lives, *range(20, 40))
        trackers[lives].update()
        lives.update(state="finished")
        trackers[lives].finish("finished")
        assert len(said(caplog)) == 2
        report = Sync(Store(tmp_path, server.uri), tmp_path)()
        assert ([path.name for path in report.sent], len(report.current)) == (["ends"], 2)
        assert len(Sync(Store(tmp_path, server.uri), tmp_path)().current) == 3
        client = Store(tmp_path, server.uri).client
        stored = {run.data.tags["run_id"]: run.info for run in runs_of(client)}
        assert len(runs_of(client)) == 3
        for key in ("val/dice/mean", "train/loss"):
            expected = history(client, stored["calm"].run_id, key)
            assert len(expected) == 40
            assert (
                history(client, stored["ends"].run_id, key) == history(client, stored["lives"].run_id, key) == expected
            )
        assert {info.status for info in stored.values()} == {"FINISHED"}
        files = [artifacts(client, stored[name].run_id) for name in ("ends", "lives", "calm")]
        assert files[0] == files[1] == files[2]
