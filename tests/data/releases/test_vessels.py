"""STARE, DRIVE and CHASE_DB1: two observers, of whom one may be chosen."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_data import save_grey
from helpers_releases import case_of, dataset, fails, same, splits_of
from PIL import Image
from trees_flat import FLAT, blob, photo_of, write_chase, write_drive, write_stare

from medsam2.data.records import Record
from medsam2.data.releases.vessels import Chase, Drive, Stare


@pytest.fixture(scope="module")
def children(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_chase(tmp_path_factory.mktemp("chase"))


@pytest.mark.parametrize("suffix", [".ppm.gz", ".ppm"])
def test_stare(tmp_path: Path, suffix: str) -> None:
    case = case_of(dataset(Stare(), write_stare(tmp_path, 6, suffix)), "im0003")
    assert same(case.raters["vessel"], blob(3), blob(3, 2))
    assert np.array_equal(case.labels["vessel"], blob(3, 2))  # a tie of two counts
    assert np.array_equal(case.image, photo_of(blob(3), 3) / np.float32(255))


def test_one_observer(tmp_path: Path) -> None:
    root = write_stare(tmp_path, 6)
    shutil.rmtree(root / "labels-vk")
    assert same(case_of(dataset(Stare(["ah"]), root), "im0003").raters["vessel"], blob(3))
    fails(dataset(Stare(), root).records, "missing", "labels-vk missing", "<id>.vk.ppm.gz")


def test_stare_lacks_a_rater(tmp_path: Path) -> None:
    root = write_stare(tmp_path, 6)
    (root / "labels-vk/im0002.vk.ppm.gz").unlink()
    fails(dataset(Stare(), root).records, "missing rater", "stare-images/im0002.ppm.gz: no mask im0002.vk", "labels-vk")


def test_a_damaged_archive(tmp_path: Path) -> None:
    root = write_stare(tmp_path, 6)
    data, path = dataset(Stare(), root), root / "labels-ah/im0002.ah.ppm.gz"
    for content in (path.read_bytes()[:60], gzip.compress(b"P6")):
        path.write_bytes(content)
        fails(lambda: case_of(data, "im0002"), "unreadable", "im0002.ah.ppm.gz cannot be decoded")


def test_drive(tmp_path: Path) -> None:
    data = dataset(Drive(), write_drive(tmp_path))
    found = splits_of(data)
    assert found["test"] == ["01", "02", "03"]
    assert sorted(found["train"] + found["val"]) == [f"{n}" for n in range(21, 30)]
    assert same(case_of(data, "01").raters["vessel"], blob(1))
    assert same(case_of(data, "25").raters["vessel"], blob(25))


def test_the_second_observer_of_drive_is_in_the_test_half_alone(tmp_path: Path) -> None:
    data = dataset(Drive(["1st_manual", "2nd_manual"]), write_drive(tmp_path))
    assert same(case_of(data, "02").raters["vessel"], blob(2), blob(2, 1))
    assert same(case_of(data, "22").raters["vessel"], blob(22))


def test_drive_without_masks_of_the_test_half(tmp_path: Path) -> None:
    found = splits_of(dataset(Drive(), write_drive(tmp_path, labelled_test=False)))
    assert {split: len(cases) for split, cases in found.items()} == {"train": 6, "val": 1, "test": 2}
    assert all(int(case) > 20 for cases in found.values() for case in cases)


def test_drive_incomplete(tmp_path: Path) -> None:
    root = write_drive(tmp_path)
    (root / "test/images/01_test.tif").unlink()
    fails(dataset(Drive(), root).records, "missing image", "test/1st_manual/01_manual1.gif: no image 01_test.tif")
    shutil.rmtree(root / "training/1st_manual")
    fails(dataset(Drive(["2nd_manual"]), root).records, "missing image", "test/2nd_manual/01_manual2.gif")
    shutil.rmtree(root / "test")
    fails(dataset(Drive(), root).records, "missing", "no training/images with masks in training/1st_manual")


def test_chase(children: Path) -> None:
    case = case_of(dataset(Chase(), children), "Image_02R")
    assert case.record.patient_id == "Image_02"
    assert same(case.raters["vessel"], blob(3), blob(3, 1))
    assert same(case_of(dataset(Chase(["2ndHO"]), children), "Image_02R").raters["vessel"], blob(3, 1))


@pytest.mark.parametrize("seed", range(4))
def test_both_eyes_of_a_child_are_in_one_split(children: Path, seed: int) -> None:
    records: list[Record] = dataset(Chase(), children, split_seed=seed).records()
    for left, right in zip(records[::2], records[1::2], strict=True):
        assert (left.patient_id, left.split) == (right.patient_id, right.split)


def test_chase_errors(tmp_path: Path) -> None:
    root = write_chase(tmp_path, 5)
    data = dataset(Chase(), root)
    save_grey(root / "Image_01L_1stHO.png", np.zeros((FLAT[0], FLAT[1] - 1)))
    fails(lambda: case_of(data, "Image_01L"), "size mismatch", "Image_01L_1stHO.png is 47×40")
    Image.fromarray(photo_of(blob(0), 0)).save(root / "Image_01L_1stHO.png")
    fails(lambda: case_of(data, "Image_01L"), "colour mask", "Image_01L_1stHO.png")
    fails(dataset(Chase(), tmp_path / "none").records, "missing", "no such folder", "Image_01L_1stHO.png")
    (tmp_path / "empty").mkdir()
    fails(dataset(Chase(), tmp_path / "empty").records, "missing", "no cases", "an empty folder")


@pytest.mark.parametrize("raters", [[], ["ah", "ah"], ["hoover"]])
@pytest.mark.parametrize("release", [Stare, Drive, Chase])
def test_bad_raters(release: Callable[[Any], Any], raters: list[str]) -> None:
    if release is Stare or raters != ["ah"]:
        fails(lambda: release(raters), "unreadable", "dataset.release.raters", release.observers[0])  # type: ignore[attr-defined]
