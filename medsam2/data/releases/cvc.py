"""CVC-ClinicDB: polyps on 612 frames of 29 colonoscopy sequences; neighbours look alike, so a sequence is a patient.

The sequences come from 25 examinations; which share one is not published.
Source: https://polyp.grand-challenge.org/CVCClinicDB/; Bernal et al., Computerized Medical Imaging and Graphics 43
(2015) 99.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path

from medsam2.data.images import read_image
from medsam2.data.records import DatasetError, Record
from medsam2.data.releases.base import Decoded, Listing, missing
from medsam2.data.releases.image_pairs import Files, pair, read_raters

# the last frame of each sequence, counted from 1, as the source lists them
LAST_FRAMES = (
    *(25, 50, 67, 78, 103, 126, 151, 177, 199, 205, 227, 252, 277, 297, 317),
    *(342, 363, 383, 408, 428, 447, 466, 478, 503, 528, 546, 571, 591, 612),
)
FOLDERS = ("PNG", "TIF", ".")


class CvcClinicDB:
    """The polyp on each frame; PNG is read where both forms are there."""

    tree = """
PNG/Original/<frame>.png         or TIF/…/<frame>.tif, or both folders right below the root
PNG/Ground Truth/<frame>.png     0 background, 255 polyp; <frame> = 1 … 612, which tells the sequence"""
    remedy = "Download it from https://polyp.grand-challenge.org/CVCClinicDB/ and unpack it."

    def find_structures(self, root: Path) -> tuple[str, ...]:
        """The polyp."""
        return ("polyp",)

    def list_cases(self, root: Path, structures: Sequence[str]) -> Listing:
        """Every frame, in no split. Raises DatasetError if a folder is missing or frames have other names."""
        form = next((form for form in FOLDERS if (root / form / "Original").is_dir()), "PNG")
        images, masks = Files(root / form / "Original"), Files(root / form / "Ground Truth")
        if absent := [f"{form}/{files.folder.name}" for files in (images, masks) if not files.folder.is_dir()]:
            raise missing(self, root, f"{' and '.join(absent)} missing")
        return pair(root, images, {"polyp": [masks]}, patient_of=lambda frame: find_sequence(frame, images.folder))

    def read(self, root: Path, record: Record) -> Decoded:
        """Image and the one mask."""
        image = read_image(root / record.image)
        return Decoded(image, read_raters(root, record, image.shape))


def find_sequence(frame: str, folder: Path) -> str:
    """The sequence of a frame, sequence01 … sequence29. Raises DatasetError unless it is named 1 … 612."""
    if not frame.isdecimal() or not 1 <= int(frame) <= LAST_FRAMES[-1]:
        raise DatasetError(
            f"{folder}: holds a frame {frame}, which is none of 1 … {LAST_FRAMES[-1]}, so its sequence is unknown. "
            "Keep the names of the release: frames of one sequence must not get into two splits."
        )
    return f"sequence{bisect_left(LAST_FRAMES, int(frame)) + 1:02d}"
