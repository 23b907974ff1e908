"""What a job of a sweep costs beside its work: `python -m benchmarks.sweep`, seconds per job for each launcher.

Each launcher runs the same sweep, `sam2_nano` on the real CT with a seed per job, one job at a time, into a folder of
its own. The launchers take turns, in rounds.

    cycle     from the end of one job to the end of the next, as the runs record them; the first job is left out, which
              also loads what later ones find: files in memory, decoded cases, imports of a warm start
    work      in the job: training with its checkpoints (Trainer.fit), and the evaluations before and after it
    overhead  cycle − work: process, imports, composing and checking the config, building network and data, tables of
              rows, run directory, tracker, and what the launcher waits for

Where no cluster answers `sinfo`, slurm is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from medsam2.config import PROJECT

JOB = (
    "dataset=chest_ct", "model=sam2_nano", "image_size=64", "device=cpu", "num_workers=0", "num_threads=1",
    "trainer.max_epochs=1", "trainer.max_batches=2", "metrics.overlays=false",
    "task._target_=benchmarks.sweep.timed_train",
)  # fmt: skip
LAUNCHERS = {
    "basic": (),
    "local": ("hydra.launcher.jobs=1",),
    "submitit_local": ("hydra.sweeper.max_batch_size=1", "hydra.launcher.cpus_per_task=1"),
    "slurm": ("hydra.launcher.array_parallelism=1", "hydra.launcher.cpus_per_task=1", "hydra.launcher.gpus_per_node=0",
              "hydra.launcher.mem_gb=2"),
}  # fmt: skip


def timed_train(parts: Any, legacy_select_on_test: bool = False) -> Any:
    """The task `train`, which also stores how long training and evaluations took."""
    from medsam2.tasks.train import train

    spans: list[float] = []
    parts.trainer.fit = clocked(parts.trainer.fit, spans, active := [])
    parts.rows = clocked(parts.rows, spans, active)
    outcome = train(parts, legacy_select_on_test)
    (parts.directory.path / "work.json").write_text(json.dumps(sum(spans)))
    return outcome


def clocked(call: Callable[..., Any], spans: list[float], active: list[bool]) -> Callable[..., Any]:
    """The same function; what a call takes is appended to `spans`, unless it is part of another such call."""

    def inner(*args: Any, **kwargs: Any) -> Any:
        if active:
            return call(*args, **kwargs)
        active.append(True)
        start = time.perf_counter()
        try:
            return call(*args, **kwargs)
        finally:
            spans.append(time.perf_counter() - start)
            active.clear()

    return inner


def measure(launcher: str, jobs: int, tracking: str) -> tuple[float, float]:
    """Seconds of a cycle and of the work in it, means over the jobs after the first."""
    with tempfile.TemporaryDirectory(prefix="medsam2-sweep-") as folder:
        seeds = f"seed={','.join(map(str, range(jobs)))}"
        chosen = [f"hydra/launcher={launcher}", *LAUNCHERS[launcher], f"tracking={tracking}"]
        command = [sys.executable, "run.py", "-m", *JOB, *chosen, f"paths.output_dir={folder}", seeds]
        environ = os.environ | {"PYTHONPATH": str(PROJECT)}
        result = subprocess.run(command, cwd=PROJECT, env=environ, capture_output=True, text=True, check=False)
        if result.returncode:
            raise SystemExit(f"{' '.join(command)}\n{result.stdout}{result.stderr}")
        return read_cycle(Path(folder))


def read_cycle(folder: Path) -> tuple[float, float]:
    """The mean cycle and work of the finished runs below a folder, less the first."""
    runs = []
    for file in folder.glob("runs/*/*/status.json"):
        runs.append((json.loads(file.read_text())["updated"], json.loads((file.parent / "work.json").read_text())))
    runs.sort()
    return (runs[-1][0] - runs[0][0]) / (len(runs) - 1), statistics.fmean(work for _, work in runs[1:])


def has_cluster() -> bool:
    """Whether a SLURM controller answers."""
    if shutil.which("sinfo") is None:
        return False
    try:
        return subprocess.run(["sinfo"], capture_output=True, timeout=5, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--launchers", nargs="+", choices=LAUNCHERS, default=list(LAUNCHERS))
    parser.add_argument("--jobs", type=int, default=5, help="of each sweep (default 5)")
    parser.add_argument("--rounds", type=int, default=3, help="how often each launcher runs the sweep (default 3)")
    parser.add_argument("--tracking", default="offline", help="offline or mlflow")
    args = parser.parse_args()
    launchers = [name for name in args.launchers if name != "slurm" or has_cluster()]
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in launchers}
    for _ in range(args.rounds):
        for name in launchers:
            found[name].append(measure(name, args.jobs, args.tracking))
    print(f"{args.jobs} jobs, median of {args.rounds} rounds, tracking={args.tracking}, {os.cpu_count()} processors")
    print(f"{'launcher':16}{'cycle s':>9}{'work s':>9}{'overhead s':>12}")
    for name, pairs in found.items():
        cycle, work = (statistics.median(column) for column in zip(*pairs, strict=True))
        overhead = statistics.median(cycle - work for cycle, work in pairs)
        print(f"{name:16}{cycle:9.2f}{work:9.2f}{overhead:12.2f}")


if __name__ == "__main__":
    main()
