"""PAPILA: contours of two experts become masks of exactly the pixels whose centres lie inside."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers_releases import case_of, fails
from trees_fundus import EYE, contour, dataset, photo, write_papila

from medsam2.data.records import of_split
from medsam2.data.releases.papila import Papila, fill_polygon

CUP = Path("ExpertsSegmentations/Contours/RET003OS_cup_exp1.txt")


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_papila(tmp_path_factory.mktemp("papila") / "PAPILA")


@pytest.fixture
def root(clean: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(clean, tmp_path / "PAPILA"))


def inside(points: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Whether the polygon winds round each pixel's centre: the sum of the angles under which its edges are seen."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    angle = np.arctan2(points[:, 1, None, None] - y, points[:, 0, None, None] - x)
    step = (np.roll(angle, -1, axis=0) - angle + np.pi) % (2 * np.pi) - np.pi
    return np.abs(step.sum(axis=0)) > np.pi


def test_both_eyes_are_one_patient(clean: Path) -> None:
    records = dataset(Papila(), clean).records()
    assert [(r.case_id, r.patient_id) for r in records][:3] == [
        ("RET002OD", "RET002"),
        ("RET002OS", "RET002"),
        ("RET003OD", "RET003"),
    ]
    assert [len(of_split(records, split)) for split in ("train", "val", "test")] == [8, 2, 2]
    for seed in range(5):
        records = dataset(Papila(), clean, split_seed=seed, test_fraction=0.5).records()
        for eye, other in zip(records[::2], records[1::2], strict=True):
            assert eye.split == other.split


def test_two_experts(clean: Path) -> None:
    case = case_of(dataset(Papila(), clean), "RET003OS")  # eye 3
    assert np.abs(case.image * 255 - photo(3)).mean() < 6
    for structure in ("cup", "disc"):
        expected = np.stack([inside(contour(3, structure, grow), EYE) for grow in (0.0, 2.0)])
        assert (case.raters[structure] == expected).all()
        assert expected[1].sum() > expected[0].sum() > 40
        assert (case.labels[structure] == expected[1]).all()  # a tie counts


def test_a_square_between_the_pixels() -> None:
    mask = fill_polygon(np.array([[1.5, 0.5], [4.5, 0.5], [4.5, 2.5], [1.5, 2.5]]), (4, 6))
    assert mask.astype(int).tolist() == [
        [0, 0, 0, 0, 0, 0],
        [0, 0, 1, 1, 1, 0],
        [0, 0, 1, 1, 1, 0],
        [0, 0, 0, 0, 0, 0],
    ]


def test_edges_on_centres_belong_to_the_left_and_the_top() -> None:
    mask = fill_polygon(np.array([[1, 1], [4, 1], [4, 3], [1, 3]], dtype=float), (5, 6))
    assert np.argwhere(mask).tolist() == [[1, 1], [1, 2], [1, 3], [2, 1], [2, 2], [2, 3]]
    left, right = np.array([[0, 0], [2, 0], [3, 4], [0, 4]]), np.array([[2, 0], [5, 0], [5, 4], [3, 4]])
    halves = [fill_polygon(part.astype(float), (4, 5)) for part in (left, right)]
    assert (halves[0] ^ halves[1]).all()  # together everything, nothing twice
    assert halves[0].sum(axis=1).tolist() == [2, 3, 3, 3]


def test_a_triangle_by_hand() -> None:
    mask = fill_polygon(np.array([[0, 0], [4, 0], [0, 4]], dtype=float), (5, 5))
    assert mask.sum(axis=1).tolist() == [4, 3, 2, 1, 0]


@pytest.mark.parametrize("seed", range(5))
def test_any_shape_with_bays_in_either_direction(seed: int) -> None:
    rng = np.random.default_rng(seed)
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    radius = rng.uniform(4, 14, 40)
    points = np.array([20.3, 16.7]) + radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    for path in (points, points[::-1], np.vstack([points, points[:1]])):  # also closed by the file itself
        assert (fill_polygon(path, (32, 40)) == inside(points, (32, 40))).all()


def test_a_contour_over_the_border_is_cut() -> None:
    mask = fill_polygon(np.array([[-0.5, -0.5], [9.5, -0.5], [9.5, 9.5], [-0.5, 9.5]]), (3, 4))
    assert mask.all()


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        ("1.0 2.0\n3.0 x\n", "unreadable", "is no list of points"),
        ("", "unreadable", "expected 3 or more lines of x and y"),
        ("1 2\n3 4\n", "unreadable", "found (2, 2)"),
        ("1 2 3\n3 4 5\n5 6 7\n", "unreadable", "found (3, 3)"),
        ("1 2\nnan 4\n5 6\n", "unreadable", "expected 3 or more"),
        ("1 2\n60 4\n5 6\n", "size mismatch", "reaches x 60, y 6 (from 1, 2), off its image of 48×40"),
        ("1 2\n6 4\n5 -6\n", "size mismatch", "off its image"),
    ],
)
@pytest.mark.filterwarnings("ignore:loadtxt")
def test_bad_contours(root: Path, text: str, kind: str, said: str) -> None:
    (root / CUP).write_text(text)
    data = dataset(Papila(), root)
    fails(lambda: case_of(data, "RET003OS"), kind, CUP.name, said)


def test_both_experts_are_needed_for_both_structures(root: Path) -> None:
    (root / CUP).unlink()
    (root / "FundusImages/RET004OD.jpg").unlink()
    fails(
        dataset(Papila(), root).records,
        "missing rater",
        "5 problems",
        "FundusImages/RET003OS.jpg: no mask of the cup in exp1",
        "RET004OD_cup_exp1.txt: no image of it",
    )
    (root / "FundusImages/RET003OS.jpg").unlink()
    assert len(dataset(Papila(), root, structures="disc").listing().problems) == 4


@pytest.mark.parametrize("gone", ["FundusImages", "ExpertsSegmentations"])
def test_missing_folders(root: Path, gone: str) -> None:
    shutil.rmtree(root / gone)
    said = (f"no folder {gone}", "FundusImages/<id>.jpg", "<id>_{cup,disc}_{exp1,exp2}.txt", "figshare", "dataset.root")
    fails(dataset(Papila(), root).records, "missing", *said)
