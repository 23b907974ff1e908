"""The network computes what the official SAM 2 computes: reference values on seeded weights."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from medsam2.modeling.sam2 import SAM2
from tests.goldens import check_golden, prepare_model, reduce_golden, sample

DATA = Path(__file__).parent / "data"
FILES = ["sam2.1_hiera_tiny_256.pt", "sam2_hiera_tiny_256.pt"]
QUICK = ["image", "prompt", "heads", "mask_as_output", "mask_as_output_empty", "memory_encoder", "clip_mask"]
COUNTS = {  # tensors a file holds; a 2.0 network has three parameters less to take gradients of
    "image": 21, "prompt": 59, "heads": 80, "mask_as_output": 4, "mask_as_output_empty": 3, "memory_encoder": 3,
    "clip_mask": 23, "clip_box": 33, "clip_point": 24, "clip_occluded": 24, "clip_long": 92, "clip_reverse": 32,
    "clip_stride2_cond2": 78, "predictor": 14,
}  # fmt: skip


def load(file: str) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(DATA / file, weights_only=True)
    return content


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    return load(FILES[0])


@pytest.fixture(scope="module")
def model(golden: dict[str, Any]) -> SAM2:
    return prepare_model(golden)


def beyond(deviations: dict[str, float]) -> dict[str, float]:
    return {key: value for key, value in deviations.items() if not value <= 1}


def test_network_matches_the_official_one(golden: dict[str, Any], model: SAM2) -> None:
    deviations = check_golden(golden, model, QUICK)
    assert len(deviations) == sum(COUNTS[group] for group in QUICK)
    assert beyond(deviations) == {}


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES)
def test_everything_matches_the_official_network(file: str) -> None:
    golden = load(file)
    deviations = check_golden(golden, prepare_model(golden))
    assert len(deviations) == sum(COUNTS.values()) + (452 if file == FILES[0] else 449)
    assert beyond(deviations) == {}


def spoil_trunk(model: SAM2) -> None:
    for module in model.image_encoder.trunk.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.eps = 1e-3


def spoil_decoder(model: SAM2) -> None:
    model.sam_mask_decoder.transformer.norm_final_attn.eps = 1e-2


def spoil_selection(model: SAM2) -> None:
    model.sam_mask_decoder.dynamic_multimask_via_stability = False


def spoil_rotations(model: SAM2) -> None:
    model.memory_attention.rope_theta = 9000.0


def spoil_temporal_index(model: SAM2) -> None:
    model.maskmem_tpos_enc.data = model.maskmem_tpos_enc.data.flip(0)


def spoil_pointers(model: SAM2) -> None:
    model.add_tpos_enc_to_obj_ptrs = False


def spoil_memory_scale(model: SAM2) -> None:
    model.sigmoid_scale = 19.9


@pytest.mark.parametrize(
    ("spoil", "wrong"),
    [
        (spoil_trunk, "image/trunk/0"),
        (spoil_decoder, "prompt/box/masks4"),
        (spoil_selection, "prompt/none/single_dynamic/mask"),
        (spoil_rotations, "clip_mask/frame1/conditioned"),
        (spoil_temporal_index, "clip_mask/frame1/memory_pos"),
        (spoil_pointers, "clip_mask/frame1/memory_pos"),
        (spoil_memory_scale, "memory_encoder/present/features"),
    ],
)
def test_checker_sees_a_planted_error(
    golden: dict[str, Any], model: SAM2, spoil: Callable[[SAM2], None], wrong: str
) -> None:
    spoilt = copy.deepcopy(model)
    spoil(spoilt)
    assert check_golden(golden, spoilt, [wrong.split("/")[0]])[wrong] > 1


def test_reducing_twice_changes_nothing(golden: dict[str, Any]) -> None:
    again = reduce_golden(golden)
    assert again["tensors"].keys() == golden["tensors"].keys()
    for key, entry in golden["tensors"].items():
        assert torch.equal(again["tensors"][key]["values"], entry["values"]), key


def test_sample_takes_all_or_the_first_drawn() -> None:
    x = torch.arange(6.0)
    assert sample("k", x, 6).tolist() == x.tolist()
    assert sample("k", x, 3).tolist() == sample("k", x, 5).tolist()[:3]
