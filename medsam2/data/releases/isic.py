"""ISIC 2018 task 1: the outline of the one lesion on each dermoscopic image.

Several images may show the same lesion or patient; the release does not say which, so each counts as a patient.
Source: https://challenge.isic-archive.com/data/#2018; Codella et al., arXiv:1902.03368.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medsam2.data.images import read_image
from medsam2.data.records import DatasetError, Record
from medsam2.data.releases.base import Decoded, Listing, join, missing
from medsam2.data.releases.image_pairs import Files, pair, read_raters

PARTS = {"Training": "train", "Validation": "val", "Test": "test"}


class Isic2018:
    """The parts whose ground truth is there.

    Args:
        parts: those to use; [Training] alone is what papers do that divide its 2594 images anew.
    """

    tree = """
ISIC2018_Task1-2_Training_Input/<id>.jpg                       <id> = ISIC_0000000
ISIC2018_Task1_Training_GroundTruth/<id>_segmentation.png      0 background, 255 lesion
ISIC2018_Task1-2_{Validation,Test}_Input/<id>.jpg              as far as there: else they are carved from Training
ISIC2018_Task1_{Validation,Test}_GroundTruth/<id>_segmentation.png"""
    remedy = "Download task 1 from https://challenge.isic-archive.com/data/#2018 and unpack every archive."

    def __init__(self, parts: Sequence[str] = tuple(PARTS)) -> None:
        self.parts = tuple(parts)
        if "Training" not in self.parts or not set(self.parts) <= set(PARTS):
            raise DatasetError(f"dataset.release.parts={list(parts)} must name Training, and may name Validation, Test")

    def find_structures(self, root: Path) -> tuple[str, ...]:
        """The lesion."""
        return ("lesion",)

    def list_cases(self, root: Path, structures: Sequence[str]) -> Listing:
        """Every image of a part with ground truth. Raises DatasetError if the training part or images are missing."""
        listings = []
        for part in self.parts:
            images, masks = root / f"ISIC2018_Task1-2_{part}_Input", root / f"ISIC2018_Task1_{part}_GroundTruth"
            if part != "Training" and not masks.is_dir():
                continue
            if absent := [folder.name for folder in (images, masks) if not folder.is_dir()]:
                raise missing(self, root, f"{' and '.join(absent)} missing")
            lesion = {"lesion": [Files(masks, "_segmentation", (".png",))]}
            listings.append(pair(root, Files(images, suffixes=(".jpg",)), lesion, PARTS[part]))
        return join(listings)

    def read(self, root: Path, record: Record) -> Decoded:
        """Image and the one mask."""
        image = read_image(root / record.image)
        return Decoded(image, read_raters(root, record, image.shape))
