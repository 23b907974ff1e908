"""Checkpoints: files of every origin load, what does not fit is refused with the cure, code is never run."""

import copy
import logging
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from medsam2.modeling.hf_names import to_hugging_face
from medsam2.modeling.sam2 import SAM2
from medsam2.modeling.weights import (
    load_checkpoint,
    missing_checkpoint_message,
    read_state_dict,
    save_checkpoint,
)
from medsam2.training.checkpoint import Checkpoints, Progress
from tests.goldens import build_model

State = dict[str, Tensor]


@pytest.fixture(scope="module")  # no test changes it: a refused file must leave the model as it was
def model() -> SAM2:
    return build_model("sam2_nano", 64)


@pytest.fixture
def other(model: SAM2) -> SAM2:
    """The same network with other weights."""
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for value in twin.state_dict().values():
            value.mul_(0.5).add_(0.25)
    return twin


def state_of(source: nn.Module) -> State:
    return {name: value.clone() for name, value in source.state_dict().items()}


def assert_equal(model: nn.Module, state: State) -> None:
    assert {name for name, value in model.state_dict().items() if not torch.equal(value, state[name])} == set()


def write(state: Any, path: Path) -> Path:
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return path


def add_prefix(prefix: str, state: State) -> State:
    return {prefix + name: value for name, value in state.items()}


FILES: dict[str, Callable[[State], Any]] = {
    "official.pt": lambda state: {"model": state},
    "medical_sam2.pth": lambda state: {"model": state, "parameter": {}},
    "trainer.pt": lambda state: {"model": state, "optimizer": {"step": 3}, "epoch": 7, "scaler": None},
    "lightning.ckpt": lambda state: {"state_dict": state, "epoch": 7},
    "bare.pt": dict,
    "bare.safetensors": dict,
    "hugging_face.pt": to_hugging_face,
    "hugging_face.safetensors": to_hugging_face,
    "parallel.pt": partial(add_prefix, "module."),
    "compiled.pt": lambda state: {"model": add_prefix("_orig_mod.", state)},
    "compiled_parallel.pt": partial(add_prefix, "_orig_mod.module."),
    "parallel_compiled.pt": partial(add_prefix, "module._orig_mod."),
    "lightning_module.ckpt": lambda state: {"state_dict": add_prefix("model.", state), "epoch": 7},
    "lightning_compiled.ckpt": lambda state: {"state_dict": add_prefix("model._orig_mod.", state)},
    "parallel_hugging_face.pt": lambda state: add_prefix("module.", to_hugging_face(state)),
}


@pytest.mark.parametrize("file", FILES)
def test_every_layout_loads_the_same_tensors(model: SAM2, other: SAM2, tmp_path: Path, file: str) -> None:
    state = state_of(model)
    load_checkpoint(other, write(FILES[file](state), tmp_path / file))
    assert_equal(other, state)
    assert torch.equal(other.sam_prompt_encoder.dense_pe, model.sam_prompt_encoder.dense_pe)


@pytest.mark.parametrize("file", ["best.pt", "last.pt"])
def test_a_run_s_own_checkpoints_load(model: SAM2, other: SAM2, tmp_path: Path, file: str) -> None:
    checkpoints, state = Checkpoints(tmp_path, "0123456789"), state_of(model)
    group = {"lr": 1e-4, "betas": (0.9, 0.999), "params": [0]}
    optimizer = {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [group]}
    checkpoints.save_best(state, epoch=3)
    checkpoints.save_last({"model": state, "optimizer": optimizer, "scheduler": {"last_epoch": 3}}, Progress())
    load_checkpoint(other, tmp_path / file)
    assert_equal(other, state)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_values_are_cast_to_the_model_s_format(model: SAM2, other: SAM2, tmp_path: Path, dtype: torch.dtype) -> None:
    state = {name: value.to(dtype) for name, value in state_of(model).items()}
    load_checkpoint(other, write(state, tmp_path / "half.safetensors"))
    assert_equal(other, {name: value.float() for name, value in state.items()})


def test_a_prefix_that_not_all_names_have_is_part_of_them(tmp_path: Path) -> None:
    state = {name: torch.zeros(1) for name in ("model.weight", "loss.weight")}
    assert read_state_dict(write(state, tmp_path / "x.pt")).keys() == state.keys()


def test_names_of_sam_1_are_those_of_sam_2_less_the_prefix(tmp_path: Path) -> None:
    sam1 = {
        "image_encoder.layers.0.mlp.lin1.weight": "image_encoder.layers.0.mlp.lin1.weight",
        "prompt_encoder.no_mask_embed.weight": "sam_prompt_encoder.no_mask_embed.weight",
        "mask_decoder.transformer.layers.1.mlp.lin1.bias": "sam_mask_decoder.transformer.layers.1.mlp.layers.0.bias",
        "mask_decoder.transformer.layers.0.mlp.lin2.weight": (
            "sam_mask_decoder.transformer.layers.0.mlp.layers.1.weight"
        ),
    }
    path = write({name: torch.full((1,), float(i)) for i, name in enumerate(sam1)}, tmp_path / "sam1.pt")
    read = read_state_dict(path)
    assert {name: read[name].item() for name in read} == {name: float(i) for i, name in enumerate(sam1.values())}


# ----------------------------------------------------------------------------------------- what does not fit


def spoil(state: State) -> State:
    del state["no_mem_embed"]
    state["sam_mask_decoder.iou_token.weight"] = torch.zeros(1, 5)
    return state | {"adapter.weight": torch.zeros(1)}


def test_every_problem_is_listed_at_once(model: SAM2, tmp_path: Path) -> None:
    before, path = state_of(model), write(spoil(state_of(model)), tmp_path / "own.pt")
    with pytest.raises(ValueError, match="does not fit the model") as caught:
        load_checkpoint(model, path)
    message = str(caught.value)
    assert "1 missing: no_mem_embed" in message
    assert "sam_mask_decoder.iou_token.weight (1, 5) (the model has (1, 128))" in message
    assert "1 unexpected: adapter.weight" in message
    total = len(before)
    assert f"99% of the model's tensors fit ({total - 2} of {total}); model.strict=false loads them" in message
    assert_equal(model, before)


def test_not_strict_loads_what_fits_and_says_what_does_not(
    model: SAM2, other: SAM2, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before, state = state_of(other), state_of(model)
    left = ("no_mem_embed", "sam_mask_decoder.iou_token.weight")
    with caplog.at_level(logging.WARNING):
        load_checkpoint(other, write(spoil(state_of(model)), tmp_path / "own.pt"), strict=False)
    assert_equal(other, state | {name: before[name] for name in left})
    total = len(before)
    for text in (f"{100 * (total - 2) / total:.1f} %", "1 missing: no_mem_embed", "1 unexpected: adapter.weight"):
        assert text in caplog.text


@pytest.mark.parametrize(("share", "fits"), [(0.89, False), (0.91, True)])
def test_not_strict_refuses_a_file_of_another_model(
    model: SAM2, other: SAM2, tmp_path: Path, share: float, fits: bool
) -> None:
    state, before = state_of(model), state_of(other)
    kept = dict(list(state.items())[: round(share * len(state))])
    path = write(kept, tmp_path / "part.pt")
    if fits:
        load_checkpoint(other, path, strict=False)
        assert_equal(other, before | kept)
        return
    with pytest.raises(ValueError, match=rf"{share:.0%} of the model's .*model\.strict=false needs 90%"):
        load_checkpoint(other, path, strict=False)
    assert_equal(other, before)


def test_a_file_of_another_network_is_named(model: SAM2, tmp_path: Path) -> None:
    shapes = {"image_encoder.patch_embed.seq.0.c.weight": (32, 3, 1, 1), "prompt_encoder.no_mask_embed.weight": (1,)}
    path = write({name: torch.zeros(shape) for name, shape in shapes.items()}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match="this is a LiteMedSAM file, the model is of no released size: use model=lite"):
        load_checkpoint(model, path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("strict", [True, False])
def test_values_that_are_not_finite_are_refused(
    model: SAM2, other: SAM2, tmp_path: Path, value: float, strict: bool
) -> None:
    state, before = state_of(model), state_of(other)
    state["no_mem_embed"].view(-1)[3] = state["no_obj_ptr"].view(-1)[0] = value
    first = next(name for name in state if name in ("no_mem_embed", "no_obj_ptr"))
    said = rf"x\.pt: {first} holds NaN or infinite values \(2 of {len(state)} tensors do\): use a file saved before"
    with pytest.raises(ValueError, match=said):
        load_checkpoint(other, write(state, tmp_path / "x.pt"), strict=strict)
    assert_equal(other, before)


def test_large_values_whose_sum_overflows_are_finite(tmp_path: Path) -> None:
    state = {"weight": torch.full((2, 2), 6e4, dtype=torch.float16), "bias": torch.zeros(2)}
    layer = nn.Linear(2, 2)
    load_checkpoint(layer, write(state, tmp_path / "x.pt"))
    assert_equal(layer, {"weight": torch.full((2, 2), 6e4), "bias": torch.zeros(2)})


# ------------------------------------------------------------------------------------------ what is no file


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
@pytest.mark.parametrize("keep", [10, 0.5, 0.99])
def test_a_damaged_file_is_named(model: SAM2, tmp_path: Path, suffix: str, keep: float) -> None:
    path = tmp_path / f"cut{suffix}"
    save_file(state_of(model), path) if suffix == ".safetensors" else torch.save(state_of(model), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if keep < 1 else int(keep)])
    with pytest.raises(ValueError, match=r"cut\.\w+ is (no checkpoint, or a )?damaged"):
        load_checkpoint(model, path)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"hello\n", "hello"),
        (b"<!DOCTYPE html>\r\n<html>", "<!DOCTYPE html> <html>"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:01",
            "version https://git-lfs.github.com/spec/v1 oid s",
        ),
        ("Größe".encode(), "Größe"),
    ],
    ids=["text", "web page", "Git LFS", "not ASCII"],
)
def test_a_text_file_is_named(model: SAM2, tmp_path: Path, suffix: str, content: bytes, words: str) -> None:
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    said = rf'{path} is text, no checkpoint, and begins "{words}": correct the path, or get it again$'
    with pytest.raises(ValueError, match=f"^model.checkpoint={said}"):
        load_checkpoint(model, path)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_an_empty_file_is_named(model: SAM2, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    path.touch()
    with pytest.raises(ValueError, match=rf"^model\.checkpoint={path} is an empty file: get it again$"):
        load_checkpoint(model, path)


def test_a_folder_is_no_checkpoint(model: SAM2, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=rf"^model\.checkpoint={tmp_path} is a folder, .*: add the name of the"):
        load_checkpoint(model, tmp_path)


@pytest.mark.parametrize("content", [[1, 2], {"model": 3}, {"epoch": 3}])
def test_a_file_without_state_dict_is_refused(model: SAM2, tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(ValueError, match="holds no state dict"):
        load_checkpoint(model, tmp_path / "x.pt")


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("sam2.1_hiera_tiny.pt", "`python run.py task=fetch model=sam2_t` gets it;"),
        ("sam2.1_hiera_base_plus.pt", "`python run.py task=fetch model=sam2_b` gets it;"),
        ("sam2_hiera_large.pt", "`python run.py task=fetch model=sam2_l model/release=sam2_0` gets it;"),
        ("mine.pt", "correct the path, or .* `python run.py task=fetch model=sam2_t`;"),
    ],
)
def test_a_missing_file_says_how_to_get_it(model: SAM2, tmp_path: Path, name: str, command: str) -> None:
    with pytest.raises(
        FileNotFoundError, match=rf"{name} does not exist: .*{command}.*model\.checkpoint=null"
    ) as caught:
        load_checkpoint(model, tmp_path / name)
    assert str(caught.value) == missing_checkpoint_message(tmp_path / name)


# -------------------------------------------------------------------------------------------------- writing


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("layout", ["official", "huggingface"])
def test_what_is_saved_loads_again(model: SAM2, other: SAM2, tmp_path: Path, suffix: str, layout: Any) -> None:
    path = tmp_path / f"out{suffix}"
    path.write_text("an older file")
    save_checkpoint(model, path, layout)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    load_checkpoint(other, path)
    assert_equal(other, state_of(model))


def test_saved_files_are_what_others_expect(model: SAM2, tmp_path: Path) -> None:
    save_checkpoint(model, tmp_path / "official.pt")
    assert torch.load(tmp_path / "official.pt", weights_only=True).keys() == {"model"}
    save_checkpoint(model, tmp_path / "model.safetensors", "huggingface")
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
    expected = to_hugging_face(model.state_dict())
    saved = load_file(tmp_path / "model.safetensors")
    assert saved.keys() == expected.keys()
    assert all(torch.equal(saved[name], expected[name]) for name in saved)


@pytest.mark.parametrize(("name", "layout"), [("x.bin", "official"), ("x.pt", "keras")])
def test_saving_refuses_what_it_does_not_know(model: SAM2, tmp_path: Path, name: str, layout: Any) -> None:
    with pytest.raises(ValueError, match="official or huggingface"):
        save_checkpoint(model, tmp_path / name, layout)


def test_saving_that_fails_leaves_the_old_file(model: SAM2, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.pt"
    save_checkpoint(model, path)
    before = path.read_bytes()
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(model, path, "huggingface")
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
