"""One check of a composed config, before any work is done, that reports every mistake at once."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from medsam2.config import PROJECT, environment_path
from medsam2.config_bind import target_problems, unknown_problems

Number = int | float


class ConfigError(ValueError):
    """One or more mistakes in a configuration; the message lists them all, each with its key and remedy."""

    def __init__(self, problems: list[str]):
        self.problems = problems
        head = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__(f"{head} in this configuration:\n" + "\n".join(f"  - {p}" for p in problems))


def check(cfg: DictConfig, here: bool = True) -> None:
    """Raises ConfigError with everything that is wrong in `cfg`, before any work is done.

    Looked at: values out of range, unknown keys, every `_target_` against its signature (partials too), files and
    folders that are missing, an output folder that cannot be written, a device that is not there.
    """
    problems = find_problems(cfg, here)
    if problems:
        raise ConfigError(problems)


def is_command(cfg: DictConfig) -> bool:
    """Whether the task is called with its own arguments alone; a task with `_partial_` is given a run's parts."""
    return not cfg.task.get("_partial_", False)


def find_problems(cfg: DictConfig, here: bool = True) -> list[str]:
    """Everything wrong in a composed config, one line of text each; an empty list where all is well.

    The device is looked for where the run is `here`, on this machine. Of a command only its own settings are built.
    """
    try:
        plain: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        return [f"{error.full_key or 'config'}: {str(error).splitlines()[0]}"]
    unknown = unknown_keys(plain)
    if is_command(cfg):
        own = target_problems({"task": plain["task"]})
        # check(dataset=${dataset}): what was typed is dataset.key
        return unknown + range_problems(plain) + [problem.replace("task.dataset.", "dataset.") for problem in own]
    targets = target_problems(plain)
    found = unknown + range_problems(plain) + targets + tuning_problems(plain) + file_problems(plain)
    found += share_problems(plain) + prompt_problems(plain)
    if here:
        found += device_problems(plain["device"], _select(plain, "trainer.devices", 1))
    built: dict[str, Any] = {}
    for key in (
        "prompt",
        "target",
        "metrics",
        "cache",
        "dataset",
    ):  # cheap to build, and they know more about their own settings
        if not any(t.startswith(key) for t in targets + unknown):
            found += build_problems(cfg, key, built)
    trains = plain.get("run") is None and plain.get("predictions") is None  # else nothing is chosen by a validation
    if trains and not any(t.startswith(("metrics", "trainer", "dataset")) for t in found):
        found += monitor_problems(plain, built["dataset"].structures)
    return found


# -------------------------------------------------------------------------------------------------- ranges


def _number(test: Callable[[Number], bool]) -> Callable[[Any], bool]:
    return lambda v: isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) and test(v)


def _whole(test: Callable[[int], bool]) -> Callable[[Any], bool]:
    return lambda v: isinstance(v, int) and not isinstance(v, bool) and test(v)


def _betas(value: Any) -> bool:
    in_range = _number(lambda b: 0 <= b < 1)
    return isinstance(value, Sequence) and len(value) == 2 and all(map(in_range, value))


_POSITIVE = (_number(lambda v: v > 0), "must be a number > 0")
_NOT_NEGATIVE = (_number(lambda v: v >= 0), "must be a number >= 0")
_SHARE = (_number(lambda v: 0 <= v <= 1), "must be a number between 0 and 1")
_COUNT = (_whole(lambda v: v >= 1), "must be a whole number >= 1")

RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "seed": (_whole(lambda v: 0 <= v < 2**32), "must be a whole number between 0 and 2^32 - 1"),
    "image_size": (_whole(lambda v: v > 0 and v % 32 == 0), "must be a multiple of 32"),
    "batch_size": _COUNT,
    "num_workers": (_whole(lambda v: v >= 0), "must be a whole number >= 0"),
    "num_threads": _COUNT,
    "force": (lambda v: isinstance(v, bool), "must be true or false"),
    "study": (lambda v: isinstance(v, str) and bool(v.strip()), "must be a name"),
    "optim.lr": _POSITIVE,
    "optim.betas": (_betas, "must be two numbers, each at least 0 and below 1"),
    "optim.eps": _POSITIVE,
    "optim.weight_decay": _NOT_NEGATIVE,
    "scheduler.warmup_epochs": _NOT_NEGATIVE,
    "scheduler.min_factor": _SHARE,
    "loss.pos_weight": _POSITIVE,
    "method.rounds": _COUNT,
    "method.eval_rounds": _COUNT,
    "method.ground_truth_share": _SHARE,
    "method.iou": _NOT_NEGATIVE,
    "method.presence": _NOT_NEGATIVE,
    "method.size": _COUNT,
    "method.num_memories": _COUNT,
    "method.temperature": _NOT_NEGATIVE,
    "method.min_iou": _SHARE,
    "method.slack": _NOT_NEGATIVE,
    "method.prompt_share": _SHARE,
    "method.eval_prompt_share": _SHARE,
    "method.support_cases": _COUNT,
    "method.frames": _COUNT,
    "method.num_prompts": _COUNT,
    "method.step": _COUNT,
    "method.chunk": _COUNT,
    "method.max_objects": _COUNT,
    "model.tuning.lora.rank": _COUNT,
    "model.tuning.lora.alpha": _POSITIVE,
    "model.mask_selection.delta": _NOT_NEGATIVE,
    "model.mask_selection.thresh": _SHARE,
    "cache.max_gb": _POSITIVE,
    "trainer.max_epochs": _COUNT,
    "trainer.val_every": _COUNT,
    "trainer.accumulate": _COUNT,
    "trainer.devices": _COUNT,
    "trainer.clip_norm": _POSITIVE,
    "trainer.ema": (_number(lambda v: 0 < v < 1), "must be a number above 0 and below 1"),
    "trainer.checkpoint_minutes": _POSITIVE,
    "trainer.max_batches": _COUNT,
}
NULL_ALLOWED = {  # null: no limit, or off
    "num_threads",
    "method.num_prompts",
    "method.temperature",
    "method.support_cases",
    "method.max_objects",
    "trainer.clip_norm",
    "trainer.ema",
    "trainer.max_batches",
}


def range_problems(plain: Mapping[str, Any]) -> list[str]:
    """Values outside their range. A key that is absent, or null where a limit may be off, is not looked at."""
    found = []
    for key, (holds, text) in RULES.items():
        value = _select(plain, key, absent := object())
        if value is absent or (value is None and key in NULL_ALLOWED) or holds(value):
            continue
        if key == "image_size" and isinstance(value, int) and value > 0:
            low = max(32, value // 32 * 32)
            text += f": use {low} or {low + 32}"
        found.append(f"{key}={value}: {text}")
    return found


def _select(plain: Mapping[str, Any], key: str, default: Any = None) -> Any:
    node: Any = plain
    for part in key.split("."):
        node = node.get(part, default) if isinstance(node, Mapping) else default
    return node


# ---------------------------------------------------------------------------------------------------- keys

FREE_KEYS = {  # what nodes without a `_target_` may hold
    "model": {
        "name",
        "variant",
        "release",
        "checkpoint",
        "sha256",
        "strict",
        "image_size",
        "mask_selection",
        "tuning",
        "network",
    },
    "model.mask_selection": {"dynamic", "delta", "thresh"},
    "model.release": {
        "version",
        "file_prefix",
        "url",
        "size",
        "sha256",
        "add_tpos_enc_to_obj_ptrs",
        "proj_tpos_enc_in_obj_ptrs",
        "use_signed_tpos_enc_to_obj_ptrs",
        "no_obj_embed_spatial",
    },
    "model.tuning": {"groups", "lr", "max_epochs", "decay_all", "lora"},
    "paths": {"output_dir", "data_root", "checkpoint_dir", "cache_dir"},
    "job": {"sweep", "parent_run_id", "code", "trial"},
}


def unknown_keys(plain: Mapping[str, Any]) -> list[str]:
    """Keys that nothing reads: at the root and in the nodes that build no object."""
    primary = OmegaConf.load(PROJECT / "conf" / "config.yaml")
    assert isinstance(primary, DictConfig)
    groups = {str(g) for entry in primary.defaults if not isinstance(entry, str) for g in entry}
    found = unknown_problems("", set(plain), (groups | set(map(str, primary))) - {"defaults"})
    for prefix, known in FREE_KEYS.items():
        node = _select(plain, prefix)
        if isinstance(node, Mapping):
            found += unknown_problems(prefix + ".", set(node), known)
    return found


def tuning_problems(plain: Mapping[str, Any]) -> list[str]:
    """A group of parameters that is none; masks that are there already have no parameters."""
    from medsam2.optim import read_groups

    if plain.get("predictions") is not None:
        return []
    try:
        read_groups(_select(plain, "model.tuning.groups") or {})
    except ValueError as error:
        return [str(error)]
    return []


# ------------------------------------------------------------------------------------- device, files, data


def share_problems(plain: Mapping[str, Any]) -> list[str]:
    """Why `trainer.devices` cannot share a batch, or cannot compute the same as one of them."""
    devices, batch, frames = (_select(plain, key) for key in ("trainer.devices", "batch_size", "method.frames"))
    if not isinstance(devices, int) or devices < 2 or not isinstance(batch, int):
        return []
    found, key = [], f"trainer.devices={devices}"
    samples = max(1, batch // frames) if isinstance(frames, int) and frames > 0 else batch
    if samples % devices:
        clips = "" if frames is None else f", {samples} clips of method.frames={frames},"
        use = devices * (frames or 1)
        found.append(f"{key}: batch_size={batch}{clips} is shared out equally; use a multiple of {use}")
    if _select(plain, "method.policy", "none") != "none":
        found.append(f"{key}: a memory stream keeps one memory; use trainer.devices=1, or one run per device")
    for setting, value in (("batch", False), ("reduction", "mean")):
        if _select(plain, f"loss.{setting}", value) != value:
            found.append(f"{key}: a loss that is no mean over objects cannot be shared; leave loss.{setting} out")
    return found


def prompt_problems(plain: Mapping[str, Any]) -> list[str]:
    """A prompt that measures, where a model is to be trained."""
    prompt, task = (str(_select(plain, f"{key}._target_")) for key in ("prompt", "task"))
    if prompt.endswith(".ClickBudget") and not task.endswith(".evaluate"):
        return ["prompt=click_budget measures a model and trains none: use task=evaluate, or train with prompt=center"]
    return []


def device_problems(device: Any, devices: int = 1) -> list[str]:
    """A device that this machine does not have, or not so often. `auto` always fits: it takes what is there."""
    if device == "auto" and devices == 1:
        return []
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"

    try:
        kind = torch.device(device)
    except (RuntimeError, TypeError):
        return [f"device={device}: not a device; use auto, cpu, cuda, cuda:N or mps"]
    if kind.type == "cpu":
        return []
    if kind.type == "cuda":
        count = torch.cuda.device_count()
        if count == 0:
            return [f"device={device}: torch {torch.__version__} sees no CUDA GPU; use device=auto or device=cpu"]
        if (kind.index or 0) >= count:
            return [f"device={device}: there are {count} GPUs here, numbered from 0"]
        if devices > 1 and kind.index is not None:
            return [f"device={device} is one GPU, trainer.devices={devices} are several; use device=cuda"]
        if devices // int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > count:  # of which each starts one
            return [f"trainer.devices={devices}: GPUs that are visible here: {count}; ask for more, or use that number"]
        return []
    if devices > 1:
        return [f"trainer.devices={devices}: only GPUs of CUDA and processors share a run; use trainer.devices=1"]
    if kind.type == "mps" and torch.backends.mps.is_available():
        return []
    return [f"device={device}: not available on this machine; use device=auto"]


def file_problems(plain: Mapping[str, Any]) -> list[str]:
    """A checkpoint that is not there, an output folder that cannot be written."""
    found = []
    checkpoint = _select(plain, "model.checkpoint")
    if checkpoint and not environment_path(checkpoint).is_file():
        from medsam2.modeling.weights import missing_checkpoint_message

        found.append(missing_checkpoint_message(checkpoint))
    output = environment_path(plain["paths"]["output_dir"])
    try:
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output):
            pass
    except OSError as error:
        remedy = "choose a folder you may write to with paths.output_dir=DIR"
        found.append(f"paths.output_dir={output}: cannot be written ({error.strerror}); {remedy}")
    return found


def build_problems(cfg: DictConfig, key: str, built: dict[str, Any]) -> list[str]:
    """What an object finds wrong with its own settings, and a dataset with its files, which it lists.

    The object is left in ``built``.
    """
    try:
        built[key] = instantiate(cfg[key])
        if key == "dataset":
            built[key].records()
    except Exception as error:
        text = error.__cause__ if type(error).__name__ == "InstantiationException" and error.__cause__ else error
        return [f"{key}: {text}"]
    return []


def monitor_problems(plain: Mapping[str, Any], structures: Sequence[str]) -> list[str]:
    """A `trainer.monitor` that no validation of these structures will compute, or that is better when smaller."""
    from medsam2.evaluation.metrics import LOWER_IS_BETTER

    names = [name for name in _select(plain, "metrics.names") or [] if name not in LOWER_IS_BETTER]
    valid = [f"val/{name}/{of}" for name in names for of in ("mean", *structures)]
    monitor = _select(plain, "trainer.monitor")
    cure = f"use one of {', '.join(valid)}" if valid else "add dice to metrics.names"
    return [] if monitor in valid else [f"trainer.monitor={monitor}: {cure}"]
