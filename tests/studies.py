"""Run directories as finished runs leave them, with made-up scores: for tests and benchmarks of what reads them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medsam2.evaluation.rows import Row, save_rows, summarise
from medsam2.runs import RunDirectory

BEGUN = 1_790_000_000.0  # seconds since 1970


@dataclass
class FakeRun:
    """What distinguishes a run; scores are Dice values by (case, structure), NaN for one that is undefined.

    `patients` maps cases to patients, each its own where it is empty. A score of 0 is a miss.
    """

    scores: Mapping[tuple[str, str], float]
    model: str = "sam2_nano"
    dataset: str = "phantom"
    seed: int = 0
    fold: int | None = None
    budget: str = "box"
    params: Mapping[str, Any] = field(default_factory=dict)
    choices: Mapping[str, str] = field(default_factory=dict)
    state: str = "finished"
    split_hash: str = "5b1d"
    study: str = "medsam2"
    patients: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, Any] = field(default_factory=dict)  # further columns of every row
    seconds: float = 60.0
    begun: float = BEGUN

    @property
    def identity(self) -> dict[str, Any]:
        known = {"model.name": self.model, "dataset.name": self.dataset, "seed": self.seed, "image_size": 128}
        known |= {"optim.lr": 1e-4, "metrics.probability": 0.5, "metrics.unit": "volume", "task._target_": "t.train"}
        known |= {"prompt._target_": "p.BoxPrompt", "dataset.structures": self.structures}
        return known | ({"dataset.fold": self.fold} if self.fold is not None else {}) | dict(self.params)

    @property
    def structures(self) -> list[str]:
        return list(dict.fromkeys(structure for _, structure in self.scores))

    @property
    def run_id(self) -> str:
        return hashlib.sha256(repr(sorted(self.identity.items())).encode()).hexdigest()[:10]


def write_run(folder: Path, run: FakeRun) -> Path:
    """The directory of a run below `folder`/runs, with rows of the phases zero_shot, val and test; returns it."""
    path = folder / "runs" / run.dataset / f"{run.model}-{run.run_id}"
    directory = RunDirectory(path)
    directory.open(run.run_id, "", fresh=True, params=run.identity)
    directory.describe(
        name=f"{run.model} {run.dataset} seed {run.seed} ({run.run_id})",
        study=run.study,
        tags={"run_dir": str(path), "data_fingerprint": "f00d"},
        dataset=run.dataset,
        split_hash=run.split_hash,
        begun=run.begun,
        parent_run_id=None,
        choices={"model": run.model, "dataset": run.dataset, "prompt": run.budget} | dict(run.choices),
    )
    rows = make_rows(run)
    metrics: dict[str, float] = {}
    for phase, factor in (("zero_shot", 0.5), ("val", 1.0), ("test", 1.0)):
        scored = [row | {"phase": phase, "dice": row["dice"] * factor} for row in rows]
        save_rows(scored, directory.rows, phase)
        metrics |= summarise(scored, phase)
    cost = {"parameters": 1_500_000, "trained_parameters": 1_200_000, "peak_memory": 2e9}
    directory.update(
        state=run.state, value=metrics.get("val/dice/mean"), metrics=metrics, seconds=run.seconds, device="cpu",
        cost=cost, data="f00d",
    )  # fmt: skip
    return path


def make_rows(run: FakeRun) -> list[Row]:
    """A row per score, with the columns that an evaluation of two metrics has."""
    positions = {case: i for i, case in enumerate(dict.fromkeys(case for case, _ in run.scores))}
    return [
        {
            "phase": "test",
            "protocol": "alone",
            "convention": "medsam2",
            "position": positions[case],
            "case_id": case,
            "patient_id": run.patients.get(case, case),
            "structure": structure,
            "prompt": run.budget,
            "budget": run.budget,
            "prompted_slices": int(run.budget != "none"),
            "dice": float(dice),
            "iou": float(dice / (2 - dice)),
            "prompt_dice": 0.7,
            "size_label": 100.0,
            "size_prediction": 0.0 if dice == 0 else 90.0,
            "size_unit": "mm2",
            "iou_predicted": float(np.clip(dice, 0, 1)),
        }
        | dict(run.extra)
        for (case, structure), dice in run.scores.items()
    ]


def write_study(
    folder: Path,
    arms: Mapping[str, float],
    seeds: Sequence[int] = (0, 1, 2),
    datasets: Sequence[str] = ("phantom",),
    cases: int = 20,
    structures: Sequence[str] = ("cup", "disc"),
    noise: float = 0.02,
    seed_noise: float = 0.005,
    rng_seed: int = 0,
    **settings: Any,
) -> list[Path]:
    """Runs of several arms (model: mean Dice) on the same cases, whose difficulty they share."""
    rng = np.random.default_rng(rng_seed)
    paths = []
    for dataset in datasets:
        difficulty = rng.normal(0, 0.05, (cases, len(structures)))
        for arm, mean in arms.items():
            for seed in seeds:
                values = mean + difficulty + rng.normal(0, noise, difficulty.shape) + rng.normal(0, seed_noise)
                scores = pd.DataFrame(values.clip(0.01, 0.999), [f"case{i:03d}" for i in range(cases)], structures)
                run = FakeRun(scores.stack().to_dict(), model=arm, dataset=dataset, seed=seed, **settings)  # type: ignore[arg-type]
                paths.append(write_run(folder, run))
    return paths
