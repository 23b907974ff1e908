"""MedSegBench: whole sets in one .npz, read an image at a time."""

from __future__ import annotations

import os
import pickle
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_releases import case_of, dataset, fails, same, splits_of
from trees_flat import blob, grey_of, photo_of, write_npz

from medsam2.data.releases.medsegbench import CLASSES, MedSegBench

SQUARE = (32, 32)


def mask(number: int, grow: int = 0) -> np.ndarray:
    return blob(number, grow, SQUARE)


def edit(path: Path, **changes: Any) -> None:
    """Arrays of an .npz replaced, or left out with None."""
    with np.load(path) as stored:
        arrays = {**stored, **changes}
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})


@pytest.fixture
def kvasir(tmp_path: Path) -> Path:
    return write_npz(tmp_path / "kvasir_256.npz")


def test_a_binary_set(kvasir: Path) -> None:
    data = dataset(MedSegBench("kvasir"), kvasir.parent)
    assert {split: len(cases) for split, cases in splits_of(data).items()} == {"train": 9, "val": 2, "test": 3}
    case = case_of(data, "test_00001")  # the 12th that was drawn
    assert same(case.raters["object"], mask(12))
    assert np.array_equal(case.image, photo_of(mask(12), 12) / np.float32(255))
    assert case.record.files == ("kvasir_256.npz",)
    assert case.record.index == 1


def test_255_is_read_too_and_the_object_may_have_a_name(kvasir: Path) -> None:
    edit(kvasir, test_label=np.stack([mask(n) * np.uint8(255) for n in (11, 12, 13)])[..., None])
    case = case_of(dataset(MedSegBench("kvasir", object_name="polyp"), kvasir.parent), "test_00001")
    assert same(case.raters["polyp"], mask(12))


def test_classes_as_the_source_names_them(tmp_path: Path) -> None:
    write_npz(tmp_path / "wbc_128.npz", classes=2, grey=True)
    data = dataset(MedSegBench("wbc", size=128), tmp_path)
    assert data.structures == ("cytoplasm", "nucleus")
    case = case_of(data, "val_00000")
    assert same(case.raters["cytoplasm"], mask(9) & ~mask(9, -2))
    assert same(case.raters["nucleus"], mask(9, -2))
    assert np.array_equal(case.image[..., 0], grey_of(mask(9).astype(int) + mask(9, -2), 9) / np.float32(255))


def test_labels_of_ones_own(tmp_path: Path) -> None:
    write_npz(tmp_path / "wbc_256.npz", classes=2)
    data = dataset(MedSegBench("wbc", labels={"cell": [1, 2], "nucleus": 2}), tmp_path, structures="cell")
    assert same(case_of(data, "val_00000").raters["cell"], mask(9))


def test_the_numbers_of_classes_are_those_published() -> None:
    counts = {"wbc": 2, "monusac": 5, "bkai-igh": 2, "m2caiseg": 18, "abdomenus": 8, "fhpsaop": 2}
    assert {flag: len(set(names)) for flag, names in CLASSES.items()} == counts


def test_categories(tmp_path: Path) -> None:
    write_npz(tmp_path / "busi_256.npz", endings=("", "_C1", "_C2"))
    for category, grow in ((None, 0), ("C1", 1), ("C2", 2)):
        case = case_of(dataset(MedSegBench("busi", category=category), tmp_path), "train_00004")
        assert same(case.raters["object"], mask(4, grow))
        assert np.array_equal(case.image, photo_of(mask(4, grow), 4) / np.float32(255))


def test_categories_that_share_their_images(tmp_path: Path) -> None:
    write_npz(tmp_path / "idrib_256.npz", endings=("_C1", "_C2"), plain_images=True)
    case = case_of(dataset(MedSegBench("idrib", category="C2"), tmp_path), "test_00000")
    assert same(case.raters["object"], mask(11, 1))
    fails(
        dataset(MedSegBench("idrib"), tmp_path).records,
        "missing",
        "has no train_label, but test_images, test_label_C1",
        "dataset.release.category",
    )


@pytest.mark.parametrize("flag", ["pandental", "dynamicnuclear"])
def test_every_value_is_the_object_in_some_sets(tmp_path: Path, flag: str) -> None:
    write_npz(tmp_path / f"{flag}_256.npz", classes=3)
    assert same(case_of(dataset(MedSegBench(flag), tmp_path), "val_00000").raters["object"], mask(9))


def test_any_order_of_reading_gives_the_same(kvasir: Path) -> None:
    data = dataset(MedSegBench("kvasir"), kvasir.parent)
    records = data.records()
    forward = {r.case_id: data.load(r) for r in records}
    for i in np.random.default_rng(0).permutation(len(records)):
        case = data.load(records[i])
        assert np.array_equal(case.image, forward[records[i].case_id].image)
        assert np.array_equal(case.labels["object"], forward[records[i].case_id].labels["object"])


def test_the_split_of_a_record_does_not_move_it_in_the_file(kvasir: Path) -> None:
    data = dataset(MedSegBench("kvasir"), kvasir.parent, fold=0)
    moved = next(r for r in data.records() if r.split == "train" and r.case_id.startswith("val"))
    assert same(data.load(moved).raters["object"], mask(9 + moved.index))


def test_workers_read_for_themselves(kvasir: Path) -> None:
    data = dataset(MedSegBench("kvasir"), kvasir.parent)
    case_of(data, "train_00003")  # opens the files
    assert same(case_of(pickle.loads(pickle.dumps(data)), "train_00002").raters["object"], mask(2))
    readable, writable = os.pipe()
    if (child := os.fork()) == 0:
        try:
            os.write(writable, bytes(same(case_of(data, f"train_{n:05d}").raters["object"], mask(n)) for n in (4, 0)))
        finally:
            os._exit(0)
    assert same(case_of(data, "train_00005").raters["object"], mask(5))
    os.waitpid(child, 0)
    os.close(writable)
    assert os.read(readable, 9) == b"\x01\x01"


def test_an_image_needs_the_memory_of_an_image(tmp_path: Path) -> None:
    images = np.zeros((100, 256, 256, 3), dtype=np.uint8)  # 20 MB
    arrays = {f"{split}_images": images[:1] for split in ("val", "test")} | {"train_images": images}
    labels = {name.replace("images", "label"): array[..., 0] for name, array in arrays.items()}
    np.savez_compressed(tmp_path / "big_256.npz", **arrays, **labels)
    data = dataset(MedSegBench("big"), tmp_path)
    records = data.records()
    tracemalloc.start()
    for name in ("train_00099", "train_00050"):
        data.load(next(r for r in records if r.case_id == name))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6e6


def test_undeclared_values(kvasir: Path) -> None:
    label = np.stack([mask(n) * np.uint8(3) for n in (11, 12, 13)])
    edit(kvasir, test_label=label)
    data = dataset(MedSegBench("kvasir"), kvasir.parent)
    fails(
        lambda: case_of(data, "test_00001"),
        "undeclared value",
        "kvasir_256.npz: test_label 1: label with an undeclared value ([0, 3] found, declared [0, 255] or [0, 1])",
        "dataset.release.labels='{name: value}'",
    )


def test_arrays_that_do_not_fit(kvasir: Path) -> None:
    edit(kvasir, test_label=np.zeros((3, 16, 32), np.uint8))
    data = dataset(MedSegBench("kvasir"), kvasir.parent)
    fails(lambda: case_of(data, "test_00000"), "size mismatch", "is 32×32", "is 32×16")
    edit(kvasir, test_label=np.zeros((2, 32, 32), np.uint8))
    data = dataset(MedSegBench("kvasir"), kvasir.parent)
    fails(data.records, "size mismatch", "has 3 test_images and 2 test_label")
    edit(kvasir, val_images=None)
    fails(dataset(MedSegBench("kvasir"), kvasir.parent).records, "missing", "has no val_images, but test_images")
    edit(kvasir, val_images=np.zeros(3))
    fails(dataset(MedSegBench("kvasir"), kvasir.parent).records, "unreadable", "is no stack of images")


def test_missing_and_damaged_files(kvasir: Path) -> None:
    fails(
        dataset(MedSegBench("kvasir", size=512), kvasir.parent).records,
        "missing",
        "kvasir_512.npz missing",
        "Found there: kvasir_256.npz",
        "zenodo.org",
    )
    content = kvasir.read_bytes()
    kvasir.write_bytes(content[:5000])
    fails(dataset(MedSegBench("kvasir"), kvasir.parent).records, "unreadable", "kvasir_256.npz cannot be read")
    kvasir.write_bytes(content[:1000] + b"\0" * 400 + content[1400:])
    data = dataset(MedSegBench("kvasir"), kvasir.parent)
    fails(lambda: [data.load(r) for r in data.records()], "unreadable", "cannot be read", "download it again")
