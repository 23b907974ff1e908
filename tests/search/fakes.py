"""Stands where jobs and launchers stand: runs end as a test says, without training."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from optuna import Study

from medsam2.runs import RunDirectory
from medsam2.search.heads import Head
from medsam2.search.search import Search, Settings
from medsam2.search.space import parse_space
from medsam2.search.study import create_study
from medsam2.sweep import Job

SPACE = "optim.lr=tag(log,interval(1e-5,1e-3))"
Result = Callable[[Job], Mapping[str, Any]]


def settings(n_trials: int, **changes: Any) -> Settings:
    values = {"parallel": 1, "sampler": "tpe", "seed": 0, "pruner": None, "prune_after": 3}
    return Settings(n_trials=n_trials, **values | changes)


def finished(value: float) -> dict[str, Any]:
    return {"state": "finished", "value": value, "metrics": {"test/dice/mean": value - 0.01}}


def by_rate(job: Job) -> dict[str, Any]:
    """The larger the learning rate, the better."""
    return finished(1000 * job.cfg.optim.lr)


def small_config(output: Path, overrides: Sequence[str]) -> DictConfig:
    """The part of a job's config that a search looks at: to compose it whole takes a second."""
    values = {key: OverridesParser.create().parse_override(f"a={text}").value() for key, _, text in splits(overrides)}
    cfg = OmegaConf.create({"optim": {"lr": 0.001}, "task": {"_partial_": True}, "force": False, "dataset": {}})
    for key, value in values.items():
        OmegaConf.update(cfg, key, value)
    cfg.run_id = f"lr{cfg.optim.lr}"
    cfg.run_dir = str(output / "runs" / cfg.run_id)
    return cfg


def splits(overrides: Sequence[str]) -> list[tuple[str, str, str]]:
    return [override.partition("=") for override in overrides]


def write_status(folder: Path, run_id: str, status: Mapping[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    RunDirectory(folder).update(run_id=run_id, **status)


class FakeWatch:
    """Jobs that end at once, or when the test lets them."""

    def __init__(self, result: Result = by_rate, hold: bool = False):
        self.result = result
        self.hold = hold
        self.started: list[Job] = []
        self.open: list[Job] = []

    @property
    def active(self) -> int:
        return len(self.open)

    def start(self, jobs: Sequence[Job]) -> None:
        self.started += jobs
        self.open += jobs

    def poll(self) -> list[tuple[Job, dict[str, Any]]]:
        """One job at a time ends: the one that was started last, where the test lets it."""
        if self.hold or not self.open:
            return []
        return [self.end(self.open[-1])]

    def end(self, job: Job) -> tuple[Job, dict[str, Any]]:
        self.open.remove(job)
        write_status(job.directory.path, job.cfg.run_id, self.result(job))
        return job, job.directory.look()

    def stop(self) -> None:
        self.open.clear()


def build_search(
    folder: Path,
    watch: Any,
    head: Head | None = None,
    n_trials: int = 3,
    overrides: Sequence[str] = (SPACE,),
    storage: str | None = None,
    **changes: Any,
) -> Search:
    """A search of learning rates, its study in `folder` or in a database."""
    space = parse_space(OverridesParser.create().parse_overrides(list(overrides)))
    folder.mkdir(parents=True, exist_ok=True)
    study = create_study(storage or str(folder / "study.journal"), "s")

    def compose(number: int, values: Mapping[str, Any]) -> Job:
        line = space.overrides(values)
        return Job(line, small_config(folder.parent, line))

    return Search(study, space, settings(n_trials, **changes), compose, watch, head or Head(folder), folder)


def states(study: Study) -> dict[str, int]:
    return dict(Counter(trial.state.name for trial in study.trials))


def rates(watch: FakeWatch) -> list[str]:
    return [job.overrides[-1] for job in watch.started]


def slowly(job: Job) -> dict[str, Any]:
    """A trial long enough for another head to come."""
    time.sleep(0.3)
    return by_rate(job)


def serve(folder: Path, storage: str | None, names: Any) -> None:
    signal.alarm(120)
    with Head(folder) as head:
        watch = FakeWatch(slowly)
        build_search(folder, watch, head, n_trials=8, parallel=2, storage=storage).run()
        names.put(rates(watch))


def check_two_heads(folder: Path, storage: str | None = None) -> None:
    """Two processes open one new study at once and share its eight trials."""
    folder.mkdir()
    context = multiprocessing.get_context("fork")
    names = context.Queue()
    processes = [context.Process(target=serve, args=(folder, storage, names)) for _ in range(2)]
    for process in processes:
        process.start()
    shares = [names.get(timeout=120) for _ in processes]
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert states(build_search(folder, FakeWatch(), storage=storage).study) == {"COMPLETE": 8}
    assert all(shares)  # both did something
    assert len({rate for share in shares for rate in share}) == sum(map(len, shares)) == 8  # and nothing twice
