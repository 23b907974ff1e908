"""ACDC: both ventricles and the myocardium on short-axis cine MR, at end diastole and end systole.

Two frames of a heart are one patient. Slices are thick (5 to 10 mm) and oblique, so they are taken as acquired.
Source: https://www.creatis.insa-lyon.fr/Challenge/acdc; Bernard et al., IEEE TMI 37 (2018) 2514.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from medsam2.data.releases.base import Listing, files_by_stem, join, missing
from medsam2.data.releases.volume_pairs import VolumePairs, list_pairs
from medsam2.data.volumes import NIFTI

CHAMBERS = {"rv": 1, "myocardium": 2, "lv": 3}
FRAME = re.compile(r"(patient\d+)_frame\d+")


class ACDC(VolumePairs):
    """The two labelled frames of each patient; the root holds ``database`` or is it."""

    labels = CHAMBERS
    tree = """database/training/patient001/patient001_frame01.nii.gz      100 patients, two frames each
database/training/patient001/patient001_frame01_gt.nii.gz
database/testing/patient101/…                               50 patients
…/patient001_4d.nii.gz, Info.cfg                            not used"""
    remedy = """Download it from https://humanheart-project.creatis.insa-lyon.fr/database."""

    def list_cases(self, root: Path, structures: Sequence[str]) -> Listing:
        """Every labelled frame with the published split; val is carved from training by patient."""
        base = root / "database" if (root / "database").is_dir() else root
        if not (base / "training").is_dir():
            raise missing(self, root, "no folder training")
        folders = {"train": base / "training", "test": base / "testing"}
        return join(_list(root, folder, split, structures) for split, folder in folders.items() if folder.is_dir())


def _list(root: Path, folder: Path, split: str, structures: Sequence[str]) -> Listing:
    files = files_by_stem(folder, NIFTI)
    images = {name: path for name, path in files.items() if FRAME.fullmatch(name)}
    labels = {name.removesuffix("_gt"): path for name, path in files.items() if name.endswith("_gt")}
    if split == "test" and not labels:  # as it was until the challenge ended
        return Listing([])
    listing = list_pairs(root, images, labels, structures, split, "mr")
    return Listing([replace(r, patient_id=r.case_id.split("_")[0]) for r in listing.records], listing.problems)
