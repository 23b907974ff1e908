"""What is asked of SLURM and how its answers are read, with stand-ins for its commands; a real one: tests/e2e."""

from __future__ import annotations

import itertools
import math
import os
import pickle
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cloudpickle
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import JobReturn, JobStatus
from hydra.utils import instantiate

from medsam2.config import PROJECT, register_resolvers
from medsam2.launch import slurm_queue
from medsam2.launch.slurm import MAX_ARRAY, SlurmHandle, SubmissionError, arrays, describe, prepare_job, resources
from medsam2.launch.slurm_queue import ENDED, Queue
from tests.fakes import compose_config


class Commands:
    """SLURM's commands, answered from files; a command without an answer is not installed."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        self.folder = folder
        for tool in ("sh", "cat", "env", "cp"):
            (folder / tool).symlink_to(str(shutil.which(tool)))
        monkeypatch.setenv("PATH", str(folder))

    def answer(self, name: str, text: str, code: int = 0) -> None:
        (self.folder / f"{name}.txt").write_text(text)
        lines = ["#!/bin/sh", f'echo "{name} $*" >> {self.folder}/calls', f"cat {self.folder}/{name}.txt"]
        (self.folder / name).write_text("\n".join([*lines, f"exit {code}"]))
        (self.folder / name).chmod(0o755)

    def batches(self, limit: int = 9) -> None:
        """An sbatch that keeps the scripts as 1.sh, 2.sh … and answers with these numbers; it takes `limit` of them."""
        (self.folder / "sbatch").write_text(
            f"""#!/bin/sh
cd {self.folder}; echo x >> count; n=0; while read _; do n=$((n+1)); done < count
if [ $n -gt {limit} ]; then echo "Batch job submission failed: memory not available" >&2; exit 1; fi
cp "$1" $n.sh; env > $n.env; echo "Submitted batch job $n"
"""
        )
        (self.folder / "sbatch").chmod(0o755)
        self.answer("srun", "")

    def calls(self) -> list[str]:
        file = self.folder / "calls"
        return file.read_text().splitlines() if file.exists() else []


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    (tmp_path / "bin").mkdir()
    return Commands(tmp_path / "bin", monkeypatch)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    now = SimpleNamespace(value=1000.0)
    monkeypatch.setattr(slurm_queue.time, "monotonic", lambda: now.value)
    return now


# ---------------------------------------------------------------------------------------------- the queue

WAITING = ["PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT"]


@pytest.mark.parametrize("state", WAITING)
def test_a_job_in_the_queue_may_go_on_whatever_it_waits_for(commands: Commands, state: str) -> None:
    commands.answer("squeue", f"9_0 FAILED\n17_3 {state}\n")
    queue = Queue(grace_s=0.0)
    assert (queue.ended("17_3"), queue.alive("17_3")) == (None, True)


@pytest.mark.parametrize("state", sorted(ENDED))
def test_the_queue_knows_for_a_while_how_a_job_ended(commands: Commands, state: str) -> None:
    commands.answer("squeue", f"17_3 {state}\n17_30 RUNNING\n")
    queue = Queue(grace_s=0.0)
    assert (queue.ended("17_3"), queue.alive("17_3")) == (ENDED[state], False)


@pytest.mark.parametrize(
    ("answer", "code", "how"),
    [
        (None, 0, "gone from the queue"),
        ("Slurm accounting storage is disabled\n", 1, "gone from the queue"),
        ("", 0, "gone from the queue"),
        ("RUNNING\n", 0, "gone from the queue"),  # accounting that was never told of the end
        ("OUT_OF_MEMORY\n", 0, "out of memory"),
        ("CANCELLED by 1000\n", 0, "cancelled"),
        ("TIMEOUT\n", 0, "time limit"),
    ],
)
def test_a_job_that_left_the_queue_ended_as_sacct_says_where_there_is_one(
    commands: Commands, answer: str | None, code: int, how: str
) -> None:
    commands.answer("squeue", "17_30 RUNNING\n")
    if answer is not None:
        commands.answer("sacct", answer, code)
    queue = Queue(grace_s=0.0)
    assert (queue.ended("17_3"), queue.alive("17_3")) == (how, False)


def test_without_an_answer_every_job_counts_as_alive(
    commands: Commands, clock: SimpleNamespace, caplog: pytest.LogCaptureFixture
) -> None:
    queue = Queue(poll_s=10.0, grace_s=0.0)
    assert (queue.ended("17"), queue.alive("17")) == (None, True)  # no squeue on this machine
    commands.answer("squeue", "slurm_load_jobs error: Unable to contact slurm controller\n", code=1)
    clock.value += 11
    assert (queue.ended("17"), queue.alive("17")) == (None, True)
    commands.answer("squeue", "18 RUNNING\n")
    clock.value += 11
    assert (queue.ended("17"), queue.alive("17")) == ("gone from the queue", False)
    commands.answer("squeue", "", code=1)
    clock.value += 11
    assert queue.ended("17") is None
    assert caplog.text.count("squeue does not answer") == 2  # once for each time that it stopped


def test_a_job_has_ended_only_after_the_grace_period_and_may_come_back_within_it(
    commands: Commands, clock: SimpleNamespace
) -> None:
    queue = Queue(poll_s=1.0, grace_s=30.0)
    seen = []
    for state in ("RUNNING", "NODE_FAIL", "PENDING", "RUNNING", "FAILED", "", "", ""):
        commands.answer("squeue", f"17_3 {state}\n" if state else "")
        clock.value += 12
        seen.append(queue.ended("17_3"))
    # 36 s after the failure was seen, when the queue has long forgotten it
    assert seen == [None] * 7 + ["failed"]


def test_the_queue_is_asked_once_for_all_jobs_and_again_after_a_submission(commands: Commands) -> None:
    commands.answer("squeue", "".join(f"17_{i} RUNNING\n" for i in range(200)))
    queue = Queue(poll_s=60.0)
    assert all(queue.alive(f"17_{i}") and queue.ended(f"17_{i}") is None for i in range(200))
    assert commands.calls() == ["squeue --me --noheader --array --states=all --format=%i %T"]
    queue.forget()
    assert queue.alive("17_0")
    assert len(commands.calls()) == 2


def test_a_handle_names_its_job_its_log_and_what_it_returned(commands: Commands, tmp_path: Path) -> None:
    from submitit.slurm.slurm import SlurmJob

    commands.answer("squeue", "17_3 FAILED\n")
    commands.answer("scancel", "")
    handle = SlurmHandle(SlurmJob(folder=tmp_path, job_id="17_3"), Queue(grace_s=0.0))
    assert handle.label == "slurm 17_3"
    assert handle.ended() == f"failed; log: {tmp_path}/17_3_0_log.out"
    handle.cancel()
    assert commands.calls()[-1] == "scancel 17_3"
    assert math.isnan(handle.value())
    returned = JobReturn(_return_value=0.5, status=JobStatus.COMPLETED)
    (tmp_path / "17_3_0_result.pkl").write_bytes(cloudpickle.dumps(("success", returned)))
    assert handle.value() == 0.5


# ---------------------------------------------------------------------------------------------- resources

GIVEN = {"timeout_min": None, "cpus_per_task": None, "mem_gb": None, "gpus_per_node": None, "signal_delay_s": 180}
SIZES = {
    "nano": {"timeout_min": 60, "cpus_per_task": 2, "mem_gb": 8},
    "large": {"timeout_min": 1440, "cpus_per_task": 8, "mem_gb": 48, "constraint": "a100"},
    "other": {"timeout_min": 480, "cpus_per_task": 6, "mem_gb": 24},
}


@pytest.mark.parametrize(
    ("model", "job", "given", "needs"),
    [
        ("sam2_nano", [], {}, (60, 2, 8, 1)),
        ("sam2_l", [], {}, (1440, 8, 48, 1)),
        ("litemedsam", [], {}, (480, 6, 24, 1)),  # has no variant
        ("sam2_t", [], {}, (480, 6, 24, 1)),  # not in this table
        ("sam2_nano", ["device=cpu"], {}, (60, 2, 8, 0)),
        ("sam2_nano", ["device=cuda", "trainer.devices=4"], {}, (60, 8, 32, 4)),
        ("sam2_nano", ["trainer.devices=4"], {"mem_gb": 16, "gpus_per_node": 2}, (60, 8, 16, 2)),
        ("sam2_l", [], {"gpus_per_node": 0, "timeout_min": 5}, (5, 8, 48, 0)),
    ],
)
def test_a_job_asks_for_what_its_model_needs_unless_it_is_given(
    model: str, job: list[str], given: dict[str, int], needs: tuple[int, ...]
) -> None:
    asked = resources(GIVEN | given, SIZES, compose_config(f"model={model}", *job))
    assert tuple(asked[k] for k in ("timeout_min", "cpus_per_task", "mem_gb", "gpus_per_node")) == needs
    assert asked.get("constraint") == ("a100" if model == "sam2_l" else None)


def test_a_warning_longer_than_the_time_limit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"hydra\.launcher\.signal_delay_s=180: a job of 3 minutes"):
        resources(GIVEN | {"timeout_min": 3}, SIZES, compose_config())


def test_resources_are_described_without_what_is_not_asked_for() -> None:
    assert describe({"cpus_per_task": 2, "mem_gb": 8, "gpus_per_node": 0, "timeout_min": 60}) == "2 CPU, 8 GB, 60 min"


def test_jobs_that_ask_for_the_same_make_arrays_no_longer_than_slurm_takes() -> None:
    needs: list[dict[str, Any]] = [{"mem_gb": 8}, {"mem_gb": 48}] * (MAX_ARRAY + 1)
    found = arrays(needs)
    assert [(need["mem_gb"], len(where)) for need, where in found] == [(8, 1000), (48, 1000), (8, 1), (48, 1)]
    assert all(needs[i] == need for need, where in found for i in where)
    assert sorted(i for _, where in found for i in where) == list(range(len(needs)))


# --------------------------------------------------------------------------------------------- submission


def task(cfg: Any) -> float:
    return float(cfg.seed)


def launcher(folder: Path, *overrides: str) -> Any:
    """The launcher of `run.py -m hydra/launcher=slurm OVERRIDES`, as Hydra sets it up."""
    register_resolvers()
    settings = [f"paths.output_dir={folder}", "hydra/launcher=slurm", *overrides]
    with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
        config = compose("config", overrides=settings, return_hydra_config=True)
        made = instantiate(config.hydra.launcher)
        loader = GlobalHydra.instance().hydra.config_loader  # type: ignore[union-attr]
    made.setup(hydra_context=SimpleNamespace(config_loader=loader, callbacks=None), task_function=task, config=config)
    return made


def test_jobs_of_different_sizes_are_submitted_each_with_its_own_resources(
    commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands.batches()
    monkeypatch.setenv("SLURM_JOB_ID", "99")  # the command is given inside an interactive job
    monkeypatch.setenv("SLURM_MEM_PER_CPU", "1")
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm.conf")
    slurm = launcher(tmp_path, "hydra.launcher.partition=gpu", "hydra.launcher.setup=[module load cuda]")
    assert (slurm.stays, slurm.here) == (True, False)
    models = ("sam2_l", "sam2_nano", "sam2_l", "sam2_l")
    handles = slurm.start([[f"model={m}", "++job.sweep=abc", f"seed={i}"] for i, m in enumerate(models)], first=10)

    assert [h.label for h in handles] == ["slurm 1_0", "slurm 2", "slurm 1_1", "slurm 1_2"]
    large, nano = ((commands.folder / f"{n}.sh").read_text() for n in (1, 2))
    for line in ("array=0-2%3", "mem=48GB", "time=1440", "cpus-per-task=8", "gpus-per-node=1"):
        assert f"#SBATCH --{line}\n" in large
    for line in ("mem=8GB", "time=120", "cpus-per-task=2", "partition=gpu", "requeue", "open-mode=append"):
        assert f"#SBATCH --{line}\n" in nano
    assert f"#SBATCH --output={tmp_path}/slurm/%A_%a_0_log.out" in large
    assert "#SBATCH --signal=USR2@180\n" in nano
    assert "array" not in nano
    setup = nano.partition("# setup\n")[2].partition("# command")[0].split("\n")
    assert setup[0] == f"export PYTHONPATH={PROJECT}${{PYTHONPATH:+:$PYTHONPATH}}"
    assert "export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK" in setup
    assert "module load cuda" in setup

    assert not [f.name for f in (tmp_path / "slurm").rglob("*") if "%" in f.name]
    seen = dict(line.partition("=")[::2] for line in (commands.folder / "1.env").read_text().splitlines())
    assert not {"SLURM_JOB_ID", "SLURM_MEM_PER_CPU"} & set(seen)
    assert seen["SLURM_CONF"] == "/etc/slurm.conf"
    assert os.environ["SLURM_JOB_ID"] == "99"

    call = pickle.loads((tmp_path / "slurm" / "1_2_submitted.pkl").read_bytes())
    assert call.args[0] == ["model=sam2_l", "++job.sweep=abc", "seed=3"]
    assert call.args[2] == 13
    assert (call._timeout_min, call._timeout_countdown) == (1440, 20)


def test_a_job_without_gpu_does_not_mention_one(commands: Commands, tmp_path: Path) -> None:
    commands.batches()
    launcher(tmp_path, "hydra.launcher.gpus_per_node=0", "hydra.launcher.mem_gb=2").start([["seed=1"]], first=0)
    script = (commands.folder / "1.sh").read_text()
    assert "gpus" not in script
    assert "#SBATCH --mem=2GB\n" in script


def test_jobs_that_differ_in_nothing_that_costs_are_composed_once(
    commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands.batches()
    slurm = launcher(tmp_path, "model=sam2_nano")
    loader, composed = slurm.hydra_context.config_loader, []
    compose_one = loader.load_sweep_config
    monkeypatch.setattr(loader, "load_sweep_config", lambda c, o: composed.append(o) or compose_one(c, o))
    cells = itertools.product(("bce", "dice_ce"), ("sam2_nano", "sam2_micro"), (0, 1))
    jobs = [[f"loss={loss}", f"model={model}", f"seed={seed}"] for loss, model, seed in cells]
    assert len(slurm.start(jobs, first=0)) == 8
    assert len(composed) == 2


def test_where_one_array_is_refused_none_stays_submitted(commands: Commands, tmp_path: Path) -> None:
    commands.batches(limit=1)
    commands.answer("scancel", "")
    with pytest.raises(SubmissionError, match=r"(?s)sbatch \(8 CPU, 48 GB, 1 GPU, 1440 min\).*memory not available"):
        launcher(tmp_path).start([["model=sam2_nano", "seed=0"], ["model=sam2_l"], ["model=sam2_nano"]], first=0)
    assert [c for c in commands.calls() if "scancel" in c] == ["scancel 1_0", "scancel 1_1"]


def test_without_slurm_the_launcher_says_so(commands: Commands, tmp_path: Path) -> None:
    with pytest.raises(SubmissionError, match="no sbatch on this machine"):
        launcher(tmp_path).start([["seed=1"]], first=0)


def test_hydras_own_launch_waits_and_returns_values(
    commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands.batches()
    commands.answer("squeue", "1_0 COMPLETED\n1_1 FAILED\n")
    (tmp_path / "slurm").mkdir()
    returned = JobReturn(_return_value=0.25, status=JobStatus.COMPLETED)
    (tmp_path / "slurm" / "1_0_0_result.pkl").write_bytes(cloudpickle.dumps(("success", returned)))
    slurm = launcher(tmp_path, "hydra.launcher.grace_s=0", "hydra.launcher.poll_s=0")
    values = slurm.launch([["seed=0"], ["seed=1"]], 0)
    assert values[0] == 0.25
    assert math.isnan(values[1])


# ------------------------------------------------------------------------------------------------ the job


def test_a_job_that_is_put_back_lets_scontrol_end_and_clears_up_after_an_attempt_that_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in (("SUBMITIT_EXECUTOR", "slurm"), ("SLURM_JOB_ID", "17"), ("SUBMITIT_FOLDER", str(tmp_path))):
        monkeypatch.setenv(key, value)
    for name in ("17_submitted.pkl.save_tmp", "17_submitted.pkl", "18_submitted.pkl.save_tmp"):
        (tmp_path / name).touch()
    seen = []
    before = {s: signal.getsignal(s) for s in (signal.SIGUSR2, signal.SIGTERM)}
    try:
        signal.signal(signal.SIGUSR2, lambda signum, frame: seen.append((signum, signal.getsignal(signal.SIGTERM))))
        prepare_job()
        os.kill(os.getpid(), signal.SIGUSR2)
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
    assert seen == [(signal.SIGUSR2, signal.SIG_IGN)]  # which scontrol inherits from its parent
    assert sorted(f.name for f in tmp_path.iterdir()) == ["17_submitted.pkl", "18_submitted.pkl.save_tmp"]
