"""Trained runs by their id, for an evaluation that takes their weights."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from medsam2.config import environment_path
from medsam2.config_check import ConfigError
from medsam2.manifest import Manifest
from medsam2.runs import RunDirectory

BEST = "best.pt"  # as training.checkpoint calls it, which would bring torch along
SHOWN = 12  # runs that an error lists


def find_run(output_dir: Path, name: Any) -> RunDirectory:
    """A run by its id, the beginning of its id or of its folder's name, or by its folder.

    Raises:
        ConfigError: there is none, or several begin so; the message lists what there is, what is most like it first.
    """
    if isinstance(name, float):
        raise ConfigError(
            [f"run={name}: was read as a number; write the id in two kinds of quotes: 'run=\"1e23456789\"'"]
        )
    text = str(name)
    folder = environment_path(text)
    if "/" in text or (folder / "status.json").is_file():
        return _in_folder(folder)
    known = {status["run_id"]: path for path, status in _walk(output_dir) if "run_id" in status}
    found = {k: path for k, path in known.items() if text and (k.startswith(text) or path.name.startswith(text))}
    if text in known:
        found = {text: known[text]}
    if len(found) == 1:
        return RunDirectory(next(iter(found.values())))
    said = "several runs begin so" if found else f"no such run below {output_dir / 'runs'}"
    raise ConfigError([f"run={text}: {said}; {_list(text, found or known)}"])


def _in_folder(folder: Path) -> RunDirectory:
    if not (folder / "status.json").is_file():
        said = "is no run's folder, for it has no status.json; give one such as outputs/runs/DATASET/MODEL-ID"
        raise ConfigError([f"run={folder}: {said}"])
    return RunDirectory(folder)


def _walk(output_dir: Path) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """Every run directory with its status: those that sweeps name, wherever they are, then those below `runs/`."""
    named = [Path(job["run_dir"]) for one in Manifest.every(output_dir) for job in one.read().get("jobs", [])]
    for folder in [*named, *_below(output_dir / "runs")]:
        directory = RunDirectory(folder)
        if (folder / "status.json").is_file():
            yield folder, directory.status()


def _below(folder: Path) -> Iterator[Path]:
    for path, folders, files in os.walk(folder):
        if "status.json" in files:
            folders.clear()  # a run holds no runs
            yield Path(path)


def _list(text: str, runs: Mapping[str, Path]) -> str:
    """What there is, a line each; what is most like the text comes first."""
    if not runs:
        return "there is none: train one first, or give its folder"
    shown = {f"{path.parent.name}/{path.name}": run_id for run_id, path in sorted(runs.items())}
    names = [*shown.values(), *(name.split("/")[-1] for name in shown)]
    near = get_close_matches(text, names, n=5, cutoff=0.5)
    ranked = sorted(shown, key=lambda name: not any(one in name for one in near))
    more = f"\n    … and {len(shown) - SHOWN} more" if len(shown) > SHOWN else ""
    return "there are" + "".join(f"\n    {shown[name]}  {name}" for name in ranked[:SHOWN]) + more


def describe_origin(cfg: DictConfig) -> dict[str, Any]:
    """The run.json of the run whose weights an evaluation takes."""
    return RunDirectory(environment_path(cfg.model.checkpoint).parent.parent).description()


def find_origin(cfg: DictConfig) -> dict[str, Any] | None:
    """What an evaluation says of that run: run_id, dataset, split_hash, checkpoint. None where it takes none."""
    if cfg.get("run") is None:
        return None
    about = describe_origin(cfg)
    known = {key: about.get(key) for key in ("run_id", "dataset", "split_hash")}
    return known | {"checkpoint": about.get("params", {}).get("model.checkpoint")}


def check_evaluable(directory: RunDirectory) -> None:
    """Raises ConfigError unless the run is finished and has the weights of its best epoch."""
    status, about = directory.look(), directory.description()
    name = f"run={status.get('run_id', directory.path)}"
    if status["state"] != "finished":
        raise ConfigError(
            [f"{name}: is {status['state']}, not finished; give its own command again first ({directory.path})"]
        )
    if (directory.checkpoints / BEST).is_file():
        return
    if origin := about.get("origin"):
        raise ConfigError(
            [f"{name}: is itself an evaluation and has no weights; it evaluates run={origin['run_id']}: use that"]
        )
    raise ConfigError([f"{name}: has no {directory.checkpoints / BEST}; the weights were deleted, or never trained"])
