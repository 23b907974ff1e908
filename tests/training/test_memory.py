"""What is said when memory runs out, against numbers, and the shares that it promises against measured ones."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
from hydra.utils import instantiate

from medsam2.optim import build_groups
from medsam2.training.memory import CHECKPOINTED, FROZEN, IN_BF16, OutOfMemory, Usage, explain_oom, explained, survey
from tests.fakes import compose_config

GIB = 2**30
USAGE = Usage(
    batch_size=4,
    accumulate=1,
    image_size=1024,
    frames=2,
    checkpointing=False,
    float32=True,
    weights=GIB,
    trained=3 * GIB,
    beyond_decoder=5 * GIB // 2,
    peak=24 * GIB,
)


def test_every_setting_with_what_it_saves() -> None:
    assert explain_oom(USAGE, "training, epoch 2", "CUDA out of memory. Tried to allocate 2 GiB.") == (
        "out of memory in training, epoch 2 (CUDA out of memory. Tried to allocate 2 GiB.)\n"
        "in use: weights 1.0 GiB, gradients and optimiser state 3.0 GiB, activations at least 20.0 GiB; lower one of:\n"
        "  batch_size=2 trainer.accumulate=2: saves about 50% of the activations, 10.0 GiB; "
        "2 of these make the step that 1 of 4 made\n"
        "  image_size=512: saves about 75% of the activations, 15.0 GiB (now 1024)\n"
        "  method.frames=1: saves about 50% of the activations, 10.0 GiB (now 2)\n"
        "  trainer.precision=bf16: saves about 40% of the activations, 8.0 GiB\n"
        "  model.network.image_encoder.trunk.activation_checkpointing=true: saves about 60% of the activations, "
        "12.0 GiB; its blocks are computed twice\n"
        "  model/tuning=decoder: saves about 80% of the activations, 16.0 GiB, "
        "and 2.5 GiB of gradients and optimiser state; image encoder and memory stay"
    )


@pytest.mark.parametrize(
    ("change", "gone", "there"),
    [
        (
            {"peak": None},
            "activations at least",
            "  batch_size=2 trainer.accumulate=2: saves about 50% of the activations;",
        ),
        ({"batch_size": 1}, "batch_size", "image_size=512"),
        ({"batch_size": 2}, "batch_size", "frames=1"),  # one clip
        ({"batch_size": 6}, "batch_size=3", "batch_size=2 trainer.accumulate=3: saves about 67%"),  # three clips
        ({"batch_size": 3, "frames": None}, "batch_size=2", "batch_size=1 trainer.accumulate=3: saves about 67%"),
        ({"batch_size": 6, "accumulate": 2, "frames": 1}, "batch_size=2", "batch_size=3 trainer.accumulate=4"),
        ({"image_size": 96}, "image_size=64", "image_size=32: saves about 89%"),
        ({"image_size": 32}, "image_size", "batch_size"),
        ({"image_size": None}, "image_size", "batch_size"),
        ({"image_size": 160}, "image_size=80", "image_size=64: saves about 84%"),
        ({"frames": 1}, "frames", "batch_size"),
        ({"frames": None}, "frames", "batch_size"),
        ({"float32": False}, "precision", "batch_size"),
        ({"checkpointing": True}, "checkpointing", "batch_size"),
        ({"checkpointing": None}, "checkpointing", "batch_size"),
        ({"beyond_decoder": 0}, "tuning", "batch_size"),
        ({"beyond_decoder": 5 << 20}, "GiB of gradients", "and 5.0 MiB of gradients"),
        ({"training": False}, "tuning", "activations at least 23.0 GiB"),
        ({"training": False}, "accumulate", "  batch_size=2: saves about 50% of the activations, 11.5 GiB\n"),
        ({"training": False}, "checkpointing", "image_size=512"),
        ({"training": False, "chunk": 8}, "frames", "method.chunk=4 method.keep=0: saves about 50%"),
        ({"training": False, "chunk": 8}, "batch_size", "image_size=512"),
        ({"chunk": 8}, "method.chunk", "method.frames=1"),
    ],
)
def test_a_setting_that_cannot_be_lowered_is_not_named(change: dict[str, object], gone: str, there: str) -> None:
    text = explain_oom(replace(USAGE, **change), "training", "full")  # type: ignore[arg-type]
    assert gone not in text
    assert there in text


@cache
def network() -> torch.nn.Module:
    model: torch.nn.Module = instantiate(compose_config("image_size=64").model.network)
    return model


def test_a_survey_counts_what_trains_and_its_state() -> None:
    model = network()
    nodes = {"decoder": {"names": ["sam_mask_decoder.*"]}, "neck": {"names": ["image_encoder.neck.*"]}}
    optimizer = torch.optim.Adam(build_groups(model, nodes, 1e-3), lr=1e-3)
    size = {
        part: sum(p.nbytes for n, p in model.named_parameters() if n.startswith(part))
        for part in ("sam_mask", "image_encoder.neck", "")
    }

    def usage(model: torch.nn.Module = model, device: str = "cpu", training: bool = True) -> Usage:
        return survey(model, optimizer, 4, 2, None, torch.float32, device, training)

    foreseen = usage()
    assert (foreseen.batch_size, foreseen.accumulate, foreseen.image_size, foreseen.peak) == (4, 2, 64, None)
    assert (foreseen.float32, foreseen.frames, foreseen.training) == (True, None, True)
    assert foreseen.checkpointing is None  # the trunk does not learn
    assert foreseen.weights == size[""]
    assert foreseen.trained == 3 * (size["sam_mask"] + size["image_encoder.neck"])
    assert foreseen.beyond_decoder == 3 * size["image_encoder.neck"]
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    optimizer.step()
    steps = 4 * len(list(model.image_encoder.neck.parameters()))  # Adam counts its steps per tensor
    assert usage().beyond_decoder == foreseen.beyond_decoder + steps
    build_groups(model, {"all": {"names": ["*"]}}, 1e-3)
    assert usage().checkpointing is False
    assert usage(torch.nn.Linear(2, 2)).beyond_decoder == 0  # no decoder that could be left alone


def test_only_errors_for_want_of_memory_are_explained() -> None:
    def run(error: Exception) -> None:
        with explained(lambda reason: "said twice"), explained(lambda reason: f"said: {reason}"):
            raise error

    with pytest.raises(OutOfMemory, match=r"^said: OutOfMemoryError$"):
        run(torch.OutOfMemoryError())
    with pytest.raises(OutOfMemory, match=r"^said: x out of memory$"):
        run(RuntimeError("x out of memory\nsecond line"))
    with pytest.raises(ValueError, match=r"^out of memory$"):
        run(ValueError("out of memory"))


def activations(batch: int, size: int, checkpointing: bool = False, bf16: bool = False, decoder: bool = False) -> float:
    """Bytes that autograd keeps from a forward pass beside the weights."""
    override = f"model.network.image_encoder.trunk.activation_checkpointing={str(checkpointing).lower()}"
    model = instantiate(compose_config(f"image_size={size}", override).model.network).train()
    if decoder:
        build_groups(model, {"decoder": {"names": ["sam_mask_decoder.*"]}}, 1.0)
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        features = model.encode_image(torch.rand(batch, 3, size, size))
        points = torch.full((batch, 1, 2), size / 2), torch.ones(batch, 1, dtype=torch.long)
        answer = model.decode(features, *points)
    assert answer.low_res_masks.requires_grad
    return float(sum(tensor.untyped_storage().nbytes() for tensor in kept.values()))


@pytest.mark.slow
def test_the_shares_are_those_of_a_network() -> None:
    whole = activations(4, 256)
    assert activations(2, 256) / whole == pytest.approx(1 / 2, abs=0.02)
    assert activations(4, 128) / whole == pytest.approx(1 / 4, abs=0.02)
    assert activations(4, 256, bf16=True) / whole == pytest.approx(1 - IN_BF16, abs=0.05)
    assert activations(4, 256, decoder=True) / whole == pytest.approx(1 - FROZEN, abs=0.05)
    # a block that is computed again holds its activations for a moment, so less than what is not kept is saved
    assert 0 < 1 - activations(4, 256, checkpointing=True) / whole - CHECKPOINTED < 0.1


def test_a_batch_that_devices_share_is_halved_as_long_as_each_keeps_an_image() -> None:
    usage = Usage(4, 1, None, None, None, False, 10, 10, 0, None, devices=2)
    assert "batch_size=2 trainer.accumulate=2: saves about 50%" in explain_oom(usage, "training", "full")
    assert "batch_size" not in explain_oom(replace(usage, batch_size=2), "training", "full")
