"""How raw intensities become grey values in [0, 1]: a fixed window for CT, percentiles of the volume for the rest."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from medsam2.data.records import DatasetError


class Intensity(Protocol):
    def __call__(self, array: NDArray[Any]) -> tuple[float, float]:
        """The intensities shown as black and as white, for one channel of a whole volume or image."""


class Window:
    """``level`` ± ``width``/2, in HU for CT: soft tissue 40/400, lung -600/1500, brain 40/80."""

    def __init__(self, level: float, width: float) -> None:
        if not width > 0:
            raise DatasetError(f"dataset.intensity: a window's width={width} must be above 0 (soft tissue: 40 and 400)")
        self.level = level
        self.width = width

    def __call__(self, array: NDArray[Any]) -> tuple[float, float]:
        return self.level - self.width / 2, self.level + self.width / 2


class Percentiles:
    """From the ``low`` to the ``high`` percentile (0…100), of the voxels that are not 0 with ``nonzero``."""

    def __init__(self, low: float = 0.5, high: float = 99.5, nonzero: bool = True) -> None:
        if not 0 <= low < high <= 100:
            raise DatasetError(
                f"dataset.intensity: percentiles low={low}, high={high} must hold 0 <= low < high <= 100"
            )
        self.low = low
        self.high = high
        self.nonzero = nonzero

    def __call__(self, array: NDArray[Any]) -> tuple[float, float]:
        values = array[array != 0] if self.nonzero else array.flatten()
        if not values.size:
            return 0.0, 1.0
        low, high = np.percentile(values, [self.low, self.high], overwrite_input=True)  # sorts our copy, makes no other
        return float(low), float(high)


class Range:
    """From ``low`` to ``high`` as they are: 0 and 255 for volumes that were turned into 8 bits already."""

    def __init__(self, low: float = 0.0, high: float = 255.0) -> None:
        if not low < high:
            raise DatasetError(f"dataset.intensity: low={low} must be below high={high}")
        self.low = low
        self.high = high

    def __call__(self, array: NDArray[Any]) -> tuple[float, float]:
        return self.low, self.high


def scale(array: NDArray[Any], low: float, high: float) -> NDArray[np.float32]:
    """Intensities as float32 in [0, 1]; where black is white already (a constant volume) everything is 0."""
    if high <= low:
        return np.zeros(array.shape, dtype=np.float32)
    return np.clip((array.astype(np.float32) - np.float32(low)) / np.float32(high - low), 0.0, 1.0)
