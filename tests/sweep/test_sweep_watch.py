"""Jobs are followed through their run directories, whatever becomes of their processes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest

from medsam2.manifest import Manifest
from medsam2.sweep import Job, Watch, run_sweep
from tests.conftest import Compose


@dataclass
class Handle:
    """A process in name only: the test says when and how it ends."""

    label: str
    how: str | None = None
    cancelled: bool = False

    def ended(self) -> str | None:
        return self.how

    def cancel(self) -> None:
        self.cancelled = True
        self.how = self.how or "signal 15"


@dataclass
class Starter:
    """A launcher that starts nothing."""

    stays: bool = False
    here: bool = True
    queue: set[str] = field(default_factory=set)
    started: list[list[str]] = field(default_factory=list)
    handles: list[Handle] = field(default_factory=list)
    closed: bool = False
    on_start: Callable[[int], None] = lambda number: None

    def start(self, jobs: Sequence[Sequence[str]], first: int) -> list[Handle]:
        prefix = "slurm 7_" if self.stays else "process "
        new = [Handle(f"{prefix}{first + i}") for i in range(len(jobs))]
        self.started += [list(job) for job in jobs]
        self.handles += new
        for i in range(len(jobs)):
            self.on_start(first + i)
        return new

    def alive(self, job: str) -> bool:
        return job in self.queue

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def jobs(config: Compose) -> list[Job]:
    return [Job((f"seed={seed}",), config(f"seed={seed}")) for seed in range(3)]


@pytest.fixture
def manifest(tmp_path: Path, jobs: list[Job]) -> Manifest:
    manifest = Manifest(tmp_path / "outputs" / "sweeps" / "abc")
    entries = [{"run_id": j.cfg.run_id, "run_dir": str(j.directory.path), "overrides": list(j.overrides)} for j in jobs]
    manifest.update(name="sweep seed", axes=["seed"], command=["run.py"], jobs=entries)
    return manifest


def begin(job: Job) -> None:
    job.directory.open(job.cfg.run_id, "", fresh=False)


def end(job: Job, state: str = "finished", **entries: object) -> None:
    begin(job)
    job.directory.update(state=state, value=0.5, metrics={"test/dice/mean": 0.5}, **entries)


def states(ended: Sequence[tuple[Job, dict[str, object]]]) -> list[tuple[int, object, object]]:
    return sorted((job.cfg.seed, status["state"], status.get("reason")) for job, status in ended)


def test_jobs_are_queued_then_end_one_by_one(jobs: list[Job], manifest: Manifest) -> None:
    starter = Starter()
    watch = Watch(starter, ["++job.sweep=abc"], manifest)
    watch.start(jobs)
    assert starter.started == [[f"seed={seed}", "++job.sweep=abc", "force=false"] for seed in range(3)]
    assert [job.directory.status()["state"] for job in jobs] == ["queued"] * 3
    assert watch.poll() == []
    end(jobs[1])
    assert states(watch.poll()) == [(1, "finished", None)]
    assert watch.active == 2
    end(jobs[0], "failed", reason="data", error="x")
    end(jobs[2], "pruned")
    assert states(watch.poll()) == [(0, "failed", "data"), (2, "pruned", None)]
    assert watch.active == 0


@pytest.mark.parametrize(
    ("began", "how", "said"),
    [
        (
            True,
            "signal 9",
            "process 0 ended without a word (signal 9); killed by somebody, or by the system for want of",
        ),
        (True, "exit 3", "process 0 ended without a word (exit 3)"),
        (False, "exit 1", "process 0 ended before the run began (exit 1)"),
        (False, "signal 9", "process 0 ended before the run began (signal 9)"),
    ],
)
def test_a_process_that_dies_without_a_word_is_put_on_record(
    jobs: list[Job], manifest: Manifest, began: bool, how: str, said: str
) -> None:
    starter = Starter()
    watch = Watch(starter, [], manifest)
    watch.start(jobs[:1])
    if began:
        begin(jobs[0])
    assert watch.poll() == []  # its process is there: it may be loading
    starter.handles[0].how = how
    reason = "killed" if began or how == "signal 9" else "error"
    assert states(watch.poll()) == [(0, "failed", reason)]
    assert jobs[0].directory.status()["error"].startswith(said)


@pytest.mark.parametrize("state", ["preempted", "interrupted"])
def test_a_job_that_left_in_order_is_unfinished_not_failed(jobs: list[Job], manifest: Manifest, state: str) -> None:
    starter = Starter()
    watch = Watch(starter, [], manifest)
    watch.start(jobs[:1])
    end(jobs[0], state)
    assert watch.poll() == []  # it may be requeued
    starter.handles[0].how = "exit 143"
    assert states(watch.poll()) == [(0, state, None)]


def test_a_requeued_job_is_waited_for_although_its_process_died(jobs: list[Job], manifest: Manifest) -> None:
    starter = Starter(stays=True)
    watch = Watch(starter, [], manifest)
    watch.start(jobs[:1])
    begin(jobs[0])  # running, and nobody holds the claim
    assert jobs[0].directory.look()["reason"] == "killed"
    assert watch.poll() == []
    end(jobs[0])
    assert states(watch.poll()) == [(0, "finished", None)]


def test_a_job_of_another_process_is_waited_for_and_never_started(jobs: list[Job], manifest: Manifest) -> None:
    starter = Starter()
    watch = Watch(starter, [], manifest)
    with jobs[0].directory.claim():
        watch.start(jobs[:1])
        assert starter.started == []
        assert watch.poll() == []
        end(jobs[0])
    assert states(watch.poll()) == [(0, "finished", None)]


def test_a_job_whose_other_process_died_is_started_here(jobs: list[Job], manifest: Manifest) -> None:
    starter = Starter()
    watch = Watch(starter, [], manifest)
    with jobs[0].directory.claim():
        begin(jobs[0])
        watch.start(jobs[:1])
        watch.poll()
    assert watch.poll() == []
    assert starter.started == [["seed=0", "force=false"]]
    end(jobs[0])
    assert states(watch.poll()) == [(0, "finished", None)]


def test_a_job_that_found_its_run_busy_is_left_to_the_other(jobs: list[Job], manifest: Manifest) -> None:
    starter = Starter()
    watch = Watch(starter, [], manifest)
    watch.start(jobs[:1])
    with jobs[0].directory.claim():  # the other sweep was faster
        begin(jobs[0])
        starter.handles[0].how = "exit 0"
        assert watch.poll() == []
        end(jobs[0])
    assert states(watch.poll()) == [(0, "finished", None)]


def test_how_an_earlier_attempt_failed_is_not_how_the_job_ends(jobs: list[Job], manifest: Manifest) -> None:
    starter = Starter()
    watch = Watch(starter, [], manifest)
    with jobs[0].directory.claim():  # the process of that attempt is about to end
        end(jobs[0], "failed", reason="disk", error="x")
        watch.start(jobs[:1])
        assert watch.poll() == []
    assert watch.poll() == []
    assert len(starter.started) == 1
    end(jobs[0])
    assert states(watch.poll()) == [(0, "finished", None)]


def test_a_full_disk_does_not_keep_a_head_from_ending(
    jobs: list[Job], manifest: Manifest, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*arguments: object, **entries: object) -> None:
        raise OSError(28, "No space left on device")

    starter = Starter()
    watch = Watch(starter, [], manifest)
    watch.start(jobs[:1])
    monkeypatch.setattr("medsam2.runs.RunDirectory.update", full)
    watch.close()
    assert starter.closed
    assert "No space left on device" in caplog.text


def test_a_folder_of_another_run_that_waits_is_left_alone(jobs: list[Job], manifest: Manifest) -> None:
    jobs[0].directory.update(run_id="another", state="queued")
    watch = Watch(Starter(), [], manifest)
    watch.start(jobs[:1])
    watch.close()
    assert jobs[0].directory.status()["state"] == "queued"


def test_jobs_that_nobody_will_start_are_not_queued(jobs: list[Job], manifest: Manifest) -> None:
    Watch(Starter(), [], manifest).start(jobs[:1])
    assert jobs[0].directory.look()["state"] == "queued"
    head = jobs[0].directory.status()["head"]
    jobs[0].directory.update(head=head | {"born": "1"})  # another process had this number
    assert jobs[0].directory.look()["state"] == "new"
    Watch(Starter(stays=True), [], manifest).start(jobs[1:2])
    assert jobs[1].directory.status()["head"] == {}


def test_jobs_in_the_queue_of_an_earlier_command_are_picked_up(jobs: list[Job], manifest: Manifest) -> None:
    first = Watch(Starter(stays=True), [], manifest)
    first.start(jobs)  # and its head dies
    assert list(manifest.labels().values()) == ["slurm 7_0", "slurm 7_1", "slurm 7_2"]
    begin(jobs[1])
    again = Starter(stays=True, queue={"7_0", "7_1"})
    watch = Watch(again, [], manifest)
    watch.start(jobs)
    assert [job[0] for job in again.started] == ["seed=2"]
    assert watch.poll() == []
    again.queue = {"7_0"}  # 7_1 was lost
    assert watch.poll() == []
    assert [job[0] for job in again.started] == ["seed=2", "seed=1"]


def test_force_clears_when_the_job_starts_and_not_again_when_it_is_requeued(
    config: Compose, manifest: Manifest
) -> None:
    job = Job(("seed=0", "force=true"), config("seed=0", "force=true"))
    end(job)
    starter = Starter()
    Watch(starter, [], manifest).start([job])
    assert starter.started == [["seed=0", "force=true", "force=false"]]
    assert (job.directory.status()["state"], job.directory.status()["value"]) == ("queued", 0.5)
    begin(job)
    job.directory.log_metrics({"val/dice/mean": 0.25}, 1)
    assert "value" not in job.directory.status()
    begin(job)  # requeued
    assert [line["epoch"] for line in job.directory.metrics()] == [1]


def test_a_forced_job_that_never_started_is_what_it_was(config: Compose, manifest: Manifest) -> None:
    job = Job(("seed=0", "force=true"), config("seed=0", "force=true"))
    end(job)
    watch = Watch(Starter(), [], manifest)
    watch.start([job])
    head = job.directory.status()["head"]
    job.directory.update(head=head | {"born": "1"})  # the head was killed
    assert job.directory.look()["state"] == "finished"
    watch.close()  # or ended in order
    status = job.directory.status()
    assert (status["state"], status["value"]) == ("finished", 0.5)
    begin(job)
    assert job.directory.status()["value"] == 0.5


@pytest.mark.parametrize("stays", [False, True])
def test_ctrl_c_ends_the_jobs_that_end_with_the_head_and_leaves_the_others(
    jobs: list[Job], stays: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    starter = Starter(stays=stays)
    monkeypatch.setattr("medsam2.sweep.watch.time", SimpleNamespace(sleep=interrupt, time=time.time))
    with caplog.at_level(logging.WARNING), pytest.raises(SystemExit) as caught:
        run_sweep(jobs, ["seed"], starter)
    assert caught.value.code == 130
    assert [handle.cancelled for handle in starter.handles] == [not stays] * 3
    assert starter.closed
    assert ("3 jobs go on; `python run.py task=status sweep=" in caplog.text) is stays


def test_a_launcher_that_cannot_submit_says_so_and_nothing_is_lost(
    jobs: list[Job], caplog: pytest.LogCaptureFixture
) -> None:
    class Refusing(Starter):
        def start(self, jobs: Sequence[Sequence[str]], first: int) -> list[Handle]:
            raise RuntimeError("sbatch: error: invalid partition specified: gpuu")

    with pytest.raises(SystemExit) as caught:
        run_sweep(jobs, ["seed"], Refusing(stays=True))
    assert caught.value.code == 1
    assert "could not start 3 jobs: sbatch: error: invalid partition" in caplog.text
    assert "not started: seed=0 (the same command goes on with it)" in caplog.text
    assert [job.directory.status()["state"] for job in jobs] == ["new"] * 3
