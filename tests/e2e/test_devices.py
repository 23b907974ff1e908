"""`trainer.devices=2` on the command line: the run of one process, and what becomes of it when something dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from medsam2.config import PROJECT

pytestmark = pytest.mark.slow

SETTINGS = (
    "image_size=64", "num_workers=0", "num_threads=1", "device=cpu", "tracking=offline", "metrics.overlays=false",
    "trainer.val_every=99",
)  # fmt: skip


def start(output: Path, *overrides: str, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(PROJECT / "run.py"), *SETTINGS, *overrides, f"paths.output_dir={output}"]
    known = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    piped: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, env=known | {"OMP_NUM_THREADS": "1"} | environment, **piped)


def run_dir(output: Path) -> Path:
    (file,) = (output / "runs").rglob("status.json")
    return file.parent


def status(output: Path) -> dict[str, Any]:
    return dict(json.loads((run_dir(output) / "status.json").read_text()))


def metrics(output: Path) -> list[tuple[int, dict[str, float]]]:
    lines = map(json.loads, (run_dir(output) / "metrics.jsonl").read_text().splitlines())
    return [(line["epoch"], line["metrics"]) for line in lines]


def check_same(output: Path, alone: Path) -> None:
    assert run_dir(output).name == run_dir(alone).name  # trainer.devices is not what a run is
    assert status(output)["state"] == "finished"
    assert [epoch for epoch, _ in metrics(output)] == [epoch for epoch, _ in metrics(alone)]
    for (_, here), (_, there) in zip(metrics(output), metrics(alone), strict=True):
        assert here == pytest.approx(there, rel=1e-3, abs=1e-4)
    rows, expected = (pd.read_csv(run_dir(folder) / "rows" / "zero_shot.csv") for folder in (output, alone))
    pd.testing.assert_frame_equal(rows, expected, rtol=1e-4)


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    text, _ = process.communicate(timeout=280)
    assert process.returncode == code, text
    return text


def until_training(output: Path, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 200
    while not list((output / "runs").rglob("last.pt")):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.05)


def ranks_of(process: subprocess.Popen[str]) -> list[int]:
    """The processes that a run started, without multiprocessing's own."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("alone")
    finish(start(output, "trainer.max_epochs=2", "optim.eps=1e-3"))
    return output


def test_two_devices_are_one_process(alone: Path, tmp_path: Path) -> None:
    text = finish(start(tmp_path, "trainer.max_epochs=2", "optim.eps=1e-3", "trainer.devices=2"))
    check_same(tmp_path, alone)
    assert text.count("epoch 2: val/dice/mean") == 1
    assert (run_dir(tmp_path) / "run.log").read_text().count("epoch 2: val/dice/mean") == 1


def test_two_tasks_of_slurm_are_one_process(alone: Path, tmp_path: Path) -> None:
    settings = ("trainer.max_epochs=2", "optim.eps=1e-3", "trainer.devices=2")
    step = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2"}
    second, first = (
        start(tmp_path, *settings, **step, SLURM_PROCID=number, SLURM_LOCALID=number) for number in ("1", "0")
    )
    finish(first)
    finish(second)
    check_same(tmp_path, alone)
    again = [start(tmp_path, *settings, **step, SLURM_PROCID=n, SLURM_LOCALID=n) for n in ("1", "0")]
    assert "is finished" in finish(again[1])
    finish(again[0])


def test_a_killed_device_ends_the_run_which_says_so_and_goes_on(tmp_path: Path) -> None:
    settings = ("trainer.max_epochs=40", "trainer.devices=2", "trainer.checkpoint_minutes=0.001")
    process = start(tmp_path, *settings)
    until_training(tmp_path, process)
    victim, killed = max(ranks_of(process)), time.monotonic()
    os.kill(victim, signal.SIGKILL)
    text = finish(process, 1)
    assert time.monotonic() - killed < 60
    assert "was killed by signal 9" in text
    assert (status(tmp_path)["state"], status(tmp_path)["reason"]) == ("failed", "killed")


def test_a_signal_saves_and_the_run_goes_on_with_another_number_of_devices(tmp_path: Path) -> None:
    settings = ("trainer.max_epochs=3", "trainer.checkpoint_minutes=0.001")
    process = start(tmp_path, *settings, "trainer.devices=2")
    until_training(tmp_path, process)
    process.send_signal(signal.SIGUSR2)
    finish(process, 128 + signal.SIGUSR2)
    assert status(tmp_path)["state"] == "preempted"
    text = finish(start(tmp_path, *settings))
    assert "resuming after epoch" in text
    assert status(tmp_path)["state"] == "finished"
    assert [epoch for epoch, values in metrics(tmp_path) if "train/loss" in values] == [1, 2, 3]
