"""What a tracker is. A tracker mirrors the run directory; it may fail, and training goes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class RunInfo:
    """What a tracker is told about a run when it opens."""

    run_id: str
    name: str
    study: str
    params: Mapping[str, Any]
    tags: Mapping[str, str]
    dataset: str
    split_hash: str
    parent_run_id: str | None = None
    known_id: str | None = None  # the tracker's own id of this run, from an earlier attempt


class Tracker(Protocol):
    def start(self, info: RunInfo) -> str | None:
        """Opens the run and returns the tracker's id of it."""

    def log_metrics(self, metrics: Mapping[str, float], epoch: int) -> None: ...

    def log_files(self, folder: Path) -> None:
        """Copies a run directory's rows, pictures, configuration and logs."""

    def finish(self, state: str) -> None:
        """Closes the run: `finished`, `failed` or `interrupted`."""

    def open_sweep(self, sweep_id: str, study: str, name: str, tags: Mapping[str, str]) -> str | None:
        """Opens and closes the parent run of a sweep, once per sweep id; returns its id."""

    def log_sweep(self, parent: str, files: list[Path], state: str) -> None:
        """Attaches the sweep's table to its parent run."""


@dataclass
class Offline:
    """Mirrors nothing (`tracking=offline`): the run directory has it all."""

    output_dir: Path = field(default_factory=Path)

    def start(self, info: RunInfo) -> str | None:
        return None

    def log_metrics(self, metrics: Mapping[str, float], epoch: int) -> None:
        pass

    def log_files(self, folder: Path) -> None:
        pass

    def finish(self, state: str) -> None:
        pass

    def open_sweep(self, sweep_id: str, study: str, name: str, tags: Mapping[str, str]) -> str | None:
        return None

    def log_sweep(self, parent: str, files: list[Path], state: str) -> None:
        pass
