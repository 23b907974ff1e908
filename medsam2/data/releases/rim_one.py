"""RIM-ONE: optic disc and cup by the University of La Laguna, release 3 (stereo pairs) and the later DL.

Release 3 has two views side by side and the masks of two experts on the left one; DL has cropped single views and one
reference each, of images that releases 1, 2 and 3 had shown.
Source: Fumero et al., WSCG 2015 (r3) and Image Analysis & Stereology 39 (2020) 161 (DL).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medsam2.data.images import check_same_size, read_image, read_mask
from medsam2.data.records import DatasetError, Record
from medsam2.data.releases.base import Decoded, Listing, files_by_stem, join, missing
from medsam2.data.releases.disc_cup import STRUCTURES, find_masks, list_rated
from medsam2.data.releases.image_pairs import read_raters

GROUPS = ("Healthy", "Glaucoma and suspects")
RATERS = {"experts": ("Expert1_masks", "Expert2_masks"), "average": ("Average_masks",)}
R3_MASK = r"(?P<id>[A-Z]+-\d+-[LR])(-\d+)?-(?P<structure>Cup|Disc)-(exp\d|Avg)\.png"
IMAGES, MASKS = "RIM-ONE_DL_images", "RIM-ONE_DL_reference_segmentations"
PARTITIONS = {"random": "partitioned_randomly", "hospital": "partitioned_by_hospital"}
SETS = {"train": "training_set", "test": "test_set"}
DL_MASK = r"(?P<id>.+)-\d+-(?P<structure>Cup|Disc)-T\.png"


class RimOneR3:
    """The left view of each stereo pair, by two experts.

    Args:
        raters: experts (two masks each), or average (the one mask that the release made of them).
    """

    tree = """
{Healthy,Glaucoma and suspects}/Stereo Images/<id>.jpg                  (N-10-R.jpg, two views side by side)
{Healthy,Glaucoma and suspects}/Expert1_masks/<id>-1-{Cup,Disc}-exp1.png
{Healthy,Glaucoma and suspects}/Expert2_masks/<id>-1-{Cup,Disc}-exp2.png
{Healthy,Glaucoma and suspects}/Average_masks/<id>-{Cup,Disc}-Avg.png   (dataset.release.raters=average)"""
    remedy = "Download release 3 from http://medimrg.webs.ull.es/research/retinal-imaging/rim-one/."

    def __init__(self, raters: str = "experts") -> None:
        if raters not in RATERS:
            raise DatasetError(f"dataset.release.raters={raters!r} is not one of {', '.join(RATERS)}")
        self.raters = raters

    def find_structures(self, root: Path) -> tuple[str, ...]:
        """Cup and disc."""
        return STRUCTURES

    def list_cases(self, root: Path, structures: Sequence[str]) -> Listing:
        """159 eyes in no split; the patient of N-10-R is N-10."""
        return join(self._list_group(root, group, structures) for group in GROUPS)

    def _list_group(self, root: Path, group: str, structures: Sequence[str]) -> Listing:
        folders = [f"{group}/{name}" for name in ("Stereo Images", *RATERS[self.raters])]
        if absent := [name for name in folders if not (root / name).is_dir()]:
            raise missing(self, root, f"no folder {absent[0]}")
        images = files_by_stem(root / folders[0], (".jpg",))
        raters = {name: find_masks(root / name, R3_MASK) for name in folders[1:]}
        return list_rated(root, images, raters, structures, patient_of=lambda case_id: case_id.rsplit("-", 1)[0])

    def read(self, root: Path, record: Record) -> Decoded:
        """The left half of the pair and the masks drawn on it."""
        pair = read_image(root / record.image)
        half = pair.shape[1] // 2
        image = np.ascontiguousarray(pair[:, :half])

        def read(path: Path) -> NDArray[np.bool_]:
            mask = read_mask(path) > 0
            if mask.shape[1] == half:
                return mask
            check_same_size(root / record.image, pair.shape, path, mask.shape)
            if mask[:, half:].any():
                raise DatasetError(
                    f"{path}: marks the right view of the stereo pair, where only the left one is read. Take the case "
                    "out, or unpack the original file.",
                    kind="size mismatch",
                )
            return mask[:, :half]

        return Decoded(image, read_raters(root, record, image.shape, read))


class RimOneDL:
    """One view and one reference per eye, in one of two published partitions.

    Args:
        partition: random, or hospital: train and test come from different hospitals.
    """

    tree = f"""
{IMAGES}/{{partitioned_randomly,partitioned_by_hospital}}/{{training_set,test_set}}/{{normal,glaucoma}}/<id>.png
{MASKS}/{{normal,glaucoma}}/<id>-1-{{Cup,Disc}}-T.png"""
    remedy = """Download images and reference segmentations, two archives, from https://github.com/miag-ull/rim-one-dl
and unpack both into one folder."""

    def __init__(self, partition: str = "random") -> None:
        if partition not in PARTITIONS:
            raise DatasetError(f"dataset.release.partition={partition!r} is not one of {', '.join(PARTITIONS)}")
        self.partition = partition

    def find_structures(self, root: Path) -> tuple[str, ...]:
        """Cup and disc."""
        return STRUCTURES

    def list_cases(self, root: Path, structures: Sequence[str]) -> Listing:
        """485 eyes in train and test; one eye is one patient."""
        folders = {split: f"{IMAGES}/{PARTITIONS[self.partition]}/{name}" for split, name in SETS.items()}
        if absent := [name for name in (*folders.values(), MASKS) if not (root / name).is_dir()]:
            raise missing(self, root, f"no folder {absent[0]}")
        masks = find_masks(root / MASKS, DL_MASK)
        images = {split: files_by_stem(root / name, (".png",)) for split, name in folders.items()}
        known = {case_id for found in images.values() for case_id in found}
        strays = {key: path for key, path in masks.items() if key[0] not in known}
        parts = [list_rated(root, {}, {MASKS: strays}, structures)]
        for split, found in images.items():
            own = {key: path for key, path in masks.items() if key[0] in found}
            parts.append(list_rated(root, found, {MASKS: own}, structures, split))
        return join(parts)

    def read(self, root: Path, record: Record) -> Decoded:
        """Image and its reference."""
        image = read_image(root / record.image)
        return Decoded(image, read_raters(root, record, image.shape))
