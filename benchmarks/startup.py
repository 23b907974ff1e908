"""What the command line costs before any work: `python -m benchmarks.startup`.

Each command runs as a process of its own, several times in turn; the table gives the median in seconds and the ratio to
a bare `import hydra`, which no Hydra program can undercut.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from medsam2.config import PROJECT

REPEATS = 7
RUN = [sys.executable, str(PROJECT / "run.py")]
COMMANDS = {
    "import hydra": [sys.executable, "-c", "import hydra"],
    "run.py --help": [*RUN, "--help"],
    "run.py --cfg job": [*RUN, "--cfg", "job"],
    "run.py model=misspelt": [*RUN, "model=misspelt"],
    "import torch": [sys.executable, "-c", "import torch"],
    "import monai": [sys.executable, "-c", "import monai"],
    "import mlflow": [sys.executable, "-c", "import mlflow"],
}


def measure() -> dict[str, float]:
    """Median wall time of each command, the commands taking turns so that a busy moment hits all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(REPEATS):
        for name, command in COMMANDS.items():
            start = time.perf_counter()
            subprocess.run(command, capture_output=True, check=False)
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def main() -> None:
    medians = measure()
    base = medians["import hydra"]
    print(f"{'command':24}{'median s':>10}{'ratio':>8}")
    for name, value in medians.items():
        print(f"{name:24}{value:10.2f}{value / base:8.1f}")


if __name__ == "__main__":
    main()
