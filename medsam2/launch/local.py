"""Jobs on this machine, as many at a time as it has places for.

Each job is a fork of a server that has imported what a run imports (multiprocessing's forkserver), so it starts in
milliseconds, shares nothing with the others and may die in any way. It leads a session of its own: the terminal's
signals go to the head alone, and where the head is killed, the jobs that run go on to their end.
"""

from __future__ import annotations

import atexit
import logging
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import connection, forkserver
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from medsam2.launch.places import Place
from medsam2.launch.worker import WARM, Order, work

log = logging.getLogger(__name__)

PRELOAD = ["medsam2.launch.warm"]
MLFLOW = (
    "medsam2.tracking.mlflow",
    "mlflow.store.tracking.sqlalchemy_workspace_store",
    "alembic.command",
    "sqlalchemy.dialects.sqlite",
)
LOOK = 0.2  # seconds between looks at whether a running job was cancelled

_processes = threading.Lock()  # to start a process is to poll the others, and an exit code can be read only once


class LocalJob:
    """One job: waiting for a place, at it, or ended. See `medsam2.launch.base.Handle`."""

    def __init__(self, program: bytes, overrides: Sequence[str], number: int, prefix: str, waiting: threading.Lock):
        self.order = Order(program, tuple(overrides), number, prefix)
        self.label = "waiting"
        self.asked = 0  # how often it was asked to end
        self._waiting = waiting  # held by who lets the job start, or ends it before
        self._starting = threading.Lock()
        self._process: ForkServerProcess | None = None
        self._gate: connection.Connection | None = None
        self._end: str | None = None

    def ended(self) -> str | None:
        return self._end

    def cancel(self) -> None:
        """Asks the job to end in order; called again, kills it. One that waits never starts."""
        with self._waiting:
            self.asked += 1
            if self.label == "waiting":
                self._end = "not started"
        self._close_if_cancelled()

    def _close_if_cancelled(self) -> None:
        """A process that got ready in vain ends when its gate closes."""
        if self._end is not None and self._gate is not None:
            self._gate.close()

    def take(self) -> bool:
        """Whether the job may start now. The caller holds the lock."""
        self.label = "starting" if self._end is None else self.label
        return self._end is None

    def prepare(self) -> None:
        """Starts the process, which gets ready while other jobs run, and waits for a place."""
        with self._starting:
            if self._process is not None or self._end is not None:
                return
            context = multiprocessing.get_context("forkserver")
            here, there = dict(os.environ), multiprocessing.get_start_method()
            with _processes:
                door, gate = context.Pipe(duplex=False)
                process = context.Process(target=work, args=(self.order, here, there, door), name=self.order.name)
                process.start()
                door.close()
            self._process, self._gate = process, gate
        self._close_if_cancelled()

    def live(self, place: Place, grace: float) -> None:
        """Runs the job from its start to its end."""
        try:
            self.prepare()
            assert self._process
            assert self._gate
            self.label = f"process {self._process.pid}"
            with suppress(BrokenPipeError):  # it has died already
                self._gate.send(place)
            self._gate.close()
            self._end = self._watch(self._process, grace)
        except Exception as error:  # such as no memory or process numbers left; the others go on
            log.error("%s could not be started: %s", self.order.name, error)
            self._end = "not started"

    def _watch(self, process: ForkServerProcess, grace: float) -> str:
        told, deadline = 0, math.inf
        assert process.pid is not None
        while not connection.wait([process.sentinel], LOOK):
            if self.asked > told:
                told = self.asked
                deadline = time.monotonic() + (grace if told == 1 else 0)
                _send(os.kill, process.pid, signal.SIGTERM)
            if time.monotonic() >= deadline:
                _send(os.killpg, process.pid, signal.SIGKILL)
        with _processes:
            code = process.exitcode
        if code == 255 and _lives(process.pid):  # it was the server that died, and the job goes on
            while _lives(process.pid):
                time.sleep(LOOK)
            return "gone"
        if code:
            _send(os.killpg, process.pid, signal.SIGKILL)  # processes that it left behind
        return f"signal {-code}" if code and code < 0 else f"exit {code}"


class LocalPool:
    """Jobs in order, each at the next place that is free.

    Args:
        mlflow: whether the jobs import it.
        grace: seconds between asking a job to end and killing it.
    """

    def __init__(self, places: Sequence[Place], grace: float = 120.0, mlflow: bool = False):
        self.mlflow = mlflow
        self.grace = grace
        self.places = len(places)
        self.jobs: list[LocalJob] = []
        self._free = list(places)
        self._queue: deque[LocalJob] = deque()
        self._lock = threading.Lock()
        atexit.register(self.close)  # or multiprocessing would wait there for processes that wait for a place

    def start(self, program: bytes, jobs: Sequence[Sequence[str]], first: int) -> list[LocalJob]:
        """Queues jobs, numbered from `first`, and returns at once."""
        with _processes:
            _start_server(MLFLOW if self.mlflow else ())
        added = [
            LocalJob(program, overrides, i, f"[{i}] " if self.places > 1 else "", self._lock)
            for i, overrides in enumerate(jobs, first)
        ]
        self.jobs += added
        self._queue.extend(added)
        threading.Thread(target=self._fill, daemon=True).start()  # the first process waits for the server's imports
        return added

    def wait(self) -> None:
        """Returns when all jobs have ended."""
        while any(job.ended() is None for job in self.jobs):
            time.sleep(LOOK / 4)

    def stop(self) -> None:
        """Asks all jobs to end, and waits for that. Ctrl-C meanwhile, or `close`, kills them."""
        for job in self.jobs:
            job.cancel()
        self.wait()

    def close(self) -> None:
        """Waits for what runs and was not asked to end; kills what was, and lets nothing more start."""
        for job in self.jobs:
            if job.asked or job.label == "waiting":
                job.cancel()
        while True:
            try:
                return self.wait()
            except KeyboardInterrupt:
                for job in self.jobs:
                    job.cancel()

    def _fill(self) -> None:
        """Starts jobs while there are both jobs and places, and lets as many of the next ones get ready."""
        with self._lock:
            while self._queue and self._free:
                job = self._queue.popleft()
                if job.take():
                    place = max(self._free, key=self._idle)
                    self._free.remove(place)
                    threading.Thread(target=self._run, args=(job, place), daemon=True).start()
            ready = list(self._queue)[: self.places]
        for job in ready:
            with suppress(OSError, EOFError):  # it will be tried again, and reported
                job.prepare()

    def _idle(self, place: Place) -> int:
        """How many places are free on the same GPU."""
        return sum(free.gpu == place.gpu for free in self._free)

    def _run(self, job: LocalJob, place: Place) -> None:
        job.live(place, self.grace)
        with self._lock:
            self._free.append(place)
        self._fill()


def _start_server(modules: Sequence[str]) -> None:
    """Starts the server, unless it runs. It imports while this process goes on; its jobs wait for that."""
    multiprocessing.set_forkserver_preload(PRELOAD)
    with _environ({"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), WARM: ",".join(modules)}):
        forkserver.ensure_running()


@contextmanager
def _environ(values: dict[str, str]) -> Iterator[None]:
    """Sets environment variables for a while."""
    earlier = {key: os.environ.get(key) for key in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for key, value in earlier.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value


def _send(call: Callable[[int, int], None], pid: int, signum: int) -> None:
    with suppress(ProcessLookupError):
        call(pid, signum)


def _lives(pid: int) -> bool:
    """Whether the process is there and not only waits to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
