"""What an evaluation takes from elsewhere: a trained run's configuration and weights, or a folder of others' masks.

A composed config with `run=ID` is completed before anything looks at its run_id: from the run's stored config comes
whatever decides numbers, its best weights become the checkpoint. What concerns this machine, the dataset that was named
and everything else that was typed stays as composed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, flag_override
from omegaconf.errors import OmegaConfBaseException

from medsam2.build import no_other_app
from medsam2.config import PROJECT, environment_path
from medsam2.config_check import FREE_KEYS, ConfigError
from medsam2.origin import BEST, check_evaluable, describe_origin, find_run

EVALUATE = "medsam2.tasks.evaluate.evaluate"

# What stays as composed: this machine, and what is asked for.
OURS = {
    "paths", "tracking", "device", "num_workers", "num_threads", "force", "study", "cache", "task", "sweep", "job",
    "run", "predictions", "name", "labels", "run_id", "run_dir", "trainer.devices",
}  # fmt: skip
# What says how a network is trained, or which one it is: not to be asked of one that is trained.
TRAINS = ("optim", "scheduler", "loss", "transforms", "target", "model", "experiment", "debug", "trainer")
MAY_CHANGE = ("model.mask_selection", "trainer.devices", "trainer.precision", "trainer.tf32")
ASKS = ("method", "prompt", "image_size", "batch_size")  # what masks that are there already have no use for
STORED_METHOD = {"_target_": "medsam2.methods.stored.StoredMasks", "_partial_": True, "_convert_": "all"}
STORED_PROMPT = {"_target_": "medsam2.data.stored.StoredPrompt"}
SHOWN = 256  # pixels of the images that masks of others are shown on
NOTHING: Any = object()  # not None, which is a value


def only_evaluates(cfg: DictConfig) -> bool:
    """Whether the task trains nothing and asks for test cases alone."""
    return bool(cfg.task.get("_target_") == EVALUATE)


def adopt(cfg: DictConfig, overrides: Sequence[str] = ()) -> None:
    """Completes a composed config, in place, where `run` or `predictions` is given; any other stays as it is.

    Args:
        overrides: what was typed, as on the command line; it wins over the trained run.

    Raises:
        ConfigError: no such run, or one that cannot be evaluated; a setting that makes no sense with it.
    """
    given = [key for key in ("run", "predictions") if cfg.get(key) is not None]
    typed = typed_keys(overrides) if given else []
    if problems := _misuse(cfg, given, typed):
        raise ConfigError(problems)
    with flag_override(cfg, ["readonly", "struct"], False):
        if given == ["run"]:
            _adopt_run(cfg, typed)
        elif given:
            _adopt_masks(cfg)


def adopted_choices(cfg: DictConfig, chosen: Mapping[str, str], overrides: Sequence[str]) -> dict[str, str]:
    """What was chosen of each config group, of which an adopted config has most from elsewhere."""
    if cfg.get("predictions") is not None:
        return {k: v for k, v in chosen.items() if k.split("/")[0] not in (*TRAINS, *ASKS)} | {"model": cfg.name}
    if cfg.get("run") is None:
        return dict(chosen)
    typed = {key.replace(".", "/") for key in typed_keys(overrides)} | OURS
    theirs = {k: v for k, v in describe_origin(cfg).get("choices", {}).items() if k not in typed}
    return {k: v for k, v in chosen.items() if k in typed} | theirs


def typed_keys(overrides: Sequence[str]) -> list[str]:
    """The dotted keys that overrides set, add or delete; a group is the key of its node."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    return list(dict.fromkeys(str(one.key_or_group).replace("/", ".") for one in parsed))


# ------------------------------------------------------------------------------------------------- refusals


def _misuse(cfg: DictConfig, given: Sequence[str], typed: Sequence[str]) -> list[str]:
    """What cannot be asked for together."""
    if not given:
        idle = [key for key in ("name", "labels") if cfg.get(key) is not None]
        return [f"{key}={cfg[key]}: is about masks of others; give predictions=DIR too" for key in idle]
    if len(given) == 2:
        return [f"run={cfg.run} predictions={cfg.predictions}: score a trained run or masks that are there, not both"]
    if not only_evaluates(cfg):
        return [_wrong_task(cfg, given[0])]
    senseless = TRAINS if given == ["run"] else (*TRAINS, *ASKS)
    found = [_explain(key, given[0]) for key in typed if _is_below(key, senseless) and not _is_below(key, MAY_CHANGE)]
    return found + (_wrong_masks(cfg) if given == ["predictions"] else [])


def _wrong_task(cfg: DictConfig, key: str) -> str:
    trains = key == "run" and str(cfg.task.get("_target_", "")).endswith(".train")
    more = "; to train on from its weights give model.checkpoint=RUN_DIR/checkpoints/best.pt, with its model, instead"
    return f"{key}={cfg[key]}: goes with task=evaluate" + more * trains


def _explain(key: str, given: str) -> str:
    if given == "predictions":
        return f"{key}: masks that are there already are scored; leave it out"
    if key.split(".")[0] == "model":
        return f"{key}: a trained run is evaluated with its own model and weights; leave it out, or leave run=… out"
    return f"{key}: says how a network is trained, and the run is trained already; leave it out"


def _wrong_masks(cfg: DictConfig) -> list[str]:
    found = []
    if not isinstance(cfg.name, str) or not re.fullmatch(r"[\w][\w.+-]*", cfg.name):
        found.append(f"name={cfg.name}: say who made the masks, in one word without spaces or slashes: name=nnunet")
    if not environment_path(str(cfg.predictions)).is_dir():
        found.append(f"predictions={cfg.predictions}: no such folder; it holds a mask for each test case")
    return found


def _is_below(key: str, prefixes: Sequence[str]) -> bool:
    return f"{key}.".startswith(tuple(f"{prefix}." for prefix in prefixes))


# --------------------------------------------------------------------------------------------- a trained run


def _adopt_run(cfg: DictConfig, typed: Sequence[str]) -> None:
    directory = find_run(environment_path(cfg.paths.output_dir), cfg.run)
    check_evaluable(directory)
    best = str(directory.checkpoints / BEST)
    if cfg.model.checkpoint == best:
        return  # it is complete already
    stored: Any = OmegaConf.to_container(OmegaConf.load(directory.path / "config.yaml"))
    stored["dataset"] = _move(stored["dataset"], stored["paths"])
    ours = OURS | {"dataset"} if "dataset" in typed else OURS
    _complete(cfg, {key: value for key, value in stored.items() if key not in ours}, [*ours, *typed])
    OmegaConf.update(cfg, "model", {"checkpoint": best, "sha256": None, "strict": True})
    OmegaConf.update(cfg, "model.tuning.lora", None)  # best.pt holds the sum
    cfg.run = directory.status()["run_id"]


def _move(node: Any, paths: Mapping[str, str]) -> Any:
    """The settings of a dataset with the folders of the machine they were stored on replaced by this one's."""
    if isinstance(node, dict):
        return {key: _move(value, paths) for key, value in node.items()}
    for key in ("data_root", "cache_dir", "output_dir"):
        if isinstance(node, str) and f"{node}/".startswith(f"{paths.get(key)}/"):
            return f"${{paths.{key}}}{node.removeprefix(paths[key])}"
    return node


def _complete(cfg: DictConfig, stored: Mapping[str, Any], kept: Sequence[str]) -> None:
    """Everything stored into the config, but for the keys that are kept as composed."""
    composed: Any = OmegaConf.to_container(cfg)
    name, links = stored["model"].get("name"), list[str]()
    model = composed["model"] if name == composed["model"].get("name") else _compose_model(name)
    for key, value in stored.items():
        now = model if key == "model" else composed.get(key)
        cfg[key] = _overlay(now, value, key, links)
    _check_links(cfg, stored, links)
    for key in kept:
        if key.split(".")[0] not in stored:
            continue  # untouched
        value = _find(composed, key)
        if value is not NOTHING:
            OmegaConf.update(cfg, key, value, merge=False, force_add=True)
        elif _find(cfg, key) is not NOTHING:  # deleted by ~key
            parent, _, name = key.rpartition(".")
            del (OmegaConf.select(cfg, parent) if parent else cfg)[name]


def _overlay(now: Any, then: Any, path: str, links: list[str]) -> Any:
    """What was stored in place of what is composed, which stays where it says whence a value comes; see _check_links.

    A key that was not stored stays in nodes that build no object; an object has its own default for it.
    """
    if isinstance(now, str) and "${" in now:
        links.append(path)
        return now
    if not isinstance(then, dict) or not isinstance(now, dict):
        return then
    both = {key: _overlay(now.get(key), value, f"{path}.{key}", links) for key, value in then.items()}
    return now | both if path in FREE_KEYS else both


def _check_links(cfg: DictConfig, stored: Mapping[str, Any], links: list[str]) -> None:
    """Replaces interpolations that give another value than was stored, the outer ones first.

    The others stay, so that what is typed reaches every place that it would reach in a training.
    """
    left = sorted(links, key=lambda link: link.count("."))
    while wrong := next((link for link in left if _resolve(cfg, link) != _find(stored, link)), None):
        OmegaConf.update(cfg, wrong, _find(stored, wrong), merge=False)
        left.remove(wrong)


def _resolve(cfg: DictConfig, key: str) -> Any:
    try:
        value = OmegaConf.select(cfg, key)
    except OmegaConfBaseException:
        return NOTHING
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def _find(node: Any, key: str) -> Any:
    """The value of a dotted key as it is written, NOTHING where there is none."""
    for part in key.split("."):
        if not isinstance(node, Mapping | DictConfig) or part not in node:
            return NOTHING
        node = node[part]
    return node


@cache
def _compose_model(name: str) -> dict[str, Any] | None:
    """A choice of conf/model as it is written, None where there is none of this name."""
    if not (PROJECT / "conf" / "model" / f"{name}.yaml").is_file():
        return None
    with no_other_app(), initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
        model: Any = OmegaConf.to_container(compose("config", [f"model={name}"]).model)
    return dict(model)


# ---------------------------------------------------------------------------------------------------- masks


def _adopt_masks(cfg: DictConfig) -> None:
    """Scoring masks takes no network: what would build or train one goes."""
    trainer = OmegaConf.to_container(cfg.trainer, resolve=True)
    for key in ("loss", "optim", "scheduler", "transforms"):
        cfg.pop(key, None)
    cfg.trainer, cfg.image_size, cfg.batch_size, cfg.device = trainer, SHOWN, 1, "cpu"
    cfg.model = {"name": cfg.name, "checkpoint": None}
    cfg.method = STORED_METHOD | {"folder": str(environment_path(cfg.predictions)), "labels": cfg.labels}
    cfg.prompt = STORED_PROMPT
