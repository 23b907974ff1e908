"""Synapse as SAMed and TransUNet prepare it: slices stacked to volumes, two orders of organs, no physical size."""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from helpers_releases import fails
from trees_volumes import organs, read_label, scan, volumes, write_synapse

from medsam2.data.intensity import Range
from medsam2.data.records import of_split
from medsam2.data.releases.synapse import Synapse

GREY = {"intensity": {"ct": Range(0, 1)}}


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synapse(tmp_path_factory.mktemp("synapse") / "Synapse")


@pytest.fixture
def root(clean: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(clean, tmp_path / "Synapse"))


def test_cases_and_splits(clean: Path) -> None:
    records = volumes(Synapse(), clean, **GREY).records()
    assert {r.volume for r in of_split(records, "test")} == {"case0001", "case0002", "case0003"}
    train = {r.volume for s in ("train", "val") for r in of_split(records, s)}
    assert train == {f"case{n:04d}" for n in range(5, 13)}
    assert len({r.volume for r in of_split(records, "val")}) == 1
    by_id = {r.case_id: r for r in records}
    assert by_id["case0007_z002"].files == tuple(f"train_npz/case0007_slice{z:03d}.npz" for z in range(12))
    assert by_id["case0001_z001"].files == ("test_vol_h5/case0001.npy.h5",)


@pytest.mark.parametrize(
    ("order", "organ", "value"),
    [
        *(("samed", "spleen", 1), ("samed", "left_kidney", 3), ("samed", "aorta", 7), ("samed", "pancreas", 8)),
        *(("transunet", "aorta", 1), ("transunet", "left_kidney", 3), ("transunet", "spleen", 7)),
    ],
)
def test_orders(clean: Path, order: str, organ: str, value: int) -> None:
    data = volumes(Synapse(order), clean, structures=organ, slices="all", **GREY)
    for volume, number, repeats in (("case0005", 0, 2), ("case0008", 3, 2), ("case0002", 9, 1)):
        expected = value == np.repeat(organs(number, 8).T, repeats, axis=0)
        assert np.array_equal(read_label(data, volume), expected)


def test_images_are_as_stored(clean: Path) -> None:
    data = volumes(Synapse(), clean, slices="all", **GREY)
    assert data.structures == (
        "spleen",
        "right_kidney",
        "left_kidney",
        "gallbladder",
        "liver",
        "stomach",
        "aorta",
        "pancreas",
    )
    for record, number in ((data.records()[0], 8), (data.records()[18], 0)):
        case = data.load(record)
        expected = ((scan(number, organs(number, 8)).T[0] + 125) / 400).clip(0, 1)
        assert case.image[..., 0] == pytest.approx(expected, abs=1e-6)
        assert case.spacing is None
    assert len({data.open(r).label.dtype for r in data.records()[::6]}) == 1


def test_counts_follow_every_slice_s_file(root: Path, tmp_path: Path) -> None:
    settings = {**GREY, "structures": "spleen", "cache_dir": str(tmp_path / "cache")}
    assert len(volumes(Synapse(), root, **settings).records()) == 76
    path = root / "train_npz" / "case0005_slice011.npz"
    with np.load(path) as arrays:
        image, label = arrays["image"], arrays["label"] + 1
    np.savez(path, image=image, label=label)
    assert len(volumes(Synapse(), root, **settings).records()) == 77


def test_a_slice_is_missing(root: Path) -> None:
    (root / "train_npz/case0006_slice003.npz").unlink()
    fails(
        volumes(Synapse(), root, **GREY).records,
        "missing image",
        "train_npz/case0006_slice003.npz: 1 of 12 slices are missing",
    )


def test_mistakes(root: Path, tmp_path: Path) -> None:
    path = root / "train_npz" / "case0005_slice002.npz"
    with np.load(path) as arrays:
        image, label = arrays["image"], arrays["label"]
    data = volumes(Synapse(), root, **GREY)
    first = next(r for r in data.records() if r.volume == "case0005")
    np.savez(path, image=image * 400 - 125, label=label)
    fails(lambda: data.load(first), "unreadable", "case0005_slice000.npz: intensities from -1", "expected 0 to 1")
    np.savez(path, image=np.full_like(image, np.nan), label=label)
    fails(lambda: data.load(first), "not finite", "case0005_slice000.npz: holds NaN")
    np.savez(path, image=image[1:], label=label)
    fails(lambda: data.load(first), "size mismatch", "case0005_slice002.npz: its image is (19, 24)")
    np.savez(path, picture=image)
    fails(lambda: data.load(first), "unreadable", "has no array 'image', it has picture")
    path.write_bytes(b"PK")
    fails(lambda: data.load(first), "unreadable", "case0005_slice002.npz cannot be read (", "unpack or make it again")
    volume = root / "test_vol_h5" / "case0001.npy.h5"
    volume.write_bytes(volume.read_bytes()[:100])
    fails(volumes(Synapse(), root, **GREY).records, "unreadable", "case0001.npy.h5 cannot be read (")


def test_an_undeclared_value(root: Path) -> None:
    with h5py.File(root / "test_vol_h5" / "case0002.npy.h5", "r+") as file:
        file["label"][0, 0, 0] = 13
    fails(volumes(Synapse(), root, **GREY).records, "undeclared value", "case0002.npy.h5", "value 13")


def test_missing(root: Path) -> None:
    fails(lambda: Synapse("swin"), "unreadable", "dataset.release.order='swin' is not one of samed, transunet")
    shutil.rmtree(root / "test_vol_h5")
    fails(
        volumes(Synapse(), root, **GREY).records, "missing", "no folder test_vol_h5", "Found there: lists/, train_npz/"
    )
