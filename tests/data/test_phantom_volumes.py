"""Drawn volumes: the same everywhere, smooth from slice to slice, hard enough, and usable as any dataset."""

from __future__ import annotations

import pickle
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from medsam2.data.cache import DiskCache
from medsam2.data.loader import PromptedCases
from medsam2.data.organs import ORGANS
from medsam2.data.phantom_volumes import KEPT, PhantomVolumes
from medsam2.data.prompt_shapes import compute_box
from medsam2.data.prompts import BoxPrompt
from medsam2.data.records import DatasetError, compute_consensus, of_split
from medsam2.data.source import CaseSource, prepare_groups
from medsam2.doctor.survey import survey

Mask = NDArray[np.bool_]


COUNTS = {"train": 4, "val": 1, "test": 2}  # no more than are kept


@pytest.fixture(scope="module")
def phantom() -> PhantomVolumes:
    return PhantomVolumes(slices="all", volumes=COUNTS)


@pytest.fixture(scope="module")
def patients(phantom: PhantomVolumes) -> dict[str, dict[str, Mask]]:
    """patient -> structure -> the majority, D×H×W."""
    names = dict.fromkeys(record.patient_id for record in phantom.records())
    return {p: {s: compute_consensus(masks) for s, masks in phantom.draw(p).raters.items()} for p in names}


def dice(one: Mask, other: Mask) -> float:
    return float(2 * (one & other).sum() / max(1, one.sum() + other.sum()))


# ------------------------------------------------------------------------------------------------- records


def test_records_are_slices_of_patients_in_three_splits(phantom: PhantomVolumes) -> None:
    records = phantom.records()
    assert len(records) == 7 * 16
    assert [r.case_id for r in records] == sorted(r.case_id for r in records)
    first = records[0]
    assert (first.case_id, first.patient_id, first.volume) == ("test00_z00", "test00", "test00")
    assert (first.index, first.split, first.files) == (0, "test", ())
    homes = {split: {r.patient_id for r in of_split(records, split)} for split in COUNTS}
    assert {split: len(found) for split, found in homes.items()} == COUNTS
    assert len(set.union(*homes.values())) == 7
    assert PhantomVolumes().volumes == {"train": 8, "val": 3, "test": 6}


def test_labelled_slices_are_those_that_show_a_chosen_structure(
    phantom: PhantomVolumes, patients: dict[str, dict[str, Mask]]
) -> None:
    for structures in (tuple(ORGANS), ("vessel",)):
        shown = {
            f"{patient}_z{z:02d}"
            for patient, masks in patients.items()
            for z in range(16)
            if any(masks[s][z].any() for s in structures)
        }
        assert {r.case_id for r in PhantomVolumes(structures, COUNTS).records()} == shown
        assert 0 < len(shown) < 7 * 16


def test_a_patient_does_not_depend_on_how_many_there_are(phantom: PhantomVolumes) -> None:
    few = PhantomVolumes(volumes={"train": 1, "val": 1, "test": 1})
    assert np.array_equal(few.draw("test00").image, phantom.draw("test00").image)
    assert not np.array_equal(few.draw("train00").image, phantom.draw("test00").image)


# --------------------------------------------------------------------------------------------------- cases


def test_a_case_is_a_slice_with_all_raters(phantom: PhantomVolumes) -> None:
    record = phantom.records()[16 * 3 + 7]
    case, drawn = phantom.load(record), phantom.draw(record.volume)
    assert case.image.shape == (96, 96, 1)
    assert case.image.dtype == np.float32
    assert np.array_equal(case.image[..., 0], drawn.image[7])
    assert 0 <= case.image.min() < 0.1 < 0.5 < case.image.max() <= 1
    assert (case.thickness, case.spacing) == (3.0, (1.0, 1.0))
    for structure in ORGANS:
        assert case.raters[structure].shape == (3, 96, 96)
        assert np.array_equal(case.raters[structure], drawn.raters[structure][:, 7])
        assert np.array_equal(case.labels[structure], compute_consensus(case.raters[structure]))


def test_the_same_seed_gives_the_same_volume_and_another_other_patients(phantom: PhantomVolumes) -> None:
    again, other = pickle.loads(pickle.dumps(phantom)), PhantomVolumes(seed=1)
    assert not again._drawn
    one = phantom.draw("val00")
    assert np.array_equal(one.image, again.draw("val00").image)
    assert all(np.array_equal(one.raters[s], again.draw("val00").raters[s]) for s in ORGANS)
    assert dice(one.raters["lobe"], other.draw("val00").raters["lobe"]) < 0.95
    assert one.image.mean(dtype=np.float64) == pytest.approx(0.27069, abs=1e-4)  # else raise VERSION


def test_organs_begin_and_end_inside_and_are_smooth(patients: dict[str, dict[str, Mask]]) -> None:
    for masks in patients.values():
        for structure, mask in masks.items():
            shown = np.flatnonzero(mask.any(axis=(1, 2)))
            assert 1 <= shown[0] <= shown[-1] <= 14
            assert len(shown) == shown[-1] - shown[0] + 1 >= 4  # without a gap
            inner = [dice(mask[z], mask[z + 1]) for z in shown[1:-2]]
            assert min(inner) > 0.5, structure


def test_no_pixel_is_of_two_organs(phantom: PhantomVolumes, patients: dict[str, dict[str, Mask]]) -> None:
    assert phantom.exclusive
    for patient, masks in patients.items():
        assert sum(mask.astype(int) for mask in masks.values()).max() == 1  # type: ignore[union-attr]
        raters = phantom.draw(patient).raters
        assert sum(mask.astype(int) for mask in raters.values()).max() == 1  # type: ignore[union-attr]


def test_raters_differ_and_agree(phantom: PhantomVolumes, patients: dict[str, dict[str, Mask]]) -> None:
    for structure in ORGANS:
        between = []
        for patient in patients:
            one, two, three = phantom.draw(patient).raters[structure]
            between += [dice(one, two), dice(one, three), dice(two, three)]
        assert 0.75 < np.mean(between) < 0.95
        assert max(between) < 0.99


def test_a_box_that_is_filled_is_no_answer(patients: dict[str, dict[str, Mask]]) -> None:
    scores: dict[str, list[float]] = {structure: [] for structure in ORGANS}
    for masks in patients.values():
        for structure, mask in masks.items():
            for layer in mask[mask.any(axis=(1, 2))]:
                (x0, y0), (x1, y1) = compute_box(layer).tolist()
                filled = np.zeros_like(layer)
                filled[y0 : y1 + 1, x0 : x1 + 1] = True
                scores[structure].append(dice(filled, layer))
    assert {s: 0.7 < np.mean(found) < 0.85 for s, found in scores.items()} == dict.fromkeys(ORGANS, True)


def test_grey_alone_is_no_answer(phantom: PhantomVolumes, patients: dict[str, dict[str, Mask]]) -> None:
    """Neighbours look alike: the best threshold inside a box with a margin around an organ is far from it."""
    best = []
    for patient, masks in patients.items():
        image = phantom.draw(patient).image
        for mask in masks.values():
            z = int(mask.sum(axis=(1, 2)).argmax())
            (x0, y0), (x1, y1) = compute_box(mask[z]).tolist()
            window = slice(max(0, y0 - 8), y1 + 9), slice(max(0, x0 - 8), x1 + 9)
            best.append(max(dice(image[z][window] > level, mask[z][window]) for level in np.linspace(0.3, 0.8, 26)))
    assert 0.5 < np.mean(best) < 0.85


def test_drawing_is_fast() -> None:
    data, seconds = PhantomVolumes(), []
    for number in range(6):
        start = time.process_time()
        data.draw(str(number))
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.05


def test_the_last_few_volumes_are_kept() -> None:
    data = PhantomVolumes(size=32, depth=8)
    first = data.draw("a")
    assert data.draw("a") is first
    for number in range(KEPT):
        data.draw(str(number))
    assert len(data._drawn) == KEPT
    assert data.draw("a") is not first


# ------------------------------------------------------------------------------------------------ settings


def test_every_number_that_counts_is_in_the_fingerprint() -> None:
    changes: list[dict[str, Any]] = [
        {}, {"structures": "lobe"}, {"volumes": {"train": 8, "val": 3, "test": 5}}, {"size": 64}, {"depth": 12},
        {"noise": 0.1}, {"seed": 1}, {"slices": "all"}, {"spacing": (5, 1, 1)},
    ]  # fmt: skip
    built = [PhantomVolumes(**change) for change in changes]
    assert len({data.fingerprint() for data in built}) == len(changes)
    decoding = [repr(data.decoding()) for data in built]
    assert len(set(decoding)) == len(changes) - 2  # how many and which slices are kept alone
    assert PhantomVolumes().fingerprint() == built[0].fingerprint()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"structures": ["liver"]}, r"structures=\['liver'\].*lobe, kidney, vessel"),
        ({"volumes": {"train": 3, "val": 1}}, r"dataset\.volumes=.*must be \{train: N, val: N, test: N\}"),
        ({"size": 16}, r"dataset\.size=16 must be 32 or more"),
        ({"depth": 4}, r"dataset\.depth=4 must be 8 or more"),
        ({"noise": -0.1}, r"dataset\.noise=-0\.1 must be 0 or more"),
        ({"slices": "some"}, r"dataset\.slices='some' must be labelled or all"),
        ({"spacing": [1, 1]}, r"dataset\.spacing=\(1\.0, 1\.0\) must be three lengths"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        PhantomVolumes(**settings)


# --------------------------------------------------------------------------------------------- as a dataset


def test_it_is_cached_and_prompted_as_any_other(tmp_path: Path) -> None:
    data = PhantomVolumes(volumes={"train": 1, "val": 1, "test": 1}, size=32, depth=8)
    records = data.records()
    source = CaseSource(data, 64, DiskCache(tmp_path))
    groups = source.lacking(records)
    assert sorted({record.volume for record in group} for group in groups) == [{"test00"}, {"train00"}, {"val00"}]
    assert sum(prepare_groups(source, groups, 0)) == len(records)
    assert source.lacking(records) == []
    kept, drawn = (PromptedCases(data, records, BoxPrompt(), 64, 0, cache=c) for c in (DiskCache(tmp_path), None))
    for i in range(0, len(records), 3):
        one, other = kept[i], drawn[i]
        assert np.array_equal(one.image, other.image)
        assert np.array_equal(one.targets, other.targets)
        info = one.objects[0]
        assert (info.volume, info.index, info.thickness) == (records[i].volume, records[i].index, 3.0)
        assert info.raters is not None
        assert info.raters.shape == (3, 32, 32)


def test_the_doctor_finds_nothing_wrong_with_it() -> None:
    seen = survey(PhantomVolumes(volumes={"train": 1, "val": 1, "test": 1}, size=48))
    assert seen.findings == []
    assert dict(seen.summary.structures["lobe"].raters).keys() == {3}
