"""What a sweep says at its end: the table of what is finished, and the name of everything that is not."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medsam2.manifest import Manifest, short_name
from medsam2.sweep.jobs import Job

if TYPE_CHECKING:
    from medsam2.results.table import SweepRun

log = logging.getLogger("medsam2.sweep")


def report(jobs: Sequence[Job], axes: Sequence[str], manifest: Manifest) -> tuple[list[Path], str]:
    """Prints and stores the table; names what failed or did not finish.

    Returns:
        The files of the table, and how the sweep stands: `finished`, `failed` or `interrupted`.
    """
    from medsam2.results.table import build_table, print_table, save_table, split_structures

    def name_of(job: Job) -> str:
        return short_name(job.overrides, axes)

    states = [(job, own_status(job)) for job in jobs]
    runs = [_table_run(job, status, axes) for job, status in states]
    frame, structures = build_table(runs), build_table(split_structures(runs))
    print_table(frame, title=f"sweep {manifest.folder.name}")
    if not structures.empty:
        print_table(structures, title="per structure")
    failed = [(job, status) for job, status in states if status["state"] == "failed"]
    unfinished = [(job, status) for job, status in states if status["state"] not in ("failed", "finished", "pruned")]
    words = {"new": "not started"}
    for job, status in failed:
        reason = status.get("reason") or "error"
        log.error("failed (%s): %s: %s (%s)", reason, name_of(job), status["error"], job.directory.path)
    for job, status in unfinished:
        said = words.get(status["state"], status["state"])
        log.warning("%s: %s (the same command goes on with it)", said, name_of(job))
    state = "failed" if failed else "interrupted" if unfinished else "finished"
    try:
        files = save_table(frame, manifest.folder)
        manifest.update(state=state)
    except OSError as full:
        log.error("the table could not be stored: %s", full)
        return [], state
    log.info("table: %s", manifest.folder / "table.csv")
    if any(status["state"] == "finished" for _, status in states):
        log.info("intervals, tests and figures: python run.py task=compare sweep=%s", manifest.folder.name)
    return files, state


def own_status(job: Job) -> dict[str, Any]:
    """The job's status as it really is, and not that of another run in its folder."""
    status = job.directory.look()
    if status.get("run_id") not in (None, job.cfg.run_id):
        return {"state": "failed", "reason": "config", "error": "its folder belongs to another run"}
    return status


def _table_run(job: Job, status: dict[str, Any], axes: Sequence[str]) -> SweepRun:
    from medsam2.results.table import AVERAGED, SweepRun

    pairs = (o.lstrip("+").partition("=") for o in job.overrides)  # ~key has no value
    swept = {key: value for key, _, value in pairs if key in axes}
    if not set(swept) - set(AVERAGED):
        swept["model"] = job.cfg.model.name  # a row needs a name where only seeds or datasets vary
    return SweepRun(swept, job.cfg.dataset.name, job.cfg.seed, status["state"], status.get("metrics", {}))
