"""The loop of a search: tells the study what has ended, asks it for the next trial, and starts that as a job.

A trial starts as soon as another ends. What the study says is running and nobody serves is run again with its own
values: they are the same run, which goes on where it stopped.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from filelock import FileLock
from hydra.errors import HydraException

from medsam2.config_check import ConfigError, check
from medsam2.experiment import finished_value
from medsam2.runs import RunDirectoryError
from medsam2.search.heads import Head, is_gone, lives
from medsam2.search.space import Space
from medsam2.search.study import build_sampler, patiently
from medsam2.sweep import Job

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

log = logging.getLogger(__name__)

PAUSE = 0.5  # seconds between two looks at the jobs
IDLE = 5.0  # seconds between two looks at the study while there is nothing to start
ASKING = 60.0  # seconds after which a trial without a head was asked for by one that was killed at that moment
TRANSIENT = ("killed", "disk", "code")  # reasons of a failure that say nothing about the trial's values


class Watch(Protocol):
    """Jobs at work."""

    @property
    def active(self) -> int:
        """Jobs that were started and not yet handed out by `poll`."""

    def start(self, jobs: Sequence[Job]) -> None: ...

    def poll(self) -> list[tuple[Job, dict[str, Any]]]:
        """The jobs that ended since the last call, each with its status."""


@dataclass(frozen=True)
class Settings:
    """What `hydra.sweeper` says; parallel is the number of trials at a time."""

    n_trials: int
    parallel: int
    sampler: str
    seed: int
    pruner: str | None
    prune_after: int


class Ended(NamedTuple):
    """A trial that ended under this head, its values as typed, and how its run ended."""

    number: int
    values: str
    folder: Path
    status: Mapping[str, Any]


def _nothing() -> None: ...


class Search:
    """One head's part in a study.

    Args:
        compose: the job of a trial, from its number and values.
        folder: the search's own.
        here: whether the jobs run on this machine, where their device can be looked for.
    """

    def __init__(
        self,
        study: Study,
        space: Space,
        settings: Settings,
        compose: Callable[[int, Mapping[str, Any]], Job],
        watch: Watch,
        head: Head,
        folder: Path,
        here: bool = True,
    ):
        self.study = study
        self.space = space
        self.settings = settings
        self.compose = compose
        self.watch = watch
        self.head = head
        self.lock = FileLock(folder / ".search.lock")
        self.here = here
        self.waiting: dict[str, list[FrozenTrial]] = {}  # run id -> the trials that will have its result
        self.failed: list[Ended] = []
        self.begun: Callable[[], None] = _nothing
        self.left: list[Ended] = []  # neither finished nor failed by themselves: the same command goes on with them

    def run(self, begun: Callable[[], None] = _nothing, look: Callable[[], None] = _nothing) -> None:
        """Until there are `n_trials`, counting those that were finished or pruned before and those that failed here.

        Args:
            begun: called when a trial has its run, before that is started.
            look: called again and again.
        """
        self.begun = begun
        idle_until = 0.0
        while True:
            look()
            ended = self.watch.poll()
            for job, status in ended:
                for trial in self.waiting.pop(job.cfg.run_id, []):
                    self._end(trial, job.directory.path, status)
            if self.watch.active < self.settings.parallel and (ended or time.monotonic() >= idle_until):
                if self._next():
                    continue
                if not self.watch.active and not self._others_at_work():
                    return
                idle_until = time.monotonic() + IDLE
            time.sleep(PAUSE)

    def hand_back(self) -> None:
        """Lets any head take the trials that did not end here."""
        for trial in self._running():
            if trial.number in self._served():
                self._mark(trial, head="")

    # --------------------------------------------------------------------------------------------- trials

    def _next(self) -> bool:
        """Starts a trial that nobody serves, or else a new one; False if there is nothing left to start."""
        with self.lock:  # heads of one machine look and mark one after another
            trial = self._orphan() or self._ask()
            if trial is None:
                return False
            self._mark(trial, head=self.head.name)
        self._begin(trial)
        return True

    def _served(self) -> set[int]:
        return {trial.number for trials in self.waiting.values() for trial in trials} | {e.number for e in self.left}

    def _orphan(self) -> FrozenTrial | None:
        """A trial whose head is gone."""
        for trial in self._running():
            head = trial.user_attrs.get("head")
            gone = is_gone(head) if head is not None else _age(trial) > ASKING
            if trial.number in self._served() or not gone:
                continue
            if set(trial.params) == set(self.space.axes):
                return trial
            self._tell(trial, state="FAIL")  # its head was killed while it asked
        return None

    def _ask(self) -> FrozenTrial | None:
        trials = patiently(lambda: self.study.get_trials(deepcopy=False))
        counted = sum(trial.state.name in ("RUNNING", "COMPLETE", "PRUNED") for trial in trials)
        if counted + len(self.failed) >= self.settings.n_trials:
            return None
        self.study.sampler = build_sampler(self.settings.sampler, self.settings.seed, len(trials))
        number = patiently(lambda: self.study.ask(dict(self.space.axes))).number
        return patiently(lambda: self.study.get_trials(deepcopy=False)[number])

    def _begin(self, trial: FrozenTrial) -> None:
        try:
            job = self.compose(trial.number, trial.params)
        except HydraException as error:
            self._end(trial, Path(), {"state": "failed", "reason": "config", "error": str(error)})
            return
        self._mark(trial, run_id=job.cfg.run_id, run_dir=str(job.directory.path))
        self.begun()
        if job.cfg.run_id in self.waiting:
            self.waiting[job.cfg.run_id].append(trial)
        elif (status := self._known(job, again="run_dir" in trial.user_attrs)) is not None:
            self._end(trial, job.directory.path, status)
        else:
            self.waiting[job.cfg.run_id] = [trial]
            log.info("trial %d: %s", trial.number, self._shown(trial))
            self.watch.start([job])

    def _known(self, job: Job, again: bool) -> Mapping[str, Any] | None:
        """The status of a job that need not be started: finished, pruned in this study, or misconfigured."""
        status = job.directory.status()
        try:
            if finished_value(job.cfg) is not None or (again and status["state"] == "pruned"):
                return status
            check(job.cfg, self.here)
        except (ConfigError, RunDirectoryError) as error:
            return {"state": "failed", "reason": "config", "error": str(error)}
        return None

    def _end(self, trial: FrozenTrial, folder: Path, status: Mapping[str, Any]) -> None:
        state, value = status["state"], status.get("value")
        ended = Ended(trial.number, self._shown(trial), folder, status)
        if state == "finished" and value is not None and not math.isnan(value):
            self._tell(trial, value=value)
            log.info("trial %d: %.4f", trial.number, value)
        elif state == "pruned":
            self._tell(trial, state="PRUNED")
            log.info("trial %d: pruned", trial.number)
        elif state in ("failed", "finished") and status.get("reason") not in TRANSIENT:
            self._tell(trial, state="FAIL")
            self.failed.append(ended)
        else:
            self.left.append(ended)

    # ---------------------------------------------------------------------------------------------- study

    def _running(self) -> list[FrozenTrial]:
        from optuna.trial import TrialState

        return patiently(lambda: self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)))

    def _others_at_work(self) -> bool:
        heads = {trial.user_attrs.get("head", "") for trial in self._running()} - {self.head.name}
        return any(map(lives, heads))

    def _tell(self, trial: FrozenTrial, value: float | None = None, state: str | None = None) -> None:
        from optuna.trial import TrialState

        to = TrialState[state] if state else None
        patiently(lambda: self.study.tell(trial.number, value, to, skip_if_finished=True))

    def _mark(self, trial: FrozenTrial, **attributes: str) -> None:
        for key, value in attributes.items():
            patiently(partial(self.study._storage.set_trial_user_attr, trial._trial_id, key, value))

    def _shown(self, trial: FrozenTrial) -> str:
        return " ".join(f"{key}={text}" for key, text in self.space.texts(trial.params).items())


def _age(trial: FrozenTrial) -> float:
    """Seconds since it was asked for."""
    return time.time() - trial.datetime_start.timestamp() if trial.datetime_start else math.inf
