"""Ending in order: a signal is noted, and the run leaves at the next point at which everything is saved.

A handler that saved by itself would write in the middle of a step. SLURM sends USR2 before a time limit (submitit
requeues the job then), and TERM before it takes a job's processor away or cancels it, which look alike from inside.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from medsam2.distributed import all_max

LEAVES = 1000  # above all signal numbers: who was asked to leave outvotes who was asked to save
SIGNALS = (signal.SIGUSR2, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)


class Preempted(BaseException):
    """A signal asked the run to leave, and it is saved. No `except Exception` may swallow it."""

    def __init__(self, signum: int):
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


class Pruned(Exception):
    """A search gives this run up: others are better after as many epochs."""


class Stop:
    """What was asked of the run by signals.

    Args:
        stays: signals that make the run save and go on: whoever sent them kills it, if that is what was meant.
    """

    def __init__(self, stays: Collection[int] = ()):
        self.stays = frozenset(stays)
        self.signum: int | None = None
        self._earlier: dict[int, Any] = {}

    @contextmanager
    def listen(self) -> Iterator[None]:
        """Inside, signals are noted here; afterwards they go where they went before."""
        if threading.current_thread() is not threading.main_thread():
            yield  # Python delivers signals to the main thread only
            return
        self._earlier = {s: signal.signal(s, self._note) for s in SIGNALS}
        try:
            yield
        finally:
            for signum, handler in self._earlier.items():
                signal.signal(signum, signal.SIG_DFL if handler is None else handler)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        impatient = self.signum == signum and signum not in (*self.stays, signal.SIGUSR2)
        if self.signum is None or signum not in self.stays:  # to save must not hide that the run was asked to leave
            self.signum = signum
        if impatient:
            raise Preempted(signum)
        if signum == signal.SIGINT:
            os.write(2, b"\nsaving at the next step; Ctrl-C again stops at once\n")

    @property
    def requested(self) -> bool:
        return self.signum is not None

    @property
    def agreed(self) -> bool:
        """Whether any process of the run was asked to leave. All of them have to ask, at the same step."""
        mine = 0 if self.signum is None else self.signum + LEAVES * (self.signum not in self.stays)
        signum = all_max(mine) % LEAVES
        if signum:  # never back to None: a signal may have come since
            self.signum = signum
        return signum > 0

    def leave(self) -> None:
        """To be called when everything is saved. Raises Preempted, unless the signal lets the run stay."""
        signum, self.signum = self.signum, None
        if signum not in self.stays:
            raise Preempted(signum or signal.SIGTERM)

    def check(self) -> None:
        """Leaves where it was asked to, at a point where there is nothing new to save."""
        if self.requested and self.signum not in self.stays:
            self.leave()

    def hand_on(self, signum: int) -> None:
        """Calls who listened before; submitit's handler requeues the job and ends the process."""
        handler = self._earlier.get(signum)
        if callable(handler):
            handler(signum, None)
