"""REFUGE: optic disc and cup on fundus photographs, in the three layouts in which it is passed around.

- multi_rater, 800 eyes: ``{Training,Test}-400/<id>/`` with the masks of seven specialists each; no val.
- official, 1200 eyes: ``Training400``, ``REFUGE-Validation400``, ``Test400`` with one merged BMP each
  (0 cup, 128 rim, 255 background).
- kaggle: the official eyes as ``{train,val,test}/{Images,Masks}``, masks as PNG in an order that the corners tell.

The cup is part of the disc. One eye is one patient: the release does not say which eyes belong together.
Source: https://refuge.grand-challenge.org; Orlando et al., Medical Image Analysis 59 (2020) 101570.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medsam2.data.images import read_image, read_jpeg_mask, read_mask
from medsam2.data.records import SPLITS, DatasetError, Record
from medsam2.data.releases.base import Decoded, Listing, Problem, join, missing
from medsam2.data.releases.disc_cup import ORDERS, STRUCTURES, Order, list_nested, read_nested
from medsam2.data.releases.image_pairs import read_raters

MULTI_RATER_FOLDERS = {"train": "Training-400", "test": "Test-400"}
OFFICIAL_FOLDERS = {  # split -> images, masks
    "train": ("Training400", "Annotation-Training400/Disc_Cup_Masks"),
    "val": ("REFUGE-Validation400", "REFUGE-Validation400-GT/Disc_Cup_Masks"),
    "test": ("Test400", "REFUGE-Test-GT/Disc_Cup_Masks"),
}
KAGGLE_FOLDERS = {split: (f"{split}/Images", f"{split}/Masks") for split in SPLITS}
LAYOUTS = {  # layout -> the folders that tell it
    "multi_rater": tuple(MULTI_RATER_FOLDERS.values()),
    "official": tuple(name.split("/")[0] for pair in OFFICIAL_FOLDERS.values() for name in pair),
    "kaggle": SPLITS,
}
OFFICIAL_ORDER: tuple[Order, ...] = ((255, 128, 0),)
INVERTED_ORDER: tuple[Order, ...] = ((0, 128, 255),)


class Refuge:
    """Disc and cup by every rater found.

    Args:
        layout: multi_rater, official, kaggle, or auto: the one that is there.
        cropped: read the square around the disc (multi_rater only).
        inverted: masks of the official layout hold 255 for the cup, 128 for the rim, 0 for the background.
    """

    tree = """either the multi-rater release
  Training-400/<id>/<id>.jpg                 (cropped: <id>_cropped.jpg)
  Training-400/<id>/<id>_seg_cup_1.png … 7   (cropped: <id>_seg_cup_1_cropped.jpg)
  Training-400/<id>/<id>_seg_disc_1.png … 7
  Test-400/<id>/…
or the official one
  Training400/{Glaucoma,Non-Glaucoma}/<id>.jpg
  Annotation-Training400/Disc_Cup_Masks/{Glaucoma,Non-Glaucoma}/<id>.bmp
  REFUGE-Validation400/<id>.jpg   REFUGE-Validation400-GT/Disc_Cup_Masks/<id>.bmp
  Test400/<id>.jpg                REFUGE-Test-GT/Disc_Cup_Masks/{G,N}/<id>.bmp
or the one of Kaggle
  {train,val,test}/Images/<id>.jpg
  {train,val,test}/Masks/<id>.png"""
    remedy = """Download it from https://refuge.grand-challenge.org (official), the folder REFUGE of
https://www.kaggle.com/datasets/arnavjain1/glaucoma-datasets (kaggle) or
https://huggingface.co/datasets/jiayuanz3/REFUGE (multi-rater); or make a phantom to try things out with
`python -m medsam2.data.phantom refuge DIR` and paths.data_root=DIR."""

    def __init__(self, layout: str = "auto", cropped: bool = False, inverted: bool = False) -> None:
        if layout not in ("auto", *LAYOUTS):
            raise DatasetError(f"dataset.release.layout={layout!r} is not one of auto, {', '.join(LAYOUTS)}")
        self.layout = layout
        self.cropped = cropped
        self.inverted = inverted

    def find_structures(self, root: Path) -> tuple[str, ...]:
        """Cup and disc, in every layout."""
        return STRUCTURES

    def list_cases(self, root: Path, structures: Sequence[str]) -> Listing:
        """Every eye. Raises DatasetError if the tree is missing, incomplete or ambiguous."""
        layout = self._find_layout(root)
        if layout == "multi_rater":
            listing = _list_multi_rater(root, structures, self.cropped)
        else:
            folders, suffix = (OFFICIAL_FOLDERS, ".bmp") if layout == "official" else (KAGGLE_FOLDERS, ".png")
            listing = join(list_nested(root, pair, ((".jpg",), suffix), structures, s) for s, pair in folders.items())
        found = {record.split for record in listing.records}
        if empty := [split for split in ("train", "test") if split not in found and not listing.problems]:
            raise missing(self, root, f"no cases for {' and '.join(empty)}")
        return listing

    def read(self, root: Path, record: Record) -> Decoded:
        """Image and raters: seven, or the one merged mask."""
        image = read_image(root / record.image)
        mask = Path(record.labels[0][1][0])
        if "_seg_" in mask.name:
            return Decoded(image, read_raters(root, record, image.shape, _read_rater))
        if mask.suffix == ".png":
            return Decoded(image, read_nested(root, record, ORDERS))
        orders = INVERTED_ORDER if self.inverted else OFFICIAL_ORDER
        background, rim, cup = reversed(orders[0])
        cure = (
            f"If background, rim and cup are written as {background}, {rim} and {cup} here, set "
            f"dataset.release.inverted={str(not self.inverted).lower()}; else unpack the original file."
        )
        return Decoded(image, read_nested(root, record, orders, cure))

    def _find_layout(self, root: Path) -> str:
        found = [layout for layout, names in LAYOUTS.items() if any((root / name).is_dir() for name in names)]
        if self.layout in found:
            found = [self.layout]
        if len(found) > 1:
            raise DatasetError(
                f"{root} holds the layouts {' and '.join(found)}: set dataset.release.layout to one of them"
            )
        if not found or self.layout not in ("auto", found[0]):
            raise missing(self, root, f"no REFUGE release (dataset.release.layout={self.layout})")
        if absent := [name for name in LAYOUTS[found[0]] if not (root / name).is_dir()]:
            raise missing(self, root, f"the {found[0]} release is incomplete, {', '.join(absent)} missing")
        for key, value, layout in (
            ("cropped", self.cropped, "multi_rater"),
            ("inverted", self.inverted, "official"),
        ):
            if value and found[0] != layout:
                raise DatasetError(f"dataset.release.{key}=true needs the layout {layout}; {root} is {found[0]}")
        return found[0]


def _read_rater(path: Path) -> NDArray[np.bool_]:
    return read_jpeg_mask(path) if path.suffix == ".jpg" else np.asarray(read_mask(path) > 0)


def _list_multi_rater(root: Path, structures: Sequence[str], cropped: bool) -> Listing:
    suffix = "_cropped.jpg" if cropped else ".png"
    listed = [(split, case, _find_raters(case, structures, suffix)) for split, case in _case_folders(root)]
    # a case must have every rater seen anywhere, whatever their number
    expected = set().union(*(numbers for _, _, raters in listed for numbers in raters.values())) or {1}
    listing = Listing([])
    for split, case, raters in listed:
        image = case / f"{case.name}{'_cropped' if cropped else ''}.jpg"
        if not image.is_file():
            listing.problems.append(Problem("missing image", f"{case.relative_to(root)}: no image {image.name}"))
        for structure, numbers in raters.items():
            if lacking := sorted(expected - set(numbers)):
                name = f"{case.name}_seg_{structure}_{lacking[0]}{suffix}"
                text = f"{case.relative_to(root)}: {len(lacking)} of {len(expected)} raters missing, as {name}"
                listing.problems.append(Problem("missing rater", text))
        labels = tuple(
            (s, tuple(p.relative_to(root).as_posix() for _, p in sorted(raters[s].items()))) for s in structures
        )
        listing.records.append(Record(case.name, case.name, split, image.relative_to(root).as_posix(), labels))
    return listing


def _case_folders(root: Path) -> Iterator[tuple[str, Path]]:
    for split, folder in MULTI_RATER_FOLDERS.items():
        for case in sorted((root / folder).iterdir()):
            if case.is_dir() and not case.name.startswith((".", "__")):
                yield split, case


def _find_raters(case: Path, structures: Sequence[str], suffix: str) -> dict[str, dict[int, Path]]:
    """structure -> {rater number: file}; numbers, not names, so that rater 10 comes after 9."""
    found: dict[str, dict[int, Path]] = {structure: {} for structure in structures}
    pattern = re.compile(rf"{re.escape(case.name)}_seg_({'|'.join(structures)})_(\d+){re.escape(suffix)}")
    for path in case.iterdir():
        if match := pattern.fullmatch(path.name):
            found[match[1]][int(match[2])] = path
    return found
