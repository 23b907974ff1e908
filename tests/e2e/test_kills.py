"""Real processes, really killed: nothing computed is lost, and the end is that of a run nobody touched."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from medsam2.config import PROJECT
from medsam2.runs import RunDirectory

QUICK = ("image_size=64", "trainer.max_epochs=2", "num_workers=0", "num_threads=1", "tracking=offline", "metrics=dice")
ENV = os.environ | {"OMP_NUM_THREADS": "1"}


def command(output: Path, *overrides: str) -> list[str]:
    flags = [override for override in overrides if override == "-m"]  # before the values
    values = [override for override in overrides if override != "-m"]
    return [sys.executable, str(PROJECT / "run.py"), *flags, *QUICK, f"paths.output_dir={output}", *values]


def start(output: Path, *overrides: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(output, *overrides), env=ENV, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def issue(output: Path, *overrides: str) -> tuple[int, str]:
    done = subprocess.run(command(output, *overrides), env=ENV, text=True, capture_output=True, timeout=280)
    return done.returncode, done.stdout + done.stderr


def runs(output: Path) -> dict[Any, RunDirectory]:
    """The runs of an output folder by learning rate and seed."""
    found = [RunDirectory(path.parent) for path in output.glob("runs/*/*/status.json")]
    named = {}
    for run in found:
        params = run.description().get("params")
        if params:  # else it waits
            named[(params["optim.lr"], params["seed"])] = run
    return named


def wait_for(condition: Any, process: subprocess.Popen[str], seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not condition() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.005)


def results(run: RunDirectory) -> dict[str, Any]:
    """All a run leaves behind that must not depend on what happened on the way."""
    best = torch.load(run.checkpoints / "best.pt", weights_only=True)
    last = torch.load(run.checkpoints / "last.pt", weights_only=True)
    return {
        "best": {name: tensor.numpy().tobytes() for name, tensor in best["model"].items()},
        "last": {name: tensor.numpy().tobytes() for name, tensor in last["model"].items()},
        "rows": {file.name: file.read_bytes() for file in sorted(run.rows.glob("*.csv"))},
        "metrics": [(entry["epoch"], entry["metrics"]) for entry in run.metrics()],
        "outcome": (run.status()["value"], run.status()["metrics"]),
    }


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_twenty_kills_change_nothing(tmp_path: Path) -> None:
    every_step = ("trainer.checkpoint_minutes=1e-6", "trainer.max_epochs=8", "batch_size=2", "optim.lr=1e-3")
    assert issue(tmp_path / "whole", *every_step)[0] == 0
    rng, inside, kills = random.Random(7), 0, 0
    attempt = 0
    while kills < 20:
        process = start(tmp_path / "killed", *every_step)
        attempt += 1
        folders = list((tmp_path / "killed").glob("runs/*/*/checkpoints"))
        if folders and attempt % 2:  # in the middle of a write
            temporary = folders[0] / ".last.pt"
            temporary.unlink(missing_ok=True)
            for _ in range(rng.randint(1, 4)):
                wait_for(temporary.exists, process)
                wait_for(lambda file=temporary: not file.exists(), process) if rng.random() < 0.5 else None
            wait_for(temporary.exists, process)
        else:
            wait_for(lambda: any(tmp_path.glob("killed/runs/*/*/checkpoints")), process)
            time.sleep(rng.uniform(2.0, 7.0))
        if process.poll() is not None:
            break  # it came to its end before the last kill
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
        inside += any(tmp_path.glob("killed/runs/*/*/checkpoints/.last.pt"))
    assert issue(tmp_path / "killed", *every_step)[0] == 0
    (whole,), (killed,) = runs(tmp_path / "whole").values(), runs(tmp_path / "killed").values()
    assert kills == 20
    assert inside >= 3, f"{inside} kills inside a checkpoint write"
    assert killed.status()["attempts"] > kills / 2
    assert results(killed) == results(whole)


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR2, signal.SIGHUP, signal.SIGINT])
def test_a_signal_saves_and_the_same_command_goes_on_from_there(tmp_path: Path, signum: int) -> None:
    longer = ("trainer.max_epochs=6", "optim.lr=1e-3", "num_workers=1")
    process = start(tmp_path / "stopped", *longer)
    wait_for(lambda: any(tmp_path.glob("stopped/runs/*/*/checkpoints/last.pt")), process)
    process.send_signal(signum)
    said, _ = process.communicate(timeout=60)
    (run,) = runs(tmp_path / "stopped").values()
    assert process.returncode == (130 if signum == signal.SIGINT else 128 + signum), said
    assert run.status()["state"] == ("interrupted" if signum == signal.SIGINT else "preempted")
    assert "the same command (without force=true) goes on where it stopped" in said
    assert "Traceback" not in said
    code, said = issue(tmp_path / "stopped", *longer)
    assert code == 0
    assert "resuming after epoch" in said
    assert issue(tmp_path / "whole", *longer)[0] == 0
    (whole,) = runs(tmp_path / "whole").values()
    assert results(run) == results(whole)


@pytest.mark.slow
def test_a_sweep_whose_head_is_killed_is_completed_by_the_same_command(tmp_path: Path) -> None:
    sweep = ("-m", "optim.lr=1e-4,1e30,2e-4", "trainer.clip_norm=null")
    head = start(tmp_path, *sweep)
    wait_for(lambda: any(run.status()["state"] == "failed" for run in runs(tmp_path).values()), head)
    head.send_signal(signal.SIGKILL)
    head.wait()
    code, said = issue(tmp_path, *sweep)
    assert code == 1
    by_rate = {rate: run.status() for (rate, _), run in runs(tmp_path).items()}
    assert {rate: s["state"] for rate, s in by_rate.items()} == {1e-4: "finished", 1e30: "failed", 2e-4: "finished"}
    assert by_rate[1e30]["reason"] == "non-finite"
    assert by_rate[1e-4]["attempts"] == 1
    assert "failed (non-finite): optim.lr=1e+30: NonFiniteLoss: loss is nan" in said
    before = {rate: s["updated"] for rate, s in by_rate.items()}
    assert issue(tmp_path, *sweep)[0] == 1
    changed = [rate for (rate, _), run in runs(tmp_path).items() if run.status()["updated"] != before[rate]]
    assert changed == [1e30]


@pytest.mark.slow
def test_two_sweeps_started_in_the_same_second_train_each_run_once(tmp_path: Path) -> None:
    heads = [start(tmp_path, "-m", "seed=0,1,2", "optim.lr=1e-4"), start(tmp_path, "-m", "seed=1,2,0", "optim.lr=1e-4")]
    said = [head.communicate(timeout=280)[0] for head in heads]
    assert [head.returncode for head in heads] == [0, 0], "\n".join(said)
    states = [run.status() for run in runs(tmp_path).values()]
    assert [(s["state"], s["attempts"]) for s in states] == [("finished", 1)] * 3
    assert all("3/3" in text for text in said)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a small disk can be mounted by root only")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.slow
def test_a_full_disk_leaves_the_old_checkpoint_and_the_others_go_on(tmp_path: Path, small_disk: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "0").symlink_to(small_disk / "run")
    (small_disk / "run").mkdir()
    code, said = issue(tmp_path, "-m", "seed=0,1", f"run_dir={tmp_path}/runs/${{seed}}", "optim.lr=1e-4")
    assert code == 1, said
    full, other = RunDirectory(tmp_path / "runs" / "0"), RunDirectory(tmp_path / "runs" / "1")
    assert (full.status()["state"], full.status()["reason"]) == ("failed", "disk")
    assert "no room for a checkpoint" in full.status()["error"]
    assert "make room and give the same command again" in said
    assert other.status()["state"] == "finished"
    assert torch.load(full.checkpoints / "last.pt", weights_only=True)["progress"]["epoch"] >= 0  # whole
    assert not list(full.checkpoints.glob(".*"))
    status = json.loads((full.path / "status.json").read_text())
    assert status["run_id"] in (full.path / "run.json").read_text()
