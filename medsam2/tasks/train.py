"""Fine-tune on train, choose the epoch on val, report on test once."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from medsam2.evaluation.rows import load_rows, save_rows, summarise
from medsam2.modeling.lora import merge_lora
from medsam2.tasks.parts import Outcome, Parts

log = logging.getLogger(__name__)


def train(parts: Parts, legacy_select_on_test: bool = False) -> Outcome:
    """Scores the model as it came on test (phase `zero_shot`), trains, and scores the best epoch on test (`test`).

    The test cases never choose anything: the epoch is chosen by `trainer.monitor`, which is computed on val.

    Args:
        legacy_select_on_test: the phase `val` is computed on the test cases, so that they choose the epoch and its
            score is too good, as Medical-SAM2's is.
    """
    assert parts.training is not None
    parts.prepare("train", "val", "test")
    parts.training.loader.dataset[1, 0]  # what is wrong with targets or transforms shows now, not after an evaluation
    zero_shot = _zero_shot(parts)
    if legacy_select_on_test:
        log.warning("task.legacy_select_on_test=true: the test cases choose the epoch; their score is too good")
    val_loader = parts.loader(parts.cases("test" if legacy_select_on_test else "val"))

    def validate(epoch: int) -> Mapping[str, float]:
        summary = summarise(parts.rows(val_loader, "val"), "val")
        parts.logger.log_metrics(summary, epoch)
        value = summary.get(parts.trainer.monitor, float("nan"))
        log.info("epoch %d: %s %.4f", epoch, parts.trainer.monitor, value)
        parts.judge(epoch, value)
        return summary

    checkpoints = parts.checkpoints
    progress = parts.trainer.fit(
        parts.method,
        parts.training.optimizer,
        parts.training.scheduler,
        parts.training.loader,
        validate,
        parts.runtime,
        checkpoints,
        parts.logger,
        parts.stop,
    )
    merge_lora(parts.method.model)  # the best weights are stored under the network's own names
    parts.method.model.load_state_dict(checkpoints.load_best())
    save_rows(parts.rows(val_loader, "val"), parts.directory.rows, "val")  # of the epoch that was chosen
    test_cases = parts.cases("test")
    rows, test = parts.score(parts.loader(test_cases), "test", progress.best_epoch)
    if parts.evaluator.overlays:
        parts.draw(test_cases, rows, "test")
    best = {"best/epoch": float(progress.best_epoch), f"best/{parts.trainer.monitor}": progress.best}
    parts.logger.log_metrics(best, progress.best_epoch)
    if progress.best_epoch == 0:
        log.warning("best epoch is 0: training did not improve %s over the model as it came", parts.trainer.monitor)
    return Outcome(progress.best, zero_shot | best | test)


def _zero_shot(parts: Parts) -> dict[str, float]:
    """The test score before training; a resumed run finds it in its rows, for its weights have moved on."""
    if parts.checkpoints.exist():
        return summarise(load_rows(parts.directory.rows, "zero_shot"), "zero_shot")
    parts.logger.forget_after(-1)  # an earlier attempt that left no checkpoint
    _, summary = parts.score(parts.loader(parts.cases("test")), "zero_shot", 0)
    return summary
