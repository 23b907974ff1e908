"""A trial is given up by its validations, and by nothing else."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from optuna import Study
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState

from medsam2.search.judge import Judge
from medsam2.search.study import create_study
from medsam2.training.stop import Pruned


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Five finished trials: at epoch e, trial t had the value t / 10 + e / 100."""
    made = create_study(str(tmp_path / "study.journal"), "s")
    for t in range(5):
        trial = made.ask({"x": FloatDistribution(0, 1)})
        for epoch in range(4):
            trial.report(t / 10 + epoch / 100, epoch)
        made.tell(trial, t / 10)
    made.ask({"x": FloatDistribution(0, 1)})
    return made


def judge(tmp_path: Path, pruner: str = "median", prune_after: int = 2) -> Judge:
    return Judge(str(tmp_path / "study.journal"), "s", 5, pruner, prune_after)


def test_a_trial_below_the_median_is_given_up_after_its_first_epochs(study: Study, tmp_path: Path) -> None:
    check = judge(tmp_path)
    check(0, 0.0)
    check(1, 0.1)  # the median is 0.21 here, but it is too early
    with pytest.raises(Pruned, match="trial 5 of search s is behind the others at epoch 2"):
        check(2, 0.21)  # the median is 0.22
    assert study.trials[5].intermediate_values == {0: 0.0, 1: 0.1, 2: 0.21}
    assert study.trials[5].state is TrialState.RUNNING  # the head tells how it ended


def test_a_trial_above_the_median_goes_on(study: Study, tmp_path: Path) -> None:
    check = judge(tmp_path)
    for epoch in range(4):
        check(epoch, 0.25)
    assert len(study.trials[5].intermediate_values) == 4


def test_halving_keeps_the_best_quarter(study: Study, tmp_path: Path) -> None:
    judge(tmp_path, "halving", 1)(1, 0.3)  # the first to come to epoch 1 under this pruner
    study.ask({"x": FloatDistribution(0, 1)})
    with pytest.raises(Pruned):
        Judge(str(tmp_path / "study.journal"), "s", 6, "halving", 1)(1, 0.2)


def test_a_requeued_trial_reports_its_epochs_again(
    study: Study, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    judge(tmp_path)(0, 0.5)
    judge(tmp_path)(1, 0.6)
    judge(tmp_path)(1, 0.6)  # another process, the same epoch
    judge(tmp_path)(2, 0.7)
    assert study.trials[5].intermediate_values == {0: 0.5, 1: 0.6, 2: 0.7}
    assert caplog.records == []


@pytest.mark.parametrize(
    ("storage", "word"),
    [("/dev/null/study.journal", "File exists"), ("env:NO_SUCH_VARIABLE", "NO_SUCH_VARIABLE"),
     ("postgresql://me:hidden1@127.0.0.1:1/x", "refused")],
)  # fmt: skip
def test_training_goes_on_where_the_study_cannot_be_reached(
    storage: str, word: str, caplog: pytest.LogCaptureFixture
) -> None:
    lost = Judge(storage, "s", 5, "median", 0)
    with caplog.at_level(logging.WARNING):
        lost(0, 0.5)
        lost(1, 0.5)
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith("not judged, the study cannot be reached: ")
    assert word in message
    assert "hidden1" not in message


def test_a_trial_that_the_study_has_closed_is_trained_to_its_end(study: Study, tmp_path: Path) -> None:
    study.tell(5, state=TrialState.FAIL)
    judge(tmp_path)(3, 0.0)
    assert study.trials[5].intermediate_values == {}
