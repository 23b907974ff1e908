"""A run's directory: the one place where the truth about a run is kept. Everything else is a view of it.

config.yaml  provenance.json  status.json  metrics.jsonl  split.csv  run.log  (error.txt)
rows/PHASE.csv, .parquet      checkpoints/last.pt, best.pt           pictures/PHASE/*.png
"""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from medsam2.files import write_atomic

PACKAGES = ("torch", "monai", "hydra-core", "omegaconf", "mlflow", "numpy", "pandas", "pillow", "scipy")


class RunDirectoryError(ValueError):
    """A run directory that cannot be used: it belongs to another run or was made from other data."""


class RunBusy(RunDirectoryError):
    """Another process is computing this very run."""


class RunDirectory:
    """The files of one run. `state` is new, running, interrupted, failed or finished."""

    def __init__(self, path: Path):
        self.path = path

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def rows(self) -> Path:
        return self.path / "rows"

    @property
    def pictures(self) -> Path:
        return self.path / "pictures"

    def status(self) -> dict[str, Any]:
        """The content of status.json; `{"state": "new"}` where there is none."""
        try:
            return dict(json.loads((self.path / "status.json").read_text()))
        except (FileNotFoundError, NotADirectoryError):
            return {"state": "new"}

    def update(self, **entries: Any) -> None:
        """Merges entries into status.json."""
        status = self.status() | entries | {"updated": time.time()}
        write_atomic(self.path / "status.json", json.dumps(status, indent=1))

    @contextmanager
    def claim(self, wait: float = 10.0) -> Iterator[None]:
        """Holds the run for this process; the operating system lets go of it when the process ends, however it ends.

        Raises:
            RunBusy: another process holds it and does not end within `wait` seconds.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path.parent / f".{self.path.name}.lock")
        try:
            lock.acquire(timeout=wait)
        except Timeout:
            pid = self.status().get("pid")
            raise RunBusy(f"run_dir={self.path}: is being computed by process {pid}; wait for it, or stop it") from None
        try:
            yield
        finally:
            lock.release()

    def open(self, run_id: str, config: str, fresh: bool) -> None:
        """Prepares the directory for run `run_id`; `fresh` starts over.

        Raises:
            RunDirectoryError: the directory holds another run.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        owner = self.status().get("run_id")
        if owner is None and any(self.path.iterdir()) and not fresh:
            raise RunDirectoryError(f"run_dir={self.path}: holds files that are no run; choose another run_dir")
        if owner not in (None, run_id):
            raise RunDirectoryError(
                f"run_dir={self.path}: belongs to another configuration (run {owner}, this is {run_id}); "
                f"choose another run_dir, or leave it out to have one made from the configuration"
            )
        if fresh:
            self._clear()
        attempts = self.status().get("attempts", 0) + 1
        self.update(run_id=run_id, attempts=attempts, pid=os.getpid(), error=None)  # first: it makes the folder ours
        for folder in (self.checkpoints, self.rows, self.pictures):
            folder.mkdir(exist_ok=True)
        write_atomic(self.path / "config.yaml", config)
        self.forget_after(math.inf)
        (self.path / "error.txt").unlink(missing_ok=True)  # of an earlier attempt
        write_atomic(self.path / "provenance.json", json.dumps(provenance(), indent=1))

    def check_data(self, fingerprint: str) -> None:
        """Refuses to go on with a run that was made from other data than is there now.

        Raises:
            RunDirectoryError: the fingerprint differs from the one the run started with.
        """
        known = self.status().get("data", fingerprint)
        if known != fingerprint:
            raise RunDirectoryError(
                f"run_dir={self.path}: was made from other data (fingerprint {known}, now {fingerprint}); "
                "give the new data a name of its own with dataset.name=NAME, or force=true to replace the run"
            )

    def check_format(self, dtype: str, device: str) -> None:
        """Notes where and in which number format a run is computed, and refuses to go on with it in another format.

        Raises:
            RunDirectoryError: the run began in another format, as `trainer.precision=auto` chooses by device.
        """
        known = self.status().get("dtype", dtype)
        if known != dtype:
            raise RunDirectoryError(
                f"run_dir={self.path}: was computed in {known} on {self.status()['device']} so far, "
                f"here it would go on in {dtype} on {device}; go on where it began, or start it again with force=true"
            )
        self.update(device=device, dtype=dtype)

    def log_metrics(self, metrics: Mapping[str, float], epoch: int) -> None:
        """Appends one line to metrics.jsonl: epoch, seconds since 1970, `phase/metric/structure` values."""
        line = json.dumps({"epoch": epoch, "time": time.time(), "metrics": dict(metrics)})
        with (self.path / "metrics.jsonl").open("a") as file:
            file.write(line + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl; a last line cut off by a crash is left out."""
        try:
            lines = (self.path / "metrics.jsonl").read_text().splitlines()
        except FileNotFoundError:
            return []
        entries = []
        for line in lines:
            try:
                entries.append(json.loads(line))
            except json.JSONDecodeError:
                continue
        return entries

    def forget_after(self, epoch: float) -> None:
        """Drops what was logged after `epoch`, which will be computed again, and a line cut off by a crash."""
        if not (self.path / "metrics.jsonl").exists():
            return
        kept = [json.dumps(e) for e in self.metrics() if e["epoch"] <= epoch]
        write_atomic(self.path / "metrics.jsonl", "".join(line + "\n" for line in kept))

    def _clear(self) -> None:
        """Removes what a run writes, and nothing else that somebody may have put here. The log goes on."""
        for name in ("status.json", "metrics.jsonl", "split.csv", "provenance.json", "config.yaml", "error.txt"):
            (self.path / name).unlink(missing_ok=True)
        written = ("checkpoints/*.pt", "rows/*.csv", "rows/*.parquet", "pictures/*/*.png")
        for file in (file for pattern in written for file in self.path.glob(pattern)):
            file.unlink()


def provenance() -> dict[str, Any]:
    """What a reader needs to know where numbers come from: code revision, packages, Python, machine."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "command": sys.argv,
        "revision": git_revision(),
        "packages": versions,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": platform.node(),
        "cpus": os.cpu_count(),
    }


def git_revision() -> str:
    """The commit of the code, with `-dirty` behind it where files differ from it; `unknown` outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
