"""REFUGE in its three layouts on trees of a few pixels, and every way in which a tree can be wrong."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_data import save_grey, save_photo
from helpers_releases import case_of, fails
from PIL import Image
from trees_fundus import EYE, mark, photo, refuge, save_eye, write_kaggle, write_multi_rater, write_official

from medsam2.data.records import DatasetError, of_split
from medsam2.data.releases.refuge import Refuge

CASE = Path("Training-400/g0000")
FIRST = "Annotation-Training400/Disc_Cup_Masks/Glaucoma/g0001.bmp"  # eye 0 of the official tree


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("refuge")
    write_multi_rater(folder / "multi_rater", train=4, test=2)
    write_official(folder / "official")
    return folder


@pytest.fixture
def root(clean: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(clean / "multi_rater", tmp_path / "REFUGE"))


@pytest.fixture
def official(clean: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(clean / "official", tmp_path / "official" / "REFUGE"))


def test_multi_rater_values(root: Path) -> None:
    dataset = refuge(root)
    case = case_of(dataset, "g0001")
    assert dataset.structures == ("cup", "disc")
    assert case.record.case_id == case.record.patient_id == "g0001"
    assert case.image.shape == (*EYE, 3)
    assert case.image.dtype == np.float32
    assert np.abs(case.image * 255 - photo(1)).mean() < 6  # JPEG, of noisy pixels
    for structure in ("cup", "disc"):
        assert (case.raters[structure] == np.stack([mark(1, structure, grow) for grow in range(3)])).all()
        assert (case.labels[structure] == mark(1, structure, 1)).all()
    assert case.spacing is None


def test_a_tie_of_raters_counts_as_foreground(tmp_path: Path) -> None:
    case = case_of(refuge(write_multi_rater(tmp_path, 4, 2, raters=2), structures="cup"), "g0000")
    assert (case.labels["cup"] == mark(0, "cup", 1)).all()
    assert set(case.labels) == {"cup"}


def test_raters_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    case = case_of(refuge(write_multi_rater(tmp_path, 2, 1, raters=11)), "g0000")
    areas = [int(rater.sum()) for rater in case.raters["cup"]]
    assert len(areas) == 11
    assert areas == sorted(areas) == [int(mark(0, "cup", grow).sum()) for grow in range(11)]


def test_crops_are_read_with_a_threshold(root: Path) -> None:
    case = case_of(refuge(root, cropped=True), "g0000")
    assert case.image.shape == (30, 30, 3)
    assert (case.labels["cup"] == mark(0, "cup", 1)[4:34, 8:38]).all()  # JPEG smears the edge; 128 restores it


def test_masks_of_zero_and_one_are_read(root: Path) -> None:
    save_grey(root / CASE / "g0000_seg_cup_1.png", mark(0, "cup", 3))
    assert (case_of(refuge(root), "g0000").raters["cup"][0] == mark(0, "cup", 3)).all()


def test_val_is_carved_from_train_and_test_is_kept(root: Path) -> None:
    records = refuge(root, val_fraction=0.25).records()
    assert [len(of_split(records, split)) for split in ("train", "val", "test")] == [3, 1, 2]
    assert {r.case_id for r in of_split(records, "test")} == {"g0004", "g0005"}
    assert records == refuge(root, val_fraction=0.25).records()
    drawn = [of_split(refuge(root, split_seed=seed).records(), "val")[0].case_id for seed in range(20)]
    assert drawn[:4] == ["g0002", "g0000", "g0003", "g0003"]  # a seed means the same eyes for ever
    assert set(drawn) == {"g0000", "g0001", "g0002", "g0003"}


def test_official_values_and_splits(official: Path) -> None:
    dataset = refuge(official)
    assert {r.case_id: r.split for r in dataset.records()} == {
        "T0001": "test",
        "T0002": "test",
        "V0001": "val",
        "V0002": "val",
        "g0001": "train",
        "g0002": "train",
        "n0001": "train",
        "n0002": "train",
    }
    case = case_of(dataset, "n0001")
    assert (case.raters["cup"] == mark(1, "cup")[None]).all()
    assert (case.raters["disc"] == mark(1, "disc")[None]).all()  # with the cup
    assert case.raters["disc"].shape == (1, *EYE)
    assert np.abs(case.image * 255 - photo(1)).mean() < 6


@pytest.mark.parametrize("values", [(0, 1, 2), (0, 128, 255), (255, 128, 0)])
def test_kaggle_values_are_told_by_the_corners(tmp_path: Path, values: tuple[int, ...]) -> None:
    dataset = refuge(write_kaggle(tmp_path, values))
    splits = {r.case_id: r.split for r in dataset.records()}
    assert sorted(splits.items()) == [
        *(("t0000", "train"), ("t0001", "train"), ("t0003", "test"), ("t0004", "train")),
        *(("t0005", "train"), ("t0007", "test"), ("v0002", "val"), ("v0006", "val")),
    ]
    case = case_of(dataset, "v0002")
    assert (case.labels["cup"] == mark(2, "cup")).all()
    assert (case.labels["disc"] == mark(2, "disc")).all()


def test_exif_orientation_is_applied(root: Path) -> None:
    pixels = np.zeros((EYE[1], EYE[0], 3), dtype=np.uint8)  # stored sideways, with the tag that says so
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(root / CASE / "g0000.jpg", exif=exif)
    assert case_of(refuge(root), "g0000").image.shape == (*EYE, 3)


def test_fingerprint_changes_with_files_and_split(root: Path) -> None:
    before = refuge(root).fingerprint()
    assert before == refuge(root).fingerprint() != refuge(root, split_seed=2).fingerprint()
    assert len(before) == 16
    save_photo(root / CASE / "g0000.jpg", colour=(1, 200, 77), shape=(64, 64))
    assert refuge(root).fingerprint() != before


def test_fingerprint_does_not_depend_on_the_place(root: Path, tmp_path: Path) -> None:
    assert refuge(shutil.copytree(root, tmp_path / "elsewhere")).fingerprint() == refuge(root).fingerprint()


@pytest.mark.parametrize("structures", ["cup", "disc"])
def test_only_the_files_of_the_chosen_structure_are_needed(root: Path, structures: str) -> None:
    other = {"cup": "disc", "disc": "cup"}[structures]
    for path in root.rglob(f"*_seg_{other}_*"):
        path.unlink()
    assert refuge(root, structures=structures).records()[0].labels[0][0] == structures


# Every bad input: what is done to a good tree, and what the message must name.


def fails_to_load(dataset: Any, case_id: str, kind: str, *parts: str) -> None:
    fails(lambda: case_of(dataset, case_id), kind, *parts)


def fails_to_list(dataset: Any, kind: str, *parts: str) -> None:
    fails(dataset.records, kind, *parts)


@pytest.mark.parametrize("values", [(0, 17, 255), (0, 1, 255), (0, 128)])
def test_undeclared_value_in_a_png(root: Path, values: tuple[int, ...]) -> None:
    mask = np.zeros(EYE)
    mask[0, : len(values)] = values
    save_grey(root / CASE / "g0000_seg_cup_2.png", mask)
    strange = next((v for v in values if v not in (0, 1, 255)), values[0])
    fails_to_load(
        refuge(root),
        "g0000",
        "undeclared value",
        "g0000_seg_cup_2.png",
        f"undeclared value {strange}",
        "{0, 255} or {0, 1}",
        "Use the original file",
    )


def test_undeclared_value_in_a_bmp(official: Path) -> None:
    mask = np.asarray(Image.open(official / FIRST)).copy()
    mask[0, 0] = 127
    save_grey(official / FIRST, mask)
    fails_to_load(refuge(official), "g0001", "undeclared value", "g0001.bmp", "undeclared value 127", "{0, 128, 255}")


def test_inverted_order_of_the_official_masks(tmp_path: Path) -> None:
    root = write_official(tmp_path, values=(0, 128, 255))
    fails_to_load(
        refuge(root),
        "n0001",
        "inverted order",
        "n0001.bmp: its corners hold 0, where the background (255) must be",
        "written as 0, 128 and 255 here, set dataset.release.inverted=true",
    )
    case = case_of(refuge(root, inverted=True), "n0001")
    assert (case.labels["cup"] == mark(1, "cup")).all()
    assert (case.labels["disc"] == mark(1, "disc")).all()


def test_inverted_asked_of_masks_that_are_not(official: Path) -> None:
    fails_to_load(refuge(official, inverted=True), "g0001", "inverted order", "dataset.release.inverted=false")


def test_a_mask_that_is_cropped_into_the_disc(tmp_path: Path) -> None:
    root = write_kaggle(tmp_path)
    save_grey(root / "val/Masks/v0002.png", mark(2, "cup")[10:30, 15:30] + 1)
    save_eye(root / "val/Images/v0002.jpg", 2, (20, 15))
    fails_to_load(refuge(root), "v0002", "inverted order", "v0002.png: its corners hold 1", "original pair")


def test_colour_mask(root: Path) -> None:
    save_photo(root / CASE / "g0000_seg_cup_1.png")
    fails_to_load(refuge(root), "g0000", "colour mask", "g0000_seg_cup_1.png", "colour image")


def test_sizes_differ(root: Path) -> None:
    save_grey(root / CASE / "g0000_seg_disc_3.png", np.zeros((40, 49)))
    fails_to_load(
        refuge(root), "g0000", "size mismatch", "g0000.jpg is 48×40", "g0000_seg_disc_3.png is 49×40", "unpack"
    )


def test_sizes_differ_in_the_official_layout(official: Path) -> None:
    save_grey(official / FIRST, np.full((41, 48), 255))
    fails_to_load(refuge(official), "g0001", "size mismatch", "g0001.jpg is 48×40", "g0001.bmp is 48×41")


@pytest.mark.parametrize("keep", [0, 3, 200])
def test_truncated_jpeg(root: Path, keep: int) -> None:
    path = root / CASE / "g0000.jpg"
    path.write_bytes(path.read_bytes()[:keep])
    fails_to_load(refuge(root), "g0000", "unreadable", "g0000.jpg cannot be decoded", "download it again")


def test_file_removed_after_listing(root: Path) -> None:
    dataset = refuge(root)
    record = dataset.records()[0]
    (root / CASE / "g0000.jpg").unlink()
    with pytest.raises(DatasetError, match=r"g0000\.jpg is gone"):
        dataset.load(record)


def test_no_folder(tmp_path: Path) -> None:
    fails_to_list(
        refuge(tmp_path / "nowhere"),
        "missing",
        "nowhere",
        "no such folder",
        "Training-400/<id>/<id>_seg_cup_1.png",
        "REFUGE-Validation400/<id>.jpg",
        "{train,val,test}/Masks/<id>.png",
        "dataset.root",
        "paths.data_root",
        "python -m medsam2.data.phantom refuge DIR",
    )


def test_folder_with_something_else(tmp_path: Path) -> None:
    (tmp_path / "holiday.txt").touch()
    fails_to_list(refuge(tmp_path), "missing", "Found there: holiday.txt", "expected below it")


def test_half_unpacked_tree_lists_the_first_few(root: Path) -> None:
    for number in range(4):
        (root / f"Training-400/g000{number}/g000{number}.jpg").unlink()
    (root / "Test-400/g0004/g0004_seg_cup_3.png").unlink()
    (root / "Test-400/g0005/g0005_seg_disc_1.png").unlink()
    fails_to_list(
        refuge(root),
        "missing image",
        "6 problems",
        "Training-400/g0000: no image g0000.jpg",
        "g0004_seg_cup_3.png",
        "and 1 more",
    )


def test_a_missing_rater(root: Path) -> None:
    (root / CASE / "g0000_seg_cup_2.png").unlink()
    fails_to_list(refuge(root), "missing rater", "1 of 3 raters missing, as g0000_seg_cup_2.png")


def test_photographs_without_any_mask(root: Path) -> None:
    for path in root.rglob("*_seg_*"):
        path.unlink()
    fails_to_list(refuge(root), "missing rater", "12 problems", "g0000: 1 of 1 raters missing, as g0000_seg_cup_1.png")


@pytest.mark.parametrize(
    ("gone", "kind", "said"),
    [
        ("Test400/T0001.jpg", "missing image", "T0001.bmp: no image T0001.jpg in Test400"),
        ("REFUGE-Validation400-GT/Disc_Cup_Masks/V0001.bmp", "missing mask", "V0001.jpg: no mask V0001.bmp in REFUGE"),
    ],
)
def test_official_case_without_mask_or_image(official: Path, gone: str, kind: str, said: str) -> None:
    (official / gone).unlink()
    fails_to_list(refuge(official), kind, "1 problem", said)


def test_missing_test_folder(root: Path) -> None:
    shutil.rmtree(root / "Test-400")
    fails_to_list(refuge(root), "missing", "Test-400 missing", "expected below it")


def test_empty_training_folder(root: Path) -> None:
    shutil.rmtree(root / "Training-400")
    (root / "Training-400").mkdir()
    fails_to_list(refuge(root), "missing", "no cases for train")


def test_several_layouts_at_once(root: Path) -> None:
    write_kaggle(write_official(root))
    fails_to_list(refuge(root), "unreadable", "multi_rater and official and kaggle", "dataset.release.layout")
    for layout, count in (("multi_rater", 6), ("official", 8), ("kaggle", 8)):
        assert len(refuge(root, layout=layout).records()) == count


def test_layout_that_is_not_there(root: Path) -> None:
    fails_to_list(refuge(root, layout="official"), "missing", "dataset.release.layout=official", "Training-400/")


def test_options_of_another_layout(root: Path, official: Path) -> None:
    fails_to_list(refuge(official, cropped=True), "unreadable", "dataset.release.cropped=true", "multi_rater")
    fails_to_list(refuge(root, inverted=True), "unreadable", "dataset.release.inverted=true", "official")


def test_hidden_folders_are_ignored(root: Path) -> None:
    (root / "Training-400/.DS_Store").mkdir()
    (root / "Training-400/__MACOSX").mkdir()
    assert len(refuge(root).records()) == 6


def test_the_same_photograph_in_two_splits(root: Path) -> None:
    shutil.copy(root / CASE / "g0000.jpg", root / "Test-400/g0004/g0004.jpg")
    fails_to_list(refuge(root), "duplicate image", "Training-400/g0000/g0000.jpg", "Test-400/g0004/g0004.jpg")


def test_a_bad_layout_is_refused_at_once() -> None:
    with pytest.raises(DatasetError, match=r"dataset\.release\.layout='drive'.*multi_rater, official, kaggle"):
        Refuge(layout="drive")


@pytest.mark.parametrize(("structures", "said"), [("macula", "cup, disc"), (["cup", "cup"], "once"), ([], "one or")])
def test_bad_structures(root: Path, structures: object, said: str) -> None:
    with pytest.raises(DatasetError, match=said):
        refuge(root, structures=structures).records()


@pytest.mark.parametrize("fraction", [0, 1, 0.9])
def test_val_fraction_must_leave_training_cases(root: Path, fraction: float) -> None:
    with pytest.raises(DatasetError, match=f"dataset.val_fraction={fraction}"):
        refuge(root, val_fraction=fraction).records()
