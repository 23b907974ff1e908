"""Values of a configuration as a reader would type them, and as they are compared."""

from __future__ import annotations

import json
from typing import Any


def canonical(value: Any) -> str:
    """Equal texts for equal values; 1 and 1.0 are equal, 1 and "1" are not."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value, sort_keys=True, default=str)


def show(value: Any, short: bool = True) -> str:
    """As on the command line: `null`, `true`, `0.0001`, `[0.9,0.999]`; of `a.b.Class` the last part if `short`."""
    if isinstance(value, str):
        dotted = short and all(part.isidentifier() for part in value.split("."))
        return value.rpartition(".")[2] if dotted else value
    return json.dumps(value, separators=(",", ":"), default=str)


def count(number: int, noun: str) -> str:
    """`1 run`, `3 runs`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def enumerate_some(items: list[str], most: int = 3) -> str:
    """`a, b, c and 4 more`."""
    more = len(items) - most
    return ", ".join(items[:most]) + (f" and {more} more" if more > 0 else "")
