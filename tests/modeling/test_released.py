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


@cache
def compose_released(variant: str) -> DictConfig:
    """The `model` package of a released name such as sam2.1_hiera_tiny."""
    release, size = variant.split("_hiera_")
    return compose_model(CHOICES[size], 1024, [f"model/release={RELEASES[release]}"]).model


@cache
def tensors_of(choice: str, *overrides: str) -> dict[str, list[int]]:
    with torch.device("meta"):
        model = build_model(choice, 1024, overrides)
    return {name: list(value.shape) for name, value in model.state_dict().items()}


@pytest.mark.parametrize("variant", RELEASED)
def test_names_and_shapes_are_the_released_ones(variant: str) -> None:
    assert tensors_of(compose_released(variant).name) == RELEASED[variant]["tensors"]


@pytest.mark.parametrize("choice", CHOICES)
def test_both_releases_have_one_image_path(choice: str) -> None:
    assert compose_released(f"sam2_hiera_{choice}").network == compose_released(f"sam2.1_hiera_{choice}").network


@pytest.mark.parametrize("variant", RELEASED)
def test_blocks_are_the_released_ones(variant: str) -> None:
    trunk = compose_released(variant).network.image_encoder.trunk
    keys = ("embed_dim", "num_heads", "stages", "window_spec", "global_att_blocks")
    assert [list(block) for block in list_blocks(*(trunk[key] for key in keys))] == RELEASED[variant]["blocks"]


@pytest.mark.parametrize("variant", RELEASED)
def test_checkpoint_is_the_released_file(variant: str) -> None:
    assert compose_released(variant).checkpoint == f"checkpoints/{variant}.pt"


@pytest.mark.parametrize(
    "number",
    [
        "image_encoder.trunk.stages=[1,2,7,3]",
        "image_encoder.trunk.window_spec=[4,4,14,7]",
        "image_encoder.trunk.mlp_ratio=3",
        "sam_prompt_encoder.mask_in_chans=8",
        "sam_mask_decoder.num_multimask_outputs=4",
        "sam_mask_decoder.transformer.mlp_dim=1024",
    ],
)
def test_a_planted_wrong_number_shows(number: str) -> None:
    assert tensors_of("sam2_t", f"model.network.{number}") != RELEASED["sam2.1_hiera_tiny"]["tensors"]


def test_neck_that_does_not_fit_the_trunk_is_refused() -> None:
    with pytest.raises(Exception, match=r"backbone_channel_list.*whose stages have"):
        build_model("sam2_nano", 128, ["model.network.image_encoder.trunk.embed_dim=40"])


@pytest.mark.parametrize("choice", [*CHOICES.values(), "sam2_nano", "sam2_micro"])
def test_header_states_the_parameter_count(choice: str) -> None:
    header = (CONF / "model" / f"{choice}.yaml").read_text().splitlines()[0]
    shapes = {name: torch.Size(shape) for name, shape in tensors_of(choice).items() if "gaussian" not in name}
    assert f": {sum(shape.numel() for shape in shapes.values()) / 1e6:.1f} M parameters" in header
