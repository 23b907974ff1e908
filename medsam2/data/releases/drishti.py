"""Drishti-GS1: optic disc and cup on fundus photographs, as agreement of four experts.

A soft map holds at each pixel how many of the four marked it, as 0, 64, 128, 191 or 255. Who marked what is not
published, so rater i of the four masks is what at least i experts marked: their mean is the agreement, their majority
(a tie counts) what two or more agree on.
Source: Sivaswamy et al., "Drishti-GS: retinal image dataset for optic nerve head segmentation", ISBI 2014.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medsam2.data.images import read_image, read_mask
from medsam2.data.records import DatasetError, Record
from medsam2.data.releases.base import Decoded, Listing, files_by_stem, join, missing
from medsam2.data.releases.disc_cup import STRUCTURES, find_masks, list_rated

EXPERTS = 4
TOLERANCE = 8  # grey values that a level may be off by: rounding, never another level
FOLDERS = {"train": ("Training/Images", "Training/GT"), "test": ("Test/Images", "Test/Test_GT")}
SOFT_MAP = r"(?P<id>.+)_(?P<structure>ODseg|cupseg)Softmap\.png"


class Drishti:
    """Four nested raters per structure.

    Args:
        align: a soft map whose sides differ from the photograph's by up to this many pixels is scaled to it, nearest
            neighbour; 0 refuses any difference.
    """

    tree = """
Training/Images/<id>.png                  (or in GLAUCOMA/ and NORMAL/)
Training/GT/<id>/SoftMap/<id>_ODsegSoftmap.png
Training/GT/<id>/SoftMap/<id>_cupsegSoftmap.png
Test/Images/<id>.png
Test/Test_GT/<id>/SoftMap/…"""
    remedy = "Register and download it at https://cvit.iiit.ac.in/projects/mip/drishti-gs/mip-dataset2/Home.php."

    def __init__(self, align: int = 16) -> None:
        if align < 0:
            raise DatasetError(f"dataset.release.align={align} must be 0 or more pixels")
        self.align = align

    def find_structures(self, root: Path) -> tuple[str, ...]:
        """Cup and disc."""
        return STRUCTURES

    def list_cases(self, root: Path, structures: Sequence[str]) -> Listing:
        """50 training and 51 test eyes; one eye is one patient."""
        if absent := [name for pair in FOLDERS.values() for name in pair if not (root / name).is_dir()]:
            raise missing(self, root, f"no folder {absent[0]}")
        return join(
            list_rated(
                root,
                files_by_stem(root / images, (".png",)),
                {masks: find_masks(root / masks, SOFT_MAP)},
                structures,
                split,
            )
            for split, (images, masks) in FOLDERS.items()
        )

    def read(self, root: Path, record: Record) -> Decoded:
        """Image and 4×H×W raters, each inside the one before."""
        image = read_image(root / record.image)
        levels = np.arange(1, EXPERTS + 1)[:, None, None]
        raters = {s: self._fit(_read_counts(root / names[0]), image.shape[:2]) >= levels for s, names in record.labels}
        return Decoded(image, raters)

    def _fit(self, counts: NDArray[np.uint8], shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """Scaled to the photograph if it is almost of its size, else as it is, for the size check to refuse."""
        gaps = [abs(have - want) for have, want in zip(counts.shape, shape, strict=True)]
        if max(gaps) == 0 or max(gaps) > self.align:
            return counts
        return np.asarray(Image.fromarray(counts).resize((shape[1], shape[0]), Image.Resampling.NEAREST))


def _read_counts(path: Path) -> NDArray[np.uint8]:
    """How many experts marked each pixel, uint8 H×W, 0…4. Raises DatasetError for a grey value between two levels."""
    grey = read_mask(path, (range(256),)).astype(np.float32)
    counts = np.rint(grey * EXPERTS / 255)
    off = np.abs(grey - np.rint(counts * 255 / EXPERTS))
    if off.max() > TOLERANCE:
        raise DatasetError(
            f"{path}: soft map with a value {int(grey.flat[off.argmax()])}, expected the five levels 0, 64, 128, 191 "
            "and 255 of four experts. Was it resized with interpolation or saved as JPEG? Use the original file.",
            kind="undeclared value",
        )
    return counts.astype(np.uint8)
