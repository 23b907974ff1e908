"""What is recorded and said of a run that does not come to its end."""

from __future__ import annotations

import errno
import logging
import signal
import traceback

from hydra.errors import InstantiationException

from medsam2.config_check import ConfigError
from medsam2.files import write_atomic
from medsam2.redact import redact
from medsam2.runs import RunBusy, RunDirectory, RunDirectoryError
from medsam2.training.stop import Preempted, Pruned

log = logging.getLogger("medsam2")


class CodeChanged(RuntimeError):
    """The code is not what it was when the sweep was submitted."""


def state_after(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt) or (isinstance(error, Preempted) and error.signum == signal.SIGINT):
        return "interrupted"
    return "preempted" if isinstance(error, Preempted) else "pruned" if isinstance(error, Pruned) else "failed"


def record_failure(directory: RunDirectory, state: str, error: BaseException, seconds: float) -> None:
    """Status, traceback and a line in the log; a full disk must not hide the error that is being recorded."""
    text = redact("".join(traceback.format_exception(error)))
    if state in ("interrupted", "preempted"):
        log.warning("%s; the same command (without force=true) goes on where it stopped: %s", state, directory.path)
    elif state == "pruned":
        log.info("pruned: %s", error)
    else:
        log.debug("%s", text)
    said, reason = redact(f"{type(error).__name__}: {error}"), reason_of(error) if state == "failed" else None
    try:
        directory.update(state=state, error=said, reason=reason, seconds=seconds)
        if state == "failed":
            write_atomic(directory.path / "error.txt", text)
    except OSError as full:
        log.error("the failure could not be recorded in %s: %s", directory.path, full)


def reason_of(error: BaseException) -> str:
    """Why a run failed, in a word: config, data, memory, non-finite, disk, code, killed; `error` for anything else."""
    cause = error.__cause__ if isinstance(error, InstantiationException) and error.__cause__ else error
    if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
        return "disk"
    if "DataLoader worker" in str(cause) and "killed by signal" in str(cause):
        return "killed"
    kinds = {
        "ConfigError": "config",
        "RunDirectoryError": "config",
        "DamagedCheckpoint": "disk",
        "CheckpointError": "config",
        "DatasetError": "data",
        "OutOfMemory": "memory",
        "MemoryError": "memory",
        "NonFiniteLoss": "non-finite",
        "CodeChanged": "code",
        "RankKilled": "killed",
        "RankLost": "killed",
    }
    names = [base.__name__ for base in type(cause).__mro__]  # by name: to import the classes would import torch
    return next((kinds[name] for name in names if name in kinds), "error")


def leave_word(directory: RunDirectory, run_id: str, error: Exception) -> None:
    """Records why a job of a sweep did not even start, for the sweep to name; results and other runs stay."""
    if isinstance(error, RunBusy):
        return
    try:
        with directory.claim(wait=0.0):  # the status of a run that another process computes is that process's
            status = directory.status()
            if status["state"] in ("finished", "failed") or status.get("run_id", run_id) != run_id:
                return
            said = redact(f"{type(error).__name__}: {error}")
            directory.update(run_id=run_id, state="failed", reason=reason_of(error), error=said)
    except RunBusy:
        return
    except OSError as full:
        log.error("the failure could not be recorded in %s: %s", directory.path, full)


def explain(error: Exception) -> None:
    """Mistakes of the user as one clear text; anything else with its traceback."""
    cause = error.__cause__ if isinstance(error, InstantiationException) and error.__cause__ else error
    if isinstance(cause, ConfigError | RunDirectoryError | ValueError | RuntimeError | OSError):
        log.error("%s", cause)
        log.debug("traceback", exc_info=error)
    else:
        log.error("unexpected %s", type(error).__name__, exc_info=error)
