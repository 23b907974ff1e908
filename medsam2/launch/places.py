"""Places for jobs on one machine: a GPU each, or a share of the processor's threads."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """Where one job at a time runs.

    Args:
        gpu: an entry of CUDA_VISIBLE_DEVICES; None on the processor.
        threads: of torch; None leaves its own choice.
    """

    gpu: str | None = None
    threads: int | None = None

    def environ(self) -> dict[str, str]:
        """What a job at this place finds in its environment beside the head's."""
        gpu = {} if self.gpu is None else {"CUDA_VISIBLE_DEVICES": self.gpu}
        return gpu | ({"OMP_NUM_THREADS": str(self.threads)} if self.threads else {})


def build_places(
    gpus: Sequence[str], cpus: int, jobs: int | None = None, jobs_per_gpu: int = 1, threads: int | None = None
) -> list[Place]:
    """The places of a machine with these GPUs and processors; the first ones are on different GPUs.

    Args:
        jobs: how many run at a time; None: `jobs_per_gpu` on each GPU or, without any, one per four processors.
        threads: of each job; None divides the processors among several jobs, and leaves a single one its own choice.

    Raises:
        ValueError: a number below 1, or more jobs than the GPUs have room for.
    """
    for key, value in (("jobs", jobs), ("jobs_per_gpu", jobs_per_gpu)):
        if value is not None and (not isinstance(value, int) or value < 1):
            raise ValueError(f"hydra.launcher.{key}={value}: must be a whole number >= 1")
    room = len(gpus) * jobs_per_gpu
    if gpus and jobs and jobs > room:
        raise ValueError(
            f"hydra.launcher.jobs={jobs}: {len(gpus)} GPUs have room for {room}; "
            f"hydra.launcher.jobs_per_gpu={math.ceil(jobs / len(gpus))} lets more share one, device=cpu needs none"
        )
    count = jobs or room or max(1, cpus // 4)
    if threads is None and count > 1:
        threads = max(1, cpus // count)
    return [Place(gpus[i % len(gpus)] if gpus else None, threads) for i in range(count)]


def find_places(device: str, jobs: int | None = None, jobs_per_gpu: int = 1, devices: int = 1) -> list[Place]:
    """The places of this machine, within CUDA_VISIBLE_DEVICES, OMP_NUM_THREADS and the processors this process may use.

    Args:
        devices: GPUs that each job computes on.

    Raises:
        ValueError: as `build_places`; a GPU chosen by number, since each job sees its own alone, as number 0.
    """
    if device.startswith("cuda:") and device != "cuda:0":
        raise ValueError(
            f"device={device}: this launcher gives each job a GPU; use device=cuda, and CUDA_VISIBLE_DEVICES to choose"
        )
    gpus = visible_gpus() if device == "auto" or device.startswith("cuda") else []
    gpus = [",".join(gpus[i : i + devices]) for i in range(0, len(gpus) - devices + 1, devices)] or gpus
    threads = os.environ.get("OMP_NUM_THREADS", "")
    given = int(threads) if threads.isdigit() and int(threads) else None
    return build_places(gpus, len(os.sched_getaffinity(0)), jobs, jobs_per_gpu, given)


def visible_gpus() -> list[str]:
    """The GPUs torch can use, as CUDA_VISIBLE_DEVICES names them. CUDA itself is not started."""
    import torch

    count, listed = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    names = list(map(str, range(count))) if listed is None else [name.strip() for name in listed.split(",")]
    return names[:count]
