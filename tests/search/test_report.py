"""The table of a search and its best line."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from medsam2.search.report import name_failures, print_trials
from medsam2.search.search import Ended
from tests.search.fakes import FakeWatch, build_search, finished

CFG = OmegaConf.create({"dataset": {"name": "refuge"}, "seed": 0})


def test_trials_stand_in_the_order_of_their_values_and_the_best_on_a_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ends = [finished(0.5), {"state": "pruned"}, finished(0.9), {"state": "failed", "reason": "memory"}, finished(0.7)]
    search = build_search(tmp_path / "s", FakeWatch(lambda job: ends[len(search.watch.started) - 1]), n_trials=5)
    search.run()
    with caplog.at_level(logging.INFO):
        files = print_trials(search.study.trials, search.space, CFG, tmp_path / "s")
    assert [file.name for file in files] == ["table.csv", "table.md"]
    rows = [line.split(" | ")[1:] for line in (tmp_path / "s" / "table.md").read_text().splitlines()]
    assert rows[0] == ["trial", "val", "runs", "refuge dice (n) |"]
    assert rows[2:] == [
        ["2", "0.9000", "1/1", "0.890 (1) |"],
        ["4", "0.7000", "1/1", "0.690 (1) |"],
        ["0", "0.5000", "1/1", "0.490 (1) |"],
        ["1", "pruned", "0/1", "- |"],
        ["3", "failed", "0/1", "- |"],
    ]
    said = [record.getMessage() for record in caplog.records]
    rate = f"{search.study.trials[2].params['optim.lr']:.6g}"
    assert "5 trials: 3 finished, 1 pruned, 1 failed" in said
    assert f"best: optim.lr={rate} val 0.900, test 0.890 (trial 2)" in said


def test_without_a_result_no_trial_is_the_best(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    search = build_search(tmp_path / "s", FakeWatch(lambda job: {"state": "pruned"}), n_trials=1)
    search.run()
    with caplog.at_level(logging.INFO):
        print_trials(search.study.trials, search.space, CFG, tmp_path / "s")
    assert "best" not in caplog.text


def test_what_did_not_finish_is_named_with_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    failed = Ended(3, "optim.lr=1.0", Path("/runs/a"), {"state": "failed", "reason": "non-finite", "error": "NaN"})
    left = Ended(4, "optim.lr=0.1", Path("/runs/b"), {"state": "preempted"})
    name_failures([failed], [left])
    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [
        ("ERROR", "failed (non-finite): trial 3: optim.lr=1.0: NaN (/runs/a)"),
        ("WARNING", "preempted: trial 4: optim.lr=0.1 (the same command goes on with it)"),
    ]
