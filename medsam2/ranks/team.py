"""Who starts ranks: hears them, tells them what signals say, and leaves none of them behind."""

from __future__ import annotations

import logging
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import Any, Protocol

from medsam2.ranks.errors import RankKilled, consequence, unpack_error
from medsam2.ranks.worker import Seat, start_rank
from medsam2.training.stop import SIGNALS, Stop

GRACE = 10.0  # seconds: for the others to end when one has failed; for a process to end when its work is done
LOOK = 0.5  # seconds between two looks at what was asked of this process


class Others(Protocol):
    """The ranks that other processes started."""

    def look(self) -> BaseException | None:
        """Why they have failed, None as long as they have not."""


class Nobody:
    """All ranks are this process's."""

    def look(self) -> BaseException | None:
        return None


@dataclass
class _Member:
    """A rank as its starter sees it. `ended`: whether its work is over; `error`: why, where it failed."""

    rank: int
    process: Any
    connection: Any
    ended: bool = False
    value: Any = None
    error: BaseException | None = None


def run_team(
    seats: Sequence[Seat],
    work: Callable[..., Any],
    args: Sequence[Any],
    stop: Stop,
    update: Callable[[], None],
    others: Others,
) -> Any:
    """Calls `work(link, *args)` in a new process per seat; returns what the first of them returns.

    Args:
        work, args: a function of a module, and what can be pickled.
        stop: what was asked of this process; the ranks are told.
        update: called when a rank says that there is something new in the run directory.

    Raises:
        Preempted: the ranks were told to leave, and have saved.
        RankKilled: a rank died without a word.
        Whatever a rank raised; the others are ended within seconds.
    """
    members: list[_Member] = []
    try:
        for seat in seats:
            members.append(_start(seat, work, args, stop))
        _Watch(members, stop, update, others).run()
        return members[0].value
    finally:
        for member in members:
            member.process.join(GRACE if all(m.ended and m.error is None for m in members) else 0)
            member.process.kill()
            member.process.join()
            member.connection.close()


def _start(seat: Seat, work: Callable[..., Any], args: Sequence[Any], stop: Stop) -> _Member:
    context = multiprocessing.get_context("spawn")  # a fork of a process with threads or CUDA is broken
    ours, theirs = context.Pipe()
    settings = seat, theirs, sorted(stop.stays), logging.root.getEffectiveLevel(), work, tuple(args)
    process = context.Process(target=start_rank, args=settings, name=f"device {seat.rank}")
    with _held_back():
        process.start()
    theirs.close()
    return _Member(seat.rank, process, ours)


@contextmanager
def _held_back() -> Iterator[None]:
    """A process that is started inside gets no signals until it wants them: they would end it."""
    earlier = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, earlier)


class _Watch:
    """Waits for ranks: hands on their words and this process's signals, until all have ended or one has failed."""

    def __init__(self, members: Sequence[_Member], stop: Stop, update: Callable[[], None], others: Others):
        self.members, self.stop, self.update, self.others = members, stop, update, others
        self.told: int | None = None  # the signal that the ranks know of
        self.said: dict[str, int] = {}  # by whom: what concerns all of them is logged once

    def run(self) -> None:
        """Raises what a rank raised, of several errors the one that is nobody else's consequence."""
        until, elsewhere = float("inf"), None
        while not all(member.ended for member in self.members) and time.monotonic() < until:
            self._tell()
            active = [member for member in self.members if not member.ended]
            wait([end for member in active for end in (member.connection, member.process.sentinel)], LOOK)
            for member in active:
                self._hear(member)
            elsewhere = elsewhere or self.others.look()
            if elsewhere or any(member.error for member in self.members):
                until = min(until, time.monotonic() + GRACE)
        errors = [member.error for member in self.members if member.error is not None]
        elsewhere = elsewhere or self.others.look()
        if elsewhere is not None:
            errors.append(elsewhere)
        if errors:
            raise min(errors, key=consequence)

    def _tell(self) -> None:
        if self.stop.signum is not None and self.stop.signum != self.told:
            for member in self.members:
                with suppress(OSError):
                    member.connection.send(self.stop.signum)
        self.told = self.stop.signum
        if self.told in self.stop.stays:  # the ranks save and go on, and so may the next one
            self.stop.signum = self.told = None

    def _hear(self, member: _Member) -> None:
        gone = not member.process.is_alive()  # before the look at its last words
        with suppress(EOFError, OSError):
            while not member.ended and member.connection.poll():
                self._take(member, *member.connection.recv())
        if gone and not member.ended:
            code = member.process.exitcode
            how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
            member.error = RankKilled(f"the process of device {member.rank} {how}; the machine may be out of memory")
            member.ended = True

    def _take(self, member: _Member, kind: str, content: Any) -> None:
        if kind == "log":
            if self.said.setdefault(content.msg, member.rank) == member.rank:
                logging.getLogger(content.name).handle(content)
        elif kind == "update":
            self.update()
        else:
            member.ended = True
            member.value = content if kind == "done" else None
            member.error = unpack_error(content) if kind == "failed" else None
