"""PostgreSQL, the store of a cluster: many processes, a database that goes away, and a server in front of it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers_servers import PASSWORD, Postgres, mlflow_server, postgres
from helpers_tracking import (
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
from medsam2.tracking import attendant
from medsam2.tracking.mlflow import MlflowTracker
from medsam2.tracking.store import Store
from medsam2.tracking.sync import Sync

pytestmark = pytest.mark.slow
pytest.importorskip("psycopg2", reason="no driver for PostgreSQL here: pip install psycopg2-binary")


@pytest.fixture
def database() -> Iterator[Postgres]:
    with postgres() as server:
        yield server


def test_processes_that_open_one_fresh_database_at_once(database: Postgres, tmp_path: Path) -> None:
    command, env = [sys.executable, "-c", JOB, str(tmp_path)], os.environ | {"OMP_NUM_THREADS": "1"}
    jobs = [
        subprocess.Popen([*command, str(i), database.uri], cwd=PROJECT, env=env, stderr=subprocess.PIPE, text=True)
        for i in range(6)
    ]
    spoken = [job.communicate(timeout=250)[1] for job in jobs]
    assert [job.returncode for job in jobs] == [0] * 6, spoken
    assert PASSWORD not in "".join(spoken)
    check_jobs(MlflowTracker(tmp_path, database.uri), 6)


def test_a_database_that_goes_away_in_mid_run_and_comes_back(
    database: Postgres, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attendant, "FIRST_PAUSE", 0.2)
    tracker = MlflowTracker(tmp_path, database.uri, patience=10)
    directory = make_run(tmp_path / "runs" / "blobs" / "aaa", begun=time.time())
    write_files(directory.path)
    tracker.start(directory)
    assert eventually(lambda: tracker.run is not None, seconds=120)
    log_epochs(directory, 0, 1)
    tracker.update()
    client, run = Store(tmp_path, database.uri).client, str(tracker.run)
    assert eventually(lambda: len(history(client, run)) == 2)
    database.stop()
    log_epochs(directory, 2)
    tracker.update()
    assert eventually(lambda: tracker.warned)
    directory.update(state="finished")
    begin = time.monotonic()
    tracker.finish("finished")
    assert time.monotonic() - begin < 11
    (message,) = said(caplog)
    assert message.startswith(f"MLflow store postgresql+psycopg2://mlflow:***@127.0.0.1:{database.port}/postgres: ")
    with pytest.raises(ConnectionError, match="1 runs are left"):
        Sync(Store(tmp_path, database.uri), tmp_path)()
    database.start()
    for _ in range(2):
        report = Sync(Store(tmp_path, database.uri), tmp_path)()
        assert not report.failed
        (stored,) = runs_of(client)
        assert (stored.info.run_id, stored.info.status) == (run, "FINISHED")
        assert history(client, run) == [(0, 0.25), (1, 0.375), (2, 0.5)]
    assert len(report.current) == 1
    assert "rows/test.csv" in artifacts(client, run)
    assert not (PROJECT / "mlruns").exists()


def test_a_server_in_front_of_it(database: Postgres, tmp_path: Path) -> None:
    """The way for a cluster: the jobs know the server alone, neither the password nor the driver."""
    with mlflow_server(tmp_path, database.uri.replace("postgresql:", "postgresql+psycopg2:")) as server:
        tracker = MlflowTracker(tmp_path, server.uri, patience=60)
        directory = make_run(tmp_path / "runs" / "blobs" / "aaa")
        write_files(directory.path)
        log_epochs(directory, 0, 1)
        tracker.start(directory)
        directory.update(state="finished")
        tracker.finish("finished")
        assert not tracker.warned
        client, run = tracker.store.client, tracker.run
        assert history(client, str(run)) == [(0, 0.25), (1, 0.375)]
        assert "rows/test.csv" in artifacts(client, str(run))
        assert len(Sync(Store(tmp_path, server.uri), tmp_path)().current) == 1
