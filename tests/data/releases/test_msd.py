"""The Decathlon: tasks by their dataset.json, several images a case, a Mac's hidden files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_releases import fails
from trees_volumes import PROSTATE, as_shown, organs, read_label, scan, volumes, write_json, write_msd

from medsam2.data.records import of_split
from medsam2.data.releases.msd import MSD


def edit(root: Path, **changes: Any) -> None:
    described = json.loads((root / "dataset.json").read_text()) | changes
    write_json(root / "dataset.json", {key: value for key, value in described.items() if value is not None})


def test_a_task_of_one_modality(tmp_path: Path) -> None:
    root = write_msd(tmp_path / "Task03_Liver", labels=("Liver", "Non-enhancing Tumour"), hidden=True)
    data = volumes(MSD("Task03_Liver"), root, slices="all")
    records = data.records()
    assert data.structures == ("liver", "non_enhancing_tumour")
    assert {r.volume for r in records} == {f"case_{n:03d}" for n in range(1, 11)}
    assert [len({r.volume for r in of_split(records, s)}) for s in ("train", "val", "test")] == [7, 1, 2]
    assert records[0].files == ("imagesTr/case_001.nii.gz", "labelsTr/case_001.nii.gz")
    assert {r.modality for r in records} == {"ct"}
    assert np.array_equal(read_label(data, "case_004"), as_shown(organs(4, 2)))


def test_a_task_of_two_modalities_needs_a_choice(tmp_path: Path) -> None:
    root = write_msd(tmp_path / "Task05_Prostate", count=4, **PROSTATE)
    message = ("dataset.release.channels=None", "dataset.json has the channels 0 T2, 1 ADC", "choose one ([0])")
    fails(volumes(MSD("Task05_Prostate"), root).records, "channels", *message)
    fails(volumes(MSD(channels=[2]), root).records, "channels", "dataset.release.channels=[2]", "0 T2, 1 ADC")
    values = as_shown(scan(1, organs(1, 2)))
    for channels, offsets in (([1], [100]), ([0, 1, 0], [0, 100, 0])):
        data = volumes(MSD(channels=channels), root, slices="all")
        case = data.load(data.records()[2])
        assert (data.structures, case.record.modality) == (("pz", "tz"), "mr")
        assert case.image.shape == (20, 24, len(channels))
        for channel, offset in enumerate(offsets):
            shown = values + offset
            low, high = np.percentile(shown[shown != 0], [0.5, 99.5])
            expected = ((shown[2] - low) / (high - low)).clip(0, 1)
            assert case.image[..., channel] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("channels", [[], [0, 1], [-1], [0, 1, 2, 3], [0.5]])
def test_channels_are_one_or_three(channels: list[int]) -> None:
    fails(lambda: MSD(channels=channels), "unreadable", f"dataset.release.channels={channels} must name one")


def test_half_unpacked(tmp_path: Path) -> None:
    root = write_msd(tmp_path / "Task09_Spleen", count=4)
    (root / "imagesTr/case_002.nii.gz").unlink()
    (root / "labelsTr/case_003.nii.gz").unlink()
    fails(
        volumes(MSD(), root).records,
        "missing image",
        "imagesTr/case_002.nii.gz: dataset.json lists it",
        "labelsTr/case_003.nii.gz: dataset.json lists it, and it is not there",
    )


def test_a_dataset_json_that_cannot_be_used(tmp_path: Path) -> None:
    root = write_msd(tmp_path / "Task09_Spleen", count=4)
    records = volumes(MSD(), root).records
    edit(root, labels={"0": "background", "1": "left lung", "2": "Left-Lung"})
    fails(volumes(MSD(), root).records, "unreadable", "dataset.json: the label 'Left-Lung': '2'", "there twice")
    edit(root, labels={"0": "background", "one": "spleen"})
    fails(volumes(MSD(), root).records, "unreadable", "the label 'spleen': 'one' is not usable")
    edit(root, labels={"0": "background", "1": "spleen"}, training=[{"image": "a.nii.gz"}])
    fails(volumes(MSD(), root).records, "missing", "lists no training cases (KeyError('label')", "dataset=nnunet")
    edit(root, training=None)
    fails(volumes(MSD(), root).records, "missing", "lists no training cases (KeyError('training')")
    edit(root, labels=[])
    fails(volumes(MSD(), root).records, "unreadable", "dataset.json cannot be used (TypeError: its labels are [])")
    (root / "dataset.json").write_text("{")
    fails(volumes(MSD(), root).records, "unreadable", "dataset.json cannot be used (JSONDecodeError")
    (root / "dataset.json").unlink()
    fails(records, "missing", "no dataset.json", "Task09_Spleen.tar", "Found there: imagesTr/")
