"""Device, number format and seeds."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from medsam2.training.precision import Precision, Runtime, build_runtime, choose_device, seed_everything

needs_no_gpu = pytest.mark.skipif(
    torch.cuda.is_available() or torch.backends.mps.is_available(), reason="needs a machine without a GPU"
)


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    precision = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(precision)


@needs_no_gpu
def test_auto_without_a_gpu_is_the_cpu_in_float32() -> None:
    assert choose_device("auto") == "cpu"
    assert build_runtime("auto", "auto", tf32=True) == Runtime("cpu", torch.float32)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_auto_with_a_gpu() -> None:
    dtype = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    assert build_runtime("auto", "auto", tf32=True) == Runtime("cuda", dtype)


@pytest.mark.parametrize("device", ["cpu", "cuda", "cuda:1", "mps"])
def test_a_named_device_is_never_replaced(device: str) -> None:
    assert choose_device(device) == device


@pytest.mark.parametrize(
    ("precision", "dtype"), [("auto", "float32"), ("fp32", "float32"), ("bf16", "bfloat16"), ("fp16", "float16")]
)
def test_products_are_computed_in_the_chosen_format(precision: Precision, dtype: str) -> None:
    runtime = build_runtime("cpu", precision, tf32=False)
    layer = torch.nn.Linear(4, 4)
    with runtime.autocast():
        assert layer(torch.zeros(2, 4)).dtype == getattr(torch, dtype)
    assert layer.weight.dtype == torch.float32
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize(
    ("precision", "supported", "warned"), [("bf16", False, 1), ("bf16", True, 0), ("fp32", False, 0)]
)
def test_emulated_bfloat16_is_pointed_out(
    precision: Precision,
    supported: bool,
    warned: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("medsam2.training.precision.cpu_has_bf16", lambda: supported)
    build_runtime("cpu", precision, tf32=False)
    assert [r.message.split(":")[0] for r in caplog.records] == ["trainer.precision=bf16"] * warned


@pytest.mark.parametrize(("tf32", "expected"), [(True, "high"), (False, "highest")])
def test_tf32_is_a_switch(tf32: bool, expected: str) -> None:
    build_runtime("cpu", "fp32", tf32=tf32)
    assert torch.get_float32_matmul_precision() == expected
    assert torch.backends.cudnn.allow_tf32 is tf32


def test_seeds_reach_all_three_generators() -> None:
    draws = []
    for seed in (3, 3, 4):
        seed_everything(seed)
        draws.append((random.random(), float(np.random.rand()), float(torch.rand(()))))
    assert draws[0] == draws[1]
    assert all(a != b for a, b in zip(draws[0], draws[2], strict=True))
