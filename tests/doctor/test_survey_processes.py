"""Several processes find what one finds; a dead or interrupted one is no riddle."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from helpers_planted import cut, rated, volumes, write_rated, write_volumes

from medsam2.data.records import Dataset, Record
from medsam2.doctor.inspect_cases import Inspector, Report
from medsam2.doctor.survey import Survey, survey
from medsam2.doctor.survey_processes import walk


def plain(seen: Survey) -> object:
    captions = {split: [panel.caption for panel in panels] for split, panels in seen.panels.items()}
    pixels = [panel.pixels.tobytes() for panels in seen.panels.values() for panel in panels]
    return seen.summary.as_dict(), seen.findings, captions, pixels


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["images", "volumes"])
def test_processes_change_nothing(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medsam2.doctor.survey_processes.CHUNK", 4)
    if kind == "images":
        root = write_rated(tmp_path)
        cut("train/images/e03.png", 100)(root)
    else:
        root = write_volumes(tmp_path)
        cut("train/masks/v03.nii", 700)(root)
    done: list[tuple[int, int]] = []
    dataset: Dataset = rated(root) if kind == "images" else volumes(root)
    many = survey(dataset, num_workers=2, pictures=2, advance=lambda *n: done.append(n))
    assert len(many.findings) == 1
    assert plain(many) == plain(survey(dataset, num_workers=0, pictures=2))
    assert done == [(i, 9) for i in range(1, 10)]


class Deadly(Inspector):
    """Ends the process that looks at a case, as a system does that has run out of memory."""

    def __call__(self, record: Record) -> Report:
        os._exit(9)


@pytest.mark.slow
def test_a_process_that_was_ended(tmp_path: Path) -> None:
    dataset = rated(write_rated(tmp_path))
    records = [replace(record, case_id=f"{i}{record.case_id}") for i in range(6) for record in dataset.records()]
    with pytest.raises(RuntimeError, match=r"a process that decoded rated was ended.*lower num_workers=2"):
        list(walk(Deadly(dataset), records, 2))


def test_few_images_are_not_worth_a_process(tmp_path: Path) -> None:
    dataset = rated(write_rated(tmp_path))
    reports = list(walk(Inspector(dataset), dataset.records()[:3], 8))
    assert [report.record.case_id for report in reports] == ["test_e10", "test_e11", "train_e00"]
