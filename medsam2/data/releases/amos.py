"""AMOS22: 15 abdominal organs on CT and MR. The organs that BTCV has too carry the same names: postcava is ``ivc``.

Source: https://amos22.grand-challenge.org; Ji et al., NeurIPS 2022 Datasets and Benchmarks, arXiv:2206.08023.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medsam2.data.records import DatasetError
from medsam2.data.releases.base import Listing, join, missing
from medsam2.data.releases.image_pairs import Files
from medsam2.data.releases.volume_pairs import VolumePairs, list_pairs
from medsam2.data.volumes import NIFTI

ORGANS = {
    "spleen": 1,
    "right_kidney": 2,
    "left_kidney": 3,
    "gallbladder": 4,
    "esophagus": 5,
    "liver": 6,
    "stomach": 7,
    "aorta": 8,
    "ivc": 9,
    "pancreas": 10,
    "right_adrenal": 11,
    "left_adrenal": 12,
    "duodenum": 13,
    "bladder": 14,
    "prostate_uterus": 15,
}
FIRST_MR = 500  # numbers below are CT


class AMOS(VolumePairs):
    """Training scans to train on, the challenge's validation scans as test; its own test labels are not public.

    Args:
        modality: ct, mr, or both.
    """

    labels = ORGANS
    tree = """imagesTr/amos_0001.nii.gz …   labelsTr/amos_0001.nii.gz …     below 500 CT, else MR
imagesVa/amos_0008.nii.gz …   labelsVa/amos_0008.nii.gz …     used as test
imagesTs/…                                                    not used: no labels"""
    remedy = """Download amos22.zip as https://amos22.grand-challenge.org/Instructions/ says, and unpack it."""

    def __init__(self, modality: str = "ct") -> None:
        if modality not in ("ct", "mr", "both"):
            raise DatasetError(f"dataset.release.modality={modality!r} is not one of ct, mr, both")
        self.modality = modality

    def list_cases(self, root: Path, structures: Sequence[str]) -> Listing:
        """Every labelled scan of the modality; those of imagesVa are test where their labels are there."""
        if not (root / "imagesTr").is_dir() or not (root / "labelsTr").is_dir():
            raise missing(self, root, "no folders imagesTr and labelsTr")
        parts = {"Tr": "train", "Va": "test"} if (root / "labelsVa").is_dir() else {"Tr": "train"}
        modalities = ("ct", "mr") if self.modality == "both" else (self.modality,)
        listing = join(
            list_pairs(root, _scans(root / f"images{part}", m), _scans(root / f"labels{part}", m), structures, split, m)
            for part, split in parts.items()
            for m in modalities
        )
        if not listing.records and not listing.problems:
            raise missing(self, root, f"no scans of dataset.release.modality={self.modality}")
        return listing


def _scans(folder: Path, modality: str) -> dict[str, Path]:
    files = Files(folder, suffixes=NIFTI).find() if folder.is_dir() else {}
    return {name: path for name, path in files.items() if _modality_of(name, path) == modality}


def _modality_of(name: str, path: Path) -> str:
    number = name.removeprefix("amos_")
    if not number.isdecimal():
        raise DatasetError(f"{path} is not named as AMOS names its scans, amos_0001: take it out of the folder")
    return "ct" if int(number) < FIRST_MR else "mr"
