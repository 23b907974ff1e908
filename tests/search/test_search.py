"""The loop of a search, with runs that end as the test says."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from medsam2.search.heads import Head
from medsam2.sweep import Job
from tests.search.fakes import FakeWatch, build_search, by_rate, check_two_heads, finished, rates, states, write_status


def test_trials_run_until_there_are_enough_and_their_values_are_told(tmp_path: Path) -> None:
    watch = FakeWatch()
    search = build_search(tmp_path / "s", watch, n_trials=4)
    search.run()
    assert states(search.study) == {"COMPLETE": 4}
    assert len(set(rates(watch))) == 4
    for trial, job in zip(search.study.trials, watch.started, strict=True):
        assert trial.value == pytest.approx(1000 * trial.params["optim.lr"], rel=1e-5)
        assert trial.user_attrs["run_id"] == job.cfg.run_id
        assert Path(trial.user_attrs["run_dir"]) == job.directory.path
    assert (search.failed, search.left) == ([], [])


def test_a_new_trial_starts_as_soon_as_one_ends(tmp_path: Path) -> None:
    class Uneven(FakeWatch):
        """The first job lasts until it is alone; the others end one by one."""

        def poll(self) -> list[tuple[Job, dict[str, Any]]]:
            seen.append(len(self.open))
            done = self.open[1:2] or self.open[:1] if len(self.open) == 3 or len(self.started) == 6 else []
            return [self.end(job) for job in done]

    seen: list[int] = []
    watch = Uneven()
    search = build_search(tmp_path / "s", watch, n_trials=6, parallel=3)
    search.run()
    assert states(search.study) == {"COMPLETE": 6}
    assert seen == [0, 1, 2, 3, 3, 3, 3, 2, 1]  # three are at work until no more are asked for
    assert search.study.trials[0].datetime_complete > search.study.trials[4].datetime_complete


def test_the_same_command_goes_on_and_more_trials_are_added(tmp_path: Path) -> None:
    for n_trials, started in ((2, 2), (5, 3), (5, 0), (3, 0)):
        watch = FakeWatch()
        search = build_search(tmp_path / "s", watch, n_trials=n_trials)
        search.run()
        assert len(watch.started) == started
    assert states(search.study) == {"COMPLETE": 5}


def test_a_search_in_pieces_proposes_what_one_in_a_piece_does(tmp_path: Path) -> None:
    build_search(tmp_path / "a", FakeWatch(), n_trials=13).run()  # ten at random, the others from these
    for n_trials in (3, 4, 11, 13):
        build_search(tmp_path / "b", FakeWatch(), n_trials=n_trials).run()
    told = [build_search(tmp_path / name, FakeWatch()).study for name in "ab"]
    assert [t.params for t in told[0].trials] == [t.params for t in told[1].trials]
    assert len({t.params["optim.lr"] for t in told[0].trials}) == 13


def test_a_failed_trial_is_told_counts_here_and_is_replaced_by_the_next_command(tmp_path: Path) -> None:
    def fails_once(job: Job) -> Mapping[str, Any]:
        error = {"state": "failed", "reason": "non-finite", "error": "NonFiniteLoss: epoch 1"}
        return error if watch.started.index(job) == 1 else by_rate(job)

    watch = FakeWatch(fails_once)
    search = build_search(tmp_path / "s", watch, n_trials=3)
    search.run()
    assert states(search.study) == {"COMPLETE": 2, "FAIL": 1}
    (failed,) = search.failed
    assert (failed.number, failed.status["reason"]) == (1, "non-finite")
    assert failed.values == rates(watch)[1]
    assert failed.folder == watch.started[1].directory.path
    again = build_search(tmp_path / "s", FakeWatch(), n_trials=3)
    again.run()
    assert states(again.study) == {"COMPLETE": 3, "FAIL": 1}
    assert again.failed == []


@pytest.mark.parametrize(
    "status",
    [
        {"state": "failed", "reason": "killed", "error": "gone"},
        {"state": "failed", "reason": "disk"},
        {"state": "preempted"},
        {"state": "interrupted"},
        {"state": "queued"},
    ],
)
def test_a_trial_that_was_stopped_goes_on_with_the_next_command(tmp_path: Path, status: dict[str, Any]) -> None:
    watch = FakeWatch(lambda job: status if job is watch.started[0] else by_rate(job))
    search = build_search(tmp_path / "s", watch, n_trials=2)
    search.run()
    search.hand_back()
    assert states(search.study) == {"RUNNING": 1, "COMPLETE": 1}
    assert [ended.number for ended in search.left] == [0]
    assert len(watch.started) == 2  # not started again by the command that saw it end
    again = FakeWatch()
    build_search(tmp_path / "s", again, n_trials=2).run()
    assert rates(again) == rates(watch)[:1]
    assert again.started[0].directory.path == watch.started[0].directory.path
    assert states(search.study) == {"COMPLETE": 2}


def test_a_pruned_trial_counts(tmp_path: Path) -> None:
    watch = FakeWatch(lambda job: {"state": "pruned"} if job is watch.started[0] else by_rate(job))
    search = build_search(tmp_path / "s", watch, n_trials=3)
    search.run()
    assert states(search.study) == {"PRUNED": 1, "COMPLETE": 2}
    assert (search.failed, search.left) == ([], [])


def test_a_value_that_is_not_a_number_is_a_failure(tmp_path: Path) -> None:
    search = build_search(tmp_path / "s", FakeWatch(lambda job: finished(float("nan"))), n_trials=1)
    search.run()
    assert states(search.study) == {"FAIL": 1}
    assert len(search.failed) == 1


def test_a_run_that_is_finished_is_told_without_running(tmp_path: Path) -> None:
    choices = ["optim.lr=1e-3,1e-4"]
    first = FakeWatch()
    build_search(tmp_path / "a", first, n_trials=8, overrides=choices).run()
    assert sorted(set(rates(first))) == ["optim.lr=0.0001", "optim.lr=0.001"]
    assert len(first.started) == 2  # eight trials, two runs
    other = build_search(tmp_path / "b", FakeWatch(), n_trials=8, overrides=choices)
    other.run()
    assert other.watch.started == []
    assert {t.params["optim.lr"]: t.value for t in other.study.trials} == {"0.001": 1.0, "0.0001": 0.1}


def test_trials_that_are_the_same_run_share_one_job(tmp_path: Path) -> None:
    class Last(FakeWatch):
        """Nothing ends before all trials were asked for."""

        def poll(self) -> list[tuple[Job, dict[str, Any]]]:
            return super().poll() if len(search.study.trials) == 3 else []

    watch = Last()
    search = build_search(tmp_path / "s", watch, parallel=3, overrides=["num_workers=1,2"])
    search.run()
    assert len(watch.started) == 1
    assert [t.value for t in search.study.trials] == [1.0] * 3


def test_a_wrong_combination_fails_without_a_job(tmp_path: Path) -> None:
    watch = FakeWatch()
    search = build_search(tmp_path / "s", watch, n_trials=2, overrides=["optim.lr=interval(-2,-1)"])
    search.run()
    assert watch.started == []
    assert states(search.study) == {"FAIL": 2}
    assert "must be a number > 0" in search.failed[0].status["error"]


# -------------------------------------------------------------------------------------------------- heads


def ask_and_die(folder: Path, ready: Any) -> None:
    """A head that starts two jobs and waits for ever."""
    with Head(folder) as head:
        watch = FakeWatch(hold=True)
        search = build_search(folder, watch, head, n_trials=3, parallel=2)
        search.run(begun=lambda: ready.put(1))


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """The folder of a search whose head was killed while two trials ran."""
    folder = tmp_path / "s"
    folder.mkdir()
    context = multiprocessing.get_context("fork")
    ready = context.Queue()
    process = context.Process(target=ask_and_die, args=(folder, ready))
    process.start()
    for _ in range(2):
        ready.get(timeout=30)
    other = build_search(folder, FakeWatch(), n_trials=3)
    assert not other._orphan()  # while it lives, its trials are its own
    assert other._others_at_work()
    process.kill()
    process.join()
    return folder


def test_the_trials_of_a_killed_head_are_run_again_with_their_values(killed: Path) -> None:
    watch = FakeWatch()
    search = build_search(killed, watch, n_trials=3)
    asked = [f"optim.lr={trial.params['optim.lr']:.6g}" for trial in search.study.trials]
    search.run()
    assert len(asked) == 2
    assert rates(watch)[:2] == asked
    assert states(search.study) == {"COMPLETE": 3}


def test_what_a_killed_heads_jobs_left_is_told(killed: Path) -> None:
    watch = FakeWatch()
    search = build_search(killed, watch, n_trials=2)
    first, second = search.study.trials
    for trial, status in ((first, finished(0.7)), (second, {"state": "pruned"})):
        write_status(Path(trial.user_attrs["run_dir"]), trial.user_attrs["run_id"], status)
    search.run()
    assert watch.started == []
    assert states(search.study) == {"COMPLETE": 1, "PRUNED": 1}
    assert search.study.trials[0].value == 0.7


def test_two_heads_share_the_trials_of_a_study(tmp_path: Path) -> None:
    check_two_heads(tmp_path / "s")


def test_a_head_waits_for_the_others_trials(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    folder.mkdir()
    with Head(folder) as other:
        first = build_search(folder, FakeWatch(hold=True), other, n_trials=1)
        assert first._next()
        second = build_search(folder, FakeWatch(), n_trials=1)
        second.head.name = "elsewhere"
        looks = []

        def look() -> list[Any]:
            looks.append(time.monotonic())
            if len(looks) == 3:
                first.watch.hold = False
                for job, status in first.watch.poll():
                    first._end(first.waiting.pop(job.cfg.run_id)[0], job.directory.path, status)
            return []

        second.watch.poll = look
        second.run()
    assert len(looks) == 3
    assert states(second.study) == {"COMPLETE": 1}
