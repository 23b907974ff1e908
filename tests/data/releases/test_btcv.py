"""BTCV on a tree of ten scans: the root at any depth, 13 organs, test scans without labels."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers_releases import fails
from trees_volumes import as_shown, organs, read_label, scan, volumes, write_btcv

from medsam2.data.records import of_split
from medsam2.data.releases.btcv import BTCV

CASES = ["0001", "0002", "0003", "0004", "0005", "0021", "0022", "0023", "0024", "0025"]
ORGANS = (
    *("spleen", "right_kidney", "left_kidney", "gallbladder", "esophagus", "liver", "stomach", "aorta", "ivc"),
    *("portal_splenic_vein", "pancreas", "right_adrenal", "left_adrenal"),
)


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_btcv(tmp_path_factory.mktemp("btcv") / "BTCV")


@pytest.fixture
def root(clean: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(clean, tmp_path / "BTCV"))


def test_cases_and_splits(clean: Path) -> None:
    data = volumes(BTCV(), clean)
    records = data.records()
    assert sorted({r.volume for r in records}) == CASES
    assert all(r.patient_id == r.volume for r in records)
    assert [len({r.volume for r in of_split(records, s)}) for s in ("train", "val", "test")] == [7, 1, 2]
    first = records[0]
    assert (first.case_id, first.modality) == ("0001_z001", "ct")
    assert first.files == tuple(f"Abdomen/RawData/Training/{kind}0001.nii.gz" for kind in ("img/img", "label/label"))


def test_organs_are_where_they_were_drawn(clean: Path) -> None:
    data = volumes(BTCV(), clean, slices="all")
    assert data.structures == ORGANS
    for case in ("0001", "0005", "0022"):
        assert np.array_equal(read_label(data, case), as_shown(organs(int(case), 13)))
    case = data.load(data.records()[2])
    expected = (as_shown(scan(1, organs(1, 13)))[2] + 160) / 400
    assert case.image[..., 0] == pytest.approx(expected.clip(0, 1), abs=1e-6)
    assert case.spacing == pytest.approx((0.8, 0.9))


@pytest.mark.parametrize("below", ["Abdomen", "Abdomen/RawData", "Abdomen/RawData/Training"])
def test_the_root_may_be_any_folder_of_the_archive(clean: Path, below: str) -> None:
    assert sorted({r.volume for r in volumes(BTCV(), clean / below).records()}) == CASES


def test_half_unpacked(root: Path) -> None:
    (root / "Abdomen/RawData/Training/label/label0003.nii.gz").unlink()
    (root / "Abdomen/RawData/Training/img/img0021.nii.gz").unlink()
    fails(
        volumes(BTCV(), root).records,
        "missing mask",
        "2 problems",
        "Training/img/img0003.nii.gz: no label of 0003",
        "Training/label/label0021.nii.gz: no image of 0021",
    )


def test_missing(root: Path, tmp_path: Path) -> None:
    fails(
        volumes(BTCV(), tmp_path / "no").records, "missing", "no such folder", "paths.data_root", "Training/img/img0001"
    )
    shutil.rmtree(root / "Abdomen/RawData/Training/label")
    fails(volumes(BTCV(), root).records, "missing", "no folders img and label", "Found there: Abdomen/", "syn3193805")
