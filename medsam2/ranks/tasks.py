"""Where ranks are started: all of them here, or one by each task of a SLURM step, whose first task leads.

The leader computes the run as a single process would. The others wait for a file beside the run directory that says
where to meet, or that there is nothing to do.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from medsam2.distributed import RankLost, serve
from medsam2.files import write_atomic
from medsam2.ranks.errors import pack_error, unpack_error
from medsam2.ranks.team import LOOK, Nobody, run_team
from medsam2.ranks.worker import Seat
from medsam2.training.stop import Stop

COME = 600.0  # seconds that tasks wait for the leader to look at its data
SILENT = 60.0  # seconds without a sign of life after which another task is dead

Work = Callable[..., Any]


class Task(NamedTuple):
    """This process among the tasks of a SLURM step; `step` tells this attempt from an earlier one of the same job."""

    number: int
    total: int
    local: int
    step: str


def find_task() -> Task | None:
    """The task of SLURM that this process is, None outside of SLURM and where it is the only one."""
    env = os.environ
    if int(env.get("SLURM_STEP_NUM_TASKS", "1")) < 2:
        return None
    names = ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT")
    step = ".".join(env.get(name, "0") for name in names)
    return Task(int(env["SLURM_PROCID"]), int(env["SLURM_STEP_NUM_TASKS"]), int(env["SLURM_LOCALID"]), step)


def check_tasks(devices: int) -> None:
    """Raises ValueError where SLURM started another number of tasks than there are devices to compute on."""
    task = find_task()
    if task is not None and task.total != devices:
        raise ValueError(
            f"trainer.devices={devices}: this SLURM job has {task.total} tasks; use one task, which starts all "
            f"processes itself, or trainer.devices={task.total}"
        )


def follows() -> bool:
    """Whether this process is one of several tasks, and another one leads."""
    task = find_task()
    return task is not None and task.number > 0


def _file(run: Path) -> Path:
    return run.parent / f".{run.name}.ranks"


@contextmanager
def leading(run: Path) -> Iterator[None]:
    """Around all that a leader does: at its end, however it comes about, the others need not wait any more."""
    task = find_task()
    try:
        yield
    finally:
        if task is not None:
            write_atomic(_file(run), json.dumps({"step": task.step, "over": True}))


def run_ranks(run: Path, work: Work, args: Sequence[Any], devices: int, stop: Stop, update: Callable[[], None]) -> Any:
    """`work(link, *args)` on every device, as run_team; returns what the first rank's call returns."""
    task = find_task()
    several = task is not None and os.environ.get("SLURM_STEP_NUM_NODES", "1") != "1"
    host = socket.gethostname() if several else "127.0.0.1"
    store = serve("" if several else host)
    if task is None:
        seats = [Seat(rank, devices, host, store.port, rank) for rank in range(devices)]
        return run_team(seats, work, args, stop, update, Nobody())
    write_atomic(_file(run), json.dumps({"step": task.step, "host": host, "port": store.port}))
    others = _Led(store, task.total)
    try:
        value = run_team([Seat(0, devices, host, store.port, task.local)], work, args, stop, update, others)
    except BaseException:
        store.set("over", "failed")
        raise
    others.wait()
    return value


def follow(run: Path, work: Work, args: Sequence[Any], stop: Stop) -> None:
    """The part of a task that does not lead: its rank, where there is something to compute.

    Raises what run_team raises, which the leader records.
    """
    task, found = find_task(), None
    assert task is not None
    until = time.monotonic() + COME
    while found is None or found["step"] != task.step:
        if time.monotonic() > until:
            raise RankLost(f"{_file(run)}: task 0 of this SLURM job did not say where to meet")
        time.sleep(LOOK)
        found = json.loads(_file(run).read_text()) if _file(run).exists() else None
    if "over" in found:
        return
    leader = _Leader(found["host"], found["port"], task.number)
    seat = Seat(task.number, task.total, found["host"], found["port"], task.local)
    try:
        run_team([seat], work, args, stop, lambda: None, leader)
    except BaseException as error:
        leader.tell(error)
        raise
    leader.tell(None)


class _Led:
    """The other tasks, as their leader sees them."""

    def __init__(self, store: Any, count: int):
        self.store = store
        self.seen = {number: ("", time.monotonic() + COME) for number in range(1, count)}  # last beat, and until when

    def look(self) -> BaseException | None:
        for number, (last, until) in self.seen.items():
            if self.store.check([f"failed{number}"]):
                return unpack_error(bytes.fromhex(self.store.get(f"failed{number}").decode()))
            if self.store.check([f"done{number}"]):
                continue
            beat = self.store.get(f"beat{number}").decode() if self.store.check([f"beat{number}"]) else ""
            if beat != last:
                self.seen[number] = beat, time.monotonic() + SILENT
            elif time.monotonic() > until:
                return RankLost(f"task {number} of this SLURM job is gone")
        return None

    def wait(self) -> None:
        """Until the others know that all is done; the store ends with this process."""
        until = time.monotonic() + SILENT
        while time.monotonic() < until and not self.store.check([f"done{number}" for number in self.seen]):
            time.sleep(0.05)


class _Leader:
    """The leading task, as another one sees it."""

    def __init__(self, host: str, port: int, number: int):
        from torch.distributed import TCPStore  # type: ignore[attr-defined]

        self.store = TCPStore(host, port, is_master=False)
        self.number, self.beats = number, 0

    def look(self) -> BaseException | None:
        try:
            self.beats += 1
            self.store.set(f"beat{self.number}", str(self.beats))
            return RankLost("task 0 of this SLURM job has failed") if self.store.check(["over"]) else None
        except RuntimeError as error:
            return RankLost(f"task 0 of this SLURM job is gone ({str(error).splitlines()[0]})")

    def tell(self, error: BaseException | None) -> None:
        key, content = ("done", "") if error is None else ("failed", pack_error(error).hex())
        try:
            self.store.set(f"{key}{self.number}", content)
        except RuntimeError:
            return  # nobody is left to be told
