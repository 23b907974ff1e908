"""Brings a store up to date with a run directory. One implementation for a run that is computed now and one long over.

What the store has is asked first, so that a run that was killed, requeued or mirrored twice has the history of one that
ran through. An epoch that was computed again keeps the values that were stored first.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medsam2.redact import redact
from medsam2.runs import RunDirectory
from medsam2.tracking.connect import PATIENCE, alone
from medsam2.tracking.store import MIRRORED, PARENT, Store, status_of, valid_key

if TYPE_CHECKING:
    from mlflow.entities import Run

FILES = (
    "config.yaml",
    "run.json",
    "provenance.json",
    "status.json",
    "metrics.jsonl",
    "split.csv",
    "run.log",
    "error.txt",
)
FOLDERS = ("rows", "pictures")
LONGEST_ERROR = 500  # characters


class RunMirror:
    """One run directory and its run in a store.

    Args:
        directory: with a run.json that names the study, that is, after the data has been looked at.
        artifacts: whether rows, pictures, configuration and logs are copied when the run is not running.
        run: what the store has of it, if that is known.
    """

    def __init__(self, store: Store, directory: RunDirectory, artifacts: bool = True, run: Run | None = None):
        self.store = store
        self.directory = directory
        self.artifacts = artifacts
        self._run = run
        self._opened = False
        self._stored: dict[str, set[int]] = {}  # epochs by key that the store has

    def update(self, status: Mapping[str, Any], tags: Mapping[str, str] | None = None) -> str:
        """Makes the store's run equal to the directory and to `status`; returns its id. May be repeated at any time.

        After an exception the mirror must be made anew: what the store took before is not known.
        """
        seen = digest(self.directory, status, self.artifacts)  # before: what is added meanwhile comes next time
        with alone(self.directory.path, PATIENCE):
            run = self._run if self._run and self._opened else self._open(status, tags or {})
            self._send(run)
            running = status["state"] == "running"
            if not running:
                if self.artifacts:
                    self.store.log_files(run, files_of(self.directory.path), self.directory.path)
                self.store.log_tags(run, state_tags(status))
                self.store.set_status(run, status_of(status["state"], status.get("reason")), status.get("updated", 0))
            self.store.log_tags(run, {MIRRORED: seen})
        return str(run.info.run_id)

    def _open(self, status: Mapping[str, Any], tags: Mapping[str, str]) -> Run:
        """The run with its parameters, tags and dataset; set to running if that is its state."""
        about = self.directory.description()
        wanted = tags_of(about) | source_of(self.directory.path) | dict(tags)
        run = self._run or self._find(about, status.get("mlflow_run_id"))
        if run is None:
            run = self.store.create(about["study"], about["name"], wanted, about["begun"])
        self.store.log_params(run, params_of(about))
        self.store.log_dataset(run, about["dataset"], about["split_hash"])
        self.store.log_tags(run, wanted)
        if status["state"] == "running":
            self.store.log_tags(run, state_tags(status))
            self.store.set_status(run, "RUNNING", 0.0)
            run = self.store.client.get_run(run.info.run_id)
        self._run, self._opened = run, True
        return run

    def _find(self, about: Mapping[str, Any], known: str | None) -> Run | None:
        """The store's run of this directory. One that `force=true` replaced is none of it, and does not stay open."""
        runs = self.store.search(about["study"], f"tags.run_id = '{about['run_id']}'")
        mine = [r for r in runs if known == r.info.run_id or r.data.tags.get("begun") == str(about["begun"])]
        for run in runs:
            if run not in mine and run.data.tags.get("run_dir") == about["tags"].get("run_dir"):
                self.store.close_if_open(run)
        if mine:
            return next((r for r in mine if r.info.run_id == known), mine[0])
        return self.store.get(known) if known else None

    def _send(self, run: Run) -> None:
        """The finite values that the store does not have."""
        new = []
        for (key, epoch), (value, seconds) in measurements(self.directory).items():
            if key not in self._stored:
                self._stored[key] = self.store.epochs(run, key)
            if epoch not in self._stored[key]:
                new.append((key, value, seconds, epoch))
        self.store.log_metrics(run, new)
        for key, _, _, epoch in new:
            self._stored[key].add(epoch)


def measurements(directory: RunDirectory) -> dict[tuple[str, int], tuple[float, float]]:
    """`(key, epoch): (value, seconds since 1970)` of all finite values; the last one where there are several."""
    found = {}
    for line in directory.metrics():
        for key, value in line["metrics"].items():
            if math.isfinite(value):
                found[valid_key(key), line["epoch"]] = value, line["time"]
    return found


def params_of(about: Mapping[str, Any]) -> dict[str, Any]:
    """What MLflow's tables and its compare view show of a run: what was chosen by name, and every single value but
    those that follow from the choice of a model and that nobody gave: its network's. config.yaml has them all.
    """
    choices, network = about.get("choices", {}), "model.network."
    typed = [word for word in about.get("typed", ()) if word.startswith(network)]

    def shown(key: str) -> bool:
        given = any(f"{key}.".startswith(f"{word}.") for word in typed)
        return not key.endswith("._convert_") and (given or not key.startswith(network))

    return dict(choices) | {k: v for k, v in about["params"].items() if not choices or shown(k)}


def tags_of(about: Mapping[str, Any]) -> dict[str, str]:
    """The tags by which a run is found and filed, from its run.json."""
    parent = {PARENT: about["parent_run_id"]} if about.get("parent_run_id") else {}
    return {k: redact(v) for k, v in about["tags"].items()} | parent | known_by(about)


def source_of(folder: Path) -> dict[str, str]:
    """What MLflow's columns Source and Version show; nothing where no provenance.json can be read."""
    try:
        revision = json.loads((folder / "provenance.json").read_text())["revision"]
    except (OSError, ValueError, KeyError):
        return {}
    return {"mlflow.source.name": "run.py", "mlflow.source.type": "LOCAL", "mlflow.source.git.commit": revision}


def known_by(about: Mapping[str, Any]) -> dict[str, str]:
    return {"run_id": about["run_id"], "begun": str(about["begun"])}


def state_tags(status: Mapping[str, Any]) -> dict[str, str]:
    """How a run is or ended; empty where a run that failed goes on."""
    error = redact(str(status.get("error") or ""))[:LONGEST_ERROR]
    return {"state": status["state"], "reason": str(status.get("reason") or ""), "error": error}


def files_of(folder: Path) -> list[Path]:
    """What is copied of a run directory: never a checkpoint, nor what somebody else put there."""
    return [file for name in FILES if (file := folder / name).is_file()] + list(_inside(folder))


def _inside(folder: Path) -> Iterator[Path]:
    for name in FOLDERS:
        yield from sorted(file for file in (folder / name).rglob("*") if file.is_file())


def digest(directory: RunDirectory, status: Mapping[str, Any], artifacts: bool) -> str:
    """Changes whenever a mirror of the directory would."""
    content = hashlib.sha256(repr(sorted(state_tags(status).items())).encode())
    for name in ("run.json", "metrics.jsonl"):
        file = directory.path / name
        content.update(file.read_bytes() if file.exists() else b"")
    if artifacts and status["state"] != "running":
        for file in files_of(directory.path):
            stat = file.stat()
            content.update(f"{file.relative_to(directory.path)} {stat.st_size} {stat.st_mtime_ns}".encode())
    return content.hexdigest()[:16]
