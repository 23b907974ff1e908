"""What is claimed of studies whose truth is known: a planted difference is found, a planted null is not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medsam2.adopt import adopt
from medsam2.data.phantom_volumes import PhantomVolumes
from medsam2.data.records import of_split
from medsam2.experiment import run
from medsam2.results.collect import Study, collect
from medsam2.results.compare import compare
from medsam2.tasks.compare import compare as report
from tests.conftest import Compose
from tests.studies import write_study

VOLUMES = {"train": 1, "val": 1, "test": 9}
PHANTOM = (
    "dataset=phantom", "dataset.structures=[lobe]", "dataset.volumes={train: 1, val: 1, test: 9}", "dataset.depth=8",
    "metrics=dice", "device=cpu", "cache=none", "num_workers=0",
)  # fmt: skip


def save_masks(folder: Path, furthest: int, seed: int) -> None:
    """The labels of the phantom's test slices, each off by up to so many columns."""
    dataset, rng = PhantomVolumes("lobe", VOLUMES, depth=8), np.random.default_rng(seed)
    (folder / "lobe").mkdir(parents=True)
    for record in of_split(dataset.records(), "test"):
        moved = np.roll(dataset.load(record).labels["lobe"], rng.integers(furthest + 1), axis=-1)
        np.save(folder / "lobe" / f"{record.case_id}.npy", moved)


@pytest.mark.slow
def test_phantom_runs_of_which_one_is_degraded(config: Compose, tmp_path: Path) -> None:
    for number, (name, furthest) in enumerate((("good", 2), ("alike", 2), ("degraded", 6))):
        for seed in (0, 1, 2):
            folder = tmp_path / name / str(seed)
            save_masks(folder, furthest, 10 * number + seed)
            typed = (*PHANTOM, "task=evaluate", f"predictions={folder}", f"name={name}", f"seed={seed}")
            cfg = config(*typed)
            adopt(cfg, typed)
            run(cfg)
    page = report(cfg.paths.output_dir, track=False)
    pairs = pd.read_csv(page.parent / "tables" / "pairs-0.csv")
    verdicts = {frozenset((p.a, p.b)): p.verdict for p in pairs.itertuples() if p.structure == "mean"}
    assert verdicts.pop(frozenset(("good", "alike"))) == "undecided"
    assert set(verdicts.values()) == {"better"}
    assert set(pairs[pairs["verdict"] == "better"]["b"]) == {"degraded"}
    assert "is better than degraded" in page.read_text()


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Two arms of three seeds on thirty patients; the scores are drawn by the test."""
    write_study(tmp_path, {"a": 0.8, "b": 0.8}, cases=30, structures=["cup"])
    found = collect(tmp_path)
    return replace(found, zero_shot=found.zero_shot.iloc[:0])


def draw(study: Study, rng: np.random.Generator, cost: float = 0.0) -> Study:
    """The study with new scores: hard and easy patients, seeds that are luckier, noise; arm b worse by `cost`."""
    runs = study.cases["run_id"].astype(str)
    arms, patients = study.runs.loc[runs, "name"].str[0], study.cases["patient_id"]
    hardness = dict(zip(patients.unique(), rng.beta(2, 8, patients.nunique()), strict=True))
    luck = {key: rng.normal(0, 0.01) for key in study.runs.index}
    dice = 1 - 0.5 * patients.map(hardness).astype(float) - cost * (arms == "b").to_numpy() + runs.map(luck).to_numpy()
    return replace(study, cases=study.cases.assign(dice=(dice + rng.normal(0, 0.02, len(dice))).clip(0, 1).to_numpy()))


def count_claims(study: Study, studies: int, cost: float) -> float:
    """The share of studies in which a difference is claimed."""
    rng, claims = np.random.default_rng(1), 0
    for _ in range(studies):
        (board,) = compare(draw(study, rng, cost), resamples=400).boards
        claims += (board.pairs.query("structure == 'mean'")["verdict"] != "undecided").item()
    return claims / studies


def test_most_planted_differences_are_found_and_hardly_any_null(study: Study) -> None:
    assert count_claims(study, 8, cost=0.08) == 1
    assert count_claims(study, 8, cost=0.0) <= 1 / 8


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_of_a_thousand_planted_nulls_at_most_one_in_twenty_is_claimed(study: Study) -> None:
    assert count_claims(study, 1000, cost=0.0) <= 0.05
