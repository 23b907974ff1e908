"""From a file's grid to slices as radiologists see them, and back, voxel for voxel: axes move, nothing is resampled."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medsam2.data.records import DatasetError

# plane -> the direction in which slices, rows and columns run. Seen from the feet and from the front: the patient's
# right is on the left of the picture.
PLANES = {"axial": "SPL", "coronal": "PIL", "sagittal": "LIP"}
_AXES = {"L": (0, -1), "R": (0, 1), "P": (1, -1), "A": (1, 1), "I": (2, -1), "S": (2, 1)}


class Geometry(NamedTuple):
    """How slice×row×column arrays lie in a file's grid of three axes.

    ``order`` names the file's axis of slices, rows and columns; ``flipped`` says which of the three run backwards;
    ``spacing`` is (slice, row, column) in mm, None where nothing is known of it.
    """

    shape: tuple[int, int, int]  # of the file's grid
    order: tuple[int, int, int] = (0, 1, 2)
    flipped: tuple[bool, bool, bool] = (False, False, False)
    spacing: tuple[float, float, float] | None = None

    def to_slices(self, array: NDArray[Any]) -> NDArray[Any]:
        """X×Y×Z(×C) in the file's grid as slice×row×column(×C): a view."""
        more = tuple(range(3, array.ndim))
        return array.transpose(*self.order, *more)[self._steps]

    def from_slices(self, slices: NDArray[Any]) -> NDArray[Any]:
        """The inverse of ``to_slices``: a view in the file's grid."""
        inverse = np.argsort(self.order).tolist()
        more = tuple(range(3, slices.ndim))
        return slices[self._steps].transpose(*inverse, *more)

    @property
    def _steps(self) -> tuple[slice, ...]:
        return tuple(slice(None, None, -1 if flip else 1) for flip in self.flipped)


def find_geometry(shape: tuple[int, ...], affine: NDArray[np.float64] | None, plane: str, where: object) -> Geometry:
    """The geometry of a grid whose indices ``affine`` (4×4) maps to millimetres (right, anterior, superior).

    ``plane`` is axial, coronal, sagittal, or acquired: across the axis of the thickest slices, axial if none is. An
    oblique grid is taken for the nearest of them. ``where`` is named in errors. Without an affine the array is
    slice×row×column already and has no other plane. Raises DatasetError for one, or if the affine is not invertible.
    """
    x, y, z = shape[:3]
    if affine is None:
        if plane not in ("axial", "acquired"):
            raise DatasetError(
                f"dataset.plane={plane}: {where} does not say where its axes point; use axial, the slices as stored",
                kind="orientation",
            )
        return Geometry((x, y, z))
    import nibabel

    check_affine(affine, where)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    world, sign = nibabel.orientations.io_orientation(affine).T  # per file axis: the world's axis, and its direction
    codes = PLANES["axial" if plane == "acquired" else plane]
    if plane == "acquired" and spacing.max() > 1.1 * np.median(spacing):
        normal = int(world[int(spacing.argmax())])
        codes = next(c for c in PLANES.values() if _AXES[c[0]][0] == normal)
    order, flipped = [], []
    for code in codes:
        axis, direction = _AXES[code]
        order.append(int(np.flatnonzero(world == axis)[0]))
        flipped.append(bool(sign[order[-1]] != direction))
    a, b, c = order
    mm = tuple(float(spacing[axis]) for axis in order)
    return Geometry((x, y, z), (a, b, c), (flipped[0], flipped[1], flipped[2]), (mm[0], mm[1], mm[2]))


def check_affine(affine: NDArray[np.float64], where: object) -> None:
    """Raises DatasetError unless the affine is finite and three-dimensional."""
    directions = affine[:3, :3]
    lengths = np.linalg.norm(directions, axis=0) if np.isfinite(affine).all() else np.zeros(3)
    # the volume of the unit cube of directions: 0 where two axes coincide
    if not lengths.all() or abs(np.linalg.det(directions / lengths)) < 1e-3:
        raise DatasetError(
            f"{where}: its affine is not invertible, so its axes have no directions "
            f"({np.array2string(np.asarray(affine[:3]), precision=3, separator=', ')}). Export the volume again from "
            "the scanner's files, or copy the geometry of the image to its label.",
            kind="non-invertible affine",
        )
