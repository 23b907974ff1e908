"""Bring MLflow up to date with the run directories: runs made offline, or while the store was down, or killed."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from medsam2.tracking.store import Store
from medsam2.tracking.sync import Sync

log = logging.getLogger(__name__)


def sync(
    output_dir: str | Path,
    uri: str | None = None,
    run: str | None = None,
    study: str | None = None,
    artifacts: bool = True,
) -> None:
    """Mirrors all runs and sweeps of `output_dir`. May be repeated: what the store has is not sent again.

    Args:
        uri: an MLflow tracking URI; None for SQLite in `output_dir`.
        run, study: only the run with this run_id; only the runs filed under this name.
        artifacts: also rows, pictures, configuration and logs.

    Raises:
        ConnectionError: the store does not answer.
        RuntimeError: a run could not be stored; each is named with its reason.
    """
    folder, start = Path(output_dir).expanduser().absolute(), time.time()
    store = Store(folder, uri)
    report = Sync(store, folder, run, study, artifacts)()
    for path, reason in report.skipped.items():
        log.info("skipped: %s: %s", path, reason)
    for path, reason in report.failed.items():
        log.error("failed: %s: %s", path, reason)
    log.info("MLflow store %s: %s (%.0f s)", store, report, time.time() - start)
    if report.failed:
        raise RuntimeError(f"{len(report.failed)} runs or sweeps are not in MLflow store {store}")
