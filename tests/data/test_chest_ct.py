"""The shipped chest CT: counts measured from the file, orientation, window, split."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from medsam2.data import chest_ct
from medsam2.data.chest_ct import SEGMENT_NAMES, ChestCT
from medsam2.data.records import DatasetError, Record, of_split

VOXELS = {
    "ribs": 8487,
    "cervical_spine": 1216,
    "thoracic_spine": 2712,
    "lumbar_spine": 3259,
    "right_lung": 34450,
    "left_lung": 33700,
    "tissue": 154589,
}


@pytest.fixture(scope="module")
def lungs() -> ChestCT:
    return ChestCT()


def at(dataset: ChestCT, index: int) -> Record:
    return next(record for record in dataset.records() if record.index == index)


def test_every_label_has_the_voxels_of_the_file() -> None:
    dataset = ChestCT(structures=tuple(SEGMENT_NAMES))
    cases = [dataset.load(Record("x", "x", "train", index=index)) for index in range(34)]
    assert {s: sum(int(case.labels[s].sum()) for case in cases) for s in dataset.structures} == VOXELS


def test_case_has_the_declared_types_and_spacing(lungs: ChestCT) -> None:
    case = lungs.load(at(lungs, 20))
    assert case.image.shape == (128, 128, 1)
    assert case.image.dtype == np.float32
    assert case.image.min() == 0.0
    assert case.image.max() == 1.0
    assert set(case.labels) == {"right_lung", "left_lung"}
    assert case.labels["left_lung"].shape == (128, 128)
    assert case.labels["left_lung"].dtype == bool
    assert case.raters["left_lung"].shape == (1, 128, 128)
    assert case.spacing == pytest.approx((3.04687595, 3.04687595))
    assert case.thickness == pytest.approx(10.0)
    assert lungs.exclusive
    assert case.record.volume == ""  # one patient: its slices are no volume of the splits


def test_radiological_orientation(lungs: ChestCT) -> None:
    spine = ChestCT(structures=["thoracic_spine"]).load(Record("x", "x", "train", index=20))
    case = lungs.load(at(lungs, 20))
    columns = {name: np.argwhere(mask)[:, 1].mean() for name, mask in case.labels.items()}
    assert columns["right_lung"] < 64 < columns["left_lung"]  # the patient's right is on the image's left
    assert np.argwhere(spine.labels["thoracic_spine"])[:, 0].mean() > 64  # the spine lies behind, at the bottom
    assert lungs.load(at(lungs, 6)).labels["left_lung"].sum() == 19  # the bases come first: feet to head
    assert lungs.load(at(lungs, 33)).labels["left_lung"].sum() == 46


def test_image_and_labels_coincide(lungs: ChestCT) -> None:
    case = lungs.load(at(lungs, 20))
    lung = case.labels["right_lung"] | case.labels["left_lung"]
    assert case.image[lung].mean() < 0.45 < case.image[~lung & (case.image[..., 0] > 0.05)].mean()


@pytest.mark.parametrize(
    ("window", "hu", "grey"),
    [
        ({"level": -600, "width": 1500}, -600, 0.5),
        ({"level": 40, "width": 400}, 140, 0.75),
        ({"level": 0, "width": 10}, 99, 1),
    ],
)
def test_window_maps_hounsfield_to_grey(window: dict[str, float], hu: float, grey: float) -> None:
    dataset = ChestCT(window=window)
    dataset.__dict__["_image"] = (np.full((34, 2, 2), hu), (1.0, 1.0, 1.0))  # in place of the cached volume
    assert dataset.load(Record("x", "x", "train", index=0)).image[0, 0] == pytest.approx([grey])


def test_blocks_are_contiguous_disjoint_and_apart(lungs: ChestCT) -> None:
    slices = {split: [r.index for r in of_split(lungs.records(), split)] for split in ("train", "val", "test")}
    train = [*range(6, 12), *range(20, 24), *range(30, 34)]
    assert slices == {"train": train, "test": list(range(13, 19)), "val": list(range(25, 29))}
    assert [r.case_id for r in lungs.records()] == sorted(r.case_id for r in lungs.records())
    assert {r.patient_id for r in lungs.records()} == {"ctchest4"}
    assert lungs.allow_shared_patient


def test_only_slices_with_a_chosen_structure_become_cases() -> None:
    spine = ChestCT(structures="cervical_spine", gap=0)
    assert [r.index for r in spine.records()] == list(range(26, 34))


def test_fingerprint_identifies_data_and_split(lungs: ChestCT) -> None:
    assert lungs.fingerprint() == ChestCT().fingerprint()
    assert len({d.fingerprint() for d in (lungs, ChestCT(gap=2), ChestCT(structures=["ribs"]))}) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"structures": ["liver"]}, r"structures=\['liver'\].*right_lung"),
        ({"structures": []}, r"structures=\[\]"),
        ({"window": {"level": 40}}, "window="),
        ({"window": {"level": 40, "width": 0}}, "width: HU above 0"),
    ],
)
def test_bad_settings_are_refused_at_once(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        ChestCT(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split_blocks": [{"train": 0.9}, {"val": 0.1}]}, "must name train, val and test"),
        ({"split_blocks": [{"train": 0.5}, {"val": 0.2}, {"test": 0.2}]}, "sum to 1"),
        ({"gap": 14}, "gap=14.*leave nothing for"),
        ({"gap": -1}, "gap=-1"),
    ],
)
def test_bad_splits_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        ChestCT(**arguments).records()  # type: ignore[arg-type]


def test_without_slicerio_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DatasetError, match=r'slicerio, which is not installed.*extra `demo`.*"medsam2\[demo\]"'):
        ChestCT().records()


def test_another_space_is_refused() -> None:
    header = {"space": "right-anterior-superior", "space directions": np.eye(3)}
    with pytest.raises(DatasetError, match="left-posterior-superior"):
        chest_ct._to_radiological(np.zeros((2, 2, 2)), header)


@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, 1), (1, -1, 1), (-1, -1, -1)])
def test_axes_that_run_against_the_space_are_flipped(signs: tuple[int, int, int]) -> None:
    volume = np.arange(24).reshape(2, 3, 4)
    stored = volume[tuple(slice(None, None, sign) for sign in signs)]
    header = {"space": "left-posterior-superior", "space directions": np.diag(signs)}
    assert (chest_ct._to_radiological(stored, header) == volume.transpose(2, 1, 0)).all()
