"""Jobs on a SLURM cluster: what each asks for, and how they are submitted.

Submission and requeueing are submitit's. Its waiting is not used: it asks sacct, which many clusters lack, and waits
for ever for the result of a job that was killed. Here a job has ended when squeue no longer knows it, and what it
achieved stands in its run directory.
"""

from __future__ import annotations

import logging
import math
import os
import shlex
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from omegaconf import DictConfig, OmegaConf

from medsam2.config import PROJECT, register_resolvers
from medsam2.launch.slurm_queue import Queue, cancel

log = logging.getLogger("medsam2.slurm")

MAX_ARRAY = 1000  # SLURM's MaxArraySize is 1001 unless an administrator raised it

# What AutoExecutor takes for every kind of cluster; the rest is SLURM's own and gets its name in front.
COMMON = (
    "name",
    "timeout_min",
    "mem_gb",
    "nodes",
    "cpus_per_task",
    "gpus_per_node",
    "tasks_per_node",
    "stderr_to_stdout",
)

SETUP = (
    f"export PYTHONPATH={shlex.quote(str(PROJECT))}${{PYTHONPATH:+:$PYTHONPATH}}",
    "export SUBMITIT_PREEMPT_SIGNAL=USR2",
    # Since 22.05 srun does not take this over by itself, and the job would sit on one core.
    "export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK",
    "export OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK OMP_WAIT_POLICY=PASSIVE",
)


class SubmissionError(RuntimeError):
    """The cluster did not take a job; the text is what it said."""


# ---------------------------------------------------------------------------------------------- resources


def resources(given: Mapping[str, Any], sizes: Mapping[str, Mapping[str, Any]], cfg: DictConfig) -> dict[str, Any]:
    """What the job of a config asks for: what is given for all jobs, else what its model's size needs.

    Args:
        given: the launcher's settings; None stands for "by size".
        sizes: settings by `model.variant`, and `other`; CPUs and memory are for one device.

    Raises:
        ValueError: the warning before the time limit would come at once.
    """
    devices = int(OmegaConf.select(cfg, "trainer.devices") or 1)
    size = sizes.get(str(OmegaConf.select(cfg, "model.variant")), sizes.get("other", {}))
    needs = {k: v * devices if k in ("cpus_per_task", "mem_gb") else v for k, v in size.items()}
    needs["gpus_per_node"] = 0 if cfg.device == "cpu" else devices
    needs |= {k: v for k, v in given.items() if v is not None}
    if needs["signal_delay_s"] >= 60 * needs["timeout_min"]:
        raise ValueError(
            f"hydra.launcher.signal_delay_s={needs['signal_delay_s']}: a job of {needs['timeout_min']} minutes would "
            "be told to leave as soon as it starts; choose a smaller value, or a larger hydra.launcher.timeout_min"
        )
    return needs


def describe(needs: Mapping[str, Any]) -> str:
    """Resources for people: `8 CPU, 48 GB, 1 GPU, 720 min`."""
    units = {"cpus_per_task": "CPU", "mem_gb": "GB", "gpus_per_node": "GPU", "timeout_min": "min"}
    return ", ".join(f"{needs[key]:g} {unit}" for key, unit in units.items() if needs.get(key))


# --------------------------------------------------------------------------------------------- submission


def arrays(needs: Sequence[dict[str, Any]]) -> list[tuple[dict[str, Any], list[int]]]:
    """Jobs by what they ask for, with their positions; no more together than an array may hold."""
    groups: list[tuple[dict[str, Any], list[int]]] = []
    for i, need in enumerate(needs):
        place = next((where for same, where in groups if same == need and len(where) < MAX_ARRAY), None)
        if place is None:
            groups.append((need, place := []))
        place.append(i)
    return groups


def submit(function: Callable[..., Any], needs: Mapping[str, Any], calls: Sequence[Sequence[Any]]) -> list[Any]:
    """Submits one job per list of arguments, and returns submitit's jobs in the same order.

    Raises:
        SubmissionError: there is no SLURM here, or it refuses.
    """
    if not shutil.which("sbatch") or not shutil.which("srun"):
        raise SubmissionError("hydra/launcher=slurm: no sbatch on this machine; give the command on a login node")
    import submitit

    settings = dict(needs)
    folder = Path(settings.pop("submitit_folder"))
    folder.mkdir(parents=True, exist_ok=True)  # before a job starts: SLURM cannot write its log otherwise
    executor = submitit.AutoExecutor(folder, cluster="slurm", slurm_max_num_timeout=settings.pop("max_num_timeout"))
    settings["setup"] = [*SETUP, *(settings.get("setup") or [])]
    settings["gpus_per_node"] = settings["gpus_per_node"] or None  # a cluster without GPUs refuses to hear of 0
    executor.update_parameters(**{k if k in COMMON else f"slurm_{k}": v for k, v in settings.items()})
    try:
        with _outside_of_a_job():
            jobs = executor.map_array(function, *zip(*calls, strict=True))
    except Exception as error:
        raise SubmissionError(f"sbatch ({describe(needs)}): {error}") from error
    span = jobs[0].job_id + (f" … {jobs[-1].job_id}" if len(jobs) > 1 else "")
    log.info("submitted %s, each with %s; logs: %s", span, describe(needs), folder)
    return list(jobs)


@contextmanager
def _outside_of_a_job() -> Iterator[None]:
    """Hides the job that this process may itself be in: its settings would become those of the new jobs."""
    inherited = {k: v for k, v in os.environ.items() if k.startswith(("SLURM_", "SRUN_")) and k != "SLURM_CONF"}
    if "SLURM_JOB_ID" not in inherited:
        inherited = {}
    for key in inherited:
        del os.environ[key]
    try:
        yield
    finally:
        os.environ.update(inherited)


def prepare_job() -> None:
    """What a job's process needs before its configuration can be composed."""
    from submitit import JobEnvironment

    register_resolvers()
    for file in JobEnvironment().paths.folder.glob(f"{JobEnvironment().job_id}_*.save_tmp"):
        file.unlink(missing_ok=True)  # of an attempt killed while submitit wrote it, which would not write another
    requeue = signal.getsignal(signal.SIGUSR2)  # submitit's

    def leave(signum: int, frame: FrameType | None) -> None:
        # As soon as scontrol has put the job back, SLURM ends all of it, and scontrol too, which has yet to report.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if callable(requeue):
            requeue(signum, frame)

    signal.signal(signal.SIGUSR2, leave)


@dataclass(frozen=True)
class SlurmHandle:
    """A submitted job, `17` or `17_3` in an array."""

    job: Any  # submitit's
    queue: Queue

    @property
    def label(self) -> str:
        return f"slurm {self.job.job_id}"

    def ended(self) -> str | None:
        how = self.queue.ended(self.job.job_id)
        return how and f"{how}; log: {self.job.paths.stdout}"

    def cancel(self) -> None:
        cancel(self.job.job_id)

    def value(self) -> float:
        """What the job returned; NaN if it did not."""
        from submitit.core.utils import pickle_load

        try:
            outcome, result = pickle_load(self.job.paths.result_pickle)
            return float(result.return_value) if outcome == "success" else math.nan
        except Exception as error:
            log.debug("%s: %s", self.label, error)
            return math.nan
