"""CVC-ClinicDB: frames of one video never get into two splits."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest
from helpers_data import save_grey
from helpers_releases import case_of, dataset, fails, same
from trees_flat import FRAMES, blob, write_cvc

from medsam2.data.releases.cvc import LAST_FRAMES, CvcClinicDB, find_sequence


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cvc(tmp_path_factory.mktemp("cvc"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_cvc(tmp_path / "CVC-ClinicDB")


@pytest.mark.parametrize(
    ("frame", "sequence"),
    [(1, 1), (25, 1), (26, 2), (50, 2), (51, 3), (68, 4), (199, 9), (200, 10), (205, 10), (206, 11), (612, 29)],
)
def test_sequence_of_a_frame(frame: int, sequence: int) -> None:
    assert find_sequence(str(frame), Path()) == f"sequence{sequence:02d}"


def test_every_frame_has_a_sequence() -> None:
    counts = Counter(find_sequence(str(frame), Path()) for frame in range(1, 613))
    assert len(LAST_FRAMES) == len(counts) == 29
    assert min(counts.values()) == counts["sequence10"] == 6
    assert max(counts.values()) == counts["sequence08"] == 26


@pytest.mark.parametrize("form", ["PNG", "TIF", ""])
def test_values_in_every_form(tmp_path: Path, form: str) -> None:
    root = write_cvc(tmp_path, form)
    data = dataset(CvcClinicDB(), root)
    case = case_of(data, "127")
    assert same(case.raters["polyp"], blob(127))
    assert case.record.patient_id == "sequence07"
    assert sorted(int(r.case_id) for r in data.records()) == sorted(FRAMES)


def test_png_where_both_are_there(root: Path) -> None:
    write_cvc(root, "TIF")
    assert {Path(r.image).suffix for r in dataset(CvcClinicDB(), root).records()} == {".png"}


@pytest.mark.parametrize("seed", range(4))
def test_a_sequence_stays_in_one_split(clean: Path, seed: int) -> None:
    splits = {r.case_id: r.split for r in dataset(CvcClinicDB(), clean, split_seed=seed, test_fraction=0.4).records()}
    for first, second in (("1", "25"), ("26", "50"), ("592", "612")):
        assert splits[first] == splits[second]
    assert set(splits.values()) == {"train", "val", "test"}


@pytest.mark.parametrize("name", ["613", "0", "polyp1"])
def test_frames_with_other_names(root: Path, name: str) -> None:
    for folder in ("Original", "Ground Truth"):
        (root / "PNG" / folder / "1.png").rename(root / "PNG" / folder / f"{name}.png")
    fails(dataset(CvcClinicDB(), root).records, "unreadable", f"holds a frame {name}", "1 … 612")


def test_errors(root: Path) -> None:
    save_grey(root / "PNG/Ground Truth/50.png", blob(50) * 254)
    fails(lambda: case_of(dataset(CvcClinicDB(), root), "50"), "undeclared value", "Ground Truth/50.png")
    shutil.rmtree(root / "PNG/Ground Truth")
    fails(dataset(CvcClinicDB(), root).records, "missing", "PNG/Ground Truth missing", "<frame>.png")
