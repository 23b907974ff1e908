"""What a comparison of many runs takes: `python -m benchmarks.compare`, seconds and memory beside 20 s and 2 GiB.

500 run directories are written once, 100 arms (10 models × 10 learning rates) of 5 seeds, each with rows of 400 cases
× 4 structures after and before training. A fresh process then collects and compares them, with 2,000 resamples:

    collect   directories, descriptions and rows become frames
    compare   arms, settings, scores with intervals, all 4,950 pairs with their tests for each structure and the mean
    process   both, with the start of Python and all imports

Memory is the largest resident set of that process. Writing is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from medsam2.config import PROJECT

MODELS, RATES, SEEDS = 10, 10, 5
CASES, STRUCTURES = 400, ("cup", "disc", "macula", "vessels")
ASKED = {"process": 20.0, "memory": 2.0}  # seconds, GiB


def write_runs(folder: Path) -> None:
    """The run directories; arms differ a little, cases a lot, and seeds by some noise."""
    from tests.studies import FakeRun, write_run

    rng = np.random.default_rng(0)
    keys = [(f"case{i:03d}", structure) for i in range(CASES) for structure in STRUCTURES]
    difficulty = rng.normal(0, 0.05, len(keys))
    for model in range(MODELS):
        for rate in range(RATES):
            for seed in range(SEEDS):
                noise = rng.normal(0, 0.03, len(keys)) + rng.normal(0, 0.002)
                scores = np.clip(0.8 + 0.004 * model + 0.002 * rate + difficulty + noise, 0.01, 0.999)
                params = {"optim.lr": 1e-5 * 2**rate}
                scored = dict(zip(keys, scores.tolist(), strict=True))
                write_run(folder, FakeRun(scored, model=f"model{model}", seed=seed, params=params))


def measure(folder: Path) -> dict[str, float]:
    """Seconds and GiB of this process, which has done nothing before."""
    from medsam2.results.collect import collect
    from medsam2.results.compare import compare

    start = time.perf_counter()
    study = collect(folder)
    collected = time.perf_counter()
    comparison = compare(study)
    compared = time.perf_counter()
    (board,) = comparison.boards
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    counts = {
        "runs": len(study.runs),
        "rows": len(study.cases),
        "arms": len(comparison.arms),
        "pairs": len(board.pairs),
    }
    return {"collect": collected - start, "compare": compared - collected, "memory": peak} | counts


def run_fresh(folder: Path) -> dict[str, float]:
    """`measure` in a process of its own, with its seconds from start to end."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "benchmarks.compare", "--measure", str(folder)]
    result = subprocess.run(command, cwd=PROJECT, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(result.stdout.splitlines()[-1]) | {"process": time.perf_counter() - start}


def show(found: dict[str, float]) -> str:
    """The measurements as Markdown."""
    counts = ", ".join(f"{found[name]:,} {name}" for name in ("runs", "rows", "arms", "pairs"))
    lines = [
        f"{counts}; {os.cpu_count()} processors",
        "",
        "|         | measured | asked |",
        "| ------- | -------- | ----- |",
    ]
    for name, unit in (("collect", "s"), ("compare", "s"), ("process", "s"), ("memory", "GiB")):
        asked = f"{ASKED[name]:.0f} {unit}" if name in ASKED else ""
        lines.append(f"| {name:7} | {f'{found[name]:.2f} {unit}':8} | {asked:5} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", type=Path, metavar="FOLDER", help="only measure, runs that are there; prints JSON")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="write the runs here, or use those that are here")
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.measure)))
        return
    with tempfile.TemporaryDirectory(prefix="medsam2-compare-") as temporary:
        folder = args.keep or Path(temporary)
        if not (folder / "runs").exists():
            write_runs(folder)
        print(show(run_fresh(folder)))


if __name__ == "__main__":
    main()
