"""ORIGA-light: optic disc and cup on 650 fundus photographs, one reference each, as the bundle on Kaggle has them.

The masks of the bundle are PNG with both structures; without them the MATLAB files of the original release are read.
Source: Zhang et al., "ORIGA-light: an online retinal fundus image database for glaucoma analysis", EMBC 2010.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medsam2.data.images import read_image
from medsam2.data.records import DatasetError, Record
from medsam2.data.releases.base import Decoded, Listing, missing
from medsam2.data.releases.disc_cup import STRUCTURES, list_nested, read_nested, split_nested

LIST = "OrigaList.csv"
MATLAB = "Semi-automatic-annotations"
SPLIT_OF = {"A": "train", "B": "test"}


class Origa:
    """Cup and disc by one grader.

    Args:
        square: read the pictures that the bundle has cropped to squares.
    """

    tree = f"""
Images/<id>.jpg   Masks/<id>.png                  (or, without Masks: {MATLAB}/<id>.mat)
Images_Square/<id>.jpg   Masks_Square/<id>.png    (dataset.release.square=true)
{LIST}                                     (Filename, Set: A is train, B is test; without it, a seeded split)"""
    remedy = "Download the folder ORIGA of https://www.kaggle.com/datasets/arnavjain1/glaucoma-datasets."

    def __init__(self, square: bool = False) -> None:
        self.square = square

    def find_structures(self, root: Path) -> tuple[str, ...]:
        """Cup and disc."""
        return STRUCTURES

    def list_cases(self, root: Path, structures: Sequence[str]) -> Listing:
        """650 eyes, in train and test where the list of the release is there; one eye is one patient."""
        images, masks, suffix = (
            ("Images_Square", "Masks_Square", ".png") if self.square else ("Images", "Masks", ".png")
        )
        if not self.square and not (root / masks).is_dir() and (root / MATLAB).is_dir():
            masks, suffix = MATLAB, ".mat"
        if absent := [name for name in (images, masks) if not (root / name).is_dir()]:
            raise missing(self, root, f"no folder {absent[0]}")
        listing = list_nested(root, (images, masks), ((".jpg", ".png"), suffix), structures, "")
        if (root / LIST).is_file():
            splits = _read_list(root / LIST)
            listing.records = [replace(record, split=_split_of(record, splits, root)) for record in listing.records]
        return listing

    def read(self, root: Path, record: Record) -> Decoded:
        """Image and its reference."""
        path = root / record.labels[0][1][0]
        raters = (
            {s: mask[None] for s, mask in split_nested(_read_matlab(path), path).items()}
            if path.suffix == ".mat"
            else read_nested(root, record)
        )
        return Decoded(read_image(root / record.image), raters)


def _read_list(path: Path) -> dict[str, str]:
    """image id -> A or B. Raises DatasetError if the columns are others."""
    rows = csv.reader(path.read_text(encoding="utf-8-sig", errors="replace").splitlines())
    header = [name.strip().lower() for name in next(rows, [])]
    if "filename" not in header or "set" not in header:
        raise DatasetError(
            f"{path}: has the columns {', '.join(header)}, expected Filename and Set among them. Unpack it again, or "
            "delete it for a seeded split.",
            kind="split file",
        )
    name, group = header.index("filename"), header.index("set")
    return {Path(row[name].strip()).stem: row[group].strip().upper() for row in rows if len(row) > max(name, group)}


def _split_of(record: Record, splits: dict[str, str], root: Path) -> str:
    group = splits.get(record.case_id, "")
    if group not in SPLIT_OF:
        raise DatasetError(
            f"{root / LIST}: gives image {record.case_id} the set {group or 'none'}, expected A or B. Unpack it again, "
            "or delete it for a seeded split.",
            kind="split file",
        )
    return SPLIT_OF[group]


def _read_matlab(path: Path) -> NDArray[np.generic]:
    """The label values H×W of a MATLAB file. Raises DatasetError if it is damaged or holds no mask."""
    from scipy.io import loadmat

    try:
        return np.asarray(loadmat(path)["mask"])
    except Exception as error:  # scipy and zlib raise many kinds for a damaged file
        raise DatasetError(
            f"{path} cannot be read as a mask ({type(error).__name__}: {error}): unpack it again"
        ) from error
