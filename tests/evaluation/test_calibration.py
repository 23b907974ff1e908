"""Calibration errors against a loop over bins, and over cases whose error is known."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from medsam2.evaluation.calibration import NUM_BINS, BinTally, compute_ece, count_bins
from medsam2.evaluation.evaluator import Evaluator
from medsam2.evaluation.rows import save_bins
from tests.evaluation.test_scoring import SHAPE, Told, batch_of, object_of, shapes, slices_of


def loop_over_bins(expected: np.ndarray, actual: np.ndarray) -> float:
    """Guo et al. 2017, equation 3, written out."""
    error = 0.0
    for m in range(1, 16):
        inside = (expected > (m - 1) / 15) & (expected <= m / 15)
        if m == 1:
            inside |= expected == 0
        if inside.any():
            error += inside.sum() / expected.size * abs(actual[inside].mean() - expected[inside].mean())
    return error


@pytest.mark.parametrize("seed", range(5))
def test_the_error_is_that_of_the_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    expected = rng.beta(0.5, 0.5, (40, 50))
    expected[0, :3] = 0.0, 1.0, 0.5
    actual = rng.uniform(size=expected.shape) < expected**2
    found = compute_ece(count_bins(expected, actual))
    assert found == pytest.approx(loop_over_bins(expected, actual))
    assert found > 0.05


@pytest.mark.parametrize(
    ("expected", "actual", "error"),
    [
        ([0.0, 0.0, 1.0, 1.0], [0, 0, 1, 1], 0.0),
        ([0.0, 0.0, 1.0, 1.0], [1, 1, 0, 0], 1.0),
        ([0.9, 0.9, 0.9, 0.9], [1, 1, 1, 0], 0.15),
        ([0.72, 0.68], [0.60, 0.80], 0.0),  # one bin: what is too high and too low there cancels out
        ([0.72, 0.60], [0.60, 0.72], 0.12),
    ],
)
def test_errors_that_are_known(expected: list[float], actual: list[float], error: float) -> None:
    assert compute_ece(count_bins(np.array(expected), np.array(actual))) == pytest.approx(error)


def test_well_calibrated_probabilities_have_no_error() -> None:
    rng = np.random.default_rng(0)
    expected = rng.uniform(size=200_000)
    assert compute_ece(count_bins(expected, rng.uniform(size=expected.size) < expected)) < 0.01


def test_slices_add_up_to_their_volume() -> None:
    rng = np.random.default_rng(1)
    expected, actual = rng.uniform(size=(4, 9, 7)).astype(np.float32), rng.uniform(size=(4, 9, 7)) < 0.3
    whole = count_bins(expected, actual)
    assert whole.shape == (3, NUM_BINS)
    assert whole[0].sum() == expected.size
    parts = sum(count_bins(a, b) for a, b in zip(expected, actual, strict=True))
    assert parts == pytest.approx(whole)


# ------------------------------------------------------------------------------------------------- of a phase


def tally(names: list[str], *batches: Any) -> list[dict[str, Any]]:
    bins = BinTally()
    Evaluator(names).evaluate(Told(), batches, "zero_shot", "cpu", nullcontext, witnesses=[bins])
    return bins.rows("zero_shot")


def test_the_bins_of_a_phase_are_those_of_all_its_pixels(tmp_path: Path) -> None:
    """By structure, of images and of a volume's slices together."""
    logits, labels = shapes(5, *SHAPE)
    liver = [object_of("c", labels[0]), *slices_of("v", labels[1:3], [0, 1])]
    spleen = slices_of("v", labels[3:], [0, 1], structure="spleen")
    rows = tally(["ece"], batch_of(liver[:1], logits[:1]), batch_of([*liver[1:], *spleen], logits[1:]))
    save_bins(rows, tmp_path, "zero_shot")
    found = pd.read_parquet(tmp_path / "zero_shot_bins.parquet")
    assert list(found.columns) == ["phase", "structure", "bin", "number", "expected", "actual"]
    assert set(found["phase"]) == {"zero_shot"}
    expected = 1 / (1 + np.exp(-logits))
    for structure, chosen in (("liver", slice(0, 3)), ("spleen", slice(3, 5))):
        bins = found[found["structure"] == structure]
        assert bins["bin"].tolist() == list(range(15))
        places = np.clip(np.ceil(expected[chosen] * 15) - 1, 0, 14)
        inside = [places == i for i in range(15)]
        assert bins["number"].tolist() == [m.sum() for m in inside]
        assert bins["expected"].tolist() == pytest.approx([expected[chosen][m].sum() for m in inside], abs=1e-4)
        assert bins["actual"].tolist() == [labels[chosen][m].sum() for m in inside]
    csv = pd.read_csv(tmp_path / "zero_shot_bins.csv")
    assert np.allclose(csv["expected"], found["expected"], rtol=1e-5)


def test_without_the_error_there_are_no_bins(tmp_path: Path) -> None:
    logits, labels = shapes(1, *SHAPE)
    rows = tally(["dice"], batch_of([object_of("c", labels[0])], logits))
    assert rows == []
    save_bins(rows, tmp_path, "test")
    assert list(tmp_path.iterdir()) == []
