"""Hydra finds plugins in the package `hydra_plugins`; what the launcher does stands in medsam2/launch/local.py."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hydra.core.singleton import Singleton
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

if TYPE_CHECKING:
    from medsam2.launch.base import Handle
    from medsam2.launch.local import LocalPool

log = logging.getLogger("medsam2.launch")


class LocalLauncher(Launcher):
    """Several jobs at a time on this machine, each a process of its own.

    Args:
        jobs: how many at a time; None: one per GPU or, without any, one per four processors.
        jobs_per_gpu: how many share a GPU.
        grace_s: seconds a job has to end in order when it is cancelled; it is killed then.
    """

    stays = False
    here = True

    def __init__(self, jobs: int | None = None, jobs_per_gpu: int = 1, grace_s: float = 120.0):
        self.jobs = jobs
        self.jobs_per_gpu = jobs_per_gpu
        self.grace_s = grace_s
        self.pool: LocalPool | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from medsam2.launch.local import LocalPool
        from medsam2.launch.places import find_places
        from medsam2.launch.worker import Program

        try:
            device, devices = str(OmegaConf.select(config, "device")), OmegaConf.select(config, "trainer.devices")
            places = find_places(device, self.jobs, self.jobs_per_gpu, devices or 1)
        except ValueError as error:
            log.error("%s", error)
            raise SystemExit(1) from None
        self.program = Program(hydra_context, task_function, config, Singleton.get_state())
        self.pool = LocalPool(places, grace=self.grace_s, mlflow="mlflow" in str(OmegaConf.select(config, "tracking")))

    @property
    def places(self) -> int:
        """How many jobs run at a time."""
        assert self.pool
        return self.pool.places

    def start(self, jobs: Sequence[Sequence[str]], first: int) -> list[Handle]:
        assert self.pool
        return list(self.pool.start(self.program.pickled(), jobs, first))

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[Any]:
        """Runs the jobs and waits for them. A value is 0 or, of a job that failed, NaN: results are in their runs."""
        handles = self.start(job_overrides, initial_job_idx)
        assert self.pool
        try:
            self.pool.wait()
        except BaseException:
            self.pool.stop()
            raise
        finally:
            self.close()
        return [0.0 if handle.ended() == "exit 0" else math.nan for handle in handles]

    def alive(self, job: str) -> bool:
        return False  # a SLURM job is not this launcher's

    def close(self) -> None:
        if self.pool:
            self.pool.close()
