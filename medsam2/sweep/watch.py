"""Waiting for jobs without depending on any of them: their run directories say how they stand, launchers only whether
they may still come back. A job that another sweep runs is waited for, and taken over if its process dies."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from medsam2.claims import this_process
from medsam2.launch.base import Handle, Starter
from medsam2.manifest import Manifest
from medsam2.runs import ENDED, RunBusy
from medsam2.sweep.jobs import Job
from medsam2.sweep.report import own_status

log = logging.getLogger("medsam2.sweep")

INTERVAL = 0.25  # seconds between two looks; eight times that on a cluster, where files are far away


@dataclass(eq=False)
class Watched:
    """A job on its way. Without a handle it is in the hands of another process, or of nobody any more."""

    job: Job
    handle: Handle | None = None
    mine: bool = False  # this sweep gave it to its launcher
    old: bool = False  # how it failed in an earlier attempt, whose process is just ending, is not how it ends


class Watch:
    """The jobs of one sweep that have not ended.

    Args:
        launcher: Hydra's; one that offers `start` is watched, another blocks until its jobs have ended.
        extra: overrides that every job gets beside its own.
        manifest: where it is stored what each job was given to.
    """

    def __init__(self, launcher: Any, extra: Sequence[str], manifest: Manifest):
        self.launcher = launcher
        self.starter: Starter | None = launcher if hasattr(launcher, "start") else None
        self.extra = list(extra)
        self.manifest = manifest
        self.labels = manifest.labels()
        self.watched: list[Watched] = []
        self.number = 0
        self.interval = INTERVAL * (8 if self.starter and self.starter.stays else 1)

    @property
    def active(self) -> int:
        return len(self.watched)

    @property
    def going_on(self) -> int:
        """How many of them somebody has, whatever becomes of this process."""
        return sum(self._elsewhere(e.job) or (e.handle is not None and e.handle.ended() is None) for e in self.watched)

    def start(self, jobs: Sequence[Job]) -> None:
        """Gives jobs to the launcher. Those that another process is computing are only waited for."""
        entries = [Watched(job) for job in jobs]
        mine = [entry for entry in entries if not self._elsewhere(entry.job)]
        for entry in entries:
            if entry not in mine:
                entry.old = entry.job.directory.status()["state"] in ("failed", "pruned")
                log.info("another process has %s: waiting for it", entry.job.directory.path)
        self.watched += entries
        self._launch(mine)

    def _launch(self, entries: Sequence[Watched]) -> None:
        for entry in entries:
            entry.mine = True
        head = {} if self.starter and self.starter.stays else this_process()
        entries = [entry for entry in entries if _queue(entry.job, head)]
        commands = [[*entry.job.overrides, *self.extra, "force=false"] for entry in entries]
        first, self.number = self.number, self.number + len(commands)
        if not commands:
            return
        if self.starter is None:
            try:
                self.launcher.launch(commands, initial_job_idx=first)
            except Exception as error:  # submitit's launchers raise for one lost job and drop what the others returned
                log.error("the launcher gave up: %s: %s", type(error).__name__, error)
            return
        try:
            handles = self.starter.start(commands, first)
        except Exception as error:
            log.error("the launcher could not start %d jobs: %s", len(commands), error)
            raise SystemExit(1) from None
        for entry, handle in zip(entries, handles, strict=True):
            entry.handle = handle
            self.labels[entry.job.cfg.run_id] = handle.label
        if self.starter.stays:
            self.manifest.note_jobs(self.labels)

    def poll(self) -> list[tuple[Job, dict[str, Any]]]:
        """The jobs that have ended since the last call, with their status. One that nobody runs is started."""
        ended, lost = [], []
        for entry in list(self.watched):
            status = own_status(entry.job)
            how = entry.handle.ended() if entry.handle else None
            if entry.handle:
                self.labels[entry.job.cfg.run_id] = entry.handle.label
            state = entry.job.directory.status()["state"]
            others = not entry.mine and state in ("failed", "pruned") and (entry.old or entry.job.directory.held())
            if (state in ENDED and not others) or status.get("reason") == "config":
                ended.append((entry, own_status(entry.job)))  # again: it may have ended between the two looks
            elif entry.handle is not None and how is None:
                continue
            elif self._elsewhere(entry.job, entry.handle):  # ours, if there was one, found it busy and left
                entry.handle, entry.mine = None, False
            elif not entry.mine:  # whoever had it is gone
                lost.append(entry)
            else:
                ended.append((entry, self._after(entry.job, status, how)))
        for entry, _ in ended:
            self.watched.remove(entry)
        self._launch(lost)
        return [(entry.job, status) for entry, status in ended]

    def wait(self, look: Callable[[list[tuple[Job, dict[str, Any]]]], None]) -> None:
        """Polls until no job is left; `look` is called with what has ended, also when nothing has."""
        while self.watched:
            look(self.poll())
            if self.watched:
                time.sleep(self.interval)

    def mind(self, work: Callable[[], None]) -> int:
        """Calls `work`, which waits for the jobs; those that end with this process are ended where it is interrupted.

        Returns:
            The exit status: 0, 130 after Ctrl-C, that of a SystemExit.
        """
        try:
            work()
        except KeyboardInterrupt:
            self.stop()
            return 130
        except SystemExit as stopped:
            self.stop()
            return int(stopped.code or 1)
        finally:
            self.close()
        return 0

    def stop(self) -> None:
        """Asks the jobs that end with this process to end, and waits for them."""
        if self.starter is None or self.starter.stays:
            return
        handles = [entry.handle for entry in self.watched if entry.handle]
        if any(handle.ended() is None for handle in handles):
            log.warning("asking the jobs to save and to end; Ctrl-C again kills them")
        for handle in handles:
            handle.cancel()
        while any(handle.ended() is None for handle in handles):
            time.sleep(INTERVAL)

    def close(self) -> None:
        """What was given to nobody, or will not be started any more, is what it was before."""
        for entry in self.watched:
            stays = self.starter is not None and self.starter.stays and entry.handle is not None
            if not stays and not entry.job.directory.held():
                try:
                    entry.job.directory.unqueue(entry.job.cfg.run_id)
                except OSError as full:  # nothing may stand between a head that ends and its table
                    log.error("%s: %s", entry.job.directory.path, full)
        if self.starter is not None:
            self.starter.close()

    def _elsewhere(self, job: Job, mine: Handle | None = None) -> bool:
        """Whether another process has the job: it runs, or it waits in a queue since an earlier command.

        Args:
            mine: of this sweep, ended; the claim of a process killed on another machine looks alive for a while.
        """
        holder = job.directory.holder()
        if holder is not None:
            return mine is None or mine.label != f"slurm {holder.get('job')}"
        label = self.labels.get(job.cfg.run_id, "")
        queued = job.directory.status()["state"] in ("queued", "running", "preempted") and label.startswith("slurm ")
        own = any(entry.job is job and entry.handle for entry in self.watched)
        return queued and not own and self.starter is not None and self.starter.alive(label.removeprefix("slurm "))

    def _after(self, job: Job, status: dict[str, Any], how: str | None) -> dict[str, Any]:
        """How a job stands whose process is gone and has left no last word; a kill is put on record here."""
        if status["state"] in ("preempted", "interrupted"):
            return status
        began = "without a word" if status["state"] == "failed" else "before the run began"
        reason = "memory" if how and how.startswith("out of memory") else "killed"
        if status["state"] != "failed" and how and how.startswith("exit"):
            reason = "error"  # nobody killed it: no Python there, or a broken installation
        error = f"{self.labels.get(job.cfg.run_id, 'the job')} ended {began}{f' ({how})' if how else ''}"
        error += "; killed by somebody, or by the system for want of memory" if how == "signal 9" else ""
        error += "; the same command goes on with it"
        entries = {"run_id": job.cfg.run_id, "state": "failed", "reason": reason, "error": error}
        try:
            job.directory.update(**entries)
        except OSError as full:
            log.error("not put on record: %s", full)
        return job.directory.status() | entries


def _queue(job: Job, head: dict[str, Any]) -> bool:
    """Puts on record that the job waits. With force, what there is of it goes when it starts, and not when requeued.

    Args:
        head: the process without which it would never start; empty where the job outlives it.

    Returns:
        False for a run that another process finished in the meantime.
    """
    directory = job.directory
    try:
        with directory.claim(wait=0.0):
            status = directory.status()
            if status.get("run_id", job.cfg.run_id) != job.cfg.run_id:
                return True  # the job itself will say that the folder is another run's
            if status["state"] == "finished" and not job.cfg.force:
                return False
            was = status if status["state"] != "queued" else status.get("was", {"state": "new"})
            was = {key: was.get(key) for key in ("state", "reason", "error")}
            entries = {"run_id": job.cfg.run_id, "state": "queued", "reason": None, "error": None, "was": was}
            directory.update(**entries, head=head, again=bool(job.cfg.force), submitted=time.time())
    except RunBusy:
        pass
    except OSError as full:
        log.error("%s: %s", directory.path, full)
    return True
