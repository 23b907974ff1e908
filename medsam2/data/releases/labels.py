"""Label values that somebody wrote into a config: which number in a mask marks which structure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medsam2.data.records import DatasetError


def read_labels(labels: Mapping[str, int | Sequence[int]]) -> dict[str, tuple[int, ...]]:
    """structure -> the values that mark it, sorted; one structure may be several, and two may share a value.

    Raises DatasetError unless all are whole numbers from 1 to 65535.
    """
    read = {}
    for name, given in labels.items():
        values = tuple(given) if isinstance(given, list | tuple) else (given,)
        if not values or any(type(value) is not int or not 0 < value < 65536 for value in values):
            raise DatasetError(
                f"dataset.release.labels={{{name}: {given}}} must give the value in the mask, a whole number from 1 to "
                "65535, or a list of them; 0 is the background: labels='{disc: [1, 2], cup: 2}'"
            )
        read[name] = tuple(sorted(values))
    if not read:
        raise DatasetError("dataset.release.labels={} names no structure: labels='{disc: 1, cup: 2}'")
    return read


def declare(labels: Mapping[str, Sequence[int]]) -> tuple[set[int]]:
    """The values that may occur, as ``read_mask`` takes them."""
    return ({0}.union(*labels.values()),)


def select(labels: Mapping[str, Sequence[int]], stored: NDArray[Any], structure: str) -> NDArray[np.bool_]:
    """Where a structure is, in label values."""
    return np.isin(stored, labels[structure])
