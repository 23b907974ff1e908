"""One sweep from its jobs to its table."""

from __future__ import annotations

import hashlib
import logging
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_launcher import BasicLauncher

from medsam2.code import code_hash, git_revision
from medsam2.config import environment_path
from medsam2.config_check import is_command
from medsam2.experiment import build_tracker
from medsam2.manifest import Manifest, short_name
from medsam2.redact import protect_logging, redact
from medsam2.results.board import Board
from medsam2.sweep.jobs import Job, check_all, unique
from medsam2.sweep.report import report
from medsam2.sweep.watch import Watch

log = logging.getLogger("medsam2.sweep")


def run_sweep(jobs: Sequence[Job], axes: Sequence[str], launcher: Any, batch_size: int | None = None) -> list[float]:
    """Runs what is not finished, then prints the table of all jobs and stores it beside the runs.

    Commands (`-m task=fetch model=sam2_t,sam2_s`) are called, and that is all: no table, no parent run.

    Args:
        axes: the swept keys; they become the rows of the table, except seed (averaged) and dataset (columns).
        launcher: a Hydra launcher; one with `start` (launch.base.Starter) is watched, another blocks.
        batch_size: jobs given to a launcher that blocks at a time, None for all.

    Returns:
        The values of all jobs, NaN for those that are not finished.

    Raises:
        SystemExit: 1 if a job failed or its config is wrong, 130 if interrupted; the table comes first.
    """
    protect_logging()
    here = getattr(launcher, "here", isinstance(launcher, BasicLauncher))
    if any(is_command(job.cfg) for job in jobs):
        return _call_all(jobs, launcher, here)
    jobs = unique(jobs)
    waiting = check_all(jobs, here)
    manifest, extra, parent = open_sweep(jobs, axes, waiting=bool(waiting), launcher=launcher)
    log.info("sweep %s: %d jobs, %d finished before", manifest.folder.name, len(jobs), len(jobs) - len(waiting))
    watch = Watch(launcher, extra, manifest)
    board = Board(manifest, live=getattr(launcher, "stays", False))
    code, state, size = 0, "", batch_size or len(waiting) or 1

    def run_all() -> None:
        with board:
            for i in range(0, len(waiting), size):
                watch.start(waiting[i : i + size])
            watch.wait(lambda ended: board.show([(short_name(job.overrides, axes), status) for job, status in ended]))

    try:
        code = watch.mind(run_all)
    finally:
        files, state = report(jobs, axes, manifest)
        if parent:
            build_tracker(jobs[0].cfg).log_sweep(parent, files, state)
    if code and getattr(launcher, "stays", False) and watch.going_on:
        shown = f"`python run.py task=status sweep={manifest.folder.name}` shows them"
        log.warning("%d jobs go on; %s, this command again waits for them", watch.going_on, shown)
    if code or state != "finished":
        raise SystemExit(code or 1)
    return [float(job.directory.status().get("value", math.nan)) for job in jobs]


def open_sweep(
    jobs: Sequence[Job], axes: Sequence[str], waiting: bool, launcher: Any, sweep_id: str | None = None
) -> tuple[Manifest, list[str], str | None]:
    """The sweep's manifest, written before any job is submitted, and its parent run in the tracker.

    Args:
        waiting: whether there is anything to run.
        sweep_id: None for one that follows from the runs in it.

    Returns:
        The manifest, the overrides that every job gets beside its own, the tracker's id of the parent run.
    """
    cfg = jobs[0].cfg
    sweep_id = sweep_id or hashlib.sha256("".join(sorted(j.cfg.run_id for j in jobs)).encode()).hexdigest()[:10]
    manifest = Manifest(environment_path(cfg.paths.output_dir) / "sweeps" / sweep_id)
    if not waiting and manifest.read().get("state") == "finished":
        return manifest, [], None  # nothing will be added to the parent run
    name = "sweep " + " × ".join(axes or ["single"]) + f" ({sweep_id})"
    parent = build_tracker(cfg).open_sweep(sweep_id, cfg.study, name, tags={"axes": ", ".join(axes)})
    labels, code = manifest.labels(), code_hash()
    manifest.update(
        sweep_id=sweep_id,
        name=name,
        study=cfg.study,
        axes=list(axes),
        command=[redact(argument) for argument in sys.argv],
        folder=str(Path.cwd()),
        code=code,
        revision=git_revision(),
        submitted=time.time(),
        state="running",
        jobs=[_entry(job, labels) for job in jobs],
    )
    extra = [f"++job.sweep={sweep_id}"] + ([f"++job.parent_run_id={parent}"] if parent else [])
    if not isinstance(launcher, BasicLauncher):  # which has loaded the code already
        extra.append(f"++job.code={code}")
    return manifest, extra, parent


def _entry(job: Job, labels: dict[str, str]) -> dict[str, Any]:
    entry = {
        "run_id": job.cfg.run_id,
        "run_dir": str(job.directory.path),
        "overrides": [redact(o) for o in job.overrides],
    }
    return entry | ({"job": labels[job.cfg.run_id]} if job.cfg.run_id in labels else {})


def _call_all(jobs: Sequence[Job], launcher: Any, here: bool) -> list[float]:
    """Launches commands; one that fails does not keep the others from running, and is named at the end."""
    if not all(is_command(job.cfg) for job in jobs):
        log.error("task: some are commands, others make runs; give each kind a sweep of its own")
        raise SystemExit(1)
    check_all(jobs, here)
    results = list(launcher.launch([list(job.overrides) for job in jobs], initial_job_idx=0))
    values = [_value(result) for result in results]
    failed = [job for job, value in zip(jobs, values, strict=True) if math.isnan(value)]
    for job in failed:
        log.error("failed: %s", job.name)
    if failed:
        raise SystemExit(1)
    return values


def _value(result: Any) -> float:
    """What a job returned: a launcher hands out Hydra's JobReturn, and a job that died holds its exception."""
    try:
        return float(getattr(result, "return_value", result))
    except Exception as error:
        log.error("%s", error)
        return math.nan
