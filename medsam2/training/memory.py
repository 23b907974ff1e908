"""What to lower when memory runs out, and what each setting would save in the very run that ran out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.optim import Optimizer

SIGNS = ("out of memory", "not enough memory", "can't allocate memory")  # of a GPU; of a CPU on Windows, on Linux

# Shares of the activations of a training step of SAM 2, as tests/training/test_memory.py measures them.
CHECKPOINTED = 0.6  # what is inside the trunk's blocks is computed again
IN_BF16 = 0.4  # products in half of the bits; norms, logits and losses stay float32
FROZEN = 0.8  # the image encoder's


class OutOfMemory(RuntimeError):
    """A device's memory is full; the message names the settings to lower and what each would save."""


@dataclass(frozen=True)
class Usage:
    """What a step was made of. Sizes in bytes.

    batch_size: images, or slices of all clips.
    image_size, frames, checkpointing: None where there is no such setting, or it would change nothing.
    chunk: slices that an evaluation of volumes encodes at once, None where there are no volumes.
    weights: of all parameters. trained: gradients and optimiser state. beyond_decoder: those of them that are not the
    mask decoder's. peak: the most that was in use on the device; None where the device does not tell.
    """

    batch_size: int
    accumulate: int
    image_size: int | None
    frames: int | None
    checkpointing: bool | None
    float32: bool
    weights: int
    trained: int
    beyond_decoder: int
    peak: int | None
    training: bool = True
    chunk: int | None = None
    devices: int = 1  # which share the batch

    @property
    def activations(self) -> int | None:
        return None if self.peak is None else max(0, self.peak - self.weights - (self.trained if self.training else 0))


def survey(
    model: nn.Module,
    optimizer: Optimizer | None,
    batch_size: int,
    accumulate: int,
    frames: int | None,
    dtype: torch.dtype,
    device: str,
    training: bool,
    chunk: int | None = None,
    devices: int = 1,
) -> Usage:
    """The usage of a run as it is now, without an optimiser where nothing is trained."""
    decoder = {id(p) for name, p in model.named_parameters() if name.startswith("sam_mask_decoder.")}
    trained = {id(p): _trained_bytes(p, optimizer) for p in model.parameters() if p.requires_grad and optimizer}
    trunk = next((m for m in model.modules() if hasattr(m, "activation_checkpointing")), None)
    learns = trunk is not None and any(p.requires_grad for p in trunk.parameters())
    return Usage(
        batch_size=batch_size,
        accumulate=accumulate,
        image_size=getattr(model, "image_size", None),
        frames=frames,
        checkpointing=bool(trunk.activation_checkpointing) if trunk is not None and learns else None,
        float32=dtype is torch.float32,
        weights=sum(p.nbytes for p in model.parameters()),
        trained=sum(trained.values()),
        beyond_decoder=sum(size for key, size in trained.items() if key not in decoder) if decoder else 0,
        peak=torch.cuda.max_memory_allocated(device) if device.startswith("cuda") else None,
        training=training,
        chunk=chunk,
        devices=devices,
    )


def _trained_bytes(parameter: nn.Parameter, optimizer: Optimizer) -> int:
    """Gradient and optimiser state; before its first step an optimiser with betas is taken for an Adam."""
    if parameter in optimizer.state:
        state = [v for v in optimizer.state[parameter].values() if isinstance(v, torch.Tensor)]
        return parameter.nbytes + sum(v.nbytes for v in state)
    return parameter.nbytes * (3 if "betas" in optimizer.defaults else 1)


def explain_oom(usage: Usage, where: str, reason: str) -> str:
    """The text of an OutOfMemory: what was in use where, then a line for each setting that would help."""
    used = [f"weights {_size(usage.weights)}"]
    if usage.training:
        used.append(f"gradients and optimiser state {_size(usage.trained)}")
    if usage.activations is not None:
        used.append(f"activations at least {_size(usage.activations)}")
    said = ". ".join(reason.split(". ")[:3])  # CUDA goes on about its allocator
    lines = [f"out of memory in {where} ({said})", f"in use: {', '.join(used)}; lower one of:"]
    for setting, share, note in _settings(usage):
        known = "" if usage.activations is None else f", {_size(round(share * usage.activations))}"
        lines.append(f"  {setting}: saves about {share:.0%} of the activations{known}{note}")
    return "\n".join(lines)


def _settings(usage: Usage) -> Iterator[tuple[str, float, str]]:
    """Each setting that can be lowered, the share of the activations that it saves, and what else is to be said."""
    clip = (usage.frames or 1) * usage.devices  # a batch holds one for each device at least
    if usage.chunk is not None and not usage.training:  # volumes are evaluated one by one
        chunk = max(1, usage.chunk // 2)
        yield f"method.chunk={chunk} method.keep=0", 1 - chunk / usage.chunk, f" (now {usage.chunk}), and features"
    elif usage.batch_size >= 2 * clip:
        half = usage.batch_size // clip // 2 * clip
        steps = -(-usage.batch_size * usage.accumulate // half)
        same = f" trainer.accumulate={steps}" if usage.training else ""
        note = f"; {steps} of these make the step that {usage.accumulate} of {usage.batch_size} made" if same else ""
        yield f"batch_size={half}{same}", 1 - half / usage.batch_size, note
    if usage.image_size is not None and usage.image_size > 32:
        smaller = max(32, usage.image_size // 64 * 32)
        yield f"image_size={smaller}", 1 - (smaller / usage.image_size) ** 2, f" (now {usage.image_size})"
    if usage.training and usage.frames is not None and usage.frames > 1:
        fewer = usage.frames // 2
        yield f"method.frames={fewer}", 1 - fewer / usage.frames, f" (now {usage.frames})"
    if usage.float32:
        yield "trainer.precision=bf16", IN_BF16, ""
    if usage.training and usage.checkpointing is False:
        key = "model.network.image_encoder.trunk.activation_checkpointing=true"
        yield key, CHECKPOINTED, "; its blocks are computed twice"
    if usage.training and usage.beyond_decoder:
        more = f", and {_size(usage.beyond_decoder)} of gradients and optimiser state; image encoder and memory stay"
        yield "model/tuning=decoder", FROZEN, more


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


@contextmanager
def explained(explain: Callable[[str], str]) -> Iterator[None]:
    """Turns an error that says that memory is full into OutOfMemory, with what `explain` makes of its first line."""
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        full = isinstance(error, torch.OutOfMemoryError) or any(sign in text for sign in SIGNS)
        if isinstance(error, OutOfMemory) or not full:
            raise
        raise OutOfMemory(explain(text.splitlines()[0] if text else type(error).__name__)) from error
