"""What a tracker is. A tracker mirrors run directories; it may fail, and training goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from medsam2.runs import RunDirectory


@dataclass(frozen=True)
class RunInfo:
    """What a run is, as its run.json keeps it: enough to file the run anywhere, at any time, without its configuration.

    `begun` (seconds since 1970) tells a run from an earlier one of the same configuration that `force=true` replaced.
    `choices` are those of the config groups, by group; `typed` are the keys that were given for this run.
    """

    run_id: str
    name: str
    study: str
    params: Mapping[str, Any]
    tags: Mapping[str, str]
    dataset: str
    split_hash: str
    begun: float
    parent_run_id: str | None = None
    choices: Mapping[str, str] = field(default_factory=dict)
    typed: Sequence[str] = ()


class Tracker(Protocol):
    def start(self, directory: RunDirectory) -> str | None:
        """Opens the run that run.json describes, or goes on with it; returns the tracker's id of it if it answers."""

    def update(self) -> None:
        """Something was added to the run directory. Returns at once."""

    def finish(self, state: str) -> None:
        """Closes the run in one of the states of a RunDirectory, its files included."""

    def open_sweep(self, sweep_id: str, study: str, name: str, tags: Mapping[str, str]) -> str | None:
        """Opens and closes the parent run of a sweep, once per sweep id; returns its id."""

    def log_sweep(self, parent: str, files: list[Path], state: str) -> None:
        """Attaches the sweep's table to its parent run."""


@dataclass
class Offline:
    """Mirrors nothing (`tracking=offline`): the run directory has it all."""

    output_dir: Path = field(default_factory=Path)

    def start(self, directory: RunDirectory) -> str | None:
        return None

    def update(self) -> None:
        pass

    def finish(self, state: str) -> None:
        pass

    def open_sweep(self, sweep_id: str, study: str, name: str, tags: Mapping[str, str]) -> str | None:
        return None

    def log_sweep(self, parent: str, files: list[Path], state: str) -> None:
        pass
