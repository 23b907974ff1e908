"""The composition root: checks a config, builds its objects once and in order, hands them to the task.

Nothing else in the project turns configuration into objects.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, flag_override

from medsam2.adopt import adopt, adopted_choices, only_evaluates, typed_keys
from medsam2.build import build_method, build_optimizer
from medsam2.claims import restarts
from medsam2.code import code_hash
from medsam2.config import NOT_IDENTITY, environment_path, identity
from medsam2.config_check import ConfigError, check, is_command
from medsam2.distributed import rank, world_size
from medsam2.failures import CodeChanged, explain, leave_word, record_failure, state_after
from medsam2.origin import find_origin
from medsam2.ranks.tasks import check_tasks, follow, follows, leading, run_ranks
from medsam2.ranks.worker import Link
from medsam2.redact import RedactingFormatter, protect_logging
from medsam2.runs import RunBusy, RunDirectory
from medsam2.tracking.base import Offline, RunInfo, Tracker
from medsam2.training.stop import Preempted, Pruned, Stop

if TYPE_CHECKING:
    from medsam2.data.cache import Cache
    from medsam2.data.prompts import Prompter
    from medsam2.data.records import Dataset
    from medsam2.methods.base import Method
    from medsam2.tasks.parts import Outcome, Parts, Training
    from medsam2.training.trainer import Trainer

log = logging.getLogger("medsam2")


def run(cfg: DictConfig) -> float:
    """One job from config to stored result; returns the value a search maximises, NaN if it failed inside a sweep.

    A finished run returns its stored value, an interrupted one goes on. An exception is recorded in the run directory
    and in the tracker; inside a sweep it ends here, so that the other jobs run, and the sweep names it at its end.
    A command is called with its own arguments; it leaves no run, and its value is 0.

    A signal that asks the run to leave (USR2, TERM, HUP, Ctrl-C) is obeyed when its state is saved, and then handed on
    to who listened before: submitit requeues the job.
    """
    protect_logging()
    try:
        adopt(cfg, _overrides())
    except ConfigError as error:
        return _fail(cfg, error)
    with flag_override(cfg, ["readonly", "struct"], False):
        cfg.run_id, cfg.run_dir = cfg.run_id, cfg.run_dir  # once: each look at them would hash the whole config
    stop = Stop(stays=[signal.SIGTERM] if os.environ.get("SUBMITIT_EXECUTOR") == "slurm" else [])
    try:
        return _call(cfg) if is_command(cfg) else _run_unless_finished(cfg, stop)
    except Preempted as error:
        return _leave(cfg, stop, error.signum)
    except KeyboardInterrupt:
        if _in_sweep():
            raise
        if is_command(cfg):
            log.warning("interrupted")
        raise SystemExit(130) from None
    except SystemExit as error:  # somebody's sys.exit would end the whole sweep
        if not _in_sweep() or is_command(cfg):
            raise
        return _fail(cfg, RuntimeError(f"the job called sys.exit({error.code})"))
    except Exception as error:
        return _fail(cfg, error)


def _fail(cfg: DictConfig, error: Exception) -> float:
    if isinstance(error, RunBusy) and _in_sweep():
        log.info("another process computes this run; the sweep waits for it")
        return math.nan
    explain(error)
    of_dataset = getattr(error, "kind", "missing rater") != "missing rater" and cfg.get("predictions") is None
    if of_dataset and not is_command(cfg):
        log.error("the same command with task=check names everything that is wrong with this dataset")
    if not _in_sweep():
        raise SystemExit(1) from None
    if not is_command(cfg):
        leave_word(RunDirectory(environment_path(cfg.run_dir)), cfg.run_id, error)
    return math.nan


def _leave(cfg: DictConfig, stop: Stop, signum: int) -> float:
    """Ends the process as the signal would have, once whoever listened before has done its part."""
    try:
        stop.hand_on(signum)
    except KeyboardInterrupt:
        if _in_sweep():
            raise
    except Exception as refused:  # submitit: too many time limits, or no scontrol on this node
        return _fail(cfg, RuntimeError(f"saved, but not requeued: {refused}"))
    raise SystemExit(128 + signum)


def _in_sweep() -> bool:
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def finished_value(cfg: DictConfig) -> float | None:
    """The stored value of a config's run if it is finished, else None; a command is never finished.

    Raises:
        RunDirectoryError: the run was made from other data than the dataset's files are now.
    """
    if is_command(cfg):
        return None
    directory = RunDirectory(environment_path(cfg.run_dir))
    status = directory.look()
    if cfg.force or status["state"] != "finished" or status.get("run_id") != cfg.run_id:
        return None
    try:
        fingerprint = instantiate(cfg.dataset).fingerprint()
    except Exception as error:
        log.debug("data not looked at: %s", error)  # a result stays valid where its data is no longer mounted
    else:
        directory.check_data(fingerprint)
    return float(status["value"])


def _call(cfg: DictConfig) -> float:
    """A command: to build its task is to call it. There is no data, run directory or tracker."""
    check(cfg)
    own = [key for key in typed_keys(_overrides()) if key in cfg.task]
    if unread := [key for key in own if not OmegaConf.is_interpolation(cfg.task, key)]:
        raise ConfigError([f"{key}: this task does not read it; give task.{key}=…" for key in unread])
    instantiate(cfg.task)
    return 0.0


def _run_unless_finished(cfg: DictConfig, stop: Stop) -> float:
    directory = RunDirectory(environment_path(cfg.run_dir))
    check_tasks(cfg.trainer.devices)
    if follows():
        return _follow(cfg, directory, stop)
    with leading(directory.path):
        return _lead(cfg, directory, stop)


def _follow(cfg: DictConfig, directory: RunDirectory, stop: Stop) -> float:
    """The part of a task of a SLURM job that is not the first, which claims and records the run."""
    try:
        with stop.listen():
            follow(directory.path, _do_share, _pack(cfg, directory), stop)
    except (Exception, Preempted) as error:
        log.warning("this task ends: %s", error)
    return math.nan


def _lead(cfg: DictConfig, directory: RunDirectory, stop: Stop) -> float:
    with stop.listen():
        stored = finished_value(cfg)
        if stored is not None:
            log.info("%s is finished (force=true runs it again): %s", directory.path, summary_line(directory))
            return stored
        _check_code(cfg)
        check(cfg)
        with directory.claim(wait=2.0 if _in_sweep() else 10.0):
            stop.check()
            stored = finished_value(cfg)  # another process may have finished it while this one looked and waited
            return _run(cfg, directory, stop) if stored is None else stored


def _check_code(cfg: DictConfig) -> None:
    if cfg.job.code not in (None, code_hash()):
        raise CodeChanged(
            "code: medsam2/, conf/ or run.py was edited after this sweep was submitted, and its runs would not be "
            "comparable; give the sweep's command again, or bring the code back"
        )


def _run(cfg: DictConfig, directory: RunDirectory, stop: Stop) -> float:
    config = OmegaConf.to_yaml(cfg, resolve=True)
    directory.open(cfg.run_id, config, fresh=bool(cfg.force) and not restarts(), params=identity(cfg))
    tracker = build_tracker(cfg)
    with _log_file(directory.path / "run.log"):
        start = time.time() - directory.status().get("seconds", 0.0)
        try:
            outcome = _do_task(cfg, directory, tracker, stop)
        except BaseException as error:
            state = state_after(error)
            record_failure(directory, state, error, time.time() - start)
            tracker.finish(state)
            if isinstance(error, Pruned):
                return math.nan
            raise
        seconds = time.time() - start
        directory.update(
            state="finished", value=outcome.value, metrics=outcome.metrics, seconds=seconds, error=None, reason=None
        )
        log.info("finished in %.0f s: %s", seconds, summary_line(directory))
        tracker.finish("finished")
    return outcome.value


def _do_task(cfg: DictConfig, directory: RunDirectory, tracker: Tracker, stop: Stop) -> Outcome:
    dataset, splits = _build_dataset(cfg, directory)
    origin = find_origin(cfg)
    directory.describe(**asdict(_run_info(cfg, directory, splits, origin)), **({"origin": origin} if origin else {}))
    tracker_id = tracker.start(directory) or directory.status().get("mlflow_run_id")
    directory.update(state="running", mlflow_run_id=tracker_id)
    if cfg.trainer.devices > 1:
        devices, packed = cfg.trainer.devices, _pack(cfg, directory)
        shared: Outcome = run_ranks(directory.path, _do_share, packed, devices, stop, tracker.update)
        return shared
    return _perform(cfg, build_parts(cfg, dataset, directory, tracker, stop))


def _perform(cfg: DictConfig, parts: Parts) -> Outcome:
    """The task, and what it cost."""
    from medsam2.training.cost import forget_peak, measure_cost

    model, device = parts.method.model, parts.runtime.device
    forget_peak(device)
    cost = measure_cost(model, device)  # of what is trained now: low-rank updates are merged at the end
    outcome: Outcome = instantiate(cfg.task)(parts)
    parts.directory.update(cost=cost | {"peak_memory": measure_cost(model, device)["peak_memory"]})
    return outcome


def _pack(cfg: DictConfig, directory: RunDirectory) -> tuple[Any, Path]:
    """What another process needs to take part in a run."""
    return OmegaConf.to_container(cfg, resolve=True), directory.path


def _do_share(link: Link, plain: dict[str, Any], path: Path) -> Outcome:
    """The task as one of several processes does it, each with all parts on a device of its own."""
    cfg = OmegaConf.create(plain)
    return _perform(cfg, build_parts(cfg, instantiate(cfg.dataset), RunDirectory(path), _Told(link), link.stop))


class _Told(Offline):
    """The tracker of one of several processes: the one that started them has it."""

    def __init__(self, link: Link):
        self.link = link

    def update(self) -> None:
        self.link.send("update")


def summary_line(directory: RunDirectory) -> str:
    """The run's scores on one line, e.g. `test dice 0.912 (zero-shot 0.640); …/runs/chest_ct/…`."""
    metrics = directory.status().get("metrics", {})
    zero_shot = metrics.get("zero_shot/dice/mean")
    before = "" if zero_shot is None else f" (zero-shot {zero_shot:.3f})"
    return f"test dice {metrics.get('test/dice/mean', math.nan):.3f}{before}; {directory.path}"


# ------------------------------------------------------------------------------------------------ building


def build_tracker(cfg: DictConfig) -> Tracker:
    tracker: Tracker = instantiate(cfg.tracking)(output_dir=environment_path(cfg.paths.output_dir))
    return tracker


def _build_dataset(cfg: DictConfig, directory: RunDirectory) -> tuple[Dataset, str]:
    """The dataset, with its split checked and stored, and the hash of that split."""
    from medsam2.data.splits import check_disjoint, save_split, split_hash
    from medsam2.doctor.survey import quick_check

    dataset: Dataset = instantiate(cfg.dataset)
    records = dataset.records()
    check_disjoint(records, allow_shared_patient=dataset.allow_shared_patient)
    fingerprint = dataset.fingerprint()
    directory.check_data(fingerprint)
    save_split(records, directory.path / "split.csv")
    directory.update(data=fingerprint)
    counts = {split: sum(r.split == split for r in records) for split in ("train", "val", "test")}
    needed = ("test",) if only_evaluates(cfg) else tuple(counts)
    if not all(counts[split] for split in needed):
        use = "test needs some" if len(needed) == 1 else "each of the three needs some"
        raise ValueError(f"dataset={dataset.name}: a split has no cases ({counts}); {use}")
    quick_check(dataset)
    shown = ", ".join(f"{count} {split}" for split, count in counts.items())
    log.info("%s: %s cases; %s", dataset.name, shown, ", ".join(dataset.structures))
    return dataset, split_hash(records)


def _run_info(cfg: DictConfig, directory: RunDirectory, splits: str, origin: dict[str, Any] | None) -> RunInfo:
    status = directory.status()
    where = f"{origin['dataset']} → {cfg.dataset.name}" if origin else cfg.dataset.name
    tags = {"run_dir": str(directory.path), "data_fingerprint": status["data"]}
    tags |= {"evaluates": origin["run_id"]} if origin else {}
    tags |= {} if cfg.predictions is None else {"predictions": str(environment_path(cfg.predictions))}
    return RunInfo(
        run_id=cfg.run_id,
        name=f"{cfg.model.name} {where} seed {cfg.seed} ({cfg.run_id})",
        study=cfg.study,
        params=identity(cfg),
        tags=tags | ({"in_sweep": cfg.job.sweep} if cfg.job.sweep else {}),
        dataset=cfg.dataset.name,
        split_hash=splits,
        begun=directory.description().get("begun", status["started"]),
        parent_run_id=cfg.job.parent_run_id,
        choices=adopted_choices(cfg, _choices(), _overrides()),
        typed=typed_keys(_overrides()),
    )


def _choices() -> dict[str, str]:
    """What was chosen of each config group that decides numbers: names for what the identity spells out."""
    chosen = HydraConfig.get().runtime.choices if HydraConfig.initialized() else {}
    named = {str(group): str(choice) for group, choice in chosen.items() if choice and "hydra/" not in str(group)}
    return {group: choice for group, choice in named.items() if group not in NOT_IDENTITY}


def _overrides() -> list[str]:
    """What was given on the command line, or by a sweep, as it was written."""
    return list(map(str, HydraConfig.get().overrides.task)) if HydraConfig.initialized() else []


def build_parts(
    cfg: DictConfig, dataset: Dataset, directory: RunDirectory, tracker: Tracker, stop: Stop | None = None
) -> Parts:
    """Every object of a run, each built once: data, network, method, evaluator, and what trains where a task does."""
    import torch

    from medsam2.tasks.parts import Parts, RunLogger, unjudged
    from medsam2.training.precision import build_runtime, seed_everything

    seed_everything(cfg.seed)
    if cfg.num_threads is not None:
        torch.set_num_threads(cfg.num_threads)
    trainer = instantiate(cfg.trainer)
    runtime = build_runtime(cfg.device, trainer.precision, trainer.tf32)
    prompt = instantiate(cfg.prompt)
    method = build_method(cfg, dataset.structures, getattr(prompt, "num_tokens", 0))
    if world_size() > 1 and (method.in_order or getattr(method, "bank", None) is not None):
        raise ValueError("trainer.devices: this method answers from one memory; use trainer.devices=1")
    method.to(runtime.device)
    directory.check_format(str(runtime.dtype).removeprefix("torch."), runtime.device)
    cache = instantiate(cfg.cache)
    training = None if only_evaluates(cfg) else _build_training(cfg, dataset, method, trainer, prompt, cache)
    if training is None:
        method.model.requires_grad_(False)
    return Parts(
        dataset=dataset,
        prompt=prompt,
        cache=cache,
        method=method,
        trainer=trainer,
        training=training,
        evaluator=instantiate(cfg.metrics),
        runtime=runtime,
        directory=directory,
        logger=RunLogger(directory, tracker),
        run_id=cfg.run_id,
        image_size=cfg.image_size,
        batch_size=cfg.batch_size,
        num_workers=cfg.num_workers,
        seed=cfg.seed,
        stop=stop or Stop(),
        judge=instantiate(cfg.job.trial) if cfg.job.trial and rank() == 0 else unjudged,
    )


def _build_training(
    cfg: DictConfig, dataset: Dataset, method: Method, trainer: Trainer, prompt: Prompter, cache: Cache
) -> Training:
    """What only a training needs: its cases as the network sees them, the optimiser and its schedule."""
    from medsam2.data.loader import build_loader
    from medsam2.data.records import of_split
    from medsam2.tasks.parts import Training

    optimizer = build_optimizer(cfg, method)
    cases = method.build_cases(
        dataset=dataset,
        records=of_split(dataset.records(), "train"),
        prompt=prompt,
        image_size=cfg.image_size,
        seed=cfg.seed,
        transforms=instantiate(cfg.transforms),
        training=True,
        cache=cache,
        targets=instantiate(cfg.target),
    )
    loader = build_loader(cases, cfg.batch_size, cfg.num_workers, shuffle=True, seed=cfg.seed)
    scheduler = instantiate(cfg.scheduler)(
        optimizer=optimizer, steps_per_epoch=trainer.steps_per_epoch(loader), max_epochs=trainer.max_epochs
    )
    return Training(loader, optimizer, scheduler)


# -------------------------------------------------------------------------------------------------- edges


@contextmanager
def _log_file(path: Path) -> Iterator[None]:
    """Everything logged meanwhile also goes to the end of a file."""
    handler = logging.FileHandler(path)
    handler.setFormatter(RedactingFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")))
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()
