"""Runs as their own directories tell them: the first source, and the only one that knows all of a run."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from medsam2.manifest import short_name
from medsam2.results.collect.entries import Entry
from medsam2.runs import RunDirectory
from medsam2.tracking.sweeps import Sweep, find_sweeps
from medsam2.tracking.sync import find_runs


def list_directories(output_dir: Path) -> list[Entry]:
    """All runs below `output_dir`/runs, those elsewhere that a sweep names, and jobs of sweeps that never began."""
    sweeps = find_sweeps(output_dir)
    inside: dict[str, list[str]] = defaultdict(list)
    for sweep in sweeps:
        for job in sweep.jobs:
            inside[job["run_id"]].append(sweep.id)
    found = [read_entry(directory.path, inside) for directory in find_runs(output_dir, sweeps)]
    return found + _never_begun(sweeps, {entry.folder for entry in found}, inside)


def read_entry(folder: Path, inside: dict[str, list[str]] | None = None, look: bool = True) -> Entry:
    """A run as its directory tells it; `look`: whether a process may be computing it there."""
    directory = RunDirectory(folder)
    try:
        about, status = directory.description(), directory.look() if look else directory.status()
    except (OSError, ValueError) as error:
        return Entry(folder, {}, {}, unreadable=f"run.json or status.json cannot be read: {error}")
    sweeps = [*str((about.get("tags") or {}).get("in_sweep") or "").split()]
    run_id = str(about.get("run_id") or status.get("run_id") or "")
    sweeps += (inside or {}).get(run_id, [])
    return Entry(folder, about, status, tuple(dict.fromkeys(sweeps)), provenance=_provenance(folder))


def _provenance(folder: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((folder / "provenance.json").read_text()))
    except (OSError, ValueError):
        return {}


def _never_begun(sweeps: list[Sweep], found: set[Path], inside: dict[str, list[str]]) -> list[Entry]:
    entries: dict[str, Entry] = {}
    for sweep in sweeps:
        for job in sweep.jobs:
            if Path(job["run_dir"]) in found:
                continue
            name = short_name(job.get("overrides", []), sweep.manifest.get("axes", []))
            about = {"run_id": job["run_id"], "name": name, "study": sweep.manifest.get("study")}
            status = {"state": "new", "reason": "never begun"}
            entries[job["run_id"]] = Entry(Path(job["run_dir"]), about, status, tuple(inside[job["run_id"]]))
    return list(entries.values())
