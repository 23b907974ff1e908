"""Ranks that fail, are told to leave or lose who started them; and what SLURM says about tasks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from medsam2.data.records import DatasetError
from medsam2.ranks.tasks import Task, check_tasks, find_task, follows, leading, run_ranks
from medsam2.ranks.team import GRACE
from medsam2.training.stop import Preempted, Stop
from tests.helpers_ranks import fail, until_told

STEP = {"SLURM_JOB_ID": "17", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_LOCALID": "1"}


@pytest.fixture
def second_task(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (STEP | {"SLURM_PROCID": "1", "SLURM_RESTART_COUNT": "3"}).items():
        monkeypatch.setenv(name, value)


def test_outside_of_slurm_and_alone_in_it_there_is_no_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_STEP_NUM_TASKS", raising=False)
    assert find_task() is None
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    assert find_task() is None
    assert not follows()
    check_tasks(4)


def test_a_task_of_slurm_knows_its_place_and_its_attempt(second_task: None) -> None:
    assert find_task() == Task(1, 2, 1, "17.0.3")
    assert follows()
    check_tasks(2)
    with pytest.raises(ValueError, match=r"trainer\.devices=1: this SLURM job has 2 tasks"):
        check_tasks(1)


def test_tasks_that_wait_hear_that_the_leader_has_ended(second_task: None, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), leading(tmp_path / "run"):
        raise RuntimeError
    assert (tmp_path / ".run.ranks").read_text() == '{"step": "17.0.3", "over": true}'


@pytest.mark.slow
def test_the_error_of_a_rank_is_raised_where_it_was_started(tmp_path: Path) -> None:
    start = time.monotonic()
    with pytest.raises(DatasetError, match="case a: no such file") as caught:
        run_ranks(tmp_path / "run", fail, (), 2, Stop(), lambda: None)
    assert caught.value.kind == "missing file"
    assert "in fail" in str(caught.value.__cause__)
    assert time.monotonic() - start < 120


@pytest.mark.slow
def test_ranks_that_are_told_to_leave_do_so_at_the_same_step(tmp_path: Path) -> None:
    stop = Stop()

    def tell() -> None:
        while not all((tmp_path / f"pid{rank}").exists() for rank in range(2)):
            time.sleep(0.05)
        stop.signum = signal.SIGUSR2

    threading.Thread(target=tell).start()
    with pytest.raises(Preempted) as caught:
        run_ranks(tmp_path / "run", until_told, (tmp_path,), 2, stop, lambda: None)
    assert caught.value.signum == signal.SIGUSR2
    assert (tmp_path / "step0").read_text() == (tmp_path / "step1").read_text()


@pytest.mark.slow
def test_ranks_do_not_outlive_who_started_them(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path\nfrom medsam2.ranks.tasks import run_ranks\nfrom medsam2.training.stop import Stop\n"
        "from tests.helpers_ranks import until_told\n"
        "if __name__ == '__main__':\n"
        f"    folder = Path({str(tmp_path)!r})\n"
        "    run_ranks(folder / 'run', until_told, (folder,), 2, Stop(), lambda: None)\n"
    )
    script = tmp_path / "starter.py"
    script.write_text(code)
    root = str(Path(__file__).parents[2])
    starter = subprocess.Popen([sys.executable, str(script)], env=os.environ | {"PYTHONPATH": root})
    files = [tmp_path / f"pid{rank}" for rank in range(2)]
    until = time.monotonic() + 240
    while not all(file.exists() and file.read_text() for file in files) and time.monotonic() < until:
        time.sleep(0.1)
    starter.kill()
    starter.wait()
    pids, until = [int(file.read_text()) for file in files], time.monotonic() + GRACE
    while any(map(alive, pids)) and time.monotonic() < until:
        time.sleep(0.1)
    assert not any(map(alive, pids))


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
