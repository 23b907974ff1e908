"""What a checkpoint is of: named where it is known, with the cure; never guessed."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from medsam2.modeling.hf_names import from_hugging_face
from medsam2.modeling.identity import LITEMEDSAM, SAM1, Identity, advise, hash_file, identify
from tests.goldens import build_model

State = dict[str, Tensor]


def tensors_like(dim: int, blocks: int, *more: str) -> State:
    state = {"image_encoder.trunk.patch_embed.proj.weight": torch.zeros(dim, 3, 7, 7)}
    state |= {f"image_encoder.trunk.blocks.{i}.norm1.weight": torch.zeros(dim) for i in range(blocks)}
    return state | {name: torch.zeros(1) for name in more}


def lite(kernel: int = 1) -> State:
    return {"image_encoder.patch_embed.seq.0.c.weight": torch.zeros(32, 3, kernel, kernel)}


MEMORY = "maskmem_tpos_enc"
NEW = (MEMORY, "obj_ptr_tpos_proj.weight")
VIT = {"image_encoder.blocks.0.attn.rel_pos_h": torch.zeros(127, 64)}
RELEASED_2_0, RELEASED_2_1 = tensors_like(96, 12, MEMORY), tensors_like(96, 12, *NEW)


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (RELEASED_2_1, Identity("2.1", "tiny")),
        (tensors_like(96, 16, MEMORY), Identity("2.0", "small")),
        (tensors_like(144, 48), Identity("", "large")),
        (lite(), LITEMEDSAM),
        (VIT, SAM1),
        (lite(kernel=3), None),  # MobileSAM
        (tensors_like(40, 3), None),
        ({"image_encoder.blocks.0.norm1.weight": torch.zeros(1)}, None),
        ({}, None),
    ],
)
def test_a_network_is_known_by_its_tensors(state: State, expected: Identity | None) -> None:
    assert identify(state) == expected


@pytest.mark.parametrize(("name", "expected"), [("litemedsam", LITEMEDSAM), ("sam2_nano", None)])
def test_the_models_here_are_known(name: str, expected: Identity | None) -> None:
    assert identify(build_model(name, 64).state_dict()) == expected


@pytest.mark.slow  # importing transformers
def test_a_sam_1_of_transformers_is_known() -> None:
    transformers = pytest.importorskip("transformers")
    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "image_size": 32, "mlp_dim": 8}
    config = transformers.SamConfig(vision_config=small | {"global_attn_indexes": [0]})
    assert identify(from_hugging_face(transformers.SamModel(config).state_dict())) == SAM1


@pytest.mark.parametrize(
    ("file", "model", "said"),
    [
        (
            RELEASED_2_0,
            {},
            "a sam2.0 tiny file, the model is of no released size: use model=sam2_t model/release=sam2_0",
        ),
        (
            tensors_like(112, 24, *NEW),
            {},
            "a sam2.1 base_plus file, the model is of no released size: use model=sam2_b model/release=sam2_1",
        ),
        (
            tensors_like(144, 48),
            {},
            "a sam2 large without memory file, the model is of no released size: use model=sam2_l",
        ),
        (
            tensors_like(144, 48, *NEW),
            tensors_like(96, 16, *NEW),
            "a sam2.1 large file, the model is sam2.1 small: use model=sam2_l",
        ),
        (
            tensors_like(96, 16, MEMORY),
            tensors_like(96, 16, *NEW),
            "a sam2.0 small file, the model is sam2.1 small: use model/release=sam2_0",
        ),
        (
            RELEASED_2_1,
            tensors_like(112, 24, MEMORY),
            "a sam2.1 tiny file, the model is sam2.0 base_plus: use model=sam2_t model/release=sam2_1",
        ),
        (
            tensors_like(96, 12),
            RELEASED_2_1,
            "a sam2 tiny without memory file, the model is sam2.1 tiny: use a file with the memory (Hugging Face: "
            "Sam2VideoModel, not Sam2Model; or `python run.py task=fetch model=sam2_t`)",
        ),
        (lite(), RELEASED_2_1, "a LiteMedSAM file, the model is sam2.1 tiny: use model=litemedsam"),
        (
            RELEASED_2_0,
            lite(),
            "a sam2.0 tiny file, the model is LiteMedSAM: use model=sam2_t model/release=sam2_0",
        ),
        (
            VIT,
            RELEASED_2_1,
            "a SAM 1 (ViT) file, the model is sam2.1 tiny: no model here is a SAM 1, use a file of SAM 2 or LiteMedSAM",
        ),
        (
            VIT,
            lite(),
            "a SAM 1 (ViT) file, the model is LiteMedSAM: no model here is a SAM 1, use a file of SAM 2 or LiteMedSAM",
        ),
    ],
)
def test_another_network_is_named_with_the_cure(file: State, model: State, said: str) -> None:
    assert advise(identify(file), identify(model)) == f": this is {said}"


@pytest.mark.parametrize("model", [RELEASED_2_1, RELEASED_2_1 | {"adapter": torch.zeros(1)}])
def test_nothing_is_said_of_the_same_network_or_an_unknown_file(model: State) -> None:
    assert advise(identify(RELEASED_2_1), identify(model)) == ""
    assert advise(identify(tensors_like(40, 3)), identify(model)) == ""


def test_a_hash_and_no_torch_for_it(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc" * 100_000)
    assert hash_file(tmp_path / "x") == hashlib.sha256(b"abc" * 100_000).hexdigest()
    code = "import sys, medsam2.tasks.fetch; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
