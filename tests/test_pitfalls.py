"""What is known to go wrong in scripts for Medical SAM 2, row by row, each held to what is right here.

The letters are those of docs/medical_sam2.md. A rows change the science, B rows keep people from using a program. Many have
deeper tests beside the code they concern; here each has the one that would have caught it.
"""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from medsam2.build import build_model
from medsam2.config import PROJECT
from medsam2.config_check import find_problems
from medsam2.data.prompts import BoxPrompt
from medsam2.data.seeding import stable_rng
from medsam2.modeling.weights import load_checkpoint
from medsam2.optim import build_groups
from tests.goldens import build_model as build_small

Compose = Callable[..., DictConfig]
MODULES = [
    ".".join(path.relative_to(PROJECT).with_suffix("").parts)
    for path in sorted((PROJECT / "medsam2").rglob("*.py"))
    if path.stem != "__init__"
]


# ------------------------------------------------------------------------------ B: what keeps people from using it


def test_b1_b20_importing_everything_parses_no_argument_touches_no_gpu_and_no_logger() -> None:
    code = f"""
import logging, sys
sys.argv = ["program", "-net", "sam2", "--no-such-option"]
import importlib
for name in {MODULES!r}: importlib.import_module(name)
import torch
from hydra.core.global_hydra import GlobalHydra
print(torch.cuda.is_initialized(), logging.getLogger().handlers, GlobalHydra.instance().is_initialized())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[-2] == "False [] False"


def test_b2_no_device_is_written_into_the_code() -> None:
    found = [
        f"{path.name}: {line.strip()}"
        for path in (PROJECT / "medsam2").rglob("*.py")
        for line in path.read_text().splitlines()
        if re.search(r"\.cuda\(\)|device=[\"']cuda", line)
    ]
    assert found == []


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("metrics.overlays=1", "metrics.overlays"),  # B4: a bool that is none
        ("method.roundz=2", "method.rounds"),  # B5: an option that nothing reads
        ("+distributed=true", "distributed"),  # B10: an option that would be ignored
        ("image_size=500", "480 or 512"),  # B6: a size that the network cannot have
        ("device=cuda:9", "device=cuda:9"),  # B2: a device that is not there
    ],
)
def test_b2_to_b10_a_setting_that_would_do_nothing_or_harm_is_refused(
    config: Compose, override: str, said: str
) -> None:
    (problem,) = find_problems(config(override.lstrip("+")))
    assert said in problem


@torch.no_grad()
@pytest.mark.parametrize("size", [64, 96, 160, 224])
def test_b6_every_multiple_of_32_is_a_size(size: int) -> None:
    torch.manual_seed(0)
    model = build_small("sam2_nano", size).eval()
    features = model.encode_image(torch.rand(1, 3, size, size))
    masks = model.decode(features, torch.tensor([[[3.0, 5.0]]]), torch.ones(1, 1)).low_res_masks
    assert features.embed.shape == (1, 128, size // 16, size // 16)
    assert masks.shape == (1, 1, size // 4, size // 4)


def test_b9_weights_inside_a_checkpoint_are_loaded_and_foreign_ones_refused(tmp_path: Path) -> None:
    torch.manual_seed(0)
    saved, fresh = build_small("sam2_nano", 64), build_small("sam2_nano", 64)
    torch.save({"model": saved.state_dict(), "epoch": 3}, tmp_path / "own.pt")
    torch.save({"model": {"encoder.weight": torch.ones(1)}}, tmp_path / "foreign.pt")
    load_checkpoint(fresh, tmp_path / "own.pt")
    assert all(torch.equal(a, b) for a, b in zip(saved.parameters(), fresh.parameters(), strict=True))
    for strict in (True, False):
        with pytest.raises(ValueError, match="0% of the model's tensors fit"):
            load_checkpoint(fresh, tmp_path / "foreign.pt", strict=strict)


def test_b12_a_network_is_built_inside_another_hydra_application() -> None:
    build_model("sam2_nano", "image_size=64")
    assert not GlobalHydra.instance().is_initialized()


def test_b13_nothing_is_compiled() -> None:
    kinds = {path.suffix for path in (PROJECT / "medsam2").rglob("*") if path.is_file()}
    assert kinds <= {".py", ".pyc", ".md"}


def test_b14_a_jittered_box_works_on_any_mask_and_leaves_the_global_generators_alone() -> None:
    before = np.random.get_state()[1].copy()  # type: ignore[union-attr, index]
    mask = np.zeros((40, 60), dtype=bool)
    mask[10, 20] = True
    corners = BoxPrompt(jitter=0.2)(mask, stable_rng("a")).points
    assert np.array_equal(before, np.random.get_state()[1])  # type: ignore[index]
    assert (corners[0] <= corners[1]).all()
    assert corners.tolist() == BoxPrompt(jitter=0.2)(mask, stable_rng("a")).points.tolist()


def test_b18_what_does_not_train_gets_no_gradient() -> None:
    model = build_small("sam2_nano", 64)
    groups = build_groups(model, {"decoder": {"names": ["sam_mask_decoder.*"]}}, lr=1e-3)
    trained = {id(p) for group in groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (id(parameter) in trained) == name.startswith("sam_mask_decoder."), name


def test_b23_the_licence_is_the_one_that_is_declared() -> None:
    assert "Apache License" in (PROJECT / "LICENSE").read_text()
    assert "Apache-2.0" in (PROJECT / "pyproject.toml").read_text()
    assert "Licence: Apache-2.0" in (PROJECT / "README.md").read_text()
    assert logging.getLogger("medsam2").handlers == []
