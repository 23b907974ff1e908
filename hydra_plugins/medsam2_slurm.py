"""Hydra finds plugins in the package `hydra_plugins`; what this launcher does stands in medsam2/launch/slurm.py."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn
from hydra_plugins.hydra_submitit_launcher import submitit_launcher  # type: ignore[import-untyped]

from medsam2.launch import slurm
from medsam2.launch.slurm_queue import Queue

# First parts of the keys that can change what a job asks for: jobs that differ elsewhere are composed once.
DECIDES = ("model", "trainer", "device", "experiment", "sweeps", "debug", "method")


class SlurmLauncher(submitit_launcher.SlurmLauncher):  # type: ignore[misc]
    """Submits and returns; the jobs go on when this process ends. Its settings: conf/hydra/launcher/slurm.yaml."""

    stays = True
    here = False

    def __init__(self, sizes: Mapping[str, Mapping[str, Any]], poll_s: float, grace_s: float, **given: Any):
        super().__init__(sizes=sizes, **given)  # as plain dictionaries
        self.sizes = self.params.pop("sizes")
        self.queue = Queue(poll_s=poll_s, grace_s=grace_s)

    def start(self, jobs: Sequence[Sequence[str]], first: int) -> list[slurm.SlurmHandle]:
        """Submits one SLURM job per list of overrides. Those that ask for the same resources make an array.

        Raises:
            slurm.SubmissionError: the cluster refuses one of them; then none stays submitted.
        """
        handles: dict[int, slurm.SlurmHandle] = {}
        try:
            for needs, indices in slurm.arrays(self._needs(jobs)):
                state = Singleton.get_state()
                calls = [
                    (list(jobs[i]), "hydra.sweep.dir", first + i, f"job_id_for_{first + i}", state) for i in indices
                ]
                submitted = slurm.submit(self, needs, calls)
                handles |= {i: slurm.SlurmHandle(job, self.queue) for i, job in zip(indices, submitted, strict=True)}
        except Exception:
            for handle in handles.values():
                handle.cancel()
            raise
        self.queue.forget()
        return [handles[i] for i in range(len(jobs))]

    def alive(self, job: str) -> bool:
        return self.queue.alive(job)

    def close(self) -> None:
        """There is nothing to close."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn | float]:
        """Hydra's own way: waits for all jobs. One that was lost returns NaN."""
        handles = self.start(job_overrides, initial_job_idx)
        while None in [handle.ended() for handle in handles]:
            time.sleep(1.0)
        return [handle.value() for handle in handles]

    def _needs(self, jobs: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
        """What each job asks for; a composition takes a quarter of a second, so equal ones are made once."""
        known: dict[tuple[str, ...], dict[str, Any]] = {}
        keys = [tuple(o for o in overrides if o.lstrip("+~").startswith(DECIDES)) for overrides in jobs]
        for key, overrides in zip(keys, jobs, strict=True):
            if key not in known:
                cfg = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
                known[key] = slurm.resources(self.params, self.sizes, cfg)
        return [known[key] for key in keys]

    def __call__(self, *arguments: Any, **keywords: Any) -> JobReturn:
        """The job itself, on its node."""
        slurm.prepare_job()
        return super().__call__(*arguments, **keywords)
