"""FLARE22: two folders or one, an order of organs of its own, unlabelled scans beside."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers_releases import fails
from trees_volumes import as_shown, organs, read_label, volumes, write_flare22

from medsam2.data.records import of_split
from medsam2.data.releases.amos import AMOS
from medsam2.data.releases.flare22 import FLARE22

ORGANS = (
    *("liver", "right_kidney", "spleen", "pancreas", "aorta", "ivc", "right_adrenal", "left_adrenal", "gallbladder"),
    *("esophagus", "stomach", "duodenum", "left_kidney"),
)


@pytest.mark.parametrize("flat", [False, True])
def test_cases_and_organs(tmp_path: Path, flat: bool) -> None:
    root = write_flare22(tmp_path / "FLARE22Train", flat=flat)
    data = volumes(FLARE22(), root, slices="all")
    records = data.records()
    assert {r.volume for r in records} == {f"FLARE22_Tr_{n:04d}" for n in range(1, 11)}
    assert [len({r.volume for r in of_split(records, s)}) for s in ("train", "val", "test")] == [7, 1, 2]
    folder = ("", "") if flat else ("images/", "labels/")
    assert records[0].image == f"{folder[0]}FLARE22_Tr_0001_0000.nii.gz"
    assert records[0].labels[0] == ("liver", (f"{folder[1]}FLARE22_Tr_0001.nii.gz",))
    assert data.structures == ORGANS
    assert set(ORGANS) < set(AMOS.labels)
    assert np.array_equal(read_label(data, "FLARE22_Tr_0003"), as_shown(organs(3, 13)))


def test_mistakes(tmp_path: Path) -> None:
    root = write_flare22(tmp_path / "FLARE22Train", count=4)
    (root / "labels/FLARE22_Tr_0002.nii.gz").unlink()
    fails(
        volumes(FLARE22(), root).records,
        "missing mask",
        "images/FLARE22_Tr_0002_0000.nii.gz: no label of FLARE22_Tr_0002",
    )
    for file in root.rglob("FLARE22_Tr*"):
        file.unlink()
    fails(
        volumes(FLARE22(), root).records, "missing", "no cases", "images/FLARE22_Tr_0001_0000.nii.gz", "grand-challenge"
    )
