"""The jobs of a sweep before any of them starts: composed, told apart by their identity, checked."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from omegaconf import DictConfig, flag_override

from medsam2.adopt import adopt
from medsam2.config import environment_path
from medsam2.config_check import ConfigError, check
from medsam2.experiment import finished_value
from medsam2.runs import RunDirectory, RunDirectoryError

log = logging.getLogger("medsam2.sweep")


@dataclass(frozen=True)
class Job:
    """One combination of a sweep: its command-line overrides and the config they compose to.

    problems: why the config could not be completed by what `run` or `predictions` names.
    """

    overrides: tuple[str, ...]
    cfg: DictConfig
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        try:
            adopt(self.cfg, self.overrides)
        except ConfigError as error:
            self.problems.extend(error.problems)
        with flag_override(self.cfg, ["readonly", "struct"], False):
            self.cfg.run_id, self.cfg.run_dir = self.cfg.run_id, self.cfg.run_dir  # hashed once, not at every look

    @property
    def directory(self) -> RunDirectory:
        return RunDirectory(environment_path(self.cfg.run_dir))

    @property
    def name(self) -> str:
        """What was typed for this job alone."""
        return " ".join(self.overrides)


def unique(jobs: Sequence[Job]) -> list[Job]:
    """Each run identity once, in order: combinations that compose to the same run are one run."""
    first: dict[str, Job] = {}
    for job in jobs:
        first.setdefault(job.cfg.run_id, job)
    folders = {job.directory.path for job in first.values()}
    if len(folders) < len(first):
        log.error("run_dir: %d different runs would share %d folders; leave run_dir out", len(first), len(folders))
        raise SystemExit(1)
    return list(first.values())


def check_all(jobs: Sequence[Job], here: bool) -> list[Job]:
    """The jobs that are not finished. Nothing starts while one is wrong; a problem is named once, with its jobs.

    Args:
        here: whether the jobs run on this machine; elsewhere, each checks for itself that its device is there.
    """
    waiting, problems = [], dict[str, list[str]]()
    for job in jobs:
        try:
            if job.problems:
                raise ConfigError(job.problems)
            if finished_value(job.cfg) is not None:
                continue
            waiting.append(job)
            check(job.cfg, here)
        except ConfigError as error:
            for problem in error.problems:
                problems.setdefault(problem, []).append(job.name)
        except RunDirectoryError as error:
            problems.setdefault(str(error), []).append(job.name)
    if problems:
        every = [p if len(where) == len(jobs) else f"{p} [{'; '.join(where)}]" for p, where in problems.items()]
        log.error("%s", ConfigError(every))
        raise SystemExit(1)
    return waiting
