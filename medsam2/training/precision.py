"""Device, number format and seeds."""

from __future__ import annotations

import logging
import random
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

log = logging.getLogger(__name__)

Precision = Literal["auto", "fp32", "bf16", "fp16"]


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies in bfloat16; elsewhere torch emulates it, several times slower than float32."""
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def choose_device(device: str) -> str:
    """`auto` as the best device there is: cuda, then mps, then cpu; any other name as it is."""
    if device != "auto":
        return device
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


@dataclass(frozen=True)
class Runtime:
    """Where and in which format products are computed. Weights and optimiser state are float32 in any case."""

    device: str
    dtype: torch.dtype

    def autocast(self) -> AbstractContextManager[object]:
        if self.dtype is torch.float32:
            return nullcontext()
        return torch.autocast(torch.device(self.device).type, dtype=self.dtype)


def build_runtime(device: str, precision: Precision, tf32: bool) -> Runtime:
    """Resolves `auto`, and sets whether float32 products may use TensorFloat-32 (NVIDIA Ampere and later)."""
    device = choose_device(device)
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32
    if precision == "auto":
        precision = "bf16" if device.startswith("cuda") and torch.cuda.is_bf16_supported() else "fp32"
    if precision == "bf16" and device == "cpu" and not cpu_has_bf16():
        log.warning("trainer.precision=bf16: this CPU has no bfloat16 instructions, fp32 is several times faster")
    formats = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    return Runtime(device, formats[precision])


def seed_everything(seed: int) -> None:
    """Seeds Python's, NumPy's and torch's global generators. Prompts and order have generators of their own."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
