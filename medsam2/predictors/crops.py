"""Where the automatic mask generator looks: grids of points, and overlapping crops of an image in layers."""

import math
from collections.abc import Sequence

import numpy as np


def make_point_grid(points_per_side: int) -> np.ndarray:
    """points_per_side^2 points (x, y) at the centres of equal cells of [0, 1]^2, x fastest."""
    centres = (np.arange(points_per_side) + 0.5) / points_per_side
    x, y = np.meshgrid(centres, centres)
    return np.stack((x, y), axis=-1).reshape(-1, 2)


def make_point_grids(
    points_per_side: int | None, point_grids: Sequence[np.ndarray] | None, n_layers: int, downscale_factor: int
) -> list[np.ndarray]:
    """A grid per crop layer, the image first: those given, or regular ones whose side shrinks by downscale_factor.

    Raises:
        ValueError: both or neither is given, another number of grids than layers, a layer without points.
    """
    if (points_per_side is None) == (point_grids is None):
        raise ValueError("pass either points_per_side or point_grids, and None for the other")
    if n_layers < 0 or downscale_factor < 1:
        raise ValueError(
            f"crop_n_layers={n_layers} must be at least 0, crop_n_points_downscale_factor={downscale_factor} at least 1"
        )
    if point_grids is not None:
        grids = list(point_grids)
    else:
        grids = [make_point_grid((points_per_side or 0) // downscale_factor**layer) for layer in range(n_layers + 1)]
    counts = [len(grid) for grid in grids]
    if len(counts) != n_layers + 1 or min(counts) < 1:
        raise ValueError(
            f"the crop layers have {counts} points: crop_n_layers={n_layers} needs {n_layers + 1} grids, none empty; "
            "raise points_per_side or lower crop_n_points_downscale_factor"
        )
    return grids


def make_crops(size: tuple[int, int], n_layers: int, overlap_ratio: float) -> list[tuple[list[int], int]]:
    """Crop boxes [x0, y0, x1, y1] (ends exclusive) with their layer: the image, then 2^l x 2^l crops in layer l.

    Args:
        size: height and width of the image.
        overlap_ratio: overlap of the crops of layer 1 as a fraction of the image's shorter side, halved per layer.
    """
    height, width = size
    crops = [([0, 0, width, height], 0)]
    for layer in range(1, n_layers + 1):
        overlap = int(overlap_ratio * min(size) * 2 / 2**layer)
        spans_x, spans_y = (make_spans(length, 2**layer, overlap) for length in (width, height))
        crops += [([x0, y0, x1, y1], layer) for x0, x1 in spans_x for y0, y1 in spans_y]
    return crops


def make_spans(length: int, count: int, overlap: int) -> list[tuple[int, int]]:
    """`count` equal spans of [0, length), neighbours sharing `overlap`; the last may be shorter."""
    span = math.ceil((overlap * (count - 1) + length) / count)
    starts = [(span - overlap) * i for i in range(count)]
    return [(start, min(start + span, length)) for start in starts]
