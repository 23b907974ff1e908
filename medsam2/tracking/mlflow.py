"""Mirrors runs to MLflow while they are computed, beside the training and never in its way.

No failure of the store reaches the run: the first one is logged, the mirror tries again after pauses that grow and once
more at the end, and `python run.py task=sync` does what was left.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from medsam2.database import root_cause
from medsam2.runs import RunDirectory
from medsam2.tracking.attendant import Attendant
from medsam2.tracking.mirror import RunMirror
from medsam2.tracking.store import Store
from medsam2.tracking.sweeps import close_parent, open_parent

log = logging.getLogger(__name__)
T = TypeVar("T")

START = 5.0  # seconds that the start of a run waits to learn its id
LEAVING = ("preempted", "interrupted")  # somebody waits for the process to end


class MlflowTracker:
    """One MLflow run per job, filed under `study`; a sweep's jobs are children of one parent run.

    Args:
        output_dir: where `mlflow.db` and the artifacts lie when `uri` is None.
        uri: an MLflow tracking URI, or None for SQLite in `output_dir`.
        artifacts: whether rows, pictures, configuration and logs are uploaded when the run ends.
        patience: seconds that the end of a run waits for the store at most.
    """

    def __init__(self, output_dir: Path, uri: str | None = None, artifacts: bool = True, patience: float = 30.0):
        self.store = Store(output_dir, uri)
        self.artifacts = artifacts
        self.patience = patience
        self.warned = False
        self._directory: RunDirectory | None = None
        self._mirror: RunMirror | None = None
        self._attendant: Attendant | None = None
        self.run: str | None = None
        self._state = "running"

    def start(self, directory: RunDirectory) -> str | None:
        self._directory = directory
        self._attendant = Attendant(self._mirror_run, self._complain)
        self._attendant.wait_for_first(START)
        return self.run

    def update(self) -> None:
        if self._attendant:
            self._attendant.ask()

    def finish(self, state: str) -> None:
        if self._attendant is None:
            return
        self._state = state
        if self._attendant.end(min(START, self.patience) if state in LEAVING else self.patience):
            if self.warned:
                log.info("MLflow store %s: answered again and has the whole run", self.store)
        else:
            self._complain(TimeoutError("no answer"))

    def _mirror_run(self, last: bool) -> None:
        """Runs in the attendant's thread."""
        assert self._directory is not None
        try:
            self._mirror = self._mirror or RunMirror(self.store, self._directory, self.artifacts)
            status = self._directory.status() | {"state": self._state if last else "running"}
            self.run = self._mirror.update(status)
        except Exception:
            self._mirror = None
            self.store.reset()
            raise

    def open_sweep(self, sweep_id: str, study: str, name: str, tags: Mapping[str, str]) -> str | None:
        return self._within(
            self.patience, lambda: str(open_parent(self.store, sweep_id, study, name, tags).info.run_id)
        )

    def log_sweep(self, parent: str, files: list[Path], state: str) -> None:
        self._within(self.patience, lambda: close_parent(self.store, parent, files, state))

    def _within(self, seconds: float, call: Callable[[], T]) -> T | None:
        """What a call answers, None if it fails or takes longer."""
        answers: list[T] = []
        attendant = Attendant(lambda last: None if answers else answers.append(call()), self._complain)
        if not attendant.end(seconds):
            self._complain(TimeoutError("no answer"))
        return answers[0] if answers else None

    def _complain(self, error: Exception) -> None:
        """Once: what failed, and what helps."""
        if not self.warned:
            log.warning(
                "MLflow store %s: %s. The run goes on without it; `python run.py task=sync` brings it up to date.",
                self.store,
                root_cause(error),
            )
        self.warned = True
