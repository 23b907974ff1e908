"""The head of a search, from its command line to its table."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from medsam2.config import environment_path
from medsam2.config_check import ConfigError, is_command
from medsam2.experiment import build_tracker
from medsam2.manifest import Manifest
from medsam2.redact import protect_logging, redact
from medsam2.results.board import Board
from medsam2.search.heads import Head
from medsam2.search.report import name_failures, print_trials
from medsam2.search.search import Search, Settings
from medsam2.search.space import Space, parse_space
from medsam2.search.study import PRUNERS, SAMPLERS, create_study, patiently, require_optuna, storage_reference
from medsam2.sweep import Job, Watch, check_all, open_sweep

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

log = logging.getLogger("medsam2.search")

Compose = Callable[[Sequence[str]], Job]


def run_search(
    overrides: Sequence[Override], compose: Compose, launcher: Any, settings: Settings, storage: str | None
) -> None:
    """Runs trials until there are `n_trials`, then prints the table of all of them and the best on a line.

    Args:
        overrides: the command line, parsed; the sweeps in it are what is searched.
        compose: the job of a list of overrides.
        storage: `hydra.sweeper.storage` as it is written.

    Raises:
        SystemExit: 1 if a trial failed or something in the configuration is wrong, 130 if interrupted; the table
            comes first.
    """
    protect_logging()
    here = getattr(launcher, "here", isinstance(launcher, BasicLauncher))
    try:
        require_optuna()
        check_settings(settings)
        space = parse_space(overrides)
        corners = [compose(space.overrides(values)) for values in space.corners()]
        _refuse(corners)
        check_all(corners, here)
        folder = _folder(corners[0].cfg, space, settings)
        reference = storage_reference(storage, folder)
        folder.mkdir(parents=True, exist_ok=True)
        study = create_study(reference, folder.name)
    except ConfigError as error:
        log.error("%s", error)
        raise SystemExit(1) from None
    part = Part(study, space, settings, compose, corners[0], folder, reference)
    if code := part.serve(launcher, here):
        raise SystemExit(code)


def check_settings(settings: Settings) -> None:
    """Raises ConfigError naming every setting of the sweeper that is out of range."""
    rules = {
        "n_trials": (_whole(settings.n_trials, 1), "must be a whole number >= 1"),
        "parallel": (_whole(settings.parallel, 1), "must be a whole number >= 1"),
        "sampler": (settings.sampler in SAMPLERS, f"choose one of {', '.join(SAMPLERS)}"),
        "seed": (_whole(settings.seed, 0), "must be a whole number >= 0"),
        "pruner": (settings.pruner in (None, *PRUNERS), f"choose null or one of {', '.join(PRUNERS)}"),
        "prune_after": (_whole(settings.prune_after, 0), "must be a whole number >= 0"),
    }
    wrong = [
        f"hydra.sweeper.{key}={getattr(settings, key)}: {rule}" for key, (holds, rule) in rules.items() if not holds
    ]
    if wrong:
        raise ConfigError(wrong)


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and value >= least


def _refuse(corners: Sequence[Job]) -> None:
    """What composes, but is nothing to search over."""
    problems = []
    if any(is_command(job.cfg) for job in corners):
        problems.append("task: a command makes no run, and has no value to search by")
    elif len({job.directory.path for job in corners}) < len({job.cfg.run_id for job in corners}):
        problems.append("run_dir: the trials would share a folder; leave run_dir out")
    if any(job.cfg.force for job in corners):
        problems.append("force=true: a search goes on with its study; to start again, remove the study's file")
    if problems:
        raise ConfigError(problems)


def _folder(cfg: DictConfig, space: Space, settings: Settings) -> Path:
    """The search's folder, named after what is searched and how: more trials are the same search."""
    how = [settings.sampler, settings.seed, settings.pruner, settings.prune_after if settings.pruner else None]
    what = json.dumps([cfg.run_id, sorted((key, repr(axis)) for key, axis in space.axes.items()), how])
    return environment_path(cfg.paths.output_dir) / "sweeps" / hashlib.sha256(what.encode()).hexdigest()[:10]


class Part:
    """This process's part in a search.

    Args:
        sample: a job like those of the trials; what all of them share is read from it.
        where: the study's storage, as a job is told.
    """

    def __init__(
        self,
        study: Study,
        space: Space,
        settings: Settings,
        compose: Compose,
        sample: Job,
        folder: Path,
        where: str,
    ):
        self.study, self.space, self.settings, self.compose = study, space, settings, compose
        self.sample, self.where = sample, where
        self.manifest = Manifest(folder)

    def serve(self, launcher: Any, here: bool) -> int:
        """Runs trials until there are enough, and reports; returns the exit status."""
        extra, parent = self.open(launcher)
        watch = Watch(launcher, extra, self.manifest)
        board = Board(self.manifest, live=getattr(launcher, "stays", False))
        folder = self.manifest.folder
        with Head(folder) as head:
            search = Search(self.study, self.space, self.settings, self.job, watch, head, folder, here)

            def run_all() -> None:
                with board:
                    search.run(begun=lambda: self.list_jobs(watch), look=lambda: board.show([]))

            try:
                code = watch.mind(run_all)
            finally:
                search.hand_back()
                self.report(search, parent)
        return code or int(bool(search.failed or search.left))

    def open(self, launcher: Any) -> tuple[list[str], str | None]:
        """The manifest with the trials there are, and the parent run; the overrides that every job gets."""
        done = sum(trial.state.name in ("COMPLETE", "PRUNED") for trial in self.trials())
        log.info("search %s: %d trials, %d finished before", self.manifest.folder.name, self.settings.n_trials, done)
        jobs = self.manifest.read().get("jobs", [])
        more = done < self.settings.n_trials
        _, extra, parent = open_sweep([self.sample], list(self.space.axes), more, launcher, self.manifest.folder.name)
        self.manifest.update(jobs=jobs)
        return extra, parent

    def job(self, number: int, values: Mapping[str, Any]) -> Job:
        """The job of a trial; it is told where to report only if it may be given up there."""
        overrides = self.space.overrides(values)
        if self.settings.pruner is None:
            return self.compose(overrides)
        study, how = self.manifest.folder.name, f"pruner:{self.settings.pruner},prune_after:{self.settings.prune_after}"
        where = f"storage:{_quoted(self.where)},study:{_quoted(study)},number:{number}"
        return self.compose((*overrides, f"++job.trial={{_target_:medsam2.search.judge.Judge,{where},{how}}}"))

    def list_jobs(self, watch: Watch) -> None:
        """Keeps the runs of all trials in the manifest, which `task=status` reads."""
        labels = self.manifest.labels() | watch.labels
        jobs = {}
        for trial in self.trials():
            if "run_dir" not in trial.user_attrs:
                continue
            run_id, folder = trial.user_attrs["run_id"], trial.user_attrs["run_dir"]
            jobs[run_id] = {
                "run_id": run_id,
                "run_dir": folder,
                "overrides": [redact(o) for o in self.space.overrides(trial.params)],
            }
            jobs[run_id] |= {"job": labels[run_id]} if run_id in labels else {}
        self.manifest.update(jobs=list(jobs.values()))

    def report(self, search: Search, parent: str | None) -> None:
        files = print_trials(self.trials(), self.space, self.sample.cfg, self.manifest.folder)
        name_failures(search.failed, search.left)
        unfinished = search.left or search.waiting
        state = "failed" if search.failed else "interrupted" if unfinished else "finished"
        self.manifest.update(state=state)
        if parent:
            build_tracker(self.sample.cfg).log_sweep(parent, files, state)

    def trials(self) -> list[FrozenTrial]:
        return patiently(lambda: self.study.get_trials(deepcopy=False))


def _quoted(text: str) -> str:
    """As Hydra's grammar reads it back; a `${...}` stays what it is."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
