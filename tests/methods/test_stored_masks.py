"""Masks of others as a method: the evaluator scores them as it scores any answer."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from medsam2.data.loader import build_loader
from medsam2.data.records import DatasetError, of_split
from medsam2.data.stored import StoredPrompt
from medsam2.evaluation.evaluator import Evaluator
from medsam2.methods.stored import StoredMasks
from tests.fakes import SIZE, Blobs

HEIGHT, WIDTH = 8, 12  # of every blob


def write(folder: Path, shift: int = 0, **others: NDArray[np.bool_]) -> None:
    """The labels of the test cases, so many columns to the right, as files."""
    dataset = Blobs()
    for record in of_split(dataset.records(), "test"):
        mask = np.roll(dataset.load(record).labels["blob"], shift, axis=1)
        np.save(folder / f"{record.case_id}.npy", others.get(record.case_id, mask))


def score(folder: Path, dataset: Blobs | None = None) -> list[dict[str, Any]]:
    dataset = dataset or Blobs()
    method = StoredMasks(str(folder))
    records = of_split(dataset.records(), "test")
    cases = method.build_cases(dataset=dataset, records=records, prompt=StoredPrompt(), image_size=SIZE, seed=0)
    loader: Any = build_loader(cases, 1, num_workers=0, shuffle=False, seed=0)
    return Evaluator(["dice", "iou"]).evaluate(method, loader, "test", "cpu", nullcontext)


def test_the_labels_themselves_score_one_and_cost_nothing(tmp_path: Path) -> None:
    write(tmp_path)
    rows = score(tmp_path)
    assert [row["case_id"] for row in rows] == ["test0", "test1", "test2"]
    for row in rows:
        assert (row["dice"], row["iou"]) == (1.0, 1.0)
        assert (row["prompt"], row["budget"], row["prompted_slices"], row["protocol"]) == ("stored", "none", 0, "alone")
        assert row["prompt_dice"] is None
        assert np.isnan(row["iou_predicted"])


@pytest.mark.parametrize("shift", [1, 5, WIDTH])
def test_a_shifted_mask_scores_what_is_left_of_it(tmp_path: Path, shift: int) -> None:
    write(tmp_path, shift)
    common = HEIGHT * (WIDTH - shift)
    for row in score(tmp_path):
        assert row["dice"] == pytest.approx(2 * common / (2 * HEIGHT * WIDTH), abs=1e-6)
        assert row["iou"] == pytest.approx(common / (2 * HEIGHT * WIDTH - common), abs=1e-6)


def test_an_absent_structure_is_asked_for_too(tmp_path: Path) -> None:
    write(tmp_path, test1=np.zeros((20, 30), bool))
    rows = score(tmp_path, Blobs(absent=["test1", "test2"]))
    assert [row["dice"] for row in rows] == [1.0, 1.0, 0.0]  # right to be empty, and a false positive


def test_every_case_is_looked_at_before_the_first_is_scored(tmp_path: Path) -> None:
    write(tmp_path, test2=np.zeros((30, 20), bool))
    with pytest.raises(DatasetError, match=r"test2\.npy is 20×30 pixels, test2 is 30×20"):
        score(tmp_path)


def test_logits_are_certain(tmp_path: Path) -> None:
    write(tmp_path)
    method, dataset = StoredMasks(str(tmp_path)), Blobs()
    records = of_split(dataset.records(), "test")
    cases = method.build_cases(dataset=dataset, records=records, prompt=StoredPrompt(), image_size=SIZE, seed=0)
    prediction = method.predict(cases.collate([cases[0]]))
    assert prediction.mask_logits.shape == (1, 1, 20, 30)
    assert set(prediction.mask_logits.unique().tolist()) == {-10.0, 10.0}
    assert torch.equal(prediction.mask_logits[0, 0] > 0, torch.from_numpy(dataset.load(records[0]).labels["blob"]))
