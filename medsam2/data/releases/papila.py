"""PAPILA: optic disc and cup on fundus photographs of both eyes of 244 patients, as contours of two experts.

A contour lists points (x, y) in pixels whose centres are the integers, as the code that comes with the release draws
them; it is closed from the last point to the first, and a pixel belongs to it if its centre lies inside.
Source: Kovalyk et al., Scientific Data 9 (2022) 291.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medsam2.data.images import read_image
from medsam2.data.records import DatasetError, Record
from medsam2.data.releases.base import Decoded, Listing, files_by_stem, missing
from medsam2.data.releases.disc_cup import STRUCTURES, find_masks, list_rated
from medsam2.data.releases.image_pairs import read_raters

IMAGES, CONTOURS = "FundusImages", "ExpertsSegmentations/Contours"
EXPERTS = ("exp1", "exp2")


class Papila:
    """Two raters per structure."""

    tree = f"""
{IMAGES}/<id>.jpg                                  (RET002OD.jpg, RET002OS.jpg: the two eyes of RET002)
{CONTOURS}/<id>_{{cup,disc}}_{{exp1,exp2}}.txt"""
    remedy = "Download and unpack it from https://figshare.com/articles/dataset/PAPILA/14798004."

    def find_structures(self, root: Path) -> tuple[str, ...]:
        """Cup and disc."""
        return STRUCTURES

    def list_cases(self, root: Path, structures: Sequence[str]) -> Listing:
        """488 eyes in no split; the two eyes of a person are one patient."""
        if absent := [name for name in (IMAGES, CONTOURS) if not (root / name).is_dir()]:
            raise missing(self, root, f"no folder {absent[0]}")
        raters = {e: find_masks(root / CONTOURS, rf"(?P<id>.+)_(?P<structure>cup|disc)_{e}\.txt") for e in EXPERTS}
        images = files_by_stem(root / IMAGES, (".jpg",))
        return list_rated(root, images, raters, structures, patient_of=lambda name: re.sub(r"O[DS]$", "", name))

    def read(self, root: Path, record: Record) -> Decoded:
        """Image and the contours of both experts, filled."""
        image = read_image(root / record.image)
        shape = (image.shape[0], image.shape[1])
        return Decoded(
            image, read_raters(root, record, image.shape, lambda path: fill_polygon(_read(path, shape), shape))
        )


def fill_polygon(points: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """The inside of a closed polygon, points N×2 (x, y), as bool of ``shape`` (height, width), by the even-odd rule.

    A centre on an edge counts at the left and the top, not at the right and the bottom, so that polygons which share
    an edge share no pixel.
    """
    x, y = points.T
    next_x, next_y = np.roll(x, -1), np.roll(y, -1)
    rows = np.arange(shape[0])[:, None]
    row, edge = np.nonzero((y <= rows) != (next_y <= rows))
    crossing = x[edge] + (row - y[edge]) / (next_y[edge] - y[edge]) * (next_x[edge] - x[edge])
    toggles = np.zeros((shape[0], shape[1] + 1), dtype=bool)
    np.logical_xor.at(toggles, (row, np.clip(np.ceil(crossing), 0, shape[1]).astype(np.intp)), True)
    return np.logical_xor.accumulate(toggles, axis=1)[:, :-1]


def _read(path: Path, shape: tuple[int, int]) -> NDArray[np.float64]:
    """The points of a contour, N×2. Raises DatasetError if there are no three, or if one lies off the image."""
    try:
        points = np.loadtxt(path, dtype=np.float64, ndmin=2)
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path} is no list of points ({error}): unpack it again") from error
    if points.shape[1] != 2 or len(points) < 3 or not np.isfinite(points).all():
        raise DatasetError(f"{path}: expected 3 or more lines of x and y, found {points.shape}: unpack it again")
    limit = np.array([shape[1], shape[0]])
    if (points < -1).any() or (points > limit).any():
        raise DatasetError(
            f"{path}: reaches x {points[:, 0].max():g}, y {points[:, 1].max():g} (from {points[:, 0].min():g}, "
            f"{points[:, 1].min():g}), off its image of {shape[1]}×{shape[0]}. Unpack the original pair again.",
            kind="size mismatch",
        )
    return points
