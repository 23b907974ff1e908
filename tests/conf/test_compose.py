"""The config tree is code: every choice, experiment and sweep composes, and every `_target_` fits its signature."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from medsam2.config import PROJECT, group_help, register_resolvers
from medsam2.config_bind import target_problems
from medsam2.config_check import range_problems, unknown_keys
from medsam2.search.space import parse_space
from tests.fakes import compose_config

CONF = PROJECT / "conf"
GOLDEN = Path(__file__).parent / "default.yaml"
NOT_CHOICES = ("model/base", "model/tuning/base", "dataset/base")
NEEDED = {"model/release": ["model=sam2_t"], "task": ["model=sam2_t"]}  # released files: SAM 2's sizes have them
ENVIRONMENT = {"MEDSAM2_OUTPUT_DIR": "o", "MEDSAM2_DATA_ROOT": "d", "MEDSAM2_CHECKPOINT_DIR": "c"}


def groups() -> dict[str, list[str]]:
    """Group -> its choices, read from the folders."""
    found: dict[str, list[str]] = {"sweeps": [f.stem for f in sorted((PROJECT / "sweeps").glob("*.yaml"))]}
    for folder in sorted(f for f in CONF.rglob("*") if f.is_dir()):
        name = folder.relative_to(CONF).as_posix()
        choices = sorted(f.stem for f in folder.glob("*.yaml"))
        if choices and name not in NOT_CHOICES:
            found[name] = choices
    return found


CHOICES = [(group, choice) for group, choices in groups().items() for choice in choices]
OURS = [g for g in groups() if not g.startswith("hydra/")]


@pytest.fixture(autouse=True)
def config_dir(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for key, value in ENVIRONMENT.items():
        monkeypatch.setenv(key, value)
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def problems(cfg: DictConfig) -> list[str]:
    plain = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    assert isinstance(plain, dict)
    return unknown_keys(plain) + range_problems(plain) + target_problems(plain)


@pytest.mark.parametrize(("group", "choice"), CHOICES, ids=lambda v: v)
def test_every_choice_composes_and_binds(group: str, choice: str) -> None:
    cfg = compose("config", overrides=[*NEEDED.get(group, []), f"{group}={choice}"])
    assert problems(cfg) == []


@pytest.mark.parametrize("group", OURS)
def test_every_group_leaves_a_choice(group: str) -> None:
    assert len(groups()[group]) >= 2


@pytest.mark.parametrize("sweep", groups()["sweeps"])
def test_every_job_of_a_sweep_composes_to_a_run_of_its_own(sweep: str) -> None:
    params = compose("config", overrides=[f"sweeps={sweep}"], return_hydra_config=True).hydra.sweeper.params
    parsed = OverridesParser.create().parse_overrides([f"{k}={v}" for k, v in params.items()])
    if any(o.is_interval_sweep() for o in parsed):
        space = parse_space(parsed)
        jobs = [space.overrides(corner) for corner in space.corners()]
    else:
        jobs = list(itertools.product(*map(_values, parsed)))
    GlobalHydra.instance().clear()  # compose_config has its own, and composes each set of groups once
    run_ids = set()
    for job in jobs:
        cfg = compose_config(*job)
        run_ids.add(cfg.run_id)
        assert problems(cfg) == []
    assert len(run_ids) == len(jobs) > 1


def _values(override: Override) -> list[str]:
    if not override.is_sweep_override():
        return [str(override.input_line)]
    return [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]


@pytest.mark.parametrize("file", sorted((PROJECT / "sweeps").glob("*.yaml")), ids=lambda f: f.stem)
def test_a_sweep_says_its_question_command_and_cost(file: Path) -> None:
    head = [line for line in file.read_text().splitlines() if line.startswith("#")]
    for word in ("Question:", "Command:", "Cost:"):
        assert any(word in line for line in head), word


def test_the_default_is_the_one_that_was_reviewed() -> None:
    """Run with UPDATE_GOLDEN=1 after a wanted change; the diff of default.yaml is then part of the review."""
    text = OmegaConf.to_yaml(compose("config"), resolve=False)
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.write_text(text)
    assert text == GOLDEN.read_text()


def test_help_has_a_line_for_every_choice() -> None:
    lines = group_help().splitlines()
    for group, choices in groups().items():
        assert group in lines
        below = lines[lines.index(group) + 1 :]
        for choice in choices:
            line = next(entry for entry in below if entry.split()[:1] == [choice])
            assert len(line.split()) > 2, f"{group}={choice} has no description: its file needs a first comment"


@pytest.mark.parametrize("flags", [["--help"], ["--cfg", "job"], ["model=sam2_x"]], ids=" ".join)
def test_looking_imports_nothing_heavy(flags: list[str]) -> None:
    code = f"""
import runpy, sys
sys.argv = ["run.py", *{flags!r}]
try:
    runpy.run_path({str(PROJECT / "run.py")!r}, run_name="__main__")
finally:
    heavy = [m for m in ("torch", "monai", "mlflow", "numpy", "pandas", "submitit") if m in sys.modules]
    print("HEAVY", heavy, file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "HEAVY []" in done.stderr, done.stderr


@pytest.mark.parametrize("file", ["README.md", "CONTRIBUTING.md", "docs/configuration.md", "docs/medical_sam2.md"])
def test_documents_name_choices_that_exist(file: str) -> None:
    """Every `group=choice` of the documents, in code or in a table, is one the tree has."""
    known = groups()
    for group, values in re.findall(r"(?<![\w./-])([a-z_/]+)=([a-z0-9_,]+)", (PROJECT / file).read_text()):
        for value in values.split(",") if group in known else []:
            assert value in {*known[group], "basic", "submitit_local"}, f"{file}: {group}={value}"


def test_the_readme_has_no_blank_left_to_fill_in() -> None:
    assert not re.search(r"\b[A-Z]+_[A-Z]+_[A-Z]+\b", (PROJECT / "README.md").read_text())


LEGACY = {  # what makes each experiment what its name says
    "medical_sam2_refuge": {
        "model.name": "sam2_s",
        "model.release.version": "2.0",
        "model.mask_selection.dynamic": False,
        "image_size": 1024,
        "batch_size": 4,
        "optim._target_": "torch.optim.Adam",
        "optim.lr": 1e-4,
        "optim.betas": [0.9, 0.999],
        "optim.eps": 1e-8,
        "optim.weight_decay": 0.0,
        "optim.amsgrad": False,
        "loss.pos_weight": 2.0,
        "dataset.structures": ["cup"],
        "dataset.release.cropped": True,
        "prompt._target_": "medsam2.data.prompts.ClickPrompt",
        "prompt.num_clicks": 1,
        "study": "REFUGE_MedSAM2",
        "prompt.legacy_transposed": False,
        "method.policy": "self_sorting",
        "method.size": 16,
        "method.prompt_share": 0.2,
        "method.evaluation": "support",
        "metrics.overlays": True,
        "metrics.probability": 0.5,
        "task.legacy_select_on_test": False,
        "trainer.max_epochs": 100,
        "trainer.val_every": 1,
        "trainer.tf32": True,
    },
    "medical_sam2_refuge_legacy": {
        "model.mask_selection.dynamic": True,
        "model.network.pixel_std": [1.0, 1.0, 1.0],
        "loss.pos_weight": 2.0,
        "prompt.legacy_transposed": True,
        "method.policy": "legacy",
        "method.num_memories": 4,
        "method.replacement": True,
        "method.prompt_share": 0.2,
        "method.eval_prompt_share": 0.2,
        "method.evaluation": "stream",
        "method.train_memory": False,
        "method.legacy_similarity": True,
        "method.legacy_empty_bank": True,
        "method.legacy_nearest": True,
        "method.iou": 0.0,
        "metrics.probability": 0.6225,
        "task.legacy_select_on_test": True,
    },
    "medical_sam2_btcv": {
        "dataset.name": "btcv",
        "model.release.version": "2.0",
        "model.tuning.groups.memory.rate": 0.1,
        "method.frames": 4,
        "method.legacy_gated_loss": False,
        "metrics.unit": "volume",
        "loss.pos_weight": 2.0,
    },
    "medical_sam2_btcv_legacy": {
        "model.tuning.groups.memory.rate": 1e-4,
        "method.frames": 2,
        "method.clips_per_volume": 1,
        "method.legacy_quarter": True,
        "method.legacy_absent_oracle": True,
        "method.legacy_gated_loss": True,
        "metrics.unit": "slice",
        "metrics.legacy_logit_thresholds": [0.1, 0.3, 0.5, 0.7, 0.9],
        "trainer.legacy_bf16_weights": True,
        "trainer.precision": "bf16",
        "task.legacy_select_on_test": True,
    },
}


@pytest.mark.parametrize("experiment", LEGACY)
def test_medical_sam2s_recipes_are_what_they_say(experiment: str) -> None:
    cfg = compose("config", overrides=[f"experiment={experiment}"])
    found = {key: OmegaConf.select(cfg, key) for key in LEGACY[experiment]}
    assert found == LEGACY[experiment]


@pytest.mark.parametrize("choice", ["image", "memory_fifo", "memory_none", "volume"])
def test_a_recipe_can_be_held_against_another_method(choice: str) -> None:
    cfg = compose("config", overrides=["experiment=medical_sam2_refuge", f"method={choice}", "loss=dice_ce"])
    alone = compose("config", overrides=[f"method={choice}"])
    assert cfg.method == alone.method
    assert problems(cfg) == []
