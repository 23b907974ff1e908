"""Runs as an MLflow store has them: what was mirrored is fetched once, into folders shaped as run directories."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any

from medsam2.database import root_cause
from medsam2.redact import redact
from medsam2.results.collect.directories import read_entry
from medsam2.results.collect.entries import Entry
from medsam2.tracking.connect import PATIENCE, alone
from medsam2.tracking.store import MIRRORED, STATUS, Store

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

NAMES = ("run.json", "status.json", "provenance.json")
ROWS = ("test.parquet", "zero_shot.parquet", "budget.parquet", "test_bins.parquet")
GALLERY = "pictures/test/gallery.npz"
STATES = {status: state for state, status in reversed(STATUS.items())}  # MLflow's word: ours
SCHEMES = ("http://", "https://", "sqlite:///", "postgresql", "mysql", "mssql")
THREADS = 8


def open_store(output_dir: Path, source: str) -> Store:
    """The store at an MLflow URI; `mlflow` is the one in `output_dir`.

    Raises:
        ValueError: the source is no such URI.
        FileNotFoundError: an SQLite file that is not there; opening it would make one.
        ConnectionError: the store does not answer.
    """
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # there is one for each file
    given = f"task.source={redact(source)}"
    if source != "mlflow" and not source.startswith(SCHEMES):
        raise ValueError(f"{given}: no MLflow URI; use sqlite:///FILE, http://HOST:PORT or mlflow")
    store = Store(output_dir, None if source == "mlflow" else source)
    if store.uri.startswith("sqlite:///") and not Path(store.uri.removeprefix("sqlite:///").partition("?")[0]).exists():
        raise FileNotFoundError(f"{given}: there is no {store}; task=sync makes the one of paths.output_dir")
    try:
        store.client.search_experiments(max_results=1)
    except Exception as error:
        said = f"{given}: MLflow store {store}: {root_cause(error)}"
        raise ConnectionError(f"{said}; task.source=null reads the run directories instead") from error
    return store


def list_store(store: Store, cache: Path) -> list[Entry]:
    """All runs of a store, by its tags and parameters alone: no file is fetched."""
    studies = {e.experiment_id: e.name for e in _pages(store.client.search_experiments)}
    if not studies:
        return []
    runs = _pages(store.client.search_runs, experiment_ids=list(studies), filter_string="tags.run_id != ''")
    return [_entry_of(run, studies[run.info.experiment_id], cache) for run in runs]


def _pages(search: Any, **arguments: Any) -> Iterator[Any]:
    page = search(**arguments)
    yield from page
    while page.token:
        page = search(**arguments, page_token=page.token)
        yield from page


def _entry_of(run: Run, study: str, cache: Path) -> Entry:
    tags, params = dict(run.data.tags), dict(run.data.params)
    datasets = [given.dataset.name for given in (run.inputs.dataset_inputs if run.inputs else [])]
    about = {
        "run_id": tags["run_id"],
        "name": run.info.run_name,
        "study": study,
        "dataset": params.get("dataset.name") or next(iter(datasets), ""),
        "begun": float(tags.get("begun") or run.info.start_time / 1000),
        "tags": tags,
        "params": params,
    }
    state = tags.get("state") or STATES.get(run.info.status, "failed")
    status = {"state": state, "reason": tags.get("reason"), "error": tags.get("error")}
    known = run.info.run_id, tags.get(MIRRORED, "")
    return Entry(cache / run.info.run_id, about, status, tuple(tags.get("in_sweep", "").split()), store=known)


def fetch(store: Store, entries: Sequence[Entry], cache: Path) -> list[Entry]:
    """The files of these runs, those that are there unchanged excepted, and what they tell.

    Raises:
        ConnectionError: the store does not answer any more.
    """
    cache.mkdir(parents=True, exist_ok=True)
    with alone(cache, PATIENCE), ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(lambda entry: _fetch(store.client, entry), entries))


def _fetch(client: MlflowClient, entry: Entry) -> Entry:
    assert entry.store is not None
    known, digest = entry.store
    mark = entry.folder / ".mirrored"
    if not (digest and mark.is_file() and mark.read_text() == digest):
        try:
            lacking = _download(client, known, entry.folder, digest)
        except Exception as error:
            return replace(entry, unreadable=f"its files cannot be fetched: {root_cause(error)}")
        if lacking:
            return replace(entry, unreadable=f"the store has no {', '.join(lacking)} of it: task=sync brings them")
    found = read_entry(entry.folder, look=False)
    tags = {**(found.about.get("tags") or {}), **entry.about["tags"]}  # those that were given in MLflow since
    about = {**found.about, "tags": tags}
    return replace(found, about=about, sweeps=entry.sweeps or found.sweeps, store=entry.store)


def _download(client: MlflowClient, known: str, folder: Path, digest: str) -> list[str]:
    """All files or none; returns the names of those that the store lacks and nobody can do without."""
    there = {item.path for path in (None, "rows", "pictures/test") for item in client.list_artifacts(known, path)}
    if lacking := [name for name in ("run.json", "status.json") if name not in there]:
        return lacking
    wanted = [*NAMES, *(f"rows/{name}" for name in ROWS), GALLERY]
    beside = Path(mkdtemp(prefix=f".{known}.", dir=folder.parent))
    try:
        for path in (path for path in wanted if path in there):
            parent = (beside / path).parent
            parent.mkdir(parents=True, exist_ok=True)
            client.download_artifacts(known, path, str(parent))
        (beside / ".mirrored").write_text(digest)
        shutil.rmtree(folder, ignore_errors=True)
        beside.rename(folder)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return []
