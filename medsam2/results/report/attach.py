"""A report beside the sweep it is about, in MLflow. The store may be down: the report on disk is what counts."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from medsam2.database import root_cause
from medsam2.tracking.store import Store
from medsam2.tracking.sweeps import Sweep, find_sweeps, open_parent

log = logging.getLogger(__name__)

FOLDER = "report"  # of the parent run's artifacts


def attach(page: Path, runs: pd.DataFrame, output_dir: Path, uri: str | None = None, sweep: str | None = None) -> bool:
    """Copies a report to the parent run of the sweep that all its runs are of; whether that was done.

    Nothing is done where the runs are of several sweeps, or of none. What the store raises becomes a warning.

    Args:
        page: report.html, with its tables and figures beside it.
        runs: `Study.runs`.
        uri: an MLflow tracking URI; None for SQLite in `output_dir`.
        sweep: the id of the sweep, or the beginning of it, where runs are of more than one.
    """
    found = find_sweep(runs, output_dir, sweep)
    if found is None:
        return False
    if uri is None and not (output_dir / "mlflow.db").exists():
        log.warning("not attached to sweep %s: no MLflow store in %s (task=sync makes one)", found.id, output_dir)
        return False
    store = Store(output_dir, uri)
    try:
        _send(store, found, str(found.manifest.get("study") or runs["study"].iat[0]), page)
    except Exception as error:
        log.warning("not attached to sweep %s: MLflow store %s: %s", found.id, store, root_cause(error))
        return False
    log.info("attached to sweep %s in MLflow store %s", found.id, store)
    return True


def find_sweep(runs: pd.DataFrame, output_dir: Path, sweep: str | None = None) -> Sweep | None:
    """The sweep that all of these runs are of, the one that was begun last if there are several; None without one."""
    ids = [set(str(known or "").split()) for known in runs["sweeps"]]
    common = {known for known in set.intersection(*ids) if known.startswith(sweep or "")} if ids else set()
    here = [known for known in find_sweeps(output_dir) if known.id in common]
    if here:
        return here[-1]
    return next((_unknown(known) for known in sorted(common, reverse=True)), None)


def _unknown(sweep_id: str) -> Sweep:
    """A sweep of which only a store knows."""
    return Sweep(Path(sweep_id), {"sweep_id": sweep_id})


def _send(store: Store, sweep: Sweep, study: str, page: Path) -> None:
    axes = {"axes": ", ".join(sweep.manifest.get("axes", []))}
    parent = open_parent(store, sweep.id, study, sweep.name, axes, sweep.begun or None).info.run_id
    store.client.log_artifact(parent, str(page), FOLDER)
    for folder in _folders(page.parent):
        store.client.log_artifacts(parent, str(folder), f"{FOLDER}/{folder.name}")


def _folders(folder: Path) -> Iterable[Path]:
    return (path for path in (folder / "tables", folder / "figures") if path.is_dir())
