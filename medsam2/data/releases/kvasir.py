"""Kvasir-SEG: polyps on colonoscopy frames, with masks that are JPEG and therefore cut at a grey value.

Which frames show the same patient is not published, so each counts as a patient. ``kavsir_bboxes.json``, the boxes of
the masks, is not read.
Source: https://datasets.simula.no/kvasir-seg/; Jha et al., MultiMedia Modeling 2020, arXiv:1911.07069.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from medsam2.data.images import read_image, read_jpeg_mask
from medsam2.data.records import DatasetError, Record
from medsam2.data.releases.base import Decoded, Listing, missing
from medsam2.data.releases.image_pairs import Files, pair, read_raters


class KvasirSeg:
    """The polyp; there may be several, as one structure.

    Args:
        threshold: grey values from here on are polyp, 1…255.
    """

    tree = """
images/<id>.jpg
masks/<id>.jpg      0 background, 255 polyp, and what JPEG makes of the edge"""
    remedy = "Download https://datasets.simula.no/downloads/kvasir-seg.zip and unpack it."

    def __init__(self, threshold: int = 128) -> None:
        if not 1 <= threshold <= 255:
            raise DatasetError(f"dataset.release.threshold={threshold} must lie between 1 and 255")
        self.threshold = threshold

    def find_structures(self, root: Path) -> tuple[str, ...]:
        """The polyp."""
        return ("polyp",)

    def list_cases(self, root: Path, structures: Sequence[str]) -> Listing:
        """Every frame, in no split. Raises DatasetError if a folder is missing."""
        images, masks = (Files(root / name, suffixes=(".jpg",)) for name in ("images", "masks"))
        if absent := [files.folder.name for files in (images, masks) if not files.folder.is_dir()]:
            raise missing(self, root, f"{' and '.join(absent)} missing")
        return pair(root, images, {"polyp": [masks]})

    def read(self, root: Path, record: Record) -> Decoded:
        """Image and the one mask."""
        image = read_image(root / record.image)
        load = partial(read_jpeg_mask, threshold=self.threshold)
        return Decoded(image, read_raters(root, record, image.shape, load))
