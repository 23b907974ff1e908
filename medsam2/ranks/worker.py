"""A rank: does its share of the work, and says what it has to say to the process that started it."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from logging.handlers import QueueHandler
from multiprocessing.connection import Connection
from typing import Any

from medsam2.distributed import joined
from medsam2.ranks.errors import pack_error
from medsam2.training.stop import SIGNALS, Stop


@dataclass(frozen=True)
class Seat:
    """One of `world` ranks, where all of them meet, and its number among those of this machine."""

    rank: int
    world: int
    host: str
    port: int
    local: int


class Link:
    """A rank's line to the process that started it."""

    def __init__(self, rank: int, connection: Connection, stop: Stop):
        self.rank = rank
        self.stop = stop
        self._connection = connection
        self._lock = threading.Lock()

    def send(self, kind: str, content: Any = None) -> None:
        with self._lock, suppress(OSError):  # nobody listens any more: `listen` ends this process
            self._connection.send((kind, content))

    def listen(self) -> None:
        """Takes the signals that the starter heard; does not outlive it."""
        while True:
            try:
                self.stop.signum = self._connection.recv()
            except (EOFError, OSError):
                os.kill(os.getpid(), signal.SIGKILL)


class _Relay(QueueHandler):
    """Log records go to the starter, which has the handlers."""

    def __init__(self, link: Link):
        super().__init__(queue=None)  # type: ignore[arg-type]
        self.link = link

    def enqueue(self, record: logging.LogRecord) -> None:
        self.link.send("log", record)


def start_rank(
    seat: Seat, connection: Connection, stays: Sequence[int], level: int, work: Callable[..., Any], args: Sequence[Any]
) -> None:
    """What the process of a rank does: `work(link, *args)` among all ranks."""
    for signum in SIGNALS:  # they reach a whole group of processes; the starter alone decides what they mean
        signal.signal(signum, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    link = Link(seat.rank, connection, Stop(stays))
    threading.Thread(target=link.listen, name="starter", daemon=True).start()
    logging.root.handlers = [_Relay(link)]
    logging.root.setLevel(level if seat.rank == 0 else max(level, logging.WARNING))
    try:
        _take_device(seat)
        with joined(seat.rank, seat.world, seat.host, seat.port):
            _report(link, work, args)
    except BaseException as error:
        link.send("failed", pack_error(error))


def _report(link: Link, work: Callable[..., Any], args: Sequence[Any]) -> None:
    """Does the work and says how it ended, before the ranks part, for which one may wait in vain."""
    try:
        value = work(link, *args)
    except BaseException as error:
        link.send("failed", pack_error(error))
    else:
        link.send("done", value if link.rank == 0 else None)


def _take_device(seat: Seat) -> None:
    """The rank's GPU, or its part of the processor."""
    import torch

    if seat.host == "127.0.0.1" and sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # the machine's name may have no address
    if torch.cuda.is_available():
        torch.cuda.set_device(seat.local % torch.cuda.device_count())  # SLURM may show each task its own alone
    if int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) == 1:  # else SLURM shares out the processor itself
        torch.set_num_threads(max(1, torch.get_num_threads() // seat.world))
