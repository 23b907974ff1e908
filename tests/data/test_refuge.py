"""REFUGE in both layouts on trees of a few pixels, and every way in which a tree can be wrong."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers_data import SHAPE, save_grey, save_photo, square, write_multi_rater, write_official
from PIL import Image

from medsam2.data.records import DatasetError, of_split
from medsam2.data.refuge import Refuge

RATERS = [
    square(2, 3, 4, 6),
    square(2, 3, 4, 8),
    square(2, 3, 8, 6),
]  # areas 24, 32, 48; the first is in all three
CASE = Path("Training-400/g0000")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_multi_rater(tmp_path / "REFUGE", RATERS)


@pytest.fixture
def official(tmp_path: Path) -> Path:
    return write_official(tmp_path / "REFUGE")


def test_multi_rater_values(root: Path) -> None:
    dataset = Refuge(root)
    case = dataset.load(dataset.records()[0])
    assert case.record.case_id == case.record.patient_id == "g0000"
    assert case.image.shape == (*SHAPE, 3)
    assert case.image.dtype == np.float32
    assert case.image[0, 0] == pytest.approx(np.array([200, 100, 50]) / 255, abs=0.02)
    assert [int(rater.sum()) for rater in case.raters["cup"]] == [24, 32, 48]
    assert case.labels["cup"].sum() == 24
    assert case.labels["disc"].sum() == 300
    assert (case.labels["cup"] == RATERS[0]).all()
    assert case.spacing is None


def test_a_tie_of_raters_counts_as_foreground(tmp_path: Path) -> None:
    dataset = Refuge(write_multi_rater(tmp_path, RATERS[:2]), structures="cup")
    case = dataset.load(dataset.records()[0])
    assert (case.labels["cup"] == RATERS[1]).all()
    assert set(case.labels) == {"cup"}


def test_raters_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    dataset = Refuge(write_multi_rater(tmp_path, [square(0, 0, 1, n) for n in range(1, 12)]))
    case = dataset.load(dataset.records()[0])
    assert [int(rater.sum()) for rater in case.raters["cup"]] == list(range(1, 12))


def test_crops_are_read_with_a_threshold(root: Path) -> None:
    dataset = Refuge(root, cropped=True)
    case = dataset.load(dataset.records()[0])
    assert case.image.shape == (10, 10, 3)
    assert (case.labels["cup"] == RATERS[0][:10, :10]).all()  # JPEG smears the edge; 128 restores it


def test_masks_of_zero_and_one_are_read(root: Path) -> None:
    save_grey(root / CASE / "g0000_seg_cup_1.png", RATERS[2])
    dataset = Refuge(root)
    assert dataset.load(dataset.records()[0]).raters["cup"][0].sum() == 48


def test_val_is_carved_from_train_and_test_is_kept(root: Path) -> None:
    records = Refuge(root, val_fraction=0.25).records()
    assert [len(of_split(records, split)) for split in ("train", "val", "test")] == [3, 1, 2]
    assert {r.case_id for r in of_split(records, "test")} == {"g0004", "g0005"}
    assert records == Refuge(root, val_fraction=0.25).records()
    others = {of_split(Refuge(root, split_seed=seed).records(), "val")[0].case_id for seed in range(20)}
    assert others == {"g0000", "g0001", "g0002", "g0003"}


def test_official_values_and_splits(official: Path) -> None:
    dataset = Refuge(official)
    records = dataset.records()
    assert {r.case_id: r.split for r in records} == {
        "T0001": "test",
        "V0001": "val",
        "g0001": "train",
        "n0001": "train",
    }
    case = dataset.load(records[0])
    assert case.labels["cup"].sum() == 16
    assert case.labels["disc"].sum() == 100
    assert (case.labels["disc"] & case.labels["cup"]).sum() == 16
    assert case.raters["disc"].shape == (1, *SHAPE)


def test_exif_orientation_is_applied(root: Path) -> None:
    pixels = np.zeros((SHAPE[1], SHAPE[0], 3), dtype=np.uint8)  # stored sideways, with the tag that says so
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(root / CASE / "g0000.jpg", exif=exif)
    dataset = Refuge(root)
    assert dataset.load(dataset.records()[0]).image.shape == (*SHAPE, 3)


def test_fingerprint_changes_with_files_and_split(root: Path) -> None:
    before = Refuge(root).fingerprint()
    assert before == Refuge(root).fingerprint() != Refuge(root, split_seed=2).fingerprint()
    assert len(before) == 16
    save_photo(root / CASE / "g0000.jpg", colour=(1, 200, 77), shape=(64, 64))
    assert Refuge(root).fingerprint() != before


def test_fingerprint_does_not_depend_on_the_place(root: Path, tmp_path: Path) -> None:
    assert Refuge(shutil.copytree(root, tmp_path / "elsewhere")).fingerprint() == Refuge(root).fingerprint()


@pytest.mark.parametrize("structures", ["cup", "disc"])
def test_only_the_files_of_the_chosen_structure_are_needed(root: Path, structures: str) -> None:
    other = {"cup": "disc", "disc": "cup"}[structures]
    for path in root.rglob(f"*_seg_{other}_*"):
        path.unlink()
    assert Refuge(root, structures=structures).records()[0].labels[0][0] == structures


# Every bad input: what is done to a good tree, and what the message must name.


def fails_to_load(dataset: Refuge, *parts: str) -> None:
    with pytest.raises(DatasetError) as error:
        dataset.load(dataset.records()[0])
    for part in parts:
        assert part in str(error.value)


def fails_to_list(dataset: Refuge, *parts: str) -> None:
    with pytest.raises(DatasetError) as error:
        dataset.records()
    for part in parts:
        assert part in str(error.value)


@pytest.mark.parametrize("values", [(0, 17, 255), (0, 1, 255), (0, 128)])
def test_undeclared_value_in_a_png(root: Path, values: tuple[int, ...]) -> None:
    mask = np.zeros(SHAPE)
    mask[0, : len(values)] = values
    save_grey(root / CASE / "g0000_seg_cup_2.png", mask)
    strange = next((v for v in values if v not in (0, 1, 255)), values[0])
    fails_to_load(
        Refuge(root),
        "g0000_seg_cup_2.png",
        f"undeclared value {strange}",
        "{0, 255} or {0, 1}",
        "Use the original file",
    )


def test_undeclared_value_in_a_bmp(official: Path) -> None:
    path = official / "REFUGE-Test-GT/Disc_Cup_Masks/G/T0001.bmp"
    mask = np.asarray(Image.open(path)).copy()
    mask[0, 0] = 127
    save_grey(path, mask)
    fails_to_load(Refuge(official), "T0001.bmp", "label with an undeclared value 127", "{0, 128, 255}")


def test_colour_mask(root: Path) -> None:
    save_photo(root / CASE / "g0000_seg_cup_1.png")
    fails_to_load(Refuge(root), "g0000_seg_cup_1.png", "colour image")


def test_sizes_differ(root: Path) -> None:
    save_grey(root / CASE / "g0000_seg_disc_3.png", np.zeros((20, 31)))
    fails_to_load(Refuge(root), "g0000.jpg is 30×20", "g0000_seg_disc_3.png is 31×20", "unpack")


@pytest.mark.parametrize("keep", [0, 3, 200])
def test_truncated_jpeg(root: Path, keep: int) -> None:
    path = root / CASE / "g0000.jpg"
    path.write_bytes(path.read_bytes()[:keep])
    fails_to_load(Refuge(root), "g0000.jpg cannot be decoded", "download it again")


def test_file_removed_after_listing(root: Path) -> None:
    dataset = Refuge(root)
    record = dataset.records()[0]
    (root / CASE / "g0000.jpg").unlink()
    with pytest.raises(DatasetError, match=r"g0000\.jpg is gone"):
        dataset.load(record)


def test_no_folder(tmp_path: Path) -> None:
    fails_to_list(
        Refuge(tmp_path / "nowhere"),
        "nowhere",
        "no such folder",
        "Training-400/<id>/<id>_seg_cup_1.png",
        "paths.data_root",
        "python -m medsam2.data.phantom refuge DIR",
    )


def test_folder_with_something_else(tmp_path: Path) -> None:
    (tmp_path / "holiday.txt").touch()
    fails_to_list(Refuge(tmp_path), "Found there: holiday.txt", "expected below it")


def test_half_unpacked_tree_lists_the_first_few(root: Path) -> None:
    for number in range(4):
        (root / f"Training-400/g000{number}/g000{number}.jpg").unlink()
    (root / "Test-400/g0004/g0004_seg_cup_3.png").unlink()
    (root / "Test-400/g0005/g0005_seg_disc_1.png").unlink()
    fails_to_list(
        Refuge(root),
        "6 problems",
        "Training-400/g0000: no image g0000.jpg",
        "g0004_seg_cup_3.png",
        "and 1 more",
    )


def test_official_case_without_mask_or_image(official: Path) -> None:
    (official / "Test400/T0001.jpg").unlink()
    (official / "REFUGE-Validation400-GT/Disc_Cup_Masks/V0001.bmp").unlink()
    fails_to_list(Refuge(official), "no image T0001.jpg in Test400", "no mask V0001.bmp")


def test_missing_test_folder(root: Path) -> None:
    shutil.rmtree(root / "Test-400")
    fails_to_list(Refuge(root), "Test-400 missing", "expected below it")


def test_empty_training_folder(root: Path) -> None:
    shutil.rmtree(root / "Training-400")
    (root / "Training-400").mkdir()
    fails_to_list(Refuge(root), "no cases for train")


def test_both_layouts_at_once(root: Path) -> None:
    write_official(root)
    fails_to_list(Refuge(root), "both layouts", "dataset.layout")
    assert len(Refuge(root, layout="multi_rater").records()) == 6
    assert len(Refuge(root, layout="official").records()) == 4


def test_layout_that_is_not_there(root: Path) -> None:
    fails_to_list(Refuge(root, layout="official"), "dataset.layout=official", "Training-400/")


def test_crops_of_the_official_layout(official: Path) -> None:
    fails_to_list(Refuge(official, cropped=True), "dataset.cropped=true")


def test_hidden_folders_are_ignored(root: Path) -> None:
    (root / "Training-400/.DS_Store").mkdir()
    (root / "Training-400/__MACOSX").mkdir()
    assert len(Refuge(root).records()) == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"structures": "macula"}, "cup, disc"),
        ({"layout": "kaggle"}, "layout='kaggle'"),
        ({"structures": ["cup", "cup"]}, "once"),
    ],
)
def test_bad_settings_are_refused_at_once(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        Refuge("/x", **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("fraction", [0, 1, 0.9])
def test_val_fraction_must_leave_training_cases(root: Path, fraction: float) -> None:
    fails_to_list(Refuge(root, val_fraction=fraction), f"val_fraction={fraction}")
