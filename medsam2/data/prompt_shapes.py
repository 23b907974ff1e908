"""The shapes prompts are made from: an object's majority, box, depth and largest part, the object grown or shrunk."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def check_not_empty(label: NDArray[Any]) -> None:
    """Raises ValueError unless ``label`` is H×W with at least one pixel that is not zero."""
    if label.ndim != 2 or not label.any():
        raise ValueError(f"a prompt needs an object: the mask of shape {label.shape} is empty; skip absent structures")


def compute_majority(label: NDArray[Any]) -> NDArray[np.bool_]:
    """A bool mask as it is; of the raters' agreement, where half of them agree or, if nowhere, where most do."""
    return label if label.dtype == np.bool_ else label >= min(0.5, float(label.max()))


def compute_box(inside: NDArray[np.bool_]) -> NDArray[np.int64]:
    """[[x0, y0], [x1, y1]] of the pixels inside, both corners inclusive."""
    columns, rows = np.flatnonzero(inside.any(axis=0)), np.flatnonzero(inside.any(axis=1))
    return np.array([[columns[0], rows[0]], [columns[-1], rows[-1]]])


def compute_depth(inside: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Pixels to the nearest pixel that is not of the object, 0 outside of it; the image's edge counts as border."""
    from scipy.ndimage import distance_transform_edt

    depth, window = np.zeros(inside.shape), _window(inside, 0)
    depth[window] = distance_transform_edt(np.pad(inside[window], 1))[1:-1, 1:-1]
    return depth


def find_innermost(inside: NDArray[np.bool_]) -> int:
    """Flat index of the deepest pixel, the first of several."""
    return int(compute_depth(inside).argmax())


def find_largest_part(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The connected component (8 neighbours) of most pixels, the topmost of several."""
    from scipy.ndimage import label

    largest, window = np.zeros_like(inside), _window(inside, 0)
    parts, _ = label(inside[window], structure=np.ones((3, 3)))
    largest[window] = parts == 1 + np.bincount(parts.ravel())[1:].argmax()
    return largest


def grow(inside: NDArray[np.bool_], distance: float) -> NDArray[np.bool_]:
    """The object and what lies within ``distance`` pixels of it; below 0, what lies deeper in it than that."""
    from scipy.ndimage import distance_transform_edt

    if distance <= 0:
        return compute_depth(inside) > -distance
    grown, window = inside.copy(), _window(inside, int(distance))
    grown[window] = distance_transform_edt(~inside[window]) <= distance
    return grown


def _window(inside: NDArray[np.bool_], margin: int) -> tuple[slice, slice]:
    """Rows and columns of the box and ``margin`` pixels around it: distances need no more of a large image."""
    (x0, y0), (x1, y1) = compute_box(inside).tolist()
    return slice(max(0, y0 - margin), y1 + margin + 1), slice(max(0, x0 - margin), x1 + margin + 1)
