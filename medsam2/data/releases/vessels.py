"""Retinal vessels on fundus photographs, each set outlined by two observers: STARE, DRIVE and CHASE_DB1.

The first observer of each is the reference of most papers. With both, the consensus is their union: a tie of two
counts as vessel.
Sources: Hoover et al., IEEE TMI 19 (2000) 203; Staal et al., IEEE TMI 23 (2004) 501; Fraz et al., IEEE TBME 59 (2012)
2538.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medsam2.data.images import read_image
from medsam2.data.records import DatasetError, Record
from medsam2.data.releases.base import Decoded, Listing, join, missing
from medsam2.data.releases.image_pairs import Files, pair, read_raters

PPM = (".ppm", ".ppm.gz")


class _Vessels:
    """What the three have in common: one structure, binary masks, raters to choose from."""

    observers: tuple[str, ...]

    def __init__(self, raters: Sequence[str]) -> None:
        self.raters = tuple(raters)
        if not self.raters or len(set(self.raters)) < len(self.raters) or not set(self.raters) <= set(self.observers):
            raise DatasetError(
                f"dataset.release.raters={list(raters)} must name one or both of {', '.join(self.observers)}"
            )

    def find_structures(self, root: Path) -> tuple[str, ...]:
        """The vessels."""
        return ("vessel",)

    def read(self, root: Path, record: Record) -> Decoded:
        """Image and the mask of each rater."""
        image = read_image(root / record.image)
        return Decoded(image, read_raters(root, record, image.shape))


class Stare(_Vessels):
    """Twenty photographs of 700×605, one eye each; which eyes belong together is not published.

    Args:
        raters: ah (Adam Hoover), vk (Valentina Kouznetsova), or both.
    """

    observers = ("ah", "vk")
    tree = """
stare-images/<id>.ppm.gz      <id> = im0001; unpacked .ppm files will do
labels-ah/<id>.ah.ppm.gz      0 background, 255 vessel
labels-vk/<id>.vk.ppm.gz"""
    remedy = (
        "Download stare-images.tar, labels-ah.tar and labels-vk.tar from https://cecas.clemson.edu/~ahoover/stare/ "
        "and unpack each into the folder of its name."
    )

    def __init__(self, raters: Sequence[str] = observers) -> None:
        super().__init__(raters)

    def list_cases(self, root: Path, structures: Sequence[str]) -> Listing:
        """Every photograph, in no split. Raises DatasetError if a folder is missing."""
        folders = ["stare-images", *(f"labels-{rater}" for rater in self.raters)]
        if absent := [name for name in folders if not (root / name).is_dir()]:
            raise missing(self, root, f"{' and '.join(absent)} missing")
        masks = [Files(root / f"labels-{rater}", f".{rater}", PPM) for rater in self.raters]
        return pair(root, Files(root / "stare-images", suffixes=PPM), {"vessel": masks})


class Drive(_Vessels):
    """Forty photographs of 565×584 in two halves, a patient each; only the test half has a second observer.

    Args:
        raters: 1st_manual, 2nd_manual or both; a second observer of the test half alone would give it other labels
            than the training half, so the default is the first.
    """

    observers = ("1st_manual", "2nd_manual")
    tree = """
training/images/21_training.tif      20 of them, 21 … 40
training/1st_manual/21_manual1.gif   0 background, 255 vessel
test/images/01_test.tif              20 of them, 01 … 20
test/1st_manual/01_manual1.gif       absent from the official download: the test is then carved from training
test/2nd_manual/01_manual2.gif"""
    remedy = "Download it from https://drive.grand-challenge.org (registration) and unpack training.zip and test.zip."

    def __init__(self, raters: Sequence[str] = observers[:1]) -> None:
        super().__init__(raters)

    def list_cases(self, root: Path, structures: Sequence[str]) -> Listing:
        """Every photograph of a half that the raters outlined. Raises DatasetError if the training half is missing."""
        halves = {"training": "train", "test": "test"}
        listing = join(self._list_half(root, half, split) for half, split in halves.items())
        if not any(record.split == "train" for record in listing.records) and not listing.problems:
            raise missing(self, root, f"no training/images with masks in training/{', training/'.join(self.raters)}")
        return listing

    def _list_half(self, root: Path, half: str, split: str) -> Listing:
        masks = [
            Files(root / half / name, f"_manual{number}", (".gif",))
            for number, name in enumerate(self.observers, start=1)
            if name in self.raters and (root / half / name).is_dir()
        ]
        images = Files(root / half / "images", f"_{half}", (".tif",))
        return pair(root, images, {"vessel": masks}, split) if masks and images.folder.is_dir() else Listing([])


class Chase(_Vessels):
    """Both eyes of fourteen children, 28 photographs of 999×960; a child is a patient.

    Args:
        raters: 1stHO, 2ndHO (human observers), or both.
    """

    observers = ("1stHO", "2ndHO")
    tree = """
Image_01L.jpg            14 children, L and R
Image_01L_1stHO.png      0 background, 255 vessel
Image_01L_2ndHO.png"""
    remedy = "Download CHASEDB1.zip from https://blogs.kingston.ac.uk/retinal/chasedb1/ and unpack it."

    def __init__(self, raters: Sequence[str] = observers) -> None:
        super().__init__(raters)

    def list_cases(self, root: Path, structures: Sequence[str]) -> Listing:
        """Every photograph, in no split."""
        masks = [Files(root, f"_{rater}", (".png",)) for rater in self.raters]
        return pair(root, Files(root, suffixes=(".jpg",)), {"vessel": masks}, patient_of=lambda eye: eye[:-1])
