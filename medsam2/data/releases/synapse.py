"""Synapse: BTCV as TransUNet and SAMed prepared it, eight organs, 18 volumes to train on and 12 to test.

Intensities are cut to -125…275 HU and divided into [0, 1]. Arrays are slice×row×column as they were made from the
files, so pictures may be mirrored; nothing says how large a voxel is. Training volumes are files of single slices.
Source: Chen et al., TransUNet, arXiv:2102.04306; Zhang and Liu, SAMed, arXiv:2304.13785.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medsam2.data.records import DatasetError, Record
from medsam2.data.releases.base import Listing, Problem, Volume, join, missing
from medsam2.data.releases.image_pairs import Files
from medsam2.data.releases.volume_pairs import make_record

ORDERS = {  # whose files -> the organs of the values 1 to 8
    "samed": ("spleen", "right_kidney", "left_kidney", "gallbladder", "liver", "stomach", "aorta", "pancreas"),
    "transunet": ("aorta", "gallbladder", "left_kidney", "right_kidney", "liver", "pancreas", "spleen", "stomach"),
}
SLICE = re.compile(r"(case\d+)_slice(\d+)")
ROUNDING = 1e-3


class Synapse:
    """The protocol's 18 training and 12 test volumes.

    Args:
        order: samed or transunet, which number the same organs differently; the files do not say which it is.
    """

    tree = """train_npz/case0005_slice000.npz …   image in [0, 1] and label, a slice each
test_vol_h5/case0001.npy.h5 …       image and label of a volume"""
    remedy = """Make them from BTCV with preprocess/preprocess_data.py of https://github.com/hitachinsk/SAMed,
or ask the authors of https://github.com/Beckschen/TransUNet for theirs."""

    def __init__(self, order: str = "samed") -> None:
        if order not in ORDERS:
            raise DatasetError(f"dataset.release.order={order!r} is not one of {', '.join(ORDERS)}")
        self.order = order

    def find_structures(self, root: Path) -> tuple[str, ...]:
        """The eight organs."""
        return ORDERS[self.order]

    def find_labels(self, root: Path) -> dict[str, tuple[int, ...]]:
        """organ -> its value in the chosen order."""
        return {organ: (value,) for value, organ in enumerate(ORDERS[self.order], start=1)}

    def list_cases(self, root: Path, structures: Sequence[str]) -> Listing:
        """Every volume; a training volume's slices are the files of its labels, in order."""
        for name in ("train_npz", "test_vol_h5"):
            if not (root / name).is_dir():
                raise missing(self, root, f"no folder {name}")
        test = [
            make_record(name, file, file, structures, "test", "ct")
            for name, path in Files(root / "test_vol_h5", suffixes=(".npy.h5",)).find().items()
            for file in [path.relative_to(root).as_posix()]
        ]
        return join([_list_train(root, structures), Listing(test)])

    def read_image(self, root: Path, record: Record) -> Volume:
        """Slice×row×column in [0, 1]. Raises DatasetError for intensities that are not."""
        image = _read(root, record, "image")
        if image.min() < -ROUNDING or image.max() > 1 + ROUNDING:  # NaN passes here, and is refused by its own name
            raise DatasetError(
                f"{root / record.image}: intensities from {image.min():g} to {image.max():g}, expected 0 to 1; make "
                "the files with normalisation, or read the original volumes with dataset=btcv"
            )
        return Volume(image, None)

    def read_label(self, root: Path, record: Record) -> Volume:
        """Slice×row×column."""
        return Volume(_read(root, record, "label"), None)


def _list_train(root: Path, structures: Sequence[str]) -> Listing:
    slices: dict[str, dict[int, str]] = defaultdict(dict)
    for name, path in Files(root / "train_npz", suffixes=(".npz",)).find().items():
        if match := SLICE.fullmatch(name):
            slices[match[1]][int(match[2])] = path.relative_to(root).as_posix()
    listing = Listing([])
    for case, found in sorted(slices.items()):
        lacking = sorted(set(range(max(found))) - set(found))
        if lacking:
            text = f"train_npz/{case}_slice{lacking[0]:03d}.npz: {len(lacking)} of {max(found) + 1} slices are missing"
            listing.problems.append(Problem("missing image", text))
        files = tuple(found[number] for number in sorted(found))
        labels = tuple((structure, files) for structure in structures)
        listing.records.append(Record(case, case, "train", files[0], labels, modality="ct"))
    return listing


def _read(root: Path, record: Record, key: str) -> NDArray[Any]:
    files = [root / name for name in record.labels[0][1]]
    if files[0].suffix == ".h5":
        return _read_h5(files[0], key)
    slices = [_read_npz(file, key) for file in files]
    for one, file in zip(slices, files, strict=True):
        if one.shape != slices[0].shape:
            raise DatasetError(
                f"{file}: its {key} is {one.shape}, that of {files[0]} {slices[0].shape}: take slices of one volume",
                kind="size mismatch",
            )
    return np.stack(slices)


def _read_npz(path: Path, key: str) -> NDArray[Any]:
    try:
        with np.load(path) as arrays:
            return _take(arrays, key, path)
    except DatasetError:
        raise
    except Exception as error:  # NumPy and zipfile raise many kinds for a damaged file
        raise DatasetError(f"{path} cannot be read ({error}): unpack or make it again") from error


def _read_h5(path: Path, key: str) -> NDArray[Any]:
    import h5py

    try:
        with h5py.File(path, "r") as arrays:
            return np.asarray(_take(arrays, key, path))
    except DatasetError:
        raise
    except Exception as error:  # as above
        raise DatasetError(f"{path} cannot be read ({error}): unpack or make it again") from error


def _take(arrays: Mapping[str, Any], key: str, path: Path) -> NDArray[Any]:
    if key not in arrays:
        raise DatasetError(f"{path}: has no array {key!r}, it has {', '.join(arrays)}: make the file again")
    return np.asarray(arrays[key])
