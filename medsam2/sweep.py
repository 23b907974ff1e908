"""The head of a sweep: check every job, run each identity once, print the table, and fail only at the end."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from medsam2.config import environment_path
from medsam2.config_check import ConfigError, check, is_command
from medsam2.experiment import build_tracker, finished_value
from medsam2.files import write_atomic
from medsam2.runs import RunDirectory, RunDirectoryError

if TYPE_CHECKING:
    from medsam2.results.table import SweepRun

log = logging.getLogger("medsam2.sweep")

Launch = Callable[..., Sequence[Any]]


@dataclass(frozen=True)
class Job:
    """One combination of a sweep: its command-line overrides and the config they compose to."""

    overrides: tuple[str, ...]
    cfg: DictConfig

    @property
    def directory(self) -> RunDirectory:
        return RunDirectory(environment_path(self.cfg.run_dir))


def run_sweep(
    jobs: Sequence[Job], axes: Sequence[str], launch: Launch, batch_size: int | None = None, here: bool = True
) -> list[Any]:
    """Runs what is not finished, then prints the table of all jobs and stores it beside the runs.

    Commands (`-m task=fetch model=sam2_t,sam2_s`) are called, and that is all: no table, no parent run.

    Args:
        axes: the swept keys; they become the rows of the table, except seed (averaged) and dataset (columns).
        launch: a Hydra launcher's `launch(overrides, initial_job_idx)`.
        batch_size: jobs given to the launcher at a time, None for all.
        here: whether the jobs run on this machine; elsewhere, each checks for itself that its device is there.

    Raises:
        SystemExit: 1 if a job failed or its config is wrong, 130 if interrupted; the table comes first.
    """
    if any(is_command(job.cfg) for job in jobs):
        return _call_all(jobs, launch, here)
    jobs = _unique(jobs)
    waiting = _check_all(jobs, here)
    started = time.time()
    folder, parent = _open(jobs, axes, waiting=bool(waiting))
    log.info("sweep %s: %d jobs, %d finished before", folder.name, len(jobs), len(jobs) - len(waiting))
    results: list[Any] = []
    code = 0
    try:
        extra = [f"++job.sweep={folder.name}"] + ([f"++job.parent_run_id={parent}"] if parent else [])
        for i in range(0, len(waiting), batch_size or len(waiting) or 1):
            batch = waiting[i : i + (batch_size or len(waiting))]
            results += launch([[*job.overrides, *extra] for job in batch], initial_job_idx=i)
    except KeyboardInterrupt:
        code = 130
    finally:
        failed = _report(jobs, [job for job in waiting if job.cfg.force], started, axes, folder, parent)
    if code or failed:
        raise SystemExit(code or 1)
    return results


def _call_all(jobs: Sequence[Job], launch: Launch, here: bool) -> list[Any]:
    """Launches commands; one that fails does not keep the others from running, and is named at the end."""
    if not all(is_command(job.cfg) for job in jobs):
        log.error("task: some are commands, others make runs; give each kind a sweep of its own")
        raise SystemExit(1)
    _check_all(jobs, here)
    results = list(launch([list(job.overrides) for job in jobs], initial_job_idx=0))
    failed = [job for job, result in zip(jobs, results, strict=True) if math.isnan(_value(result))]
    for job in failed:
        log.error("failed: %s", " ".join(job.overrides))
    if failed:
        raise SystemExit(1)
    return results


def _value(result: Any) -> float:
    """What a job returned: a launcher hands out Hydra's JobReturn, and a job that died holds its exception."""
    try:
        return float(getattr(result, "return_value", result))
    except Exception as error:
        log.error("%s", error)
        return math.nan


def _unique(jobs: Sequence[Job]) -> list[Job]:
    """Each run identity once, in order: combinations that compose to the same run are one run."""
    first: dict[str, Job] = {}
    for job in jobs:
        first.setdefault(job.cfg.run_id, job)
    folders = {job.directory.path for job in first.values()}
    if len(folders) < len(first):
        log.error("run_dir: %d different runs would share %d folders; leave run_dir out", len(first), len(folders))
        raise SystemExit(1)
    return list(first.values())


def _check_all(jobs: Sequence[Job], here: bool) -> list[Job]:
    """The jobs still to be run. Nothing starts while one of them is wrong; a problem is named once, with its jobs."""
    waiting, problems = [], dict[str, list[str]]()
    for job in jobs:
        try:
            if finished_value(job.cfg) is not None:
                continue
            waiting.append(job)
            check(job.cfg, here)
        except ConfigError as error:
            for problem in error.problems:
                problems.setdefault(problem, []).append(" ".join(job.overrides))
        except RunDirectoryError as error:
            problems.setdefault(str(error), []).append(" ".join(job.overrides))
    if problems:
        every = [p if len(where) == len(jobs) else f"{p} [{'; '.join(where)}]" for p, where in problems.items()]
        log.error("%s", ConfigError(every))
        raise SystemExit(1)
    return waiting


def _open(jobs: Sequence[Job], axes: Sequence[str], waiting: bool) -> tuple[Path, str | None]:
    """The sweep's folder, named after the runs in it, with its manifest; and its parent run in the tracker."""
    cfg = jobs[0].cfg
    sweep_id = hashlib.sha256("".join(sorted(j.cfg.run_id for j in jobs)).encode()).hexdigest()[:10]
    folder = environment_path(cfg.paths.output_dir) / "sweeps" / sweep_id
    manifest = folder / "manifest.json"
    if not waiting and manifest.exists() and json.loads(manifest.read_text()).get("state") == "finished":
        return folder, None  # nothing will be added to the parent run
    name = "sweep " + " × ".join(axes or ["single"]) + f" ({sweep_id})"
    parent = build_tracker(cfg).open_sweep(sweep_id, cfg.study, name, tags={"axes": ", ".join(axes)})
    entries = [{"run_id": j.cfg.run_id, "run_dir": str(j.directory.path), "overrides": j.overrides} for j in jobs]
    content = {"sweep_id": sweep_id, "axes": list(axes), "started": time.time(), "jobs": entries}
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(manifest, json.dumps(content, indent=1))
    return folder, parent


def _report(
    jobs: Sequence[Job], forced: Sequence[Job], started: float, axes: Sequence[str], folder: Path, parent: str | None
) -> bool:
    """Prints and stores the table; names what failed or did not finish. True if there is any such job."""
    from medsam2.results.table import build_table, print_table, save_table, split_structures

    states = [(job, _status(job, since=started if job in forced else 0.0)) for job in jobs]
    runs = [_table_run(job, status, axes) for job, status in states]
    frame, structures = build_table(runs), build_table(split_structures(runs))
    files = save_table(frame, folder)
    print_table(frame, title=f"sweep {folder.name}")
    if not structures.empty:
        print_table(structures, title="per structure")
    failed = [(job, status) for job, status in states if status["state"] == "failed"]
    unfinished = [job for job, status in states if status["state"] not in ("failed", "finished")]
    for job, status in failed:
        log.error("failed: %s: %s (%s)", " ".join(job.overrides), status["error"], job.directory.path)
    for job in unfinished:
        log.warning("not finished: %s (the same command goes on with it)", " ".join(job.overrides))
    log.info("table: %s", folder / "table.csv")
    state = "failed" if failed else "interrupted" if unfinished else "finished"
    manifest = folder / "manifest.json"
    write_atomic(manifest, json.dumps(json.loads(manifest.read_text()) | {"state": state}, indent=1))
    if parent:
        build_tracker(jobs[0].cfg).log_sweep(parent, files, state)
    return bool(failed or unfinished)


def _status(job: Job, since: float) -> dict[str, Any]:
    """The job's own status: neither that of another run in its folder, nor one from before `since`."""
    status = job.directory.status()
    if status.get("run_id") not in (None, job.cfg.run_id):
        return {"state": "failed", "error": "its folder belongs to another run"}
    return status if status.get("updated", 0.0) >= since else {"state": "new"}


def _table_run(job: Job, status: dict[str, Any], axes: Sequence[str]) -> SweepRun:
    from medsam2.results.table import AVERAGED, SweepRun

    pairs = (o.lstrip("+").partition("=") for o in job.overrides)  # ~key has no value
    swept = {key: value for key, _, value in pairs if key in axes}
    if not set(swept) - set(AVERAGED):
        swept["model"] = job.cfg.model.name  # a row needs a name where only seeds or datasets vary
    return SweepRun(swept, job.cfg.dataset.name, job.cfg.seed, status["state"], status.get("metrics", {}))
