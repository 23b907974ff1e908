"""What SLURM says of submitted jobs. squeue alone is asked: many clusters have no accounting."""

from __future__ import annotations

import logging
import math
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

log = logging.getLogger("medsam2.slurm")

# How a job that squeue still shows has ended. Any other state may go on: a requeued job is PENDING again.
ENDED = {
    "COMPLETED": "completed",
    "FAILED": "failed",
    "CANCELLED": "cancelled",
    "TIMEOUT": "time limit",
    "OUT_OF_MEMORY": "out of memory",
    "NODE_FAIL": "its node failed",
    "BOOT_FAIL": "its node failed",
    "PREEMPTED": "preempted, not requeued",
    "DEADLINE": "deadline",
}


@dataclass
class Queue:
    """What SLURM says of this user's jobs. An answer that does not come means: they may all still run.

    Args:
        poll_s: seconds for which an answer counts.
        grace_s: seconds a job must have been gone before it counts as ended: a node failure or a preemption may put it
            back into the queue, and its last words may be on their way through a network file system.
    """

    poll_s: float = 10.0
    grace_s: float = 30.0
    _states: dict[str, str] | None = None
    _asked: float = -math.inf
    _answering: bool = True
    _gone: dict[str, tuple[float, str]] = field(default_factory=dict)  # since when, and what was seen last

    def ended(self, job: str) -> str | None:
        """None while the job may still run or come back; else how it ended."""
        state = self._state(job)
        if state is None or (state and state not in ENDED):
            self._gone.pop(job, None)
            return None
        since, last = self._gone.get(job, (time.monotonic(), ""))
        self._gone[job] = since, state or last
        if time.monotonic() - since < self.grace_s:
            return None
        return ENDED.get(state or last) or _accounted(job) or "gone from the queue"

    def alive(self, job: str) -> bool:
        """Whether the job is in the queue, as far as can be told."""
        state = self._state(job)
        return state is None or (bool(state) and state not in ENDED)

    def forget(self) -> None:
        """The next question is a new one: jobs were submitted."""
        self._asked = -math.inf

    def _state(self, job: str) -> str | None:
        """SLURM's word, "" for a job it does not know, None if it does not answer."""
        if time.monotonic() - self._asked >= self.poll_s:
            states = _squeue()
            if states is None and self._answering:
                log.warning("squeue does not answer; until it does, the jobs count as alive")
            self._states, self._answering, self._asked = states, states is not None, time.monotonic()
        return None if self._states is None else self._states.get(job, "")


def _squeue() -> dict[str, str] | None:
    command = ["squeue", "--me", "--noheader", "--array", "--states=all", "--format=%i %T"]
    answer = _ask(command)
    if answer is None:
        return None
    return dict(line.split(maxsplit=1) for line in answer.splitlines() if " " in line.strip())  # type: ignore[arg-type]


def _accounted(job: str) -> str | None:
    """What sacct knows of a job that left the queue; None where there is no accounting."""
    answer = _ask(["sacct", "--jobs", job, "--noheader", "--parsable2", "--allocations", "--format=State"])
    lines = (answer or "").split("\n")
    return ENDED.get(lines[0].partition(" ")[0])  # `CANCELLED by 1000`


def cancel(job: str) -> None:
    """Takes a job from the queue; one that runs is sent TERM, and KILL soon after."""
    _ask(["scancel", job])


def _ask(command: Sequence[str]) -> str | None:
    """What a SLURM command prints; None if it is not there, fails, or does not answer within a minute."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        log.debug("%s", error)
        return None
    if done.returncode:
        log.debug("%s: %s", command[0], done.stderr.strip())
        return None
    return done.stdout
