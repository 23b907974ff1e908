"""One process at a time computes a run: a claim file beside its directory, kept fresh by a heartbeat.

The file is made by an exclusive create, which holds on network file systems too. Whether its owner still lives is asked
of the operating system where it ran on this machine, and told by the age of its last heartbeat where it did not.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

log = logging.getLogger(__name__)

BEAT = 5.0  # seconds between heartbeats
STALE = 120.0  # seconds without one after which a process on another machine counts as dead


class Claim:
    """The hold of at most one process on a run.

    Args:
        path: the claim file; its folder exists.
    """

    def __init__(self, path: Path):
        self.path = path
        self._token = ""
        self._ended = threading.Event()

    def holder(self) -> dict[str, Any] | None:
        """Who holds the claim: host, pid, job; None where nobody lives who does."""
        try:
            content = json.loads(self.path.read_text())
            age = time.time() - self.path.stat().st_mtime
        except FileNotFoundError:
            return None
        except (json.JSONDecodeError, OSError):  # being written at this moment, or cut off by a crash
            content, age = {}, _age(self.path)
        if content.get("job") and content["job"] == slurm_job() and content.get("restart", 0) < restarts():
            return None  # this job's own, from before it was requeued to another node
        if content.get("machine") == _machine():
            return None if is_dead(content) else content
        return content if age < STALE else None

    def take(self) -> bool:
        """Whether this process holds the claim from now on. A stale one is taken over."""
        with self._guarded():
            if self.holder() is not None:
                return False
            self.path.unlink(missing_ok=True)
            self._token = uuid.uuid4().hex
            try:
                handle = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            except FileExistsError:
                return False
            try:
                with os.fdopen(handle, "w") as file:
                    json.dump(this_process() | {"restart": restarts(), "token": self._token}, file)
            except OSError:  # a full disk: an empty file would be nobody's claim
                self.path.unlink(missing_ok=True)
                raise
        self._ended.clear()
        threading.Thread(target=self._beat, name="heartbeat", daemon=True).start()
        return True

    def release(self) -> None:
        """Lets go of the claim, if it still is this process's."""
        self._ended.set()
        with self._guarded():
            if self._owned():
                self.path.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._ended.wait(BEAT):
            try:
                if not self._owned():
                    if self._ended.is_set():  # given back between the two looks
                        return
                    log.error("%s: another process took this run over; this one ends", self.path)
                    logging.shutdown()
                    os._exit(75)  # whatever else it wrote would be mixed with the other's
                os.utime(self.path)
            except OSError as error:  # a file system that is away for a moment
                log.debug("heartbeat: %s", error)

    def _owned(self) -> bool:
        try:
            return bool(json.loads(self.path.read_text()).get("token") == self._token)
        except FileNotFoundError:
            return False
        except json.JSONDecodeError:
            return False

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Two processes of one machine do not look and write at the same time; the exclusive create does the rest."""
        lock = FileLock(self.path.with_suffix(".lock"))
        try:
            lock.acquire(timeout=10)
        except (OSError, NotImplementedError) as error:  # Timeout is an OSError: some file systems have no locks
            log.debug("claim without lock: %s", error)
        try:
            yield
        finally:
            lock.release()


def this_process() -> dict[str, Any]:
    """What tells this process from all others: host, machine, pid, born, job of SLURM."""
    me = {"host": platform.node(), "machine": _machine(), "pid": os.getpid(), "born": _born(os.getpid())}
    return me | {"job": slurm_job()}


def is_dead(process: Mapping[str, Any]) -> bool:
    """Whether a process, told by `this_process`, is known to have ended; of other machines nothing is known."""
    here = process.get("machine") == _machine()
    return here and (process["born"] is None or process["born"] != _born(process["pid"]))


def slurm_job() -> str | None:
    """The SLURM job this process belongs to, `17` or `17_3` in an array; None outside of one."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


def restarts() -> int:
    """How often SLURM has requeued this job."""
    return int(os.environ.get("SLURM_RESTART_COUNT", 0))


def _age(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return 0.0


def _machine() -> str:
    """Where a process number means the same: this boot of this machine, in this container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return platform.node()


def _born(pid: int) -> str | None:
    """When a process started, in the kernel's ticks; None for one that is gone or only waits to be reaped."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return _exists(pid)
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]


def _exists(pid: int) -> str | None:
    """Where there is no /proc: only whether there is a process of this number."""
    if Path("/proc/self").exists():
        return None
    try:
        os.kill(pid, 0)
    except PermissionError:
        return "there"
    except OSError:
        return None
    return "there"
