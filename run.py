"""The one door: `python run.py dataset=refuge model=sam2_s` is a run, `-m model=sam2_s,sam2_b` a sweep.

Nothing heavy is imported here, so `--help`, `--cfg job` and a misspelt choice answer at once.
"""

import os
import signal
import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig

sys.path.insert(0, str(Path(__file__).parent))  # run.py works from any folder, installed or not

# Waiting OpenMP threads that spin make torch several times slower wherever another process wants the core too.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from medsam2.config import help_text, register_resolvers

register_resolvers()


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg: DictConfig) -> float:
    from medsam2.experiment import run

    return run(cfg)


if __name__ == "__main__":
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(help_text())  # Hydra's own page lists every folder below the project as a group, runs and all
    else:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends in order: the run is marked as interrupted
        main()
