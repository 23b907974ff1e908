"""What Hydra composes, before any work: resolvers, the run's identity and the text of `--help`.

Importing this module must stay cheap (no torch, MONAI or MLflow): `python run.py --help` goes through it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

PROJECT = Path(__file__).resolve().parent.parent

# What cannot change a run's numbers, or is counted under another key. Everything else is part of what the run is.
NOT_IDENTITY = {
    "hydra", "paths", "tracking", "sweep", "job", "run_id", "run_dir", "num_workers", "num_threads", "device", "force",
    "study", "cache", "dataset.root", "dataset.cache_dir", "model.sha256", "model.strict", "model.tuning.lr",
    "model.tuning.max_epochs", "trainer.checkpoint_minutes", "trainer.devices", "metrics.overlays",
}  # fmt: skip

# Keys that came later, each with the value under which a run is what it was without the key.
CAME_LATER = {"run": None, "predictions": None, "name": None, "labels": None, "metrics.convention": "medsam2"}

SCORED = ("dataset", "metrics", "task", "seed", "predictions", "labels", "model.name")  # what masks of others come with


def register_resolvers() -> None:
    """Makes `${project:}`, `${package:}` and `${run_id:}` known to OmegaConf."""
    OmegaConf.register_new_resolver("project", lambda sub="": str(PROJECT / sub), replace=True)
    OmegaConf.register_new_resolver("package", find_in_package, replace=True)
    OmegaConf.register_new_resolver("run_id", lambda *, _root_: run_id(_root_), replace=True)


def find_in_package(file: str) -> str:
    """The path of `package/.../file`, which is not imported; as it came if there is no such package."""
    package, _, inside = file.partition("/")
    spec = importlib.util.find_spec(package)
    folders = spec.submodule_search_locations if spec else None
    return str(Path(folders[0]) / inside) if folders else file


# ------------------------------------------------------------------------------------------------ identity


def identity(cfg: DictConfig) -> dict[str, Any]:
    """The part of a composed config that decides a run's numbers, resolved, as flat `dotted.key: value`.

    Paths are left out, so that a run keeps its identity on another machine; a checkpoint counts by its content.
    """
    flat: dict[str, Any] = {}
    for key in map(str, cfg):
        if key in NOT_IDENTITY:
            continue
        value = cfg[key]
        if isinstance(value, DictConfig | ListConfig):
            value = OmegaConf.to_container(value, resolve=True)
        flat.update(flatten(value, key))
    if flat.get("model.checkpoint"):
        # never by model.sha256: that is what the file should be, and a finished run would answer for any other file
        flat["model.checkpoint"] = _content_id(environment_path(flat["model.checkpoint"]))
    if flat.get("dataset.split_file"):
        flat["dataset.split_file"] = _content_id(environment_path(flat["dataset.split_file"]))
    if flat.get("predictions"):
        flat["predictions"] = _folder_id(environment_path(flat["predictions"]))
        flat = {k: v for k, v in flat.items() if k.startswith(tuple(f"{s}." for s in SCORED)) or k in SCORED}
    # a release decides which file is loaded, and that counts by its content
    return {k: v for k, v in sorted(flat.items()) if _counts(k, v)}


def _counts(key: str, value: Any) -> bool:
    later = key in CAME_LATER and value == CAME_LATER[key]
    return not later and key not in NOT_IDENTITY and not key.startswith("model.release.")


def run_id(cfg: DictConfig) -> str:
    """Ten hex digits that name the run: equal for equal identities, on every machine."""
    canonical = json.dumps(identity(cfg), sort_keys=True, default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()[:10]


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one mapping with dotted keys; an empty mapping leaves no key."""
    if not isinstance(value, dict):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat.update(flatten(item, f"{prefix}.{key}" if prefix else str(key)))
    return flat


def _content_id(path: Path) -> str:
    """A name for a file's content: its size and 16 samples of 64 KiB, cheap for files of a gigabyte."""
    if not path.is_file():
        return path.name
    size, chunk = path.stat().st_size, 1 << 16
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for i in range(16):
            file.seek(max(0, (size - chunk) * i // 15))
            digest.update(file.read(chunk))
    return digest.hexdigest()[:16]


def _folder_id(folder: Path) -> str:
    """A name for the masks that a folder holds, and for what says which value in them is what."""
    from medsam2.data.stored import find_files

    digest = hashlib.sha256()
    for file in find_files(folder):
        digest.update(f"{file.relative_to(folder).as_posix()}\t{_content_id(file)}\n".encode())
    return digest.hexdigest()[:16]


# ---------------------------------------------------------------------------------------------------- help


HELP = """\
medsam2: compare SAM 2 models, prompts, optimisers and methods on medical images

One run:     python run.py dataset=chest_ct model=sam2_nano
Elsewhere:   python run.py task=evaluate run=RUN_ID dataset=phantom    (docs/evaluating.md)
A sweep:     python run.py -m model=sam2_s,sam2_b dataset=refuge paths.data_root=DIR
Named sweep: python run.py sweeps=adam_betas
Your data:   python run.py task=check dataset=folder dataset.root=DIR dataset.name=mine    (docs/datasets.md)

Any value can be overridden: seed=1 image_size=256 optim.lr=3e-5 model.checkpoint=null force=true

Groups (group=choice), with a line for each choice:

{groups}
The whole configuration of a run: python run.py --cfg job    Hydra's own flags: python run.py --hydra-help"""


def help_text() -> str:
    """What `python run.py --help` prints."""
    return HELP.format(groups=group_help())


def group_help() -> str:
    """Every config group with its choices, each with the first comment line of its file."""
    folders = [f for f in sorted((PROJECT / "conf").rglob("*")) if f.is_dir()] + [PROJECT / "sweeps"]
    lines = []
    for folder in folders:
        name = "sweeps" if folder.name == "sweeps" else folder.relative_to(PROJECT / "conf").as_posix()
        choices = sorted(folder.glob("*.yaml"))
        if not choices or folder.name == "base":
            continue
        lines.append(name)
        lines += [f"  {c.stem:20} {_headline(c)}" for c in choices]
    return "\n".join(lines) + "\n"


def _headline(file: Path) -> str:
    comments = [line for line in file.read_text().splitlines() if line.startswith("#")]
    text = next((c.lstrip("# ") for c in comments if "@package" not in c), "")
    return text.removeprefix("Question:").removeprefix("Shows:").strip()


def environment_path(path: str | os.PathLike[str]) -> Path:
    """An absolute path with `~` expanded; relative ones start at the folder the command was called from."""
    return Path(path).expanduser().absolute()
