"""Every released variant composes from conf/ to exactly the released tensors and blocks."""

import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig

from medsam2.modeling.hiera import list_blocks
from tests.goldens import CHOICES, CONF, RELEASES, build_model, compose_model

FILE = Path(__file__).parent / "data" / "released_tensors.json.gz"
RELEASED: dict[str, Any] = json.loads(gzip.decompress(FILE.read_bytes()))


def choose(variant: str) -> tuple[str, list[str]]:
    """Model choice and overrides of a released name such as sam2.1_hiera_tiny."""
    release, size = variant.split("_hiera_")
    return CHOICES[size], [f"model/release={RELEASES[release]}"]


@cache
def compose_released(variant: str) -> DictConfig:
    choice, overrides = choose(variant)
    return compose_model(choice, 1024, overrides).model


def tensors_of(choice: str, overrides: list[str]) -> dict[str, list[int]]:
    with torch.device("meta"):
        model = build_model(choice, 1024, overrides)
    return {name: list(value.shape) for name, value in model.state_dict().items()}


@pytest.mark.parametrize("variant", RELEASED)
def test_names_and_shapes_are_the_released_ones(variant: str) -> None:
    assert tensors_of(*choose(variant)) == RELEASED[variant]["tensors"]


@pytest.mark.parametrize("variant", RELEASED)
def test_blocks_are_the_released_ones(variant: str) -> None:
    trunk = compose_released(variant).network.image_encoder.trunk
    keys = ("embed_dim", "num_heads", "stages", "window_spec", "global_att_blocks")
    assert [list(block) for block in list_blocks(*(trunk[key] for key in keys))] == RELEASED[variant][
        "blocks"
    ]


@pytest.mark.parametrize("variant", RELEASED)
def test_checkpoint_is_the_released_file(variant: str) -> None:
    model = compose_released(variant)
    assert model.checkpoint == f"checkpoints/{variant}.pt"


@pytest.mark.parametrize(
    "number",
    [
        "image_encoder.trunk.stages=[1,2,7,3]",
        "image_encoder.trunk.window_spec=[7,4,14,7]",
        "image_encoder.trunk.mlp_ratio=3",
        "sam_prompt_encoder.mask_in_chans=8",
        "sam_mask_decoder.num_multimask_outputs=4",
        "sam_mask_decoder.transformer.mlp_dim=1024",
    ],
)
def test_a_planted_wrong_number_shows(number: str) -> None:
    released = RELEASED["sam2.1_hiera_tiny"]["tensors"]
    assert tensors_of("sam2_t", [f"model.network.{number}"]) != released


def test_neck_that_does_not_fit_the_trunk_is_refused() -> None:
    with pytest.raises(Exception, match="backbone_channel_list.*whose stages have"):
        build_model("sam2_nano", 128, ["model.network.image_encoder.trunk.embed_dim=40"])


@pytest.mark.parametrize("choice", [*CHOICES.values(), "sam2_nano"])
def test_header_states_the_parameter_count(choice: str) -> None:
    header = (CONF / "model" / f"{choice}.yaml").read_text().splitlines()[0]
    with torch.device("meta"):
        parameters = sum(p.numel() for p in build_model(choice, 1024).parameters())
    assert f": {parameters / 1e6:.1f} M parameters" in header
