"""BTCV as Medical-SAM2 passes it around: numbered JPEG slices and label arrays."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers_data import save_grey
from helpers_releases import fails
from PIL import Image
from trees_volumes import organs, read_label, scan, volumes, write_btcv_ms2

from medsam2.data.intensity import Range
from medsam2.data.records import of_split
from medsam2.data.releases.btcv_ms2 import MedicalSAM2BTCV

GREY = {"intensity": {"ct": Range(0, 255)}}


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_btcv_ms2(tmp_path_factory.mktemp("btcv") / "btcv", train=5, test=2)


@pytest.fixture
def root(clean: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(clean, tmp_path / "btcv"))


def test_cases_and_splits(clean: Path) -> None:
    records = volumes(MedicalSAM2BTCV(), clean, **GREY).records()
    assert {r.volume for r in of_split(records, "test")} == {"img0005", "img0006"}
    assert len({r.volume for r in of_split(records, "val")}) == 1
    assert len({r.volume for r in of_split(records, "train")}) == 4
    assert records[0].case_id == "img0000_z002"
    assert records[0].files == ("Training/image/img0000", "Training/mask/img0000")


def test_slices_are_in_the_order_of_their_numbers(clean: Path) -> None:
    data = volumes(MedicalSAM2BTCV(), clean, slices="all", **GREY)
    assert len(data.structures) == 13
    for number in (0, 5):
        assert np.array_equal(read_label(data, f"img{number:04d}"), np.repeat(organs(number, 13).T, 2, axis=0))
    case = data.load(data.records()[10])  # of slices 0, 1, 10, 11, 2, … in the order of names
    expected = ((scan(0, organs(0, 13)).T[5] + 160) / 400).clip(0, 1)
    assert case.image.shape == (20, 24, 1)
    assert np.abs(case.image[..., 0] - expected).mean() < 0.02  # what JPEG leaves of it
    assert case.spacing is None


def test_pictures_of_three_equal_channels_are_grey(root: Path) -> None:
    before = volumes(MedicalSAM2BTCV(), root, **GREY)
    one = before.load(before.records()[0]).image
    for path in (root / "Training/image/img0000").glob("*.jpg"):
        Image.open(path).convert("RGB").save(path, quality=100, subsampling=0)
    after = volumes(MedicalSAM2BTCV(), root, **GREY)
    assert after.load(after.records()[0]).image == pytest.approx(one, abs=0.03)


def test_half_unpacked(root: Path) -> None:
    (root / "Training/image/img0001/3.jpg").unlink()
    (root / "Test/mask/img0005/7.npy").unlink()
    fails(
        volumes(MedicalSAM2BTCV(), root, **GREY).records,
        "missing image",
        "Training/image/img0001/3.jpg: 1 of 12 images are missing",
        "Test/mask/img0005/7.npy: 1 of 12 masks are missing",
    )


def test_mistakes(root: Path) -> None:
    data = volumes(MedicalSAM2BTCV(), root, **GREY)
    first = data.records()[0]
    save_grey(root / "Training/image/img0000/4.jpg", np.zeros((19, 24)))
    fails(lambda: data.load(first), "size mismatch", "Training/image/img0000: its slices are of 2 sizes")
    np.save(root / "Training/mask/img0000/4.npy", np.full((20, 24), 14))
    fails(volumes(MedicalSAM2BTCV(), root, **GREY).records, "undeclared value", "mask/img0000: label", "value 14")
    (root / "Training/mask/img0000/4.npy").write_bytes(b"nothing")
    fails(volumes(MedicalSAM2BTCV(), root, **GREY).records, "unreadable", "img0000/4.npy cannot be read (")


def test_missing(root: Path) -> None:
    shutil.rmtree(root / "Test/mask")
    fails(
        volumes(MedicalSAM2BTCV(), root, **GREY).records,
        "missing",
        "no folders image and mask in Test",
        "jiayuanz3/btcv",
    )
