"""The reports of many images or volumes, made by several processes and returned in order."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context

from medsam2.data.records import Record
from medsam2.data.volume_dataset import VolumeDataset
from medsam2.doctor.inspect_cases import Inspector, Report

CHUNK = 16  # images given to a process at a time; volumes go one by one

_inspector: Inspector | None = None  # of a worker process


def walk(inspector: Inspector, records: Sequence[Record], num_workers: int) -> Iterator[Report]:
    """The reports in the order of the records, by up to ``num_workers`` processes where there is work for them.

    Raises RuntimeError if the system ended one of them.
    """
    chunk = 1 if isinstance(inspector.dataset, VolumeDataset) else CHUNK
    processes = min(num_workers, len(records) // chunk)
    if processes < 2:
        yield from map(inspector, records)
        return
    # spawned: a copy of this process, made while its threads run, may hang
    with ProcessPoolExecutor(processes, get_context("spawn"), _start, (inspector,)) as pool:
        try:
            with _deaf():
                reports = pool.map(_inspect, records, chunksize=chunk)
            yield from reports
        except BrokenProcessPool as error:
            raise RuntimeError(
                f"a process that decoded {inspector.dataset.name} was ended, often for lack of memory: lower "
                f"num_workers={num_workers}; with 0 one file is decoded at a time"
            ) from error
        except BaseException:  # interrupted: what has not begun is dropped
            pool.shutdown(wait=False, cancel_futures=True)
            raise


@contextmanager
def _deaf() -> Iterator[None]:
    """Processes started meanwhile never hear Ctrl-C, which is for the one that waits for the reports."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, heard)


def _start(inspector: Inspector) -> None:
    global _inspector
    _inspector = inspector


def _inspect(record: Record) -> Report:
    assert _inspector is not None
    return _inspector(record)
