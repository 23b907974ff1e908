"""The life of one job of the local launcher, from the fork to its exit code."""

from __future__ import annotations

import io
import math
import multiprocessing
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
from hydra.core.singleton import Singleton
from hydra.core.utils import run_job, setup_globals
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from medsam2.config import register_resolvers
from medsam2.launch.places import Place

WARM = "MEDSAM2_WARM"  # environment variable of the fork server: modules to import beside its own, with commas


@dataclass(frozen=True)
class Order:
    """One job.

    Args:
        program: a `Program`, pickled; all jobs of a sweep share it.
        prefix: put before each line of output; "" where jobs run one at a time.
    """

    program: bytes
    overrides: tuple[str, ...]
    number: int
    prefix: str

    @property
    def name(self) -> str:
        return f"job {self.number}"


@dataclass(frozen=True)
class Program:
    """What Hydra needs to run a job, as its launchers are given it."""

    hydra_context: HydraContext
    task_function: TaskFunction
    config: DictConfig
    singletons: dict[type, Singleton]

    def pickled(self) -> bytes:
        """By value where a function is run.py's own, which is no module that a job could import."""
        return bytes(cloudpickle.dumps(self))

    def compose(self, overrides: Sequence[str], number: int) -> DictConfig:
        """The config of one job."""
        Singleton.set_state(self.singletons)
        setup_globals()
        register_resolvers()
        config = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = number
        return config

    def run(self, config: DictConfig) -> Any:
        """Calls the task with the config of a job. Raises what it raised."""
        return run_job(
            hydra_context=self.hydra_context,
            task_function=self.task_function,
            config=config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        ).return_value


class Lines(io.TextIOBase):
    """A standard stream of a job. With a prefix, lines are written whole, so that those of several jobs do not mix.

    A terminal or pipe that is gone does not end the job: what it prints then is in its log as well.
    """

    def __init__(self, fd: int, prefix: str = ""):
        self.fd = fd
        self.prefix = prefix
        self._rest = ""

    def write(self, text: str) -> int:
        if not self.prefix:
            self._put(text)
            return len(text)
        *lines, self._rest = (self._rest + text).split("\n")
        self._put("".join(f"{self.prefix}{line}\n" for line in lines))
        return len(text)

    def end(self) -> None:
        """Writes out a line that was begun."""
        if self._rest:
            self.write("\n")

    def fileno(self) -> int:
        return self.fd

    def isatty(self) -> bool:
        """Whether a progress bar may be drawn."""
        return not self.prefix and os.isatty(self.fd)

    def writable(self) -> bool:
        return True

    def _put(self, text: str) -> None:
        data = text.encode(errors="replace")
        with suppress(OSError):
            while data:
                data = data[os.write(self.fd, data) :]


def work(order: Order, environ: Mapping[str, str], start_method: str, door: Connection) -> None:
    """Runs in a fork: makes it a process of its own, gets ready, waits for a place, then calls the task.

    Args:
        environ: the head's environment.
        start_method: how the head would start processes, and the job shall: without a fork server.
        door: where a `Place` will arrive.

    Raises:
        SystemExit: 1 if the task's value is NaN, as of a run that failed inside a sweep.
    """
    os.setsid()  # Ctrl-C in the head's terminal is for the head, which asks its jobs to end
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as run.py: ends in order
    signal.signal(signal.SIGINT, signal.default_int_handler)
    multiprocessing.set_start_method(start_method, force=True)
    os.environ.clear()
    os.environ.update(environ)
    sys.stdout, sys.stderr = out, errors = Lines(1, order.prefix), Lines(2, order.prefix)
    try:
        program: Program = cloudpickle.loads(order.program)
        config = program.compose(order.overrides, order.number)
        _settle(door)
        value = program.run(config)
    finally:
        out.end()
        errors.end()
    if isinstance(value, float) and math.isnan(value):
        sys.exit(1)


def _settle(door: Connection) -> None:
    """Waits for a place and takes it. Without one, as where the head is gone, the job ends unseen."""
    try:
        place: Place = door.recv()
    except EOFError:
        os._exit(0)
    os.environ.update(place.environ())
    if place.threads and "torch" in sys.modules:  # else OMP_NUM_THREADS tells it
        sys.modules["torch"].set_num_threads(place.threads)
