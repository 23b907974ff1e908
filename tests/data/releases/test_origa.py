"""ORIGA: both structures in one mask, the published sets A and B, squares, and the MATLAB files of the original."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_data import save_grey
from helpers_releases import case_of, fails
from PIL import Image
from scipy.io import savemat
from trees_fundus import EYE, dataset, mark, nested, photo, write_origa

from medsam2.data.records import of_split
from medsam2.data.releases.origa import Origa


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("origa")
    write_origa(folder / "bundle")
    write_origa(folder / "matlab", matlab=True)
    return folder


@pytest.fixture
def root(clean: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(clean / "bundle", tmp_path / "ORIGA"))


@pytest.fixture
def matlab(clean: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(clean / "matlab", tmp_path / "ORIGA"))


def test_set_a_trains_and_set_b_tests(clean: Path) -> None:
    records = dataset(Origa(), clean / "bundle").records()
    assert [r.case_id for r in of_split(records, "test")] == ["002", "004", "006", "008", "010", "012"]
    assert [len(of_split(records, split)) for split in ("train", "val")] == [5, 1]
    assert all(r.patient_id == r.case_id for r in records)


@pytest.mark.parametrize("values", [(0, 1, 2), (0, 127, 255), (0, 128, 255), (255, 128, 0)], ids=str)
def test_values(root: Path, values: tuple[int, int, int]) -> None:
    save_grey(root / "Masks/002.png", nested(1, values))
    case = case_of(dataset(Origa(), root), "002")
    assert np.abs(case.image * 255 - photo(1)).mean() < 6
    assert (case.raters["cup"] == mark(1, "cup")[None]).all()
    assert (case.raters["disc"] == mark(1, "disc")[None]).all()


def test_a_palette_gives_its_indices(root: Path) -> None:
    image = Image.fromarray(nested(1, (0, 1, 2)).astype(np.uint8), mode="P")
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    image.save(root / "Masks/002.png")
    assert (case_of(dataset(Origa(), root), "002").labels["cup"] == mark(1, "cup")).all()


def test_squares(clean: Path) -> None:
    case = case_of(dataset(Origa(square=True), clean / "bundle"), "003")
    assert case.image.shape == (36, 36, 3)
    assert (case.labels["disc"] == mark(2, "disc", shape=(36, 36))).all()


def test_only_one_structure(clean: Path) -> None:
    case = case_of(dataset(Origa(), clean / "bundle", structures="disc"), "003")
    assert set(case.labels) == set(case.raters) == {"disc"}


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffset , FILENAME\nb,001.jpg\nA,002.jpg\na,003.jpg\n a ,004.jpg\n",
        "Filename,Set,Glaucoma\n001.jpg,B,1\n002.jpg,A,0\n003.jpg,A,0\n004.jpg,A,0\n\n",
    ],
)
def test_the_list_in_other_hands(root: Path, text: str) -> None:
    for number in range(5, 13):
        for folder, suffix in (("Images", "jpg"), ("Masks", "png")):
            (root / folder / f"{number:03d}.{suffix}").unlink()
    (root / "OrigaList.csv").write_text(text, encoding="utf-8")
    assert [r.case_id for r in of_split(dataset(Origa(), root).records(), "test")] == ["001"]


def test_without_the_list_the_split_is_seeded(root: Path) -> None:
    (root / "OrigaList.csv").unlink()
    records = dataset(Origa(), root, test_fraction=0.25).records()
    assert [len(of_split(records, split)) for split in ("train", "val", "test")] == [8, 1, 3]
    others = {tuple(r.split for r in dataset(Origa(), root, split_seed=seed).records()) for seed in range(4)}
    assert len(others) == 4


def test_matlab_files_stand_in_for_masks(clean: Path) -> None:
    data = dataset(Origa(), clean / "matlab")
    case = case_of(data, "003")
    assert (case.raters["cup"] == mark(2, "cup")[None]).all()
    assert (case.raters["disc"] == mark(2, "disc")[None]).all()
    assert case.record.labels[0][1] == ("Semi-automatic-annotations/003.mat",)


@pytest.mark.parametrize(
    ("content", "kind", "said"),
    [
        ({"mask": np.full((40, 48), 7)}, "inverted order", "003.mat: its corners hold 7"),
        ({"mask": np.zeros((40, 47))}, "size mismatch", "003.mat is 47×40"),
        ({"other": np.zeros((40, 48))}, "unreadable", "003.mat cannot be read as a mask (KeyError: 'mask')"),
        (None, "unreadable", "003.mat cannot be read as a mask"),
    ],
)
def test_bad_matlab_files(matlab: Path, content: dict[str, Any] | None, kind: str, said: str) -> None:
    path = matlab / "Semi-automatic-annotations/003.mat"
    path.write_bytes(b"MATLAB 5.0 MAT-file, cut") if content is None else savemat(path, content)
    data = dataset(Origa(), matlab)
    fails(lambda: case_of(data, "003"), kind, said)


@pytest.mark.parametrize("values", [(0, 1, 3), (0, 64, 255), (0, 1, 255)], ids=str)
def test_undeclared_values(root: Path, values: tuple[int, int, int]) -> None:
    save_grey(root / "Masks/002.png", nested(1, values))
    data = dataset(Origa(), root)
    fails(lambda: case_of(data, "002"), "undeclared value", "002.png", "{0, 1, 2} or {0, 127, 255} or {0, 128, 255}")


def test_background_that_is_not_at_the_corners(root: Path) -> None:
    save_grey(root / "Masks/002.png", nested(1, (1, 0, 2)))
    data = dataset(Origa(), root)
    fails(lambda: case_of(data, "002"), "inverted order", "002.png: its corners hold 1", "background (0 or 255)")


def test_sizes_differ(root: Path) -> None:
    save_grey(root / "Masks/002.png", np.zeros((EYE[1], EYE[0])))
    data = dataset(Origa(), root)
    fails(lambda: case_of(data, "002"), "size mismatch", "002.jpg is 48×40", "002.png is 40×48")


def test_half_unpacked(root: Path) -> None:
    (root / "Masks/002.png").unlink()
    (root / "Images/003.jpg").unlink()
    said = ("2 problems", "Images/002.jpg: no mask 002.png in Masks", "Masks/003.png: no image 003.jpg in Images")
    fails(dataset(Origa(), root).records, "missing mask", *said)


@pytest.mark.parametrize(("square", "gone"), [(False, "Images"), (False, "Masks"), (True, "Masks_Square")])
def test_missing_folders(root: Path, square: bool, gone: str) -> None:
    shutil.rmtree(root / gone)
    said = (f"no folder {gone}", "Masks/<id>.png", "Semi-automatic-annotations/<id>.mat", "kaggle", "paths.data_root")
    fails(dataset(Origa(square), root).records, "missing", *said)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Eye,Filename,Glaucoma\nOD,001.jpg,0\n", "has the columns eye, filename, glaucoma, expected Filename and Set"),
        ("Filename,Set\n001.jpg,C\n", "gives image 001 the set C, expected A or B"),
        ("Filename,Set\n001.jpg,A\n", "gives image 002 the set none"),
        ("", "has the columns , expected"),
    ],
)
def test_a_list_that_does_not_fit(root: Path, text: str, said: str) -> None:
    (root / "OrigaList.csv").write_text(text)
    fails(dataset(Origa(), root).records, "split file", "OrigaList.csv", said, "delete it for a seeded split")
