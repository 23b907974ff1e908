"""The REFUGE phantom: same seed same bytes, the layout of the release, and refusals that write nothing."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from trees_fundus import refuge

from medsam2.data.fundus import Eye, draw_eye
from medsam2.data.phantom import main, write_refuge
from medsam2.data.records import DatasetError, of_split
from medsam2.data.seeding import stable_rng

SMALL = {"train": 3, "test": 2, "size": 96}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_refuge(tmp_path_factory.mktemp("phantom"), **SMALL)


@pytest.fixture(scope="module")
def eyes() -> list[Eye]:
    return [draw_eye(stable_rng("test", number), 256, 7) for number in range(4)]


def digest(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_same_arguments_same_bytes(tree: Path, tmp_path: Path) -> None:
    assert digest(write_refuge(tmp_path, **SMALL)) == digest(tree)


def test_another_seed_other_eyes(tree: Path, tmp_path: Path) -> None:
    other = write_refuge(tmp_path, **SMALL, seed=1)
    name = "Training-400/phantom0001/phantom0001.jpg"
    assert (other / name).read_bytes() != (tree / name).read_bytes()


def test_layout_is_the_multi_rater_release(tree: Path) -> None:
    assert sorted(path.name for path in tree.iterdir()) == ["Test-400", "Training-400", "phantom.json"]
    names = {path.name.removeprefix("phantom0004") for path in (tree / "Test-400/phantom0004").iterdir()}
    expected = {".jpg", "_cropped.jpg", "_cup.bmp", "_disc.bmp"}
    for structure in ("cup", "disc"):
        for rater in range(1, 8):
            expected |= {f"_seg_{structure}_{rater}.png", f"_seg_{structure}_{rater}_cropped.jpg"}
    assert names == expected


@pytest.mark.parametrize("cropped", [False, True])
def test_the_dataset_reads_it(tree: Path, cropped: bool) -> None:
    dataset = refuge(tree, cropped=cropped)
    records = dataset.records()
    assert [len(of_split(records, split)) for split in ("train", "val", "test")] == [2, 1, 2]
    for record in records:
        case = dataset.load(record)
        cup, disc = case.labels["cup"], case.labels["disc"]
        assert case.raters["cup"].shape[0] == 7
        assert 0 < cup.sum() < disc.sum()
        assert not (cup & ~disc).any()


def test_a_crop_shows_the_same_objects(tree: Path) -> None:
    whole, crop = refuge(tree), refuge(tree, cropped=True)
    for record, cropped in zip(whole.records(), crop.records(), strict=True):
        whole_case, crop_case = whole.load(record), crop.load(cropped)
        assert crop_case.labels["disc"].sum() == pytest.approx(whole_case.labels["disc"].sum(), rel=0.02)
        assert crop_case.image.shape[0] == crop_case.image.shape[1] < whole_case.image.shape[0]


def test_raters_disagree_at_the_rim_but_not_much(eyes: list[Eye]) -> None:
    for eye in eyes:
        for structure, lowest in (("cup", 0.80), ("disc", 0.93)):
            masks = eye.raters[structure]
            assert len({mask.tobytes() for mask in masks}) == 7
            both = 2 * (masks[0] & masks[1]).sum() / (masks[0].sum() + masks[1].sum())
            assert lowest < both < 1


def test_it_looks_like_a_fundus(eyes: list[Eye]) -> None:
    for eye in eyes:
        assert eye.image[:8, :8].mean() < 12  # dark outside the field of view
        retina = eye.image[100:156, 100:156].reshape(-1, 3).mean(axis=0)
        assert retina[0] > retina[1] > retina[2]  # orange-red
        cup, rim = (
            eye.raters["cup"].all(axis=0),
            eye.raters["disc"].all(axis=0) & ~eye.raters["cup"].any(axis=0),
        )
        green = eye.image[..., 1]
        assert np.median(green[cup]) > np.median(green[rim]) > retina[1]  # cup brighter than rim than retina


def test_left_and_right_eyes_and_cup_sizes_vary() -> None:
    drawn = [draw_eye(stable_rng("vary", number), 64, 1) for number in range(12)]
    assert {eye.disc.center[0] > 0.5 for eye in drawn} == {True, False}
    ratios = [eye.cup.radius.mean() / eye.disc.radius.mean() for eye in drawn]
    assert max(ratios) - min(ratios) > 0.15


def test_it_is_idempotent(tree: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in tree.rglob("*")}
    assert write_refuge(tree.parent, **SMALL) == tree
    assert {path: path.stat().st_mtime_ns for path in tree.rglob("*")} == before


def test_it_refuses_another_phantom(tree: Path) -> None:
    with pytest.raises(DatasetError, match=r"another phantom.*'size': 96.*'size': 128"):
        write_refuge(tree.parent, train=3, test=2, size=128)


def test_it_refuses_a_folder_with_real_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "REFUGE").mkdir()
    (tmp_path / "REFUGE/precious.txt").write_text("mine")
    assert main(["refuge", str(tmp_path)]) == 2
    assert "not empty and not a phantom" in capsys.readouterr().err
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["precious.txt"]


def test_an_interrupted_run_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("medsam2.data.phantom.write_case", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_refuge(tmp_path, **SMALL)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bad", [{"train": 1}, {"test": 0}, {"size": 32}])
def test_it_refuses_numbers_that_make_no_dataset(tmp_path: Path, bad: dict[str, int]) -> None:
    with pytest.raises(DatasetError, match=f"--{next(iter(bad))}"):
        write_refuge(tmp_path, **(SMALL | bad))


def test_the_command_says_what_to_run_next(tree: Path) -> None:
    arguments = ["refuge", str(tree.parent), "--train", "3", "--test", "2", "--size", "96"]
    command = [sys.executable, "-m", "medsam2.data.phantom", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=True)
    assert "3 training and 2 test cases of 96×96 pixels, 7 raters each (was there already)" in done.stdout
    assert f"python run.py dataset=refuge dataset.name=refuge_phantom paths.data_root={tree.parent}" in done.stdout
