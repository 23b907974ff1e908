"""What a run cost: how many parameters it trained, and the most memory that was in use."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

PROCESS = Path("/proc/self")


def forget_peak(device: str) -> None:
    """From now on the peak is that of what follows: a process of a sweep computes several runs."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError):  # not Linux
            (PROCESS / "clear_refs").write_text("5")


def measure_cost(model: nn.Module, device: str) -> dict[str, Any]:
    """parameters and trained_parameters, counted; peak_memory in bytes since `forget_peak`.

    The peak is of what is allocated on a GPU; on a CPU it is of the whole process, less its data loading workers, and
    None where the system does not tell.
    """
    counts = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return {
        "parameters": sum(count for count, _ in counts),
        "trained_parameters": sum(count for count, trained in counts if trained),
        "peak_memory": torch.cuda.max_memory_allocated(device) if device.startswith("cuda") else _process_peak(),
    }


def _process_peak() -> int | None:
    with suppress(OSError):
        if found := re.search(r"VmHWM:\s+(\d+) kB", (PROCESS / "status").read_text()):
            return int(found[1]) * 1024
    return None
