"""Brings a store up to date with all runs and sweeps of an output folder. What it has already is not sent again."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import Timeout

from medsam2.database import root_cause
from medsam2.runs import RunDirectory
from medsam2.tracking.mirror import RunMirror, digest
from medsam2.tracking.store import MIRRORED, PARENT, Store, status_of
from medsam2.tracking.sweeps import Sweep, close_parent, find_sweeps, open_parent

if TYPE_CHECKING:
    from mlflow.entities import Run


@dataclass
class Report:
    """What became of each run: sent, or as it should be already, or left out or failed, with the reason."""

    sent: list[Path] = field(default_factory=list)
    current: list[Path] = field(default_factory=list)
    skipped: dict[Path, str] = field(default_factory=dict)
    failed: dict[Path, str] = field(default_factory=dict)
    sweeps: int = 0

    def __str__(self) -> str:
        left = f"{len(self.skipped)} skipped, {len(self.failed)} failed; {self.sweeps} sweeps renewed"
        return f"{len(self.sent)} runs brought up to date, {len(self.current)} were so already, {left}"


def find_runs(output_dir: Path, sweeps: list[Sweep]) -> list[RunDirectory]:
    """The run directories below `runs/`, and those elsewhere that a sweep names."""
    found = {Path(folder) for folder in _walk(output_dir / "runs")}
    named = {Path(job["run_dir"]) for sweep in sweeps for job in sweep.jobs}
    return [RunDirectory(path) for path in sorted(found | {path for path in named if (path / "status.json").exists()})]


def _walk(folder: Path) -> Iterator[str]:
    for path, folders, files in os.walk(folder):
        if "status.json" in files:
            folders.clear()  # a run holds no runs
            yield path


def _about(directory: RunDirectory) -> dict[str, Any]:
    try:
        return directory.description()
    except (OSError, ValueError) as error:
        return {"unreadable": f"run.json: {error}"}


class Sync:
    """Mirrors every run of `output_dir` once.

    Args:
        run, study: only the run with this id, only the runs filed under this name.
        artifacts: whether rows, pictures, configuration and logs are copied too.
    """

    def __init__(
        self, store: Store, output_dir: Path, run: str | None = None, study: str | None = None, artifacts: bool = True
    ):
        self.store = store
        self.run = run
        self.study = study
        self.artifacts = artifacts
        self.report = Report()
        self._sweeps = find_sweeps(output_dir)
        self._abouts = {directory: _about(directory) for directory in find_runs(output_dir, self._sweeps)}
        self._links: dict[str, dict[str, str]] = {}  # tags by run_id
        self._known: dict[str, dict[tuple[str, str], Run]] = {}  # the store's runs by study, then run_id and begun

    def __call__(self) -> Report:
        """Raises ConnectionError where the store does not answer."""
        self._ask()
        for sweep in self._sweeps:
            self._bring_sweep(sweep)
        for directory, about in self._abouts.items():
            if self.run in (None, about.get("run_id")) and self.study in (None, about.get("study")):
                self._bring(directory, about)
        return self.report

    def _ask(self) -> None:
        try:
            self.store.client.search_experiments(max_results=1)
        except Exception as error:
            left = len(self._abouts) - len(self.report.sent) - len(self.report.current) - len(self.report.skipped)
            raise ConnectionError(
                f"MLflow store {self.store}: {root_cause(error)}; {left} runs are left, the same command goes on"
            ) from error

    def _bring_sweep(self, sweep: Sweep) -> None:
        """Its parent run, and the tags that make its runs the children; of two sweeps the later one has them."""
        ids = [job["run_id"] for job in sweep.jobs]
        studies = [about["study"] for about in self._abouts.values() if about.get("run_id") in ids and "study" in about]
        study = sweep.manifest.get("study") or next(iter(studies), None)
        if study is None or self.study not in (None, study) or (self.run and self.run not in ids):
            return
        try:
            axes = {"axes": ", ".join(sweep.manifest.get("axes", []))}
            parent = open_parent(self.store, sweep.id, study, sweep.name, axes, sweep.begun or None)
            self.report.sweeps += close_parent(self.store, parent.info.run_id, sweep.tables, sweep.state)
        except Exception as error:
            self._ask()
            self.report.failed[sweep.folder] = root_cause(error)
            return
        for run_id in ids:
            before = self._links.get(run_id, {}).get("in_sweep")
            inside = f"{before} {sweep.id}" if before else sweep.id
            self._links[run_id] = {PARENT: parent.info.run_id, "in_sweep": inside}

    def _bring(self, directory: RunDirectory, about: Mapping[str, Any]) -> None:
        if "study" not in about:
            self.report.skipped[directory.path] = about.get("unreadable", "never started")
            return
        try:
            self._mirror(directory, about)
        except Timeout:
            self.report.skipped[directory.path] = "another process brings it up to date"
        except Exception as error:
            self._ask()
            self.report.failed[directory.path] = root_cause(error)

    def _mirror(self, directory: RunDirectory, about: Mapping[str, Any]) -> None:
        status, links = directory.look(), self._links.get(about["run_id"], {})
        run = self._runs(about["study"]).get((about["run_id"], str(about["begun"])))
        if run is not None and run.info.lifecycle_stage == "deleted":
            self.report.skipped[directory.path] = "was deleted in MLflow"
            return
        wanted = links | {MIRRORED: digest(directory, status, self.artifacts)}
        state = status_of(status["state"], status.get("reason"))
        if run and run.info.status == state and wanted.items() <= run.data.tags.items():
            self.report.current.append(directory.path)
            return
        RunMirror(self.store, directory, self.artifacts, run).update(status, links)
        self.report.sent.append(directory.path)

    def _runs(self, study: str) -> dict[tuple[str, str], Run]:
        """All runs of a study by run_id and time of beginning; one in the bin only where there is no other."""
        if study not in self._known:
            runs = self.store.search(study, "tags.begun != ''", deleted=True)
            runs.sort(key=lambda run: (run.info.lifecycle_stage == "active", -run.info.start_time))
            self._known[study] = {(r.data.tags.get("run_id", ""), r.data.tags["begun"]): r for r in runs}
        return self._known[study]
