"""The network computes what the official SAM 2 computes: reference values on seeded weights."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from medsam2.modeling.sam2 import SAM2
from tests.goldens import TOLERANCE, check_golden, prepare_model, reduce_golden, sample

FILE = Path(__file__).parent / "data" / "sam2.1_hiera_tiny_256.pt"


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    content: dict[str, Any] = torch.load(FILE, weights_only=True)
    return content


@pytest.fixture(scope="module")
def model(golden: dict[str, Any]) -> SAM2:
    return prepare_model(golden)


def test_image_path_matches_the_official_network(golden: dict[str, Any], model: SAM2) -> None:
    deviations = check_golden(golden, model)
    assert len(deviations) == 80
    assert {key: value for key, value in deviations.items() if not value <= TOLERANCE} == {}


def spoil_trunk(model: SAM2) -> None:
    for module in model.image_encoder.trunk.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 1e-3


def spoil_decoder(model: SAM2) -> None:
    model.sam_mask_decoder.transformer.norm_final_attn.eps = 1e-2


def spoil_selection(model: SAM2) -> None:
    model.sam_mask_decoder.dynamic_multimask_via_stability = False


@pytest.mark.parametrize(
    ("spoil", "wrong"),
    [
        (spoil_trunk, "image/trunk/0"),
        (spoil_decoder, "prompt/box/masks4"),
        (spoil_selection, "prompt/none/single_dynamic/mask"),
    ],
)
def test_checker_sees_a_planted_error(
    golden: dict[str, Any], model: SAM2, spoil: Callable[[SAM2], None], wrong: str
) -> None:
    spoilt = copy.deepcopy(model)
    spoil(spoilt)
    assert check_golden(golden, spoilt)[wrong] > TOLERANCE


def test_reducing_twice_changes_nothing(golden: dict[str, Any]) -> None:
    again = reduce_golden(golden)
    assert again["tensors"].keys() == golden["tensors"].keys()
    for key, entry in golden["tensors"].items():
        assert torch.equal(again["tensors"][key]["values"], entry["values"]), key


def test_sample_takes_all_or_the_first_drawn() -> None:
    x = torch.arange(6.0)
    assert sample("k", x, 6).tolist() == x.tolist()
    assert sample("k", x, 3).tolist() == sample("k", x, 5).tolist()[:3]
