"""Why a run failed, and whose status may say so."""

from __future__ import annotations

import errno
import signal
from pathlib import Path

import pytest
from hydra.errors import InstantiationException

from medsam2.config_check import ConfigError
from medsam2.data.records import DatasetError
from medsam2.failures import CodeChanged, leave_word, reason_of, record_failure, state_after
from medsam2.runs import RunDirectory, RunDirectoryError
from medsam2.training.checkpoint import CheckpointError, DamagedCheckpoint, DiskFull
from medsam2.training.memory import OutOfMemory
from medsam2.training.stop import Preempted, Pruned
from medsam2.training.watch import NonFiniteLoss

KILLED = "DataLoader worker (pid 7) is killed by signal: Killed."


def inside(error: Exception) -> Exception:
    wrapped = InstantiationException("Error in call to target")
    wrapped.__cause__ = error
    return wrapped


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ConfigError(["x"]), "config"),
        (RunDirectoryError("x"), "config"),
        (CheckpointError("another configuration"), "config"),
        (DamagedCheckpoint("cut off"), "disk"),
        (DatasetError("no such file", "missing"), "data"),
        (inside(DatasetError("no such file", "missing")), "data"),
        (OutOfMemory("x"), "memory"),
        (MemoryError(), "memory"),
        (NonFiniteLoss("x"), "non-finite"),
        (DiskFull(errno.ENOSPC, "x"), "disk"),
        (OSError(errno.EDQUOT, "quota"), "disk"),
        (OSError(errno.EACCES, "denied"), "error"),
        (CodeChanged("x"), "code"),
        (RuntimeError(KILLED), "killed"),
        (RuntimeError("x"), "error"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_the_reason_of_a_failure(error: Exception, reason: str) -> None:
    assert reason_of(error) == reason


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (KeyboardInterrupt(), "interrupted"),
        (Preempted(signal.SIGINT), "interrupted"),
        (Preempted(signal.SIGUSR2), "preempted"),
        (Pruned("x"), "pruned"),
        (ValueError("x"), "failed"),
        (SystemExit(3), "failed"),
    ],
    ids=repr,
)
def test_the_state_after_an_error(error: BaseException, state: str) -> None:
    assert state_after(error) == state


def test_a_failure_is_recorded_with_its_traceback_and_without_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_TOKEN", "hunter22")
    run = RunDirectory(tmp_path / "run")
    run.open("aaa", "", fresh=False)
    try:
        raise DatasetError("cannot log in with hunter22", "missing")
    except DatasetError as error:
        record_failure(run, "failed", error, 2.0)
    status = run.status()
    assert (status["state"], status["reason"], status["seconds"]) == ("failed", "data", 2.0)
    assert status["error"] == "DatasetError: cannot log in with ***"
    assert "Traceback" in (run.path / "error.txt").read_text()
    assert "hunter22" not in (run.path / "error.txt").read_text()


def test_a_full_disk_gives_up_its_reserve_for_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunDirectory(tmp_path / "run")
    run.open("aaa", "", fresh=False)
    reserve, write = run.path / ".reserve", Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        if reserve.exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    record_failure(run, "failed", OSError(errno.ENOSPC, "No space left on device"), 1.0)
    assert (run.status()["state"], run.status()["reason"]) == ("failed", "disk")


def test_a_job_that_did_not_start_leaves_a_word_and_never_over_a_run_that_is_on(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "runs" / "run")
    leave_word(run, "aaa", CodeChanged("edited"))
    assert (run.status()["state"], run.status()["reason"]) == ("failed", "code")
    with run.claim():
        run.open("aaa", "", fresh=False)
        leave_word(run, "aaa", CodeChanged("edited"))
        assert (run.status()["state"], run.status()["reason"]) == ("running", None)
    run.update(state="finished")
    leave_word(run, "aaa", CodeChanged("edited"))
    assert run.status()["state"] == "finished"
    run.update(state="queued")
    leave_word(run, "bbb", CodeChanged("edited"))
    assert run.status()["state"] == "queued"
