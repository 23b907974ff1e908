"""Phantoms: made-up data in exactly the layout of a real release, to try every command without a download.

    python -m medsam2.data.phantom refuge DIR

writes ``DIR/REFUGE`` in the multi-rater layout of REFUGE: drawn eyes (``fundus.py``), seven raters each.
Scores on it say that the code runs and learns, nothing about fundus photographs.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medsam2.data.fundus import Eye, draw_eye
from medsam2.data.records import DatasetError, compute_consensus
from medsam2.data.releases.refuge import MULTI_RATER_FOLDERS
from medsam2.data.seeding import stable_rng

NUM_RATERS = 7
MARKER = "phantom.json"
VERSION = 1  # raise when the drawing changes, so that an old tree is not taken for a new one


def write_refuge(folder: str | Path, train: int = 24, test: int = 12, size: int = 512, seed: int = 0) -> Path:
    """Write ``folder/REFUGE`` and return it. The same arguments give the same bytes; a tree there is kept.

    Raises DatasetError if something else is there, or if the numbers make no usable dataset.
    """
    _check_numbers(train, test, size)
    target = Path(folder) / "REFUGE"
    marker = {
        "phantom": "refuge",
        "version": VERSION,
        "train": train,
        "test": test,
        "size": size,
        "seed": seed,
    }
    if _is_there(target, marker):
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    # built beside and renamed: an interrupted run leaves no tree that looks finished
    partial = Path(tempfile.mkdtemp(dir=target.parent, prefix=".REFUGE-"))
    try:
        partial.chmod(0o755)  # mkdtemp's 0700 would shut colleagues out
        _write_tree(partial, train, test, size, seed)
        (partial / MARKER).write_text(json.dumps(marker, indent=2) + "\n", encoding="utf-8")
        _move_into_place(partial, target, marker)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _check_numbers(train: int, test: int, size: int) -> None:
    if train < 2 or test < 1:
        raise DatasetError(f"--train {train} --test {test}: needs at least 2 to train (one becomes val) and 1 to test")
    if size < 64:
        raise DatasetError(f"--size {size}: needs at least 64 pixels, or the cup disappears")


def _is_there(target: Path, marker: dict[str, object]) -> bool:
    """True if exactly this phantom is there, False if nothing is. Raises DatasetError for anything else."""
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return False
    try:
        found = json.loads((target / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise DatasetError(
            f"{target} is not empty and not a phantom: choose another folder, nothing was written"
        ) from None
    if found != marker:
        raise DatasetError(f"{target} holds another phantom, {found}, not {marker}: choose another folder or delete it")
    return True


def _move_into_place(partial: Path, target: Path, marker: dict[str, object]) -> None:
    try:
        os.rename(partial, target)
    except OSError:
        if not _is_there(target, marker):  # else another process was faster with the same phantom
            raise


def _write_tree(root: Path, train: int, test: int, size: int, seed: int) -> None:
    splits = ["train"] * train + ["test"] * test
    for number, split in enumerate(splits, start=1):
        case_id = f"phantom{number:04d}"  # numbered through: a case is a patient, and none is in both splits
        eye = draw_eye(stable_rng("refuge phantom", VERSION, seed, number), size, NUM_RATERS)
        write_case(root / MULTI_RATER_FOLDERS[split] / case_id, eye)


def write_case(folder: Path, eye: Eye) -> None:
    """One case as the release has it: photograph, crop, every rater's masks of both, merged masks."""
    folder.mkdir(parents=True)
    case_id, window = folder.name, crop_window(eye)
    _save_jpeg(eye.image, folder / f"{case_id}.jpg")
    _save_jpeg(eye.image[window], folder / f"{case_id}_cropped.jpg")
    for structure, masks in eye.raters.items():
        for rater, mask in enumerate(masks, start=1):
            grey = mask.astype(np.uint8) * 255
            name = f"{case_id}_seg_{structure}_{rater}"
            Image.fromarray(grey).save(folder / f"{name}.png", compress_level=1)
            _save_jpeg(grey[window], folder / f"{name}_cropped.jpg")
        merged = compute_consensus(masks).astype(np.uint8) * 255
        Image.fromarray(merged).save(folder / f"{case_id}_{structure}.bmp")


def crop_window(eye: Eye) -> tuple[slice, slice]:
    """(rows, columns) of the square around the disc, 1.6 times its height, moved to lie in the image."""
    size = len(eye.image)
    side = min(size, round(3.2 * float(eye.disc.radius.max()) * size))
    x, y = (int(np.clip(round(c * size) - side // 2, 0, size - side)) for c in eye.disc.center)
    return slice(y, y + side), slice(x, x + side)


def _save_jpeg(pixels: NDArray[np.uint8], path: Path) -> None:
    Image.fromarray(pixels).save(path, quality=92)


def build_parser() -> argparse.ArgumentParser:
    """The command line of ``python -m medsam2.data.phantom``."""
    parser = argparse.ArgumentParser(
        prog="python -m medsam2.data.phantom", description="Write made-up data to try things out."
    )
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    refuge = kinds.add_parser(
        "refuge",
        help="fundus photographs with disc and cup by seven raters",
        description="Write DIR/REFUGE in the multi-rater layout. The same numbers give the same files.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    refuge.add_argument("folder", metavar="DIR", type=Path, help="the folder that paths.data_root will name")
    refuge.add_argument("--train", type=int, default=24, help="training cases; a tenth of them becomes val")
    refuge.add_argument("--test", type=int, default=12, help="test cases")
    refuge.add_argument("--size", type=int, default=512, help="pixels per side")
    refuge.add_argument("--seed", type=int, default=0, help="another seed gives other eyes")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the phantom, say what it is and what to run next. Returns the exit status: 2 if it refused."""
    args = build_parser().parse_args(arguments)
    try:
        existed = (args.folder / "REFUGE" / MARKER).exists()
        target = write_refuge(args.folder, args.train, args.test, args.size, args.seed)
    except DatasetError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    what = f"{args.train} training and {args.test} test cases of {args.size}×{args.size} pixels"
    print(f"{target}: {what}, {NUM_RATERS} raters each{' (was there already)' if existed else ''}")
    print(f"Next: python run.py dataset=refuge dataset.name=refuge_phantom paths.data_root={args.folder.resolve()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
