"""FLARE22: 13 abdominal organs on the 50 labelled CT scans of the challenge; its order of organs is its own.

Source: https://flare22.grand-challenge.org; Ma et al., Lancet Digital Health 6 (2024) e815.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medsam2.data.releases.base import Listing, files_by_stem
from medsam2.data.releases.volume_pairs import VolumePairs, list_pairs
from medsam2.data.volumes import NIFTI

PREFIX = "FLARE22_Tr_"  # the 2000 unlabelled scans are named otherwise
ORGANS = {
    "liver": 1,
    "right_kidney": 2,
    "spleen": 3,
    "pancreas": 4,
    "aorta": 5,
    "ivc": 6,
    "right_adrenal": 7,
    "left_adrenal": 8,
    "gallbladder": 9,
    "esophagus": 10,
    "stomach": 11,
    "duodenum": 12,
    "left_kidney": 13,
}


class FLARE22(VolumePairs):
    """Images end in _0000, labels do not; they may be in two folders or in one."""

    labels = ORGANS
    tree = """images/FLARE22_Tr_0001_0000.nii.gz … 0050
labels/FLARE22_Tr_0001.nii.gz …             or all in one folder"""
    remedy = """Register at https://flare22.grand-challenge.org/Dataset/ and download the 50 labelled cases."""

    def list_cases(self, root: Path, structures: Sequence[str]) -> Listing:
        """Every labelled scan, without a split."""
        files = {n: p for n, p in files_by_stem(root, NIFTI).items() if n.startswith(PREFIX)}
        images = {name.removesuffix("_0000"): path for name, path in files.items() if name.endswith("_0000")}
        labels = {name: path for name, path in files.items() if not name.endswith("_0000")}
        return list_pairs(root, images, labels, structures)
