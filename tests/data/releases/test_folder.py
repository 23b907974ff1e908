"""Own images in folders: structures and raters by folder or by value, splits by folder, patients by name."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_data import save_grey
from helpers_releases import case_of, dataset, fails, same, splits_of
from PIL import Image
from trees_flat import FLAT, blob, grey_of, photo_of, save_pixels
from trees_folder import write_flat, write_labels, write_rated, write_splits

from medsam2.data.intensity import Percentiles, Range, scale
from medsam2.data.releases.folder import Folder

LABELS = {"cup": 2, "disc": [1, 2]}


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_flat(tmp_path_factory.mktemp("flat"))


@pytest.fixture(scope="module")
def valued(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_labels(tmp_path_factory.mktemp("valued"))


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    return write_flat(tmp_path / "flat", 6)


def test_one_structure(clean: Path) -> None:
    data = dataset(Folder(), clean)
    case = case_of(data, "case03")
    assert data.structures == ("object",)
    assert same(case.raters["object"], blob(3))
    assert case.image == pytest.approx(photo_of(blob(3), 3) / 255, abs=0.25)
    assert (case.record.patient_id, case.record.image) == ("case03", "images/case03.jpg")
    assert {split: len(cases) for split, cases in splits_of(data).items()} == {"train": 9, "val": 1, "test": 2}
    assert dataset(Folder(object_name="polyp"), clean).structures == ("polyp",)


def test_masks_of_0_and_1_beside_those_of_0_and_255(flat: Path) -> None:
    save_grey(flat / "masks/case03.png", blob(3))
    assert same(case_of(dataset(Folder(), flat), "case03").raters["object"], blob(3))


def test_jpeg_masks_need_a_threshold(tmp_path: Path) -> None:
    root = write_flat(tmp_path, 6, jpeg=True)
    fails(lambda: case_of(dataset(Folder(), root), "case03"), "jpeg mask", "case03.jpg", "release.threshold=128")
    assert same(case_of(dataset(Folder(threshold=128), root), "case03").raters["object"], blob(3))


def test_values_are_structures(valued: Path) -> None:
    data = dataset(Folder(LABELS), valued)
    case = case_of(data, "P03_L")
    assert data.structures == ("cup", "disc")
    assert same(case.raters["cup"], blob(6, -3))
    assert same(case.raters["disc"], blob(6))
    only = dataset(Folder(LABELS), valued, structures="disc")
    assert list(case_of(only, "P03_L").raters) == ["disc"]


@pytest.mark.parametrize(
    ("labels", "structures", "exclusive"),
    [
        (LABELS, None, False),  # the cup is in the disc
        (LABELS, "disc", True),
        ({"cup": 2, "rim": 1}, None, True),
        (None, None, False),  # files of their own may overlap
    ],
)
def test_structures_of_different_values_exclude_each_other(
    valued: Path, labels: dict[str, Any] | None, structures: str | None, exclusive: bool
) -> None:
    assert dataset(Folder(labels), valued, structures=structures).exclusive is exclusive


def test_values_that_were_not_named(valued: Path) -> None:
    fails(
        lambda: case_of(dataset(Folder({"rim": 1}), valued), "P00_L"),
        "undeclared value",
        "masks/P00_L.png: label with an undeclared value 2 (0, 1, 2 found, declared {0, 1})",
    )
    fails(lambda: case_of(dataset(Folder(), valued), "P00_L"), "undeclared value", "declared {0, 255} or {0, 1}")


def test_255_where_1_was_named(clean: Path) -> None:
    data = dataset(Folder({"polyp": 1}), clean)
    fails(lambda: case_of(data, "case00"), "undeclared value", "give it the value 255 in dataset.release.labels")
    assert same(case_of(dataset(Folder({"polyp": 255}), clean), "case00").raters["polyp"], blob(0))


@pytest.mark.parametrize("intensity", [None, Range(0, 4095), Percentiles(5, 95, nonzero=False)])
def test_16_bits(valued: Path, intensity: Any) -> None:
    case = case_of(dataset(Folder(LABELS, intensity=intensity), valued), "P00_R")
    stored = grey_of(blob(1).astype(np.uint16) + blob(1, -3), 1).astype(np.uint16) * 16
    limits = (intensity or Percentiles(0.5, 99.5, nonzero=True))(stored)
    assert np.array_equal(case.image[..., 0], scale(stored, *limits))


def test_patients_by_name(valued: Path) -> None:
    records = dataset(Folder(LABELS, patient_pattern="(P[0-9]+)_"), valued, test_fraction=0.3).records()
    assert [(r.case_id, r.patient_id) for r in records[:3]] == [("P00_L", "P00"), ("P00_R", "P00"), ("P01_L", "P01")]
    assert all(a.split == b.split for a, b in zip(records[::2], records[1::2], strict=True))
    data = dataset(Folder(LABELS, patient_pattern="X([0-9]+)"), valued)
    fails(data.records, "unreadable", "dataset.release.patient_pattern='X([0-9]+)' finds no patient in 'P00_L'")


def test_folders_are_structures_and_raters(tmp_path: Path) -> None:
    data = dataset(Folder(), write_rated(tmp_path, 6))
    assert data.structures == ("cup", "disc")
    case = case_of(data, "3")
    assert same(case.raters["cup"], blob(3, -3), blob(3, -1))
    assert same(case.raters["disc"], blob(3), blob(3, 2))
    assert case.record.labels[0] == ("cup", ("masks/cup/a/3.bmp", "masks/cup/b/3.bmp"))


def test_folders_of_structures_without_raters(tmp_path: Path) -> None:
    root = write_rated(tmp_path, 6)
    for structure in ("cup", "disc"):
        for mask in (root / "masks" / structure / "b").iterdir():
            mask.rename(root / "masks" / structure / mask.name)
        for rater in "ab":
            shutil.rmtree(root / "masks" / structure / rater)
    assert same(case_of(dataset(Folder(), root), "3").raters["cup"], blob(3, -1))


def test_with_labels_folders_are_raters(tmp_path: Path) -> None:
    root = write_labels(tmp_path)
    for rater in ("first", "second"):
        shutil.copytree(root / "masks", root / "all" / rater)
    shutil.rmtree(root / "masks")
    (root / "all").rename(root / "masks")
    values = blob(0) * 2
    save_grey(root / "masks/second/P00_L.png", values)
    case = case_of(dataset(Folder(LABELS), root), "P00_L")
    assert same(case.raters["cup"], blob(0, -3), blob(0))
    assert same(case.raters["disc"], blob(0), blob(0))


def test_splits_by_folder(tmp_path: Path) -> None:
    data = dataset(Folder(), write_splits(tmp_path))
    found = splits_of(data)
    assert found["val"] == ["val_0", "val_1"]
    assert found["test"] == ["test_0", "test_1", "test_2"]
    assert len(found["train"]) == 8
    assert same(case_of(data, "val_1").raters["object"], blob(9))
    assert case_of(data, "val_1").record.patient_id == "val_1"


def test_a_patient_in_two_splits(tmp_path: Path) -> None:
    data = dataset(Folder(patient_pattern="([0-9])"), write_splits(tmp_path))
    fails(data.records, "patient in two splits", "patient")


def test_the_same_image_in_two_splits(tmp_path: Path) -> None:
    root = write_splits(tmp_path)
    shutil.copy(root / "train/images/0.jpg", root / "test/images/0.jpg")
    fails(dataset(Folder(), root).records, "duplicate image", "test/images/0.jpg")


def test_endings_of_masks(flat: Path) -> None:
    for mask in list((flat / "masks").iterdir()):
        mask.rename(mask.with_name(f"{mask.stem}_mask.png"))
    assert same(case_of(dataset(Folder(mask_ending="_mask"), flat), "case03").raters["object"], blob(3))
    fails(
        dataset(Folder(), flat).records, "missing mask", "images/case00.jpg: no mask case00.* in masks", "12 problems"
    )


# -------------------------------------------------------------------------------------- what can be wrong


def test_missing_folders(flat: Path, tmp_path: Path) -> None:
    missing = dataset(Folder(), tmp_path / "nowhere")
    fails(missing.records, "missing", "no such folder", "masks/<structure>/<rater>/<case>.png", "dataset.root")
    shutil.rmtree(flat / "masks")
    fails(dataset(Folder(), flat).records, "missing", "masks missing", "Found there: images/")


def test_a_folder_of_other_files(flat: Path) -> None:
    shutil.rmtree(flat / "masks")
    shutil.rmtree(flat / "images")
    (flat / "masks").mkdir()
    (flat / "images").mkdir()
    (flat / "images/scan.nii.gz").touch()
    message = f"{flat}: no images (.png", "right below images/ (in it: scan.nii.gz)", "Found there: images/, masks/"
    fails(dataset(Folder(), flat).records, "missing", *message, "dataset=folder_volumes")
    (flat / "images/scan.nii.gz").unlink()
    fails(dataset(Folder(), flat).records, "missing", "right below images/ (in it: an empty folder)")


def test_a_split_without_images(tmp_path: Path) -> None:
    root = write_splits(tmp_path)
    for part in ("images", "masks"):
        shutil.rmtree(root / "valid" / part)
        (root / "valid" / part).mkdir()
    fails(
        dataset(Folder(), root).records, "missing", f"{root}: no images", "right below valid/images/ (in it: an empty"
    )


def test_both_with_and_without_splits(flat: Path) -> None:
    write_flat(flat / "test", 2)
    fails(dataset(Folder(), flat).records, "unreadable", "holds images and test", "not clear")


def test_half_a_split(tmp_path: Path) -> None:
    root = write_splits(tmp_path)
    shutil.rmtree(root / "valid/masks")
    fails(dataset(Folder(), root).records, "missing", "valid/masks missing")


def test_a_structure_that_one_split_lacks(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_rated(tmp_path / split, 6)
    shutil.rmtree(tmp_path / "test/masks/cup")
    fails(dataset(Folder(), tmp_path).records, "missing", "test/masks/cup missing")


def test_masks_beside_folders_of_raters(tmp_path: Path) -> None:
    root = write_rated(tmp_path, 6)
    save_grey(root / "masks/cup/3.bmp", blob(3))
    fails(dataset(Folder(), root).records, "unreadable", "masks/cup: holds masks beside the folders a, b")


def test_incomplete_pairs(tmp_path: Path) -> None:
    root = write_rated(tmp_path, 6)
    (root / "masks/cup/b/3.bmp").unlink()
    (root / "images/5.tif").unlink()
    fails(
        dataset(Folder(), root).records,
        "missing rater",
        "5 problems",
        "images/3.tif: no mask 3.* in masks/cup/b",
        "masks/cup/a/5.bmp: no image 5.* in images",
    )


def test_two_images_of_one_name(flat: Path) -> None:
    save_pixels(flat / "images/case03.png", photo_of(blob(3), 3))
    fails(dataset(Folder(), flat).records, "duplicate id", "case03.png and case03.jpg are both named case03")


def test_sizes_of_any_rater(tmp_path: Path) -> None:
    root = write_rated(tmp_path, 6)
    save_grey(root / "masks/cup/b/3.bmp", np.zeros((FLAT[0], FLAT[1] + 1)))
    fails(lambda: case_of(dataset(Folder(), root), "3"), "size mismatch", "masks/cup/b/3.bmp is 49×40")


def test_colour_masks(flat: Path) -> None:
    Image.fromarray(photo_of(blob(3), 3)).save(flat / "masks/case03.png")
    fails(lambda: case_of(dataset(Folder(), flat), "case03"), "colour mask", "masks/case03.png is a colour image")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"labels": {"cup": 0}}, "0 is the background"),
        ({"labels": {"cup": 1}, "threshold": 128}, "dataset.release.threshold=128"),
        ({"patient_pattern": "P[0-9]+"}, "has 0 groups, expected one"),
        ({"patient_pattern": "(P)([0-9]+)"}, "has 2 groups, expected one"),
        ({"patient_pattern": "(P"}, "is no regular expression"),
        ({"patient_pattern": "(P?)"}, "finds no patient in 'case00'"),
    ],
)
def test_bad_settings(clean: Path, settings: dict[str, Any], message: str) -> None:
    fails(lambda: dataset(Folder(**settings), clean).records(), "unreadable", message)


def test_settings_decide_what_is_read(clean: Path) -> None:
    """Everything that changes a case is part of its key in the cache."""
    releases = [Folder(), Folder(threshold=9), Folder(intensity=Range(0, 9)), Folder(intensity=Range(0, 8))]
    releases += [Folder({"object": 1}), Folder({"object": [1, 2]})]
    assert len({str(dataset(release, clean).decoding()) for release in releases}) == 6
