"""Checkpoints: official-like files load, anything else is refused with the cure."""

import logging
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from medsam2.modeling.sam2 import SAM2
from medsam2.modeling.weights import describe_checkpoint, load_checkpoint
from tests.goldens import build_model

MEMORY = {
    "memory_attention.layers.0.norm1.weight": torch.ones(128),
    "memory_encoder.out_proj.bias": torch.ones(64),
    "mask_downsample.weight": torch.ones(1, 1, 4, 4),
    "maskmem_tpos_enc": torch.ones(7, 1, 1, 64),
    "no_mem_pos_enc": torch.ones(1, 1, 128),
    "no_obj_ptr": torch.ones(1, 128),
    "no_obj_embed_spatial": torch.ones(1, 64),
    "obj_ptr_proj.layers.0.bias": torch.ones(128),
    "obj_ptr_tpos_proj.bias": torch.ones(64),
}


@pytest.fixture(scope="module")  # no test changes it: a refused file must leave the model as it was
def model() -> SAM2:
    return build_model("sam2_nano", 64)


def state_of(source: SAM2) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in source.state_dict().items()}


@pytest.mark.parametrize("kind", ["official.pt", "bare.pt", "bare.safetensors"])
def test_round_trip_leaves_out_the_memory(
    model: SAM2, tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    state = state_of(model) | MEMORY
    path = tmp_path / kind
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save({"model": state} if kind.startswith("official") else state, path)
    other = build_model("sam2_nano", 64)
    with caplog.at_level(logging.INFO):
        load_checkpoint(other, path)
    assert all(torch.equal(value, state[name]) for name, value in other.state_dict().items())
    assert torch.equal(other.sam_prompt_encoder.dense_pe, model.sam_prompt_encoder.dense_pe)
    assert f"{len(MEMORY)} of the memory left out" in caplog.text


def test_every_problem_is_listed_at_once(model: SAM2, tmp_path: Path) -> None:
    state = state_of(model)
    del state["no_mem_embed"]
    state["sam_mask_decoder.iou_token.weight"] = torch.zeros(1, 5)
    state["adapter.weight"] = torch.zeros(1)
    before = state_of(model)
    path = tmp_path / "own.pt"
    torch.save(state, path)
    with pytest.raises(ValueError, match="does not fit the model") as caught:
        load_checkpoint(model, path)
    message = str(caught.value)
    assert "1 missing: no_mem_embed" in message
    assert "sam_mask_decoder.iou_token.weight (1, 5) (the model has (1, 128))" in message
    assert "1 unexpected: adapter.weight" in message
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("dim", "blocks", "memory", "said"),
    [
        (96, 12, False, "SAM 2.0 tiny: use model=sam2_t model/release=sam2_0"),
        (96, 16, True, "SAM 2.1 small: use model=sam2_s model/release=sam2_1"),
        (112, 24, True, "SAM 2.1 base_plus: use model=sam2_b model/release=sam2_1"),
        (144, 48, False, "SAM 2.0 large: use model=sam2_l model/release=sam2_0"),
    ],
)
def test_wrong_variant_is_named(model: SAM2, tmp_path: Path, dim: int, blocks: int, memory: bool, said: str) -> None:
    state = {"image_encoder.trunk.patch_embed.proj.weight": torch.zeros(dim, 3, 7, 7)}
    state |= {f"image_encoder.trunk.blocks.{i}.norm1.weight": torch.zeros(dim) for i in range(blocks)}
    state |= {"obj_ptr_tpos_proj.weight": torch.zeros(64, 256)} if memory else {}
    torch.save({"model": state}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=said):
        load_checkpoint(model, tmp_path / "x.pt")


def test_unknown_variant_is_not_guessed(model: SAM2) -> None:
    assert describe_checkpoint(model.state_dict()) == ""
    assert describe_checkpoint({}) == ""


class Payload:
    """Creates a file when unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def test_a_file_that_would_run_code_is_refused(model: SAM2, tmp_path: Path) -> None:
    path, mark = tmp_path / "evil.pt", tmp_path / "mark"
    torch.save({"model": {"x": Payload(mark)}}, path)
    with pytest.raises(ValueError, match=r"evil\.pt .*could run code"):
        load_checkpoint(model, path)
    assert not mark.exists()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
def test_a_damaged_file_is_named(model: SAM2, tmp_path: Path, suffix: str, keep: float) -> None:
    path = tmp_path / f"cut{suffix}"
    save_file(state_of(model), path) if suffix == ".safetensors" else torch.save(state_of(model), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if keep < 1 else int(keep)])
    with pytest.raises(ValueError, match=r"cut\.\w+ is (no checkpoint, or a )?damaged"):
        load_checkpoint(model, path)


@pytest.mark.parametrize("content", [[1, 2], {"model": 3}, {"epoch": 3}])
def test_a_file_without_state_dict_is_refused(model: SAM2, tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(ValueError, match="holds no state dict"):
        load_checkpoint(model, tmp_path / "x.pt")


def test_a_missing_file_says_where_to_get_it(model: SAM2, tmp_path: Path) -> None:
    for name, url in (
        ("sam2.1_hiera_tiny.pt", r"092824/sam2\.1_hiera_tiny\.pt"),
        ("sam2_hiera_large.pt", r"072824/sam2_hiera_large\.pt"),
        ("mine.pt", r"092824/sam2\.1_hiera_\{tiny,"),
    ):
        with pytest.raises(FileNotFoundError, match=url + ".*checkpoint=null"):
            load_checkpoint(model, tmp_path / name)
