"""Sweeps on a real SLURM: a job raises, one is killed, one is put back into the queue, one reaches its time limit.

The cluster is started on this machine (tests/cluster.py). Every job is sam2_nano on the real CT.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from medsam2.config import PROJECT
from tests.cluster import Cluster, Unavailable, start

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

JOB = [
    "device=cpu", "num_threads=1", "num_workers=0", "tracking=offline", "image_size=64", "metrics=dice",
    "trainer.val_every=8",
]  # fmt: skip
LAUNCHER = [
    "hydra/launcher=slurm", "hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=1", "hydra.launcher.timeout_min=9",
    "hydra.launcher.signal_delay_s=5", "hydra.launcher.poll_s=1", "hydra.launcher.grace_s=3",
]  # fmt: skip
# as Hydra writes them back
RAISES, KILLED = "{lr:1e+30,max_epochs:8}", "{lr:0.002,max_epochs:40}"
REQUEUED, LONG = "{lr:0.001,max_epochs:40}", "{lr:0.001,max_epochs:120}"
PLAIN = ["{lr:0.001,max_epochs:8}", "{lr:0.002,max_epochs:8}"]
SIX = [f"model.tuning={','.join([LONG, REQUEUED, KILLED, RAISES, *PLAIN])}"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    try:
        with start(tmp_path_factory.mktemp("slurm"), cpus=3) as running:
            yield running
    except Unavailable as reason:
        pytest.skip(f"SLURM: {reason}")


@dataclass
class Head:
    """`python run.py -m hydra/launcher=slurm …` as a process; what it prints goes to a file."""

    cluster: Cluster
    output: Path
    arguments: list[str]
    process: subprocess.Popen[bytes] = field(init=False)

    def __post_init__(self) -> None:
        self.log = self.output / f"head{len(list(self.output.glob('head*')))}.log"
        command = [sys.executable, str(PROJECT / "run.py"), *self.arguments, f"paths.output_dir={self.output}"]
        environment = {**self.cluster.environment, "OMP_NUM_THREADS": "1"}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)

    def text(self) -> str:
        return self.log.read_text()

    def wait(self, seconds: float = 600.0) -> int:
        return self.process.wait(timeout=seconds)


def sweep(cluster: Cluster, output: Path, *arguments: str) -> Head:
    return Head(cluster, output, ["-m", *LAUNCHER, *JOB, *arguments])


def once(cluster: Cluster, output: Path, *arguments: str) -> str:
    """Runs a command to its end and returns what it printed."""
    output.mkdir(exist_ok=True)
    head = Head(cluster, output, list(arguments))
    assert head.wait() == 0, head.text()
    return head.text()


def until(reached: Callable[[], Any], head: Head, seconds: float = 300.0) -> Any:
    """Waits for something to become true, and returns it."""
    deadline = time.monotonic() + seconds
    while not (result := reached()):
        assert time.monotonic() < deadline, head.text()
        assert head.process.poll() is None, head.text()
        time.sleep(0.1)
    return result


def run_of(output: Path, tuning: str) -> Path | None:
    """The directory of the run with this tuning, once its job was submitted."""
    for manifest in (output / "sweeps").glob("*/manifest.json"):
        for job in json.loads(manifest.read_text())["jobs"]:
            if f"model.tuning={tuning}" in job["overrides"]:
                return Path(job["run_dir"])
    return None


def status(run: Path | None) -> dict[str, Any]:
    try:
        return dict(json.loads((run / "status.json").read_text())) if run else {}
    except FileNotFoundError:
        return {}


def training(output: Path, tuning: str) -> dict[str, Any]:
    """The status of a run that has saved its first epochs and goes on; empty before."""
    run = run_of(output, tuning)
    found = status(run)
    return found if run and found.get("state") == "running" and (run / "checkpoints" / "last.pt").exists() else {}


def same(one: Path, other: Path) -> None:
    """Two runs ended with the same weights and rows, bit for bit."""
    files = [run / "checkpoints" / "best.pt" for run in (one, other)]
    left, right = (flat(torch.load(file, weights_only=True, map_location="cpu")) for file in files)
    assert left.keys() == right.keys()
    tensors = [key for key in left if isinstance(left[key], torch.Tensor)]
    assert len(tensors) > 100
    assert [key for key in tensors if not torch.equal(left[key], right[key])] == []
    files = sorted(f.name for f in (one / "rows").glob("*.csv"))
    assert files
    for name in files:
        assert (one / "rows" / name).read_bytes() == (other / "rows" / name).read_bytes()


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    return {k: v for key, item in value.items() for k, v in flat(item, f"{prefix}/{key}").items()}


@pytest.fixture(scope="module")
def swept(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Head]:
    """The sweep of six after everything has happened to it."""
    output = tmp_path_factory.mktemp("six")
    head = sweep(cluster, output, *SIX)
    requeued = until(lambda: training(output, REQUEUED), head)
    cluster.call("scontrol", "requeue", requeued["slurm_job_id"])
    killed = until(lambda: training(output, KILLED), head)
    os.kill(killed["pid"], signal.SIGKILL)
    limited = until(lambda: training(output, LONG), head)
    # SLURM looks twice a minute whether a limit comes near; a limit of a minute would be spent on imports alone
    cluster.call("scontrol", "update", f"jobid={limited['slurm_job_id']}", "EndTime=now+35")
    assert head.wait() == 1, head.text()
    return output, head


def test_four_of_six_survive_and_the_others_are_named_with_their_reasons(swept: tuple[Path, Head]) -> None:
    output, head = swept
    runs = {tuning: status(run_of(output, tuning)) for tuning in (RAISES, KILLED, REQUEUED, LONG, *PLAIN)}
    states = {tuning: (run["state"], run.get("reason")) for tuning, run in runs.items()}
    assert states == {
        RAISES: ("failed", "non-finite"),
        KILLED: ("failed", "killed"),
        **dict.fromkeys((REQUEUED, LONG, *PLAIN), ("finished", None)),
    }
    assert sorted(re.findall(r"failed \((.*?)\): model\.tuning=(.*?\}): ", head.text())) == [
        ("killed", KILLED),
        ("non-finite", RAISES),
    ]
    assert "loss is nan in epoch 1" in head.text()
    (table,) = (pd.read_csv(file) for file in (output / "sweeps").glob("*/table.csv"))
    assert sorted(table["runs"]) == ["0/1", "0/1", "1/1", "1/1", "1/1", "1/1"]


def test_the_jobs_that_were_put_back_went_on_where_they_were_and_made_the_same_weights(
    swept: tuple[Path, Head], cluster: Cluster
) -> None:
    output, _ = swept
    for tuning, said in ((REQUEUED, "DUE TO JOB REQUEUE"), (LONG, "Job has timed out")):
        run = run_of(output, tuning)
        assert run
        job = status(run)
        log = (output / "slurm" / f"{job['slurm_job_id']}_0_log.out").read_text()
        assert said in log
        assert re.search(r"resuming after epoch \d+", log)
        assert job["attempts"] > 1
        alone = output.parent / "alone"
        once(cluster, alone, *JOB, f"model.tuning={tuning}")
        same(run, alone / run.relative_to(output))


def test_the_same_command_again_runs_only_what_is_missing(swept: tuple[Path, Head], cluster: Cluster) -> None:
    output, _ = swept
    before = {tuning: status(run_of(output, tuning)) for tuning in (REQUEUED, LONG, *PLAIN)}
    head = sweep(cluster, output, *SIX)
    assert head.wait() == 1
    assert "6 jobs, 4 finished before" in head.text()
    assert {tuning: status(run_of(output, tuning)) for tuning in before} == before
    assert status(run_of(output, KILLED))["state"] == "finished"
    assert re.findall(r"failed \((.*?)\): ", head.text()) == ["non-finite"]


@pytest.mark.slow
def test_jobs_go_on_without_the_command_that_submitted_them(
    cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> None:
    output = tmp_path_factory.mktemp("heads")
    arguments = [f"model.tuning={LONG}", "seed=0,1"]
    head = sweep(cluster, output, *arguments)
    until(lambda: training(output, LONG), head)
    head.process.send_signal(signal.SIGINT)
    assert head.wait() == 130
    assert len(working(cluster)) == 2
    sweep_id = next((output / "sweeps").glob("*/manifest.json")).parent.name
    assert f"task=status sweep={sweep_id}" in head.text()
    shown = once(cluster, output, "task=status", f"sweep={sweep_id}")
    assert shown.count("running") >= 1

    picked_up = sweep(cluster, output, *arguments)
    until(lambda: "sweep" in picked_up.text(), picked_up)
    time.sleep(3)
    picked_up.process.kill()
    head = sweep(cluster, output, *arguments)
    assert head.wait() == 0, head.text()
    assert len(list((output / "slurm").glob("*_submission.sh"))) == 1  # nothing was submitted twice
    assert [status(run)["state"] for run in runs(output)] == ["finished", "finished"]


@pytest.mark.slow
def test_a_job_told_to_leave_on_a_node_without_scontrol_is_named_and_submitted_again(
    cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> None:
    output = tmp_path_factory.mktemp("bare")
    tools = tmp_path_factory.mktemp("bin")
    (tools / "srun").symlink_to("/usr/bin/srun")
    arguments = [f"model.tuning={REQUEUED}"]
    head = sweep(cluster, output, *arguments, f"hydra.launcher.setup=['export PATH={tools}']")
    job = until(lambda: training(output, REQUEUED), head)["slurm_job_id"]
    cluster.call("scancel", "--signal=USR2", job)
    assert head.wait() == 1
    assert "scontrol" in head.text()
    again = sweep(cluster, output, *arguments)
    assert again.wait() == 0, again.text()
    assert status(run_of(output, REQUEUED))["attempts"] == 2


def test_a_job_that_the_cluster_cannot_take_is_refused_in_its_words(
    cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> None:
    head = sweep(cluster, tmp_path_factory.mktemp("refused"), "hydra.launcher.mem_gb=9999", "seed=0,1")
    assert head.wait() == 1
    assert "Requested node configuration is not available" in head.text() or "Memory specification" in head.text()
    assert not working(cluster)


def working(cluster: Cluster) -> dict[str, str]:
    return {job: state for job, state in cluster.jobs().items() if state in ("PENDING", "RUNNING", "COMPLETING")}


def runs(output: Path) -> list[Path]:
    return [f.parent for f in (output / "runs").rglob("status.json")]
