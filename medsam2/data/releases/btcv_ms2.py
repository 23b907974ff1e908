"""BTCV as Medical-SAM2 passes it around: a folder of JPEG slices and one of label arrays for every scan.

The window is in the pictures already; nothing says how large a voxel is, nor which way is up.
Source: https://huggingface.co/datasets/jiayuanz3/btcv; Zhu et al., Medical SAM 2, arXiv:2408.00874.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medsam2.data.images import read_image
from medsam2.data.records import DatasetError, Record
from medsam2.data.releases.base import Listing, Problem, Volume, join, missing
from medsam2.data.releases.btcv import ORGANS
from medsam2.data.releases.volume_pairs import VolumePairs, make_record

SPLITS = {"Training": "train", "Test": "test"}


class MedicalSAM2BTCV(VolumePairs):
    """13 organs; scans are divided as released, val is carved from Training."""

    labels = ORGANS
    tree = """Training/image/<scan>/0.jpg, 1.jpg …     windowed slices
Training/mask/<scan>/0.npy, 1.npy …      label values, with the number of the image
Test/…"""
    remedy = """Download btcv.zip from https://huggingface.co/datasets/jiayuanz3/btcv."""

    def list_cases(self, root: Path, structures: Sequence[str]) -> Listing:
        """Every scan. A slice without its image or its mask is a problem."""
        for name in SPLITS:
            if not (root / name / "image").is_dir() or not (root / name / "mask").is_dir():
                raise missing(self, root, f"no folders image and mask in {name}")
        return join(_list_part(root, name, split, structures) for name, split in SPLITS.items())

    def read_image(self, root: Path, record: Record) -> Volume:
        """Slice×row×column, 8 bits."""
        folder = root / record.image
        return Volume(_stack([_read_grey(path) for path in _numbered(folder, ".jpg").values()], folder), None)

    def read_label(self, root: Path, record: Record) -> Volume:
        """Slice×row×column."""
        folder = root / record.labels[0][1][0]
        return Volume(_stack([_load(path) for path in _numbered(folder, ".npy").values()], folder), None)


def _list_part(root: Path, part: str, split: str, structures: Sequence[str]) -> Listing:
    listing = Listing([])
    folders = {kind: _folders(root / part / kind) for kind in ("image", "mask")}
    for scan in sorted({*folders["image"], *folders["mask"]}):
        image, mask = f"{part}/image/{scan}", f"{part}/mask/{scan}"
        images, masks = _numbered(root / image, ".jpg"), _numbered(root / mask, ".npy")
        if lacking := sorted(set(masks) - set(images)):
            text = f"{image}/{lacking[0]}.jpg: {len(lacking)} of {len(masks)} images are missing"
            listing.problems.append(Problem("missing image", text))
        if lacking := sorted(set(images) - set(masks)):
            text = f"{mask}/{lacking[0]}.npy: {len(lacking)} of {len(images)} masks are missing"
            listing.problems.append(Problem("missing mask", text))
        listing.records.append(make_record(scan, mask, image, structures, split, "ct"))
    return listing


def _folders(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith((".", "__"))}


def _numbered(folder: Path, suffix: str) -> dict[int, Path]:
    """slice number -> file, in order: 10 comes after 9."""
    paths = folder.glob(f"*{suffix}") if folder.is_dir() else ()
    return dict(sorted((int(path.stem), path) for path in paths if path.stem.isdecimal()))


def _read_grey(path: Path) -> NDArray[np.uint8]:
    """JPEG keeps three channels of a grey picture; in one of colours the first is taken."""
    return np.asarray(np.rint(read_image(path)[..., 0] * 255), dtype=np.uint8)


def _load(path: Path) -> NDArray[Any]:
    try:
        return np.asarray(np.load(path))
    except (OSError, ValueError, EOFError) as error:
        raise DatasetError(f"{path} cannot be read ({error}): unpack or download it again") from error


def _stack(slices: list[NDArray[Any]], folder: Path) -> NDArray[Any]:
    if len(shapes := sorted({one.shape for one in slices})) > 1:
        raise DatasetError(
            f"{folder}: its slices are of {len(shapes)} sizes, {shapes}: unpack it again", "size mismatch"
        )
    return np.stack(slices)
