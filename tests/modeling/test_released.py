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
from medsam2.modeling.identity import CHOICES
from tests.fakes import CONF
from tests.goldens import build_model, choose, compose_model

FILE = Path(__file__).parent / "data" / "released_tensors.json.gz"
RELEASED: dict[str, Any] = json.loads(gzip.decompress(FILE.read_bytes()))


@cache
def compose_released(variant: str) -> DictConfig:
    """The `model` package of a released name such as sam2.1_hiera_tiny."""
    choice, release = choose(variant)
    return compose_model(choice, 1024, [release, "paths.checkpoint_dir=checkpoints"]).model


@cache
def tensors_of(choice: str, *overrides: str) -> dict[str, list[int]]:
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
        "memory_attention.num_layers=3",
        "memory_attention.layer.dim_feedforward=1024",
        "memory_encoder.out_dim=32",
        "memory_encoder.fuser.layer.kernel_size=5",
        "memory_selection.num_maskmem=6",
        "proj_tpos_enc_in_obj_ptrs=false",
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
    sizes = {name: torch.Size(shape).numel() for name, shape in tensors_of(choice).items() if "gaussian" not in name}
    memory = ("memory_", "maskmem_", "mask_downsample", "no_mem_pos", "no_obj", "obj_ptr")
    image_path = sum(size for name, size in sizes.items() if not name.startswith(memory))
    expected = f": {sum(sizes.values()) / 1e6:.1f} M parameters, {image_path / 1e6:.1f} M of them for single images"
    assert expected in header
