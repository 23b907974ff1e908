"""RIM-ONE: the left half of a stereo pair by two experts (r3), and one reference in two partitions (DL)."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers_data import save_grey
from helpers_releases import case_of, fails
from trees_fundus import EYE, dataset, mark, photo, write_rim_one_dl, write_rim_one_r3

from medsam2.data.records import of_split
from medsam2.data.releases.rim_one import RimOneDL, RimOneR3

HEALTHY = Path("Healthy")


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rim_one")
    write_rim_one_r3(folder / "RIM-ONE r3")
    write_rim_one_dl(folder / "RIM-ONE_DL")
    return folder


@pytest.fixture
def r3(clean: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(clean / "RIM-ONE r3", tmp_path / "RIM-ONE r3"))


@pytest.fixture
def dl(clean: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(clean / "RIM-ONE_DL", tmp_path / "RIM-ONE_DL"))


def test_r3_cases(clean: Path) -> None:
    records = dataset(RimOneR3(), clean / "RIM-ONE r3").records()
    groups = ["G", "N", "N", "S", "N", "N"] * 2
    ids = [f"{group}-{number}-{'LR'[number % 2]}" for number, group in enumerate(groups, start=1)]
    assert {r.case_id: r.patient_id for r in records} == {case_id: case_id[:-2] for case_id in ids}
    assert [len(of_split(records, split)) for split in ("train", "val", "test")] == [9, 1, 2]
    assert records == dataset(RimOneR3(), clean / "RIM-ONE r3").records()


def test_r3_is_the_left_view_by_two_experts(clean: Path) -> None:
    case = case_of(dataset(RimOneR3(), clean / "RIM-ONE r3"), "N-2-L")
    assert case.image.shape == (*EYE, 3)
    assert np.abs(case.image * 255 - photo(1)).mean() < 6 < np.abs(case.image * 255 - photo(101)).mean()
    for structure in ("cup", "disc"):
        # expert 1 drew on the whole pair, expert 2 on the left view alone
        assert (case.raters[structure] == np.stack([mark(1, structure), mark(1, structure, 1)])).all()
        assert (case.labels[structure] == mark(1, structure, 1)).all()


def test_r3_average_needs_no_experts(r3: Path) -> None:
    for folder in r3.glob("*/Expert*_masks"):
        shutil.rmtree(folder)
    case = case_of(dataset(RimOneR3(raters="average"), r3), "S-4-L")
    assert (case.raters["disc"] == mark(3, "disc")[None]).all()
    assert (case.raters["cup"] == mark(3, "cup")[None]).all()


def test_both_eyes_of_a_number_stay_together(r3: Path) -> None:
    for path in list(r3.rglob("*N-2-L*")):
        shutil.copy(path, path.with_name(path.name.replace("N-2-L", "N-2-R")))
    shutil.copy(r3 / "Healthy/Stereo Images/N-3-R.jpg", r3 / "Healthy/Stereo Images/N-2-R.jpg")
    (r3 / "Healthy/Stereo Images/N-2-R.jpg").open("ab").write(b"other")
    for seed in range(8):
        records = dataset(RimOneR3(), r3, split_seed=seed).records()
        assert len({r.split for r in records if r.patient_id == "N-2"}) == 1


@pytest.mark.parametrize("width", [EYE[1] - 1, 2 * EYE[1] + 2, 1])
def test_r3_masks_of_neither_width(r3: Path, width: int) -> None:
    save_grey(r3 / HEALTHY / "Expert1_masks/N-2-L-1-Cup-exp1.png", np.zeros((EYE[0], width)))
    data = dataset(RimOneR3(), r3)
    fails(lambda: case_of(data, "N-2-L"), "size mismatch", "N-2-L.jpg is 96×40", f"Cup-exp1.png is {width}×40")


def test_r3_mask_of_another_height(r3: Path) -> None:
    save_grey(r3 / HEALTHY / "Expert2_masks/N-2-L-1-Cup-exp2.png", np.zeros((EYE[0] + 1, EYE[1])))
    data = dataset(RimOneR3(), r3)
    fails(lambda: case_of(data, "N-2-L"), "size mismatch", "Cup-exp2.png is 48×41")


def test_r3_mask_on_the_right_view(r3: Path) -> None:
    wide = np.pad(mark(1, "cup") * 255, ((0, 0), (EYE[1], 0)))
    save_grey(r3 / HEALTHY / "Expert1_masks/N-2-L-1-Cup-exp1.png", wide)
    data = dataset(RimOneR3(), r3)
    fails(lambda: case_of(data, "N-2-L"), "size mismatch", "Cup-exp1.png: marks the right view")


def test_r3_undeclared_value(r3: Path) -> None:
    save_grey(r3 / HEALTHY / "Expert1_masks/N-2-L-1-Cup-exp1.png", mark(1, "cup") * 7)
    data = dataset(RimOneR3(), r3)
    fails(lambda: case_of(data, "N-2-L"), "undeclared value", "Cup-exp1.png", "undeclared value 7")


def test_r3_missing_rater_and_image(r3: Path) -> None:
    (r3 / HEALTHY / "Expert2_masks/N-3-R-1-Disc-exp2.png").unlink()
    (r3 / HEALTHY / "Stereo Images/N-5-R.jpg").unlink()
    fails(
        dataset(RimOneR3(), r3).records,
        "missing rater",
        "5 problems",
        "Healthy/Stereo Images/N-3-R.jpg: no mask of the disc in Healthy/Expert2_masks",
        "Healthy/Expert1_masks/N-5-R-1-Cup-exp1.png: no image of it",
    )


def test_r3_missing_folders(r3: Path, tmp_path: Path) -> None:
    shutil.rmtree(r3 / "Glaucoma and suspects/Expert2_masks")
    said = ("Stereo Images/<id>.jpg", "Expert2_masks/<id>-1-{Cup,Disc}-exp2.png", "Download", "paths.data_root")
    fails(dataset(RimOneR3(), r3).records, "missing", "no folder Glaucoma and suspects/Expert2_masks", *said)
    fails(dataset(RimOneR3(), tmp_path / "x").records, "missing", "no such folder", *said)


@pytest.mark.parametrize(("partition", "test"), [("random", (1, 5, 9)), ("hospital", (9, 10, 11, 12))])
def test_dl_partitions(clean: Path, partition: str, test: tuple[int, ...]) -> None:
    records = dataset(RimOneDL(partition), clean / "RIM-ONE_DL").records()
    assert [r.case_id for r in of_split(records, "test")] == [f"r{(n - 1) // 4 + 1}_Im{n:03d}" for n in test]
    assert len(of_split(records, "val")) == 1
    assert len(records) == 12
    assert all(r.patient_id == r.case_id for r in records)


def test_dl_values(clean: Path) -> None:
    case = case_of(dataset(RimOneDL(), clean / "RIM-ONE_DL"), "r1_Im002")
    assert (np.round(case.image * 255) == photo(1)).all()
    assert (case.raters["cup"] == mark(1, "cup")[None]).all()
    assert (case.raters["disc"] == mark(1, "disc")[None]).all()


def test_dl_the_running_index_may_be_another(dl: Path) -> None:
    path = dl / "RIM-ONE_DL_reference_segmentations/glaucoma/r1_Im002-1-Cup-T.png"
    path.rename(path.with_name("r1_Im002-3-Cup-T.png"))
    assert (case_of(dataset(RimOneDL(), dl), "r1_Im002").labels["cup"] == mark(1, "cup")).all()


def test_dl_missing_mask_and_image(dl: Path) -> None:
    (dl / "RIM-ONE_DL_reference_segmentations/glaucoma/r1_Im002-1-Cup-T.png").unlink()
    (dl / "RIM-ONE_DL_images/partitioned_randomly/test_set/normal/r1_Im001.png").unlink()
    fails(
        dataset(RimOneDL(), dl).records,
        "missing image",
        "3 problems",
        "glaucoma/r1_Im002.png: no mask of the cup in RIM-ONE_DL_reference_segmentations",
        "r1_Im001-1-Cup-T.png: no image of it",
    )
    fails(dataset(RimOneDL("hospital"), dl).records, "missing mask", "1 problem")


def test_dl_an_eye_in_both_sets(dl: Path) -> None:
    images = dl / "RIM-ONE_DL_images/partitioned_randomly"
    shutil.copy(images / "training_set/glaucoma/r1_Im002.png", images / "test_set/normal/r1_Im002.png")
    fails(dataset(RimOneDL(), dl).records, "duplicate id", "r1_Im002 is listed twice")


@pytest.mark.parametrize("gone", ["RIM-ONE_DL_reference_segmentations", "RIM-ONE_DL_images/partitioned_randomly"])
def test_dl_missing_folders(dl: Path, gone: str) -> None:
    shutil.rmtree(dl / gone)
    said = ("<id>-1-{Cup,Disc}-T.png", "{training_set,test_set}/{normal,glaucoma}/<id>.png", "two archives")
    fails(dataset(RimOneDL(), dl).records, "missing", f"no folder {gone}", *said)


def test_bad_options() -> None:
    fails(lambda: RimOneR3(raters="expert1"), "unreadable", "dataset.release.raters='expert1'", "experts, average")
    fails(lambda: RimOneDL(partition="fold"), "unreadable", "dataset.release.partition='fold'", "random, hospital")
