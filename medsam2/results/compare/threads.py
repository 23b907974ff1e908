"""Structures side by side: their numbers need nothing of each other, and NumPy leaves the interpreter to others."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from threadpoolctl import threadpool_limits

T = TypeVar("T")
R = TypeVar("R")
MOST = 4  # at once: each holds some hundred megabytes where there are a hundred arms


def side_by_side(function: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """What `function` answers for each item, in their order."""
    workers = min(MOST, os.cpu_count() or 1)
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(workers) as pool:
        return list(pool.map(function, items))
