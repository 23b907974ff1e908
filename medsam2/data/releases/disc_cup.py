"""What the fundus releases share: optic cup and disc, the cup a part of the disc, in one file or one file each."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medsam2.data.images import read_mask
from medsam2.data.records import DatasetError, Record
from medsam2.data.releases.base import Listing, Problem, files_by_stem

STRUCTURES = ("cup", "disc")
Files = dict[tuple[str, str], Path]  # (case id, structure) -> file of one rater
Order = tuple[int, int, int]  # the values of background, rim and cup where one file holds both structures
ORDERS: tuple[Order, ...] = ((0, 1, 2), (0, 127, 255), (0, 128, 255), (255, 128, 0))
CURE = "The disc lies inside a fundus photograph; was this one cropped into the disc? Use the original pair."


def find_masks(folder: Path, pattern: str) -> Files:
    """The files below a folder whose names fit ``pattern`` with the groups ``id`` and ``structure`` (cup…, else disc).

    Of several for one structure, numbered by the release, the first by name. Hidden files do not count.
    """
    found: Files = {}
    for path in sorted(folder.rglob("*")):
        if (match := re.fullmatch(pattern, path.name, re.IGNORECASE)) and not path.name.startswith("."):
            structure = "cup" if match["structure"].lower().startswith("cup") else "disc"
            found.setdefault((match["id"], structure), path)
    return found


def list_rated(
    root: Path,
    images: Mapping[str, Path],
    raters: Mapping[str, Files],
    structures: Sequence[str],
    split: str = "",
    patient_of: Callable[[str], str] = str,
) -> Listing:
    """A record per image with the files of every rater; ``raters`` is keyed by where a rater's masks belong.

    A case lacking one is a problem, and so is a mask without its image.
    """
    listing = Listing([])
    kind = "missing rater" if len(raters) > 1 else "missing mask"
    for case_id, image in images.items():
        name = image.relative_to(root).as_posix()
        for structure in structures:
            lacking = [where for where, files in raters.items() if (case_id, structure) not in files]
            listing.problems += [Problem(kind, f"{name}: no mask of the {structure} in {where}") for where in lacking]
        labels = tuple(
            (s, tuple(f[case_id, s].relative_to(root).as_posix() for f in raters.values() if (case_id, s) in f))
            for s in structures
        )
        listing.records.append(Record(case_id, patient_of(case_id), split, name, labels))
    for files in raters.values():
        orphans = [path for (case_id, s), path in files.items() if case_id not in images and s in structures]
        listing.problems += [Problem("missing image", f"{path.relative_to(root)}: no image of it") for path in orphans]
    return listing


def list_nested(
    root: Path, folders: tuple[str, str], suffixes: tuple[Iterable[str], str], structures: Sequence[str], split: str
) -> Listing:
    """A record per image of ``folders`` = (images, masks), where one mask file holds cup and disc."""
    images, masks = files_by_stem(root / folders[0], suffixes[0]), files_by_stem(root / folders[1], (suffixes[1],))
    lacking = [
        Problem("missing mask", f"{images[c].relative_to(root)}: no mask {c}{suffixes[1]} in {folders[1]}")
        for c in images.keys() - masks.keys()
    ]
    orphans = [
        Problem("missing image", f"{masks[c].relative_to(root)}: no image {c}{next(iter(suffixes[0]))} in {folders[0]}")
        for c in masks.keys() - images.keys()
    ]
    records = [
        Record(
            case_id,
            case_id,
            split,
            images[case_id].relative_to(root).as_posix(),
            tuple((structure, (masks[case_id].relative_to(root).as_posix(),)) for structure in structures),
        )
        for case_id in sorted(images.keys() & masks.keys())
    ]
    return Listing(records, sorted(lacking) + sorted(orphans))


def read_nested(
    root: Path, record: Record, orders: Sequence[Order] = ORDERS, cure: str = CURE
) -> dict[str, NDArray[np.bool_]]:
    """Cup and disc, 1×H×W each, of the one file that holds both, in one of ``orders``."""
    path = root / record.labels[0][1][0]
    declared = dict.fromkeys(tuple(sorted(order)) for order in orders)  # two orders may share their values
    both = split_nested(read_mask(path, tuple(declared)), path, orders, cure)
    return {structure: both[structure][None] for structure, _ in record.labels}


def split_nested(
    values: NDArray[np.generic], path: Path, orders: Sequence[Order] = ORDERS, cure: str = CURE
) -> dict[str, NDArray[np.bool_]]:
    """Cup and disc of label values H×W; the corners, where nothing but background is, tell the order.

    Raises DatasetError naming the file and ``cure`` if the values fit none of ``orders``.
    """
    corners = sorted({int(value) for value in values[[0, 0, -1, -1], [0, -1, 0, -1]]})
    for background, rim, cup in orders:
        if corners == [background] and np.isin(values, (background, rim, cup)).all():
            return {"cup": values == cup, "disc": values != background}
    expected = " or ".join(sorted({str(order[0]) for order in orders}))
    raise DatasetError(
        f"{path}: its corners hold {', '.join(map(str, corners))}, where the background ({expected}) must be. {cure}",
        kind="inverted order",
    )
