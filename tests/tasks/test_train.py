"""What a job does with its parts: zero-shot, training, one look at test, and going on after a kill."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from medsam2.data.batch import Batch
from medsam2.data.cache import DiskCache
from medsam2.data.prompts import BoxPrompt
from medsam2.data.records import DatasetError
from medsam2.data.targets import SingleRater
from medsam2.evaluation.evaluator import Evaluator
from medsam2.evaluation.gallery import load_gallery
from medsam2.methods.base import Loss, Prediction
from medsam2.modeling.learned_prompts import LearnedPrompts
from medsam2.optim import constant
from medsam2.runs import RunDirectory
from medsam2.tasks.evaluate import evaluate
from medsam2.tasks.parts import Parts, RunLogger, Training
from medsam2.tasks.train import train
from medsam2.tracking.base import Offline
from medsam2.training.precision import Runtime
from medsam2.training.trainer import Trainer
from tests.fakes import SHAPE, SIZE, Blobs, PixelMethod, Stopped, StoppedMethod


class Recording(PixelMethod):
    """Remembers which cases it was asked about."""

    def __init__(self, **settings: Any):
        super().__init__(**settings)
        self.asked: list[str] = []

    def predict(self, batch: Batch) -> Prediction:
        self.asked += batch.case_ids
        return super().predict(batch)


class Spoilt(StoppedMethod):
    """Sees no object any more from its `calls`-th loss on."""

    def loss(self, batch: Batch) -> Loss:
        self.left -= 1
        if self.left <= 0:
            with torch.no_grad():
                self.model[3].bias.fill_(-50)  # type: ignore[index, union-attr, operator]
        return PixelMethod.loss(self, batch)


Build = Callable[..., Parts]


@pytest.fixture
def build(tmp_path: Path) -> Build:
    def parts(
        method: PixelMethod | None = None, name: str = "run", max_epochs: int = 4, overlays: bool = False
    ) -> Parts:
        dataset, method = Blobs(), method or PixelMethod()
        directory = RunDirectory(tmp_path / name)
        directory.open("aaa", "", fresh=False)
        optimizer = torch.optim.Adam(method.model.parameters(), lr=0.1)
        return Parts(
            dataset=dataset,
            prompt=BoxPrompt(),
            cache=DiskCache(tmp_path / "cache"),
            method=method,
            trainer=Trainer(max_epochs, checkpoint_minutes=1e-9),
            training=Training(dataset.loader(1), optimizer, constant(optimizer, 8, max_epochs)),
            evaluator=Evaluator(["dice", "iou"], overlays=overlays),
            runtime=Runtime("cpu", torch.float32),
            directory=directory,
            logger=RunLogger(directory, Offline()),
            run_id="aaa",
            image_size=SIZE,
            batch_size=2,
            num_workers=0,
            seed=0,
        )

    return parts


def phases(parts: Parts) -> list[tuple[int, str]]:
    return [(e["epoch"], next(iter(e["metrics"])).split("/")[0]) for e in parts.directory.metrics()]


def rows(parts: Parts, phase: str) -> pd.DataFrame:
    return pd.read_parquet(parts.directory.rows / f"{phase}.parquet")


def test_the_order_of_a_run(build: Build) -> None:
    parts = build(Recording(), max_epochs=2)
    best = int(train(parts).metrics["best/epoch"])
    epochs = [(0, "zero_shot"), (0, "val"), (1, "train"), (1, "val"), (2, "train"), (2, "val")]
    assert phases(parts) == [*epochs, (best, "test"), (best, "best")]
    # test before training and after it, once each; val after every epoch, and for the rows of the chosen one
    asked = parts.method.asked  # type: ignore[attr-defined]
    test, val = [f"test{i}" for i in range(3)], [f"val{i}" for i in range(3)]
    assert asked == test + 3 * val + val + test


def test_only_a_legacy_switch_lets_the_test_cases_choose(build: Build, caplog: pytest.LogCaptureFixture) -> None:
    parts = build(Recording(), max_epochs=1)
    train(parts, legacy_select_on_test=True)
    assert set(parts.method.asked) == {f"test{i}" for i in range(3)}  # type: ignore[attr-defined]
    assert "too good" in caplog.text


def test_a_target_that_cannot_be_is_found_before_the_first_evaluation(build: Build) -> None:
    parts = build(Recording())
    assert parts.training is not None
    parts.training.loader.dataset.targets = SingleRater(2)  # type: ignore[attr-defined]
    with pytest.raises(DatasetError, match=r"case train0: target\.rater=2, but there is 1 rater"):
        train(parts)
    assert parts.method.asked == []  # type: ignore[attr-defined]


def test_learned_prompts_that_nobody_learned_are_not_evaluated(build: Build) -> None:
    parts = build(PixelMethod())
    parts.method.model.learned_prompts = LearnedPrompts(["cup", "disc"], 2, 8)
    parts.method.model.learned_prompts.untrained = ["learned_prompts.tokens.disc"]
    with pytest.raises(ValueError, match="no learned prompts for disc"):
        evaluate(parts)


@pytest.mark.parametrize(("count", "expected"), [(None, range(8)), (99, range(8)), (3, (0, 2, 5)), (1, (0,))])
def test_the_support_is_spread_over_the_training_cases(
    build: Build, count: int | None, expected: Sequence[int]
) -> None:
    parts = build()
    parts.method.support_cases = count  # type: ignore[attr-defined]
    assert [name for batch in parts.support() for name in batch.case_ids] == [f"train{i}" for i in expected]


def test_the_outcome_is_the_best_val_score_and_test_is_scored_with_those_weights(build: Build) -> None:
    parts = build(Spoilt(8 * 9 + 1), max_epochs=10)  # the last epoch is the worst
    outcome = train(parts)
    logged = parts.directory.metrics()
    val = {e["epoch"]: e["metrics"]["val/dice/mean"] for e in logged if "val/dice/mean" in e["metrics"]}
    best = max(val, key=lambda epoch: (val[epoch], -epoch))
    assert outcome.value == val[best] == outcome.metrics["best/val/dice/mean"]
    assert 0 < outcome.metrics["best/epoch"] == best < 10
    assert val[10] == 0
    stored = torch.load(parts.directory.checkpoints / "best.pt", weights_only=True)["model"]
    scored = build(name="scored")
    scored.method.model.load_state_dict(stored)
    assert evaluate(scored).metrics["test/dice/mean"] == outcome.metrics["test/dice/mean"]
    assert outcome.metrics["test/dice/mean"] == pytest.approx(rows(parts, "test")["dice"].mean())
    assert outcome.metrics["zero_shot/dice/mean"] == pytest.approx(rows(parts, "zero_shot")["dice"].mean())
    assert outcome.metrics["test/dice/mean"] > outcome.metrics["zero_shot/dice/mean"] + 0.2
    assert rows(parts, "val")["dice"].mean() == pytest.approx(val[best])  # of the chosen epoch, not of the last
    assert not any(key.startswith("val/") for key in outcome.metrics)


def test_rows_hold_every_case_of_their_split(build: Build) -> None:
    parts = build(max_epochs=1)
    train(parts)
    for phase, split in (("zero_shot", "test"), ("val", "val"), ("test", "test")):
        frame = rows(parts, phase)
        assert frame["case_id"].tolist() == [f"{split}{i}" for i in range(3)]
        assert set(frame["phase"]) == {phase}
        assert set(frame["prompt"]) == {"box"}
    assert (parts.directory.rows / "test.csv").exists()


@pytest.mark.parametrize("call", [1, 9, 20])
def test_a_killed_run_keeps_its_zero_shot_score_and_ends_as_the_uninterrupted_one(build: Build, call: int) -> None:
    whole = build(name="whole", max_epochs=3)
    expected = train(whole)
    with pytest.raises(Stopped):
        train(build(StoppedMethod(call), max_epochs=3))
    again = Recording()
    parts = build(again, max_epochs=3)
    assert train(parts) == expected
    assert "test0" not in again.asked[:-3]  # zero-shot is not computed from trained weights
    assert [(e["epoch"], e["metrics"]) for e in parts.directory.metrics()] == [
        (e["epoch"], e["metrics"]) for e in whole.directory.metrics()
    ]


def test_a_run_killed_before_its_first_checkpoint_starts_over(build: Build) -> None:
    class Killed(PixelMethod):
        asked = 0

        def predict(self, batch: Batch) -> Prediction:
            self.asked += 1
            if self.asked == 3:  # zero-shot is done, val of epoch 0 is not
                raise Stopped
            return super().predict(batch)

    with pytest.raises(Stopped):
        train(build(Killed(), max_epochs=1))
    parts = build(max_epochs=1)
    train(parts)
    assert [phase for _, phase in phases(parts)] == ["zero_shot", "val", "train", "val", "test", "best"]


def test_pictures_of_the_worst_median_and_best_test_case(build: Build) -> None:
    parts = build(max_epochs=1, overlays=True)
    train(parts)
    frame = rows(parts, "test").sort_values(["dice", "case_id"])
    expected = {
        f"blob_{rank}_{case}.png" for rank, case in zip(("worst", "median", "best"), frame["case_id"], strict=True)
    }
    assert {p.name for p in (parts.directory.pictures / "test").iterdir()} == expected | {"gallery.npz"}
    gallery = load_gallery(parts.directory.pictures / "test" / "gallery.npz")
    assert gallery.cases() == sorted(zip(frame["case_id"], frame["structure"], strict=True))
    for case, label in zip(frame["case_id"], frame["size_label"], strict=True):
        assert gallery.label(case, "blob").sum() * 6 == label  # mm²: it is as small as the case, and so not shrunk
    assert not (parts.directory.pictures / "zero_shot").exists()


def test_calibration_bins_stand_beside_the_rows(build: Build) -> None:
    parts = build(max_epochs=1)
    parts.evaluator = Evaluator(["dice", "ece"], overlays=False)
    train(parts)
    for phase in ("zero_shot", "test"):
        bins, cases = rows(parts, f"{phase}_bins"), rows(parts, phase)
        assert bins["number"].sum() == len(cases) * SHAPE[0] * SHAPE[1]
        assert bins["actual"].sum() * 6 == pytest.approx(cases["size_label"].sum())
    assert not (parts.directory.rows / "val_bins.csv").exists()
    assert not list(parts.directory.pictures.iterdir())


def test_evaluate_scores_test_as_the_model_is(build: Build) -> None:
    parts = build(Recording(), overlays=True)
    before = {k: v.clone() for k, v in parts.method.model.state_dict().items()}
    outcome = evaluate(parts)
    assert phases(parts) == [(0, "test")]
    assert outcome.value == outcome.metrics["test/dice/mean"] == pytest.approx(rows(parts, "test")["dice"].mean())
    assert all(torch.equal(v, before[k]) for k, v in parts.method.model.state_dict().items())
    assert list((parts.directory.pictures / "test").glob("*.png"))
    assert not list(parts.directory.checkpoints.iterdir())
