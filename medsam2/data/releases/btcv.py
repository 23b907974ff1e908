"""BTCV: 13 organs on 30 abdominal CT scans of "Beyond the Cranial Vault"; the 20 test scans have no labels.

Source: https://www.synapse.org/Synapse:syn3193805 (registration).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medsam2.data.releases.base import Listing, missing
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
    "portal_splenic_vein": 10,
    "pancreas": 11,
    "right_adrenal": 12,
    "left_adrenal": 13,
}


class BTCV(VolumePairs):
    """The 30 labelled scans; the root may be any folder from that of the archive down to Training."""

    labels = ORGANS
    tree = """Abdomen/RawData/Training/img/img0001.nii.gz …        30 scans, 0001 … 0010, 0021 … 0040
Abdomen/RawData/Training/label/label0001.nii.gz …
Abdomen/RawData/Testing/…                            not used: no labels"""
    remedy = """Register at https://www.synapse.org/Synapse:syn3193805, then download Abdomen/RawData.zip."""

    def list_cases(self, root: Path, structures: Sequence[str]) -> Listing:
        """Every scan of Training, without a split. Raises DatasetError if the folders are not there."""
        for below in ("Abdomen/RawData/Training", "RawData/Training", "Training", "."):
            folder = root / below
            if (folder / "img").is_dir() and (folder / "label").is_dir():
                return list_pairs(root, _by_number(folder / "img"), _by_number(folder / "label"), structures)
        raise missing(self, root, "no folders img and label of Training")


def _by_number(folder: Path) -> dict[str, Path]:
    """ "0001" -> img0001.nii.gz, or label0001.nii.gz."""
    return {name.removeprefix(folder.name): path for name, path in Files(folder, suffixes=NIFTI).find().items()}
