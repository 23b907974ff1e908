"""Drishti-GS1: soft maps of four experts become four nested raters, whose mean is the map."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_data import save_grey
from helpers_releases import fails
from PIL import Image
from trees_fundus import EYE, dataset, mark, photo, write_drishti

from medsam2.data.releases.drishti import Drishti

MAP = Path("Training/GT/drishtiGS_001/SoftMap/drishtiGS_001_ODsegSoftmap.png")


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_drishti(tmp_path_factory.mktemp("drishti"), train=4, test=2)


@pytest.fixture
def root(clean: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(clean, tmp_path / "Drishti-GS1_files"))


def build(root: Path, align: int = 16, **settings: Any) -> Any:
    return dataset(Drishti(align), root, name="drishti_gs", **settings)


def test_cases_and_splits(clean: Path) -> None:
    records = build(clean, val_fraction=0.25).records()
    assert [r.case_id for r in records] == [f"drishtiGS_{number:03d}" for number in range(1, 7)]
    assert [r.split for r in records].count("val") == 1
    assert [r.split for r in records][4:] == ["test", "test"]
    assert all(r.patient_id == r.case_id for r in records)


def test_rater_i_is_what_at_least_i_experts_marked(clean: Path) -> None:
    data = build(clean)
    case = data.load(data.records()[1])
    assert (np.round(case.image * 255) == photo(1)).all()
    for structure in ("cup", "disc"):
        expected = np.stack([mark(1, structure, -i) for i in range(4)])
        assert (case.raters[structure] == expected).all()
        assert (case.labels[structure] == expected[1]).all()  # two of four: a tie counts


def test_the_mean_of_the_raters_is_the_agreement(root: Path) -> None:
    grey = np.zeros(EYE, dtype=np.uint8)
    grey[0, :10] = [0, 8, 64, 56, 128, 127, 191, 183, 255, 247]  # every level, exact and as far off as allowed
    save_grey(root / MAP, grey)
    data = build(root, structures="disc")
    case = data.load(data.records()[0])
    assert case.raters["disc"].mean(axis=0)[0, :10].tolist() == [0, 0, 0.25, 0.25, 0.5, 0.5, 0.75, 0.75, 1, 1]
    assert case.labels["disc"][0, :10].tolist() == [False] * 4 + [True] * 6


def test_photographs_in_folders_by_diagnosis(tmp_path: Path) -> None:
    data = build(write_drishti(tmp_path, train=4, test=2, groups=True))
    assert data.records()[1].image == "Training/Images/GLAUCOMA/drishtiGS_002.png"
    assert len(data.records()) == 6


def test_maps_of_almost_the_size_are_scaled(root: Path) -> None:
    larger = Image.open(root / MAP).resize((EYE[1] + 2, EYE[0] + 1), Image.Resampling.NEAREST)
    larger.save(root / MAP)
    data = build(root)
    case = data.load(data.records()[0])
    assert case.raters["disc"].shape == (4, *EYE)
    for i in range(4):
        assert (case.raters["disc"][i] != mark(0, "disc", -i)).mean() < 0.01
    data = build(root, align=1)
    fails(lambda: data.load(data.records()[0]), "size mismatch", "drishtiGS_001.png is 48×40", "Softmap.png is 50×41")


@pytest.mark.parametrize("value", [9, 32, 100, 160, 240])
def test_a_value_between_two_levels(root: Path, value: int) -> None:
    grey = np.zeros(EYE)
    grey[3, 3] = value
    save_grey(root / MAP, grey)
    data = build(root)
    fails(lambda: data.load(data.records()[0]), "undeclared value", MAP.name, f"value {value}", "five levels")


def test_half_unpacked(root: Path) -> None:
    (root / MAP).unlink()
    (root / "Test/Images/drishtiGS_005.png").unlink()
    fails(
        build(root).records,
        "missing mask",
        "3 problems",
        "Training/Images/drishtiGS_001.png: no mask of the disc in Training/GT",
        "drishtiGS_005_cupsegSoftmap.png: no image of it",
    )


@pytest.mark.parametrize("gone", ["Test", "Training/GT"])
def test_missing_folders(root: Path, gone: str) -> None:
    shutil.rmtree(root / gone)
    fails(build(root).records, "missing", f"no folder {gone}", "<id>_ODsegSoftmap.png", "Register", "paths.data_root")


def test_no_folder_at_all(tmp_path: Path) -> None:
    fails(build(tmp_path / "x").records, "missing", "no such folder", "Test/Test_GT/<id>/SoftMap/", "dataset.root")


def test_a_bad_option() -> None:
    fails(lambda: Drishti(align=-1), "unreadable", "dataset.release.align=-1")
