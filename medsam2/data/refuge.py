"""REFUGE: optic disc and cup on fundus photographs, in both layouts in which it is passed around.

- multi-rater, 800 eyes: ``{Training,Test}-400/<id>/`` with the masks of seven specialists each;
  val is carved from train.
- official, 1200 eyes: ``Training400``, ``REFUGE-Validation400``, ``Test400`` with one merged BMP each
  (0 cup, 128 rim, 255 background).

The cup is part of the disc. One eye is one patient: the release does not say which eyes belong together.
Source: https://refuge.grand-challenge.org; Orlando et al., Medical Image Analysis 59 (2020) 101570.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medsam2.data.images import check_same_size, read_image, read_jpeg_mask, read_mask
from medsam2.data.records import (
    Case,
    DatasetError,
    Record,
    check_structures,
    compute_consensus,
    compute_fingerprint,
)
from medsam2.data.splits import carve_validation, check_disjoint

STRUCTURES = ("cup", "disc")
MULTI_RATER_FOLDERS = {"train": "Training-400", "test": "Test-400"}
OFFICIAL_FOLDERS = {  # split -> images, masks
    "train": ("Training400", "Annotation-Training400/Disc_Cup_Masks"),
    "val": ("REFUGE-Validation400", "REFUGE-Validation400-GT/Disc_Cup_Masks"),
    "test": ("Test400", "REFUGE-Test-GT/Disc_Cup_Masks"),
}
LAYOUTS = ("auto", "multi_rater", "official")
OFFICIAL_VALUES = ((0, 128, 255),)
EXPECTED = """expected below it, either the multi-rater release
  Training-400/<id>/<id>.jpg                 (cropped: <id>_cropped.jpg)
  Training-400/<id>/<id>_seg_cup_1.png … 7   (cropped: <id>_seg_cup_1_cropped.jpg)
  Training-400/<id>/<id>_seg_disc_1.png … 7
  Test-400/<id>/…
or the official one
  Training400/{Glaucoma,Non-Glaucoma}/<id>.jpg
  Annotation-Training400/Disc_Cup_Masks/{Glaucoma,Non-Glaucoma}/<id>.bmp
  REFUGE-Validation400/<id>.jpg   REFUGE-Validation400-GT/Disc_Cup_Masks/<id>.bmp
  Test400/<id>.jpg                REFUGE-Test-GT/Disc_Cup_Masks/{G,N}/<id>.bmp"""
REMEDY = """Set paths.data_root to the folder that holds REFUGE, or dataset.root to REFUGE itself;
or make a phantom to try things out:
  python -m medsam2.data.phantom refuge DIR    then paths.data_root=DIR"""


class Refuge:
    """Disc and cup by every rater found. ``cropped`` reads the square around the disc (multi-rater only).

    ``val_fraction`` and ``split_seed`` carve val from the training cases where the release has none.
    """

    allow_shared_patient = False

    def __init__(
        self,
        root: str | Path,
        structures: str | Sequence[str] = STRUCTURES,
        layout: str = "auto",
        cropped: bool = False,
        val_fraction: float = 0.1,
        split_seed: int = 0,
        name: str = "refuge",
    ) -> None:
        if layout not in LAYOUTS:
            raise DatasetError(f"dataset.layout={layout!r} is not one of {', '.join(LAYOUTS)}")
        self.root = Path(root)
        self.name = name
        self.structures = check_structures(structures, STRUCTURES, name)
        self.layout = layout
        self.cropped = cropped
        self.val_fraction = val_fraction
        self.split_seed = split_seed

    def records(self) -> list[Record]:
        """Every case there is. Raises DatasetError if the tree is missing, half unpacked or ambiguous."""
        if self._find_layout() == "multi_rater":
            found = _list_multi_rater(self.root, self.structures, self.cropped)
            found = carve_validation(found, self.val_fraction, self.split_seed)
        else:
            found = _list_official(self.root, self.structures)
        found.sort(key=lambda record: record.case_id)
        check_disjoint(found, self.allow_shared_patient)
        return found

    def load(self, record: Record) -> Case:
        """Image, raters, majority. Raises DatasetError for damaged files, undeclared values, other sizes."""
        path = self.root / record.image
        image = read_image(path)
        raters = {}
        for structure, names in record.labels:
            masks = [self._read_rater(self.root / name, structure) for name in names]
            for name, mask in zip(names, masks, strict=True):
                check_same_size(path, image.shape, self.root / name, mask.shape)
            raters[structure] = np.stack(masks)
        labels = {structure: compute_consensus(masks) for structure, masks in raters.items()}
        return Case(record, image, labels, raters, spacing=None)

    def fingerprint(self) -> str:
        """Changes with the cases, the split, the chosen structures and the files' sizes."""
        return compute_fingerprint(self.records(), self.root)

    @staticmethod
    def _read_rater(path: Path, structure: str) -> NDArray[np.bool_]:
        if path.suffix == ".bmp":  # official: 0 cup, 128 rim, 255 background, so the disc includes the cup
            return np.asarray(read_mask(path, OFFICIAL_VALUES) <= (0 if structure == "cup" else 128))
        return read_jpeg_mask(path) if path.suffix == ".jpg" else np.asarray(read_mask(path) > 0)

    def _find_layout(self) -> str:
        folders = {
            "multi_rater": list(MULTI_RATER_FOLDERS.values()),
            "official": [name.split("/")[0] for pair in OFFICIAL_FOLDERS.values() for name in pair],
        }
        found = [layout for layout, names in folders.items() if any((self.root / name).is_dir() for name in names)]
        if self.layout != "auto" and self.layout in found:
            found = [self.layout]
        if len(found) > 1:
            raise DatasetError(f"{self.root} holds both layouts: set dataset.layout to multi_rater or official")
        if not found or self.layout not in ("auto", found[0]):
            raise DatasetError(_missing(self.root, f"no REFUGE release (dataset.layout={self.layout})"))
        absent = [name for name in folders[found[0]] if not (self.root / name).is_dir()]
        if absent:
            raise DatasetError(
                _missing(self.root, f"the {found[0]} release is incomplete, {', '.join(absent)} missing")
            )
        if self.cropped and found[0] == "official":
            raise DatasetError("dataset.cropped=true needs the multi-rater release; the official one has no crops")
        return found[0]


def _missing(root: Path, what: str) -> str:
    if root.is_dir():
        names = sorted(path.name + "/" * path.is_dir() for path in root.iterdir())
        found = ", ".join(names[:10]) + (f", … {len(names)} entries" if len(names) > 10 else "") or "an empty folder"
    else:
        found = "no such folder"
    return f"{root}: {what}. Found there: {found}\n{EXPECTED}\n{REMEDY}"


def _list_multi_rater(root: Path, structures: Sequence[str], cropped: bool) -> list[Record]:
    suffix = "_cropped.jpg" if cropped else ".png"
    listed = [
        (split, case, _find_raters(case, structures, suffix))
        for split, folder in MULTI_RATER_FOLDERS.items()
        for case in sorted((root / folder).iterdir())
        if case.is_dir() and not case.name.startswith((".", "__"))
    ]
    # a case must have every rater seen anywhere, whatever their number
    expected = set().union(*(numbers for _, _, raters in listed for numbers in raters.values())) or {1}
    problems, records = [], []
    for split, case, raters in listed:
        image = case / f"{case.name}{'_cropped' if cropped else ''}.jpg"
        if not image.is_file():
            problems.append(f"{case.relative_to(root)}: no image {image.name}")
        for structure, numbers in raters.items():
            if lacking := sorted(expected - set(numbers)):
                names = f"{case.name}_seg_{structure}_{lacking[0]}{suffix}"
                problems.append(
                    f"{case.relative_to(root)}: {len(lacking)} of {len(expected)} raters missing, as {names}"
                )
        labels = tuple(
            (s, tuple(p.relative_to(root).as_posix() for _, p in sorted(raters[s].items()))) for s in structures
        )
        records.append(Record(case.name, case.name, split, image.relative_to(root).as_posix(), labels))
    _check_complete(root, records, problems)
    return records


def _find_raters(case: Path, structures: Sequence[str], suffix: str) -> dict[str, dict[int, Path]]:
    """structure -> {rater number: file}; numbers, not names, so that rater 10 comes after 9."""
    found: dict[str, dict[int, Path]] = {structure: {} for structure in structures}
    pattern = re.compile(rf"{re.escape(case.name)}_seg_({'|'.join(structures)})_(\d+){re.escape(suffix)}")
    for path in case.iterdir():
        if match := pattern.fullmatch(path.name):
            found[match[1]][int(match[2])] = path
    return found


def _list_official(root: Path, structures: Sequence[str]) -> list[Record]:
    problems, records = [], []
    for split, (image_folder, mask_folder) in OFFICIAL_FOLDERS.items():
        images, masks = _by_stem(root / image_folder, ".jpg"), _by_stem(root / mask_folder, ".bmp")
        problems += [
            f"{path.relative_to(root)}: no mask {c}.bmp in {mask_folder}"
            for c, path in images.items()
            if c not in masks
        ]
        problems += [
            f"{path.relative_to(root)}: no image {c}.jpg in {image_folder}"
            for c, path in masks.items()
            if c not in images
        ]
        for case_id in sorted(set(images) & set(masks)):
            mask = masks[case_id].relative_to(root).as_posix()
            labels = tuple((structure, (mask,)) for structure in structures)
            records.append(Record(case_id, case_id, split, images[case_id].relative_to(root).as_posix(), labels))
    _check_complete(root, records, problems)
    return records


def _by_stem(folder: Path, suffix: str) -> dict[str, Path]:
    """case id -> file, in the folder or its Glaucoma / Non-Glaucoma subfolders."""
    return {path.stem: path for path in sorted(folder.rglob(f"*{suffix}")) if not path.name.startswith(".")}


def _check_complete(root: Path, records: Sequence[Record], problems: Sequence[str]) -> None:
    if problems:
        more = f"\n  … and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise DatasetError(
            f"{root} is half unpacked, {len(problems)} problems:\n  "
            + "\n  ".join(problems[:5])
            + more
            + "\nUnpack the release again, or delete the incomplete cases."
        )
    empty = [split for split in ("train", "test") if not any(record.split == split for record in records)]
    if empty:
        raise DatasetError(_missing(root, f"no cases for {' and '.join(empty)}"))
