"""A run's directory: the one place where the truth about a run is kept. Everything else is a view of it.

config.yaml  run.json  provenance.json  status.json  metrics.jsonl  split.csv  run.log  (error.txt)
rows/PHASE.csv, .parquet      checkpoints/last.pt, previous.pt, best.pt           pictures/PHASE/*.png, *.npz
"""

from __future__ import annotations

import json
import math
import os
import platform
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from medsam2.claims import Claim, is_dead, slurm_job
from medsam2.code import git_revision
from medsam2.distributed import on_first_rank
from medsam2.files import show_differences, write_atomic
from medsam2.redact import redact

PACKAGES = ("torch", "monai", "hydra-core", "omegaconf", "mlflow", "numpy", "pandas", "pillow", "scipy")


class RunDirectoryError(ValueError):
    """A run directory that cannot be used: it belongs to another run or was made from other data."""


class RunBusy(RunDirectoryError):
    """Another process is computing this very run."""


ENDED = ("finished", "failed", "pruned")  # states in which nothing more happens by itself
RESERVE = 1 << 16  # bytes kept back, so that a run on a full disk can still say so


class RunDirectory:
    """The files of one run.

    `state` is new, queued (given to a launcher), running, preempted (a signal asked it to leave; it is saved),
    interrupted (Ctrl-C), pruned (a search gave it up), failed (with `reason` and `error`) or finished.
    """

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

    def look(self) -> dict[str, Any]:
        """The status as it really is: `running` without a process is failed, killed; `queued` by nobody is new."""
        status = self.status()
        if status["state"] == "queued" and is_dead(status.get("head", {})):
            return status | status.get("was", {"state": "new"})  # who would have started it is gone
        if status["state"] != "running" or self.held():
            return status
        status = self.status()  # it may have ended between the two looks
        if status["state"] != "running":
            return status
        where = f"{status.get('job') or 'its process'} on {status.get('host', 'an unknown host')}"
        error = f"{where} is gone without a word: killed, or out of memory; the same command goes on with it"
        return status | {"state": "failed", "reason": "killed", "error": error}

    def held(self) -> bool:
        """Whether a live process is computing this run."""
        return self.holder() is not None

    def holder(self) -> dict[str, Any] | None:
        """The process that is computing this run: host, pid, job (of SLURM); None where there is none alive."""
        return self._claim().holder()

    @on_first_rank
    def update(self, **entries: Any) -> None:
        """Merges entries into status.json. On a full disk the reserve is given up for it."""
        text = json.dumps(self.status() | entries | {"updated": time.time()}, indent=1)
        try:
            write_atomic(self.path / "status.json", text)
        except OSError:
            if not self._reserve.exists():
                raise
            self._reserve.unlink()
            write_atomic(self.path / "status.json", text)

    def unqueue(self, run_id: str) -> None:
        """A queued run that will not be started is again what it was before; another run's folder is left alone."""
        status = self.status()
        if status["state"] == "queued" and status.get("run_id") == run_id:
            self.update(**status.get("was", {"state": "new"}), again=False)

    @property
    def _reserve(self) -> Path:
        return self.path / ".reserve"

    @on_first_rank
    def describe(self, **entries: Any) -> None:
        """Merges entries into run.json: what the run is, for those who read it without its configuration."""
        write_atomic(self.path / "run.json", json.dumps(self.description() | entries, indent=1, default=str))

    def description(self) -> dict[str, Any]:
        """The content of run.json, empty where there is none; `params` is the run's identity, flat."""
        try:
            return dict(json.loads((self.path / "run.json").read_text()))
        except (FileNotFoundError, NotADirectoryError):
            return {}

    def _claim(self) -> Claim:
        return Claim(self.path.parent / f".{self.path.name}.claim")

    @contextmanager
    def claim(self, wait: float = 10.0) -> Iterator[None]:
        """Holds the run for this process. A claim whose process is gone, however it ended, is taken over.

        Raises:
            RunBusy: another process holds it and does not end within `wait` seconds.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        claim, until = self._claim(), time.monotonic() + wait
        while not claim.take():
            if time.monotonic() >= until:
                other = claim.holder() or {}
                who = (other.get("job") and f"SLURM job {other['job']}") or f"process {other.get('pid', 'unknown')}"
                where = f"{who} on {other.get('host', 'an unknown host')}"
                raise RunBusy(f"run_dir={self.path}: is being computed by {where}; wait for it, or stop it")
            time.sleep(0.2)
        try:
            yield
        finally:
            claim.release()

    def open(self, run_id: str, config: str, fresh: bool, params: Mapping[str, Any] | None = None) -> None:
        """Prepares the directory for run `run_id`; `fresh` starts over.

        Args:
            params: the run's identity, as flat `key: value`.

        Raises:
            RunDirectoryError: the directory holds another run; the keys that differ are named.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        owner = self.status().get("run_id")
        if owner is None and any(self.path.iterdir()) and not fresh:
            raise RunDirectoryError(f"run_dir={self.path}: holds files that are no run; choose another run_dir")
        if owner not in (None, run_id):
            raise RunDirectoryError(
                f"run_dir={self.path}: belongs to another configuration (run {owner}, this is {run_id})"
                f"{self._differences(params)}; choose another run_dir, or leave it out to have one made from the "
                "configuration"
            )
        if fresh or self.status().get("again"):
            self.clear()
        before = self.status()
        self.update(  # first: it makes the folder ours
            run_id=run_id,
            state="running",
            started=time.time(),
            attempts=before.get("attempts", 0) + 1,
            pid=os.getpid(),
            host=platform.node(),
            job=f"slurm {slurm_job()}" if slurm_job() else f"process {os.getpid()}",
            slurm_job_id=slurm_job(),
            error=None,
            reason=None,
        )
        self._reserve.write_bytes(bytes(RESERVE))
        self.describe(run_id=run_id, params=dict(params or {}))
        for folder in (self.checkpoints, self.rows, self.pictures):
            folder.mkdir(exist_ok=True)
        write_atomic(self.path / "config.yaml", redact(config))
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

    @on_first_rank
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

    @on_first_rank
    def forget_after(self, epoch: float) -> None:
        """Drops what was logged after `epoch`, which will be computed again, and a line cut off by a crash."""
        if not (self.path / "metrics.jsonl").exists():
            return
        kept = [json.dumps(e) for e in self.metrics() if e["epoch"] <= epoch]
        write_atomic(self.path / "metrics.jsonl", "".join(line + "\n" for line in kept))

    def _differences(self, params: Mapping[str, Any] | None) -> str:
        known = self.description().get("params", {})
        return f": {text}" if params and known and (text := show_differences(known, params)) else ""

    def clear(self) -> None:
        """Removes what a run writes, and nothing else that somebody may have put here. The log goes on."""
        names = "status.json run.json metrics.jsonl split.csv provenance.json config.yaml error.txt"
        for name in names.split():
            (self.path / name).unlink(missing_ok=True)
        rows, pictures = ("rows/*.csv", "rows/*.parquet"), ("pictures/*/*.png", "pictures/*/*.npz")
        for file in (f for p in ("checkpoints/*.pt", "checkpoints/.*.pt", *rows, *pictures) for f in self.path.glob(p)):
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
        "command": [redact(argument) for argument in sys.argv],
        "revision": git_revision(),
        "packages": versions,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": platform.node(),
        "cpus": os.cpu_count(),
    }
