"""Masks that somebody predicted, as files: found by case, brought onto its grid, refused where they do not fit.

A folder holds for each case a label map named after it, or a folder per structure with a binary mask for each. A volume
has one file, or one for each slice. Volumes with a place in space must lie where the image lies, so that axes agree.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medsam2.data.geometry import find_geometry
from medsam2.data.images import read_mask
from medsam2.data.prompts import Prompt
from medsam2.data.records import Dataset, DatasetError, Record
from medsam2.data.releases.base import collect, show_folder, strip_ending
from medsam2.data.releases.volume_pairs import parse_labels
from medsam2.data.volume_checks import check_integers, check_same_grid
from medsam2.data.volume_dataset import VolumeDataset
from medsam2.data.volumes import ITK, NIFTI, read_volume

ENDINGS = (".png", ".tif", ".tiff", ".bmp", ".npy", ".nii.gz", ".nii", *ITK)
DESCRIPTION = "dataset.json"  # nnU-Net's
LISTED = 10  # mistakes that an error lists beside the cases without a mask

Masks = dict[str, NDArray[np.bool_]]


class StoredPrompt:
    """Nothing, from nobody: the answers are there already."""

    name, budget = "stored", "none"
    needs_object = False

    def __call__(self, label: NDArray[Any], rng: np.random.Generator) -> Prompt:
        return Prompt(np.zeros((0, 2), np.float32), np.zeros(0, np.int64), self.budget, self.name)


class MaskFiles:
    """The masks of a folder for the cases of a dataset.

    Args:
        labels: {structure: value or values} of label maps; None: what dataset.json in the folder says, or 1, 2, … in
            the order of the dataset's structures.

    Raises:
        DatasetError: labels that do not fit the structures, folders for some of them only, two files of one case.
    """

    def __init__(self, folder: str | Path, dataset: Dataset, labels: Mapping[str, Any] | None = None) -> None:
        self.folder = Path(folder).expanduser()
        self.dataset = dataset
        names = [name for name in dataset.structures if (self.folder / name).is_dir()]
        if names and len(names) < len(dataset.structures):
            lacking = ", ".join(sorted(set(dataset.structures) - set(names)))
            raise DatasetError(f"{self.folder}: has folders for {', '.join(names)}, and none for {lacking}")
        known = {} if names else find_values(self.folder, dataset.structures, labels)
        self.values = {} if names else {name: known[name] for name in dataset.structures}  # empty: masks are binary
        every = {0}.union(*(known.values() or [(1,)]))
        self.binary = every == {0, 1} and len(known) < 2
        self.declared = [every, {0, 255}] if self.binary else [every]  # a file keeps to one of these
        self.files = {name: _index(self.folder / name) for name in names or [""]}
        self._opened: dict[Path, NDArray[Any]] = {}  # the files of one volume

    def check(self, records: Sequence[Record], shape_of: Callable[[Record], tuple[int, int]]) -> None:
        """Reads the masks of all cases once.

        Raises:
            DatasetError: with every case that has no mask, and the first of those whose mask does not fit.
        """
        found = [text for name in self.files if (text := self._missing(name, records))]
        found = found or self._misfits(records, shape_of)
        if found:
            more = f"\n  … and {len(found) - LISTED} more" if len(found) > LISTED else ""
            lines = "".join(f"\n  {text}" for text in found[:LISTED])
            raise DatasetError(f"predictions={self.folder} do not fit dataset={self.dataset.name}:{lines}{more}")

    def _missing(self, structure: str, records: Sequence[Record]) -> str:
        cases = dict.fromkeys(record.volume or record.case_id for record in records)
        missing = dict.fromkeys(r.volume or r.case_id for r in records if not _find(self.files[structure], r))
        holds = f"{self.folder / structure} holds {show_folder(self.folder / structure, 4)}"
        return f"{len(missing)} of {len(cases)} cases have no mask ({holds}): {', '.join(missing)}" if missing else ""

    def _misfits(self, records: Sequence[Record], shape_of: Callable[[Record], tuple[int, int]]) -> list[str]:
        """What is wrong with the masks, at most one thing for each image or volume."""
        found: dict[str, str] = {}
        for record in records:
            case = record.volume or record.case_id
            if case not in found:
                try:
                    self.load(record, shape_of(record))
                except DatasetError as error:
                    found[case] = str(error).replace("dataset.release.labels", "labels")  # the key that says it here
        return list(found.values())

    def load(self, record: Record, shape: tuple[int, int]) -> Masks:
        """The masks of a case by structure, bool H×W. Raises DatasetError naming the file that does not fit."""
        stored = {name: self._read(_find(files, record), record, shape) for name, files in self.files.items()}
        if self.binary:
            return {name or self.dataset.structures[0]: mask > 0 for name, mask in stored.items()}
        return {name: np.isin(stored[""], values) for name, values in self.values.items()}

    def _read(self, path: Path | None, record: Record, shape: tuple[int, int]) -> NDArray[Any]:
        if path is None:
            raise DatasetError(f"no mask of {record.case_id}")
        if path.name.lower().endswith((*NIFTI, *ITK, ".npy")):
            mask = self._slice(path, record)
        else:
            mask = read_mask(path, self.declared)
        if mask.shape != shape:
            sizes = [f"{width}×{height}" for height, width in (mask.shape, shape)]
            raise DatasetError(
                f"{path} is {sizes[0]} pixels, {record.case_id} is {sizes[1]}: save it at the case's size"
            )
        return mask

    def _slice(self, path: Path, record: Record) -> NDArray[Any]:
        if path not in self._opened:
            if len(self._opened) >= len(self.files):
                self._opened.clear()
            self._opened[path] = self._open(path, record)
        array = self._opened[path]
        if array.ndim == 2:
            return array
        if record.volume and record.index < len(array):
            return np.asarray(array[record.index])
        size = "×".join(map(str, array.shape))
        want = f"slice {record.index} of {record.volume}" if record.volume else f"the image {record.case_id}"
        raise DatasetError(f"{path} is {size} (slice×row×column), and {want} is asked for")

    def _open(self, path: Path, record: Record) -> NDArray[Any]:
        """Label values H×W, or slice×row×column."""
        array = _load_array(path) if path.suffix.lower() == ".npy" else self._turn(path, record)
        whole = check_integers(array[None] if array.ndim == 2 else array, path)
        found, every = set(np.unique(whole).tolist()), self.declared[0]
        if not any(found <= group for group in self.declared):
            strange = sorted(found - every)
            raise DatasetError(
                f"{path}: holds {strange[:6]}, declared are {sorted(every)}; say with labels= what is what"
            )
        return whole.reshape(array.shape)

    def _turn(self, path: Path, record: Record) -> NDArray[Any]:
        """A volume's label values as slices: the slices of its image, where that has a place in space."""
        volume, dataset, plane = read_volume(path), self.dataset, "axial"
        affine, where = volume.affine, path
        if isinstance(dataset, VolumeDataset):
            plane, file = dataset.plane, dataset.root / record.image
            image = dataset.release.read_image(dataset.root, record)
            if image.affine is not None:
                check_same_grid(image, volume, file, path)
                affine, where = image.affine, file
        return find_geometry(volume.array.shape, affine, plane, where).to_slices(volume.array)


def find_values(
    folder: Path, structures: Sequence[str], labels: Mapping[str, Any] | None
) -> dict[str, tuple[int, ...]]:
    """Names -> the values that mark them in label maps. Raises DatasetError where a structure has none."""
    said = folder / DESCRIPTION
    if labels is not None:
        known = {name: _values(name, given) for name, given in labels.items()}
    elif said.is_file():
        known = parse_labels(_read_labels(said), said)
    else:
        known = {name: (value,) for value, name in enumerate(structures, start=1)}
    if lacking := [name for name in structures if name not in known]:
        raise DatasetError(
            f"{'labels' if labels is not None else said}: says nothing of {', '.join(lacking)} of dataset.structures, "
            f"it has {', '.join(known) or 'nothing'}; give the value of each, as labels='{{{lacking[0]}: 1}}'"
        )
    return known


def find_files(folder: Path) -> list[Path]:
    """Every file that a folder of masks is made of, sorted; hidden ones are left out."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith("."))
    return [path for path in files if path.name == DESCRIPTION or path.name.lower().endswith(ENDINGS)]


def _values(name: str, given: Any) -> tuple[int, ...]:
    values = tuple(given) if isinstance(given, list | tuple) else (given,)
    if not values or any(type(value) is not int or not 0 < value < 65536 for value in values):
        raise DatasetError(
            f"labels={{{name}: {given}}}: give the value in the masks, a whole number from 1 on, or a list"
        )
    return values


def _read_labels(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8-sig"))["labels"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(
            f"{path}: has no readable labels ({type(error).__name__}); give labels='{{…: 1}}'"
        ) from error


def _load_array(path: Path) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path} cannot be read ({error}): save it again with numpy.save") from error
    if array.ndim not in (2, 3) or array.dtype.kind not in "biuf":
        raise DatasetError(f"{path}: is {array.dtype} of {array.ndim} axes, expected row×column or slice×row×column")
    return array


def _index(folder: Path) -> dict[str, Path]:
    """case id -> its file."""
    files: Iterable[Path] = sorted(path for path in folder.iterdir() if path.is_file())
    return collect(files, partial(strip_ending, endings=ENDINGS))


def _find(files: Mapping[str, Path], record: Record) -> Path | None:
    return files.get(record.case_id) or files.get(record.volume)
