"""Real sweeps through `python run.py -m hydra/launcher=local`: jobs that die in every way, and a head that does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from medsam2.config import PROJECT

JOB = (
    "dataset=chest_ct", "model=sam2_nano", "image_size=64", "device=cpu", "num_workers=0", "num_threads=1",
    "trainer.max_epochs=1", "trainer.max_batches=1", "metrics.overlays=false", "tracking=offline",
)  # fmt: skip

TASK = """
import json, os, signal, sys, time

from medsam2.tasks.train import train as real


def train(parts, legacy_select_on_test=False):
    fault = json.loads(os.environ["FAULTS"]).get(str(parts.seed))
    if fault == "raise":
        raise ValueError("a fault of the test")
    if fault == "exit":
        sys.exit(3)
    if fault == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "sleep":
        time.sleep(5)
    return real(parts)
"""

pytestmark = pytest.mark.slow
_heads: list[subprocess.Popen[str]] = []


@pytest.fixture(autouse=True)
def no_heads_left() -> Iterator[None]:
    yield
    for process in _heads:
        process.kill()
    _heads.clear()


def sweep(folder: Path, *overrides: str, launcher: str = "local", **faults: str) -> subprocess.Popen[str]:
    """Starts a sweep whose jobs train; `s2="kill"` has the one with seed 2 killed before."""
    (folder / "faulty.py").write_text(TASK)
    told = json.dumps({seed[1:]: fault for seed, fault in faults.items()})
    environ = os.environ | {"PYTHONPATH": str(folder), "FAULTS": told, "OMP_NUM_THREADS": "1"}
    places = [f"paths.output_dir={folder}", "task._target_=faulty.train", f"hydra/launcher={launcher}"]
    command = [sys.executable, "run.py", "-m", *JOB, *places, *overrides]
    pipe = subprocess.PIPE
    head = subprocess.Popen(command, cwd=PROJECT, env=environ, stdout=pipe, stderr=subprocess.STDOUT, text=True)
    _heads.append(head)
    return head


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=280)
    return output


def statuses(output: Path) -> dict[int, dict[str, Any]]:
    """The status of each run, by its seed."""
    found = {}
    for file in output.glob("runs/*/*/status.json"):
        config = (file.parent / "config.yaml").read_text() if (file.parent / "config.yaml").exists() else "seed: -1"
        seed = next(line for line in config.splitlines() if line.startswith("seed: "))
        found[int(seed.removeprefix("seed: "))] = dict(json.loads(file.read_text()))
    return found


def wait_for(holds: Callable[[], bool], seconds: float = 200.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "did not happen"
        time.sleep(0.05)


def states(output: Path) -> dict[int, str]:
    return {seed: status["state"] for seed, status in statuses(output).items()}


def test_jobs_that_die_in_every_way_and_the_same_command_again(tmp_path: Path) -> None:
    command = ("seed=1,2,3,4,5", "hydra.launcher.jobs=2")
    process = sweep(tmp_path, *command, s2="raise", s3="exit", s4="kill")
    output = finish(process)
    found = statuses(tmp_path)
    assert process.returncode == 1
    assert states(tmp_path) == {1: "finished", 2: "failed", 3: "failed", 4: "failed", 5: "finished"}, output
    assert "a fault of the test" in found[2]["error"]
    assert found[4]["reason"] == "killed"
    assert "signal 9" in found[4]["error"]
    assert "[0] " in output
    assert "[1] " in output
    assert len({status["pid"] for status in found.values()}) == 5

    process = sweep(tmp_path, *command)
    output = finish(process)
    assert process.returncode == 0, output
    assert "5 jobs, 2 finished before" in output
    assert {seed: status["attempts"] for seed, status in statuses(tmp_path).items()} == {1: 1, 2: 2, 3: 2, 4: 2, 5: 1}


def test_a_killed_head_and_the_same_command_again(tmp_path: Path) -> None:
    command = ("seed=1,2,3", "hydra.launcher.jobs=1")
    process = sweep(tmp_path, *command, s1="sleep")
    wait_for(lambda: states(tmp_path).get(1) == "running")
    process.kill()
    process.communicate()
    wait_for(lambda: states(tmp_path).get(1) == "finished")  # the orphan goes on
    time.sleep(2)
    assert [seed for seed, state in states(tmp_path).items() if state == "finished"] == [1]

    process = sweep(tmp_path, *command)
    output = finish(process)
    assert process.returncode == 0, output
    assert "3 jobs, 1 finished before" in output
    assert {seed: status["attempts"] for seed, status in statuses(tmp_path).items()} == {1: 1, 2: 1, 3: 1}


def test_ctrl_c_saves_what_runs_and_starts_nothing_more(tmp_path: Path) -> None:
    process = sweep(tmp_path, "seed=1,2", "hydra.launcher.jobs=1", "trainer.max_epochs=500")
    wait_for(lambda: any(tmp_path.glob("runs/*/*/checkpoints/last.pt")))
    process.send_signal(signal.SIGINT)
    output = finish(process)
    assert process.returncode == 130, output
    assert states(tmp_path)[1] == "preempted"
    assert len(list(tmp_path.glob("runs/*/*/checkpoints/last.pt"))) == 1
    assert states(tmp_path).get(2) != "finished"
