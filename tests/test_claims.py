"""One process holds a run; whoever is dead holds nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from medsam2 import claims
from medsam2.claims import Claim
from medsam2.config import PROJECT

HOLD = """
import sys, time
from pathlib import Path
from medsam2.claims import Claim
print(Claim(Path(sys.argv[1])).take(), flush=True)
time.sleep(60)
"""


def holder_process(path: Path, code: str = HOLD) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(path)],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "True\n"
    return process


def write_claim(path: Path, **entries: object) -> None:
    path.write_text(json.dumps({"host": "elsewhere", "machine": "m", "pid": 1, "born": "1", "job": None} | entries))


def test_a_claim_is_taken_once_and_given_back(tmp_path: Path) -> None:
    first, second = Claim(tmp_path / "c"), Claim(tmp_path / "c")
    assert first.take()
    assert not second.take()
    holder = second.holder()
    assert holder is not None
    assert holder["pid"] == os.getpid()
    first.release()
    assert second.holder() is None
    assert second.take()
    second.release()


def test_of_many_that_ask_at_once_one_gets_it(tmp_path: Path) -> None:
    asking = [Claim(tmp_path / "c") for _ in range(16)]
    with ThreadPoolExecutor(16) as pool:
        got = list(pool.map(lambda claim: claim.take(), asking))
    assert got.count(True) == 1
    asking[got.index(True)].release()


def test_a_stale_claim_is_taken_over_by_one_alone(tmp_path: Path) -> None:
    write_claim(tmp_path / "c")
    os.utime(tmp_path / "c", (0, 0))
    asking = [Claim(tmp_path / "c") for _ in range(16)]
    with ThreadPoolExecutor(16) as pool:
        got = list(pool.map(lambda claim: claim.take(), asking))
    assert got.count(True) == 1
    asking[got.index(True)].release()


def test_a_process_that_is_killed_holds_nothing_from_then_on(tmp_path: Path) -> None:
    process = holder_process(tmp_path / "c")
    claim = Claim(tmp_path / "c")
    assert not claim.take()
    process.send_signal(signal.SIGKILL)
    # not reaped yet: a zombie holds nothing either
    until = time.monotonic() + 5
    while claim.holder() is not None and time.monotonic() < until:
        time.sleep(0.02)
    assert claim.take()
    claim.release()
    process.wait()


@pytest.mark.parametrize(("age", "held"), [(0, True), (claims.STALE - 10, True), (claims.STALE + 10, False)])
def test_on_another_machine_the_heartbeat_tells(tmp_path: Path, age: float, held: bool) -> None:
    write_claim(tmp_path / "c", machine="another boot")
    then = time.time() - age
    os.utime(tmp_path / "c", (then, then))
    assert (Claim(tmp_path / "c").holder() is not None) is held


def test_a_process_number_that_was_given_again_is_another_process(tmp_path: Path) -> None:
    claim = Claim(tmp_path / "c")
    assert claim.take()
    content = json.loads((tmp_path / "c").read_text())
    claim.release()
    write_claim(tmp_path / "c", **content | {"born": "12345"})
    assert Claim(tmp_path / "c").holder() is None


def test_a_file_cut_off_by_a_crash_is_held_until_it_is_stale(tmp_path: Path) -> None:
    (tmp_path / "c").write_text('{"host": "no')
    assert not Claim(tmp_path / "c").take()
    os.utime(tmp_path / "c", (0, 0))
    claim = Claim(tmp_path / "c")
    assert claim.take()
    claim.release()


def test_the_heart_beats_while_the_claim_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "BEAT", 0.02)
    claim = Claim(tmp_path / "c")
    assert claim.take()
    os.utime(tmp_path / "c", (0, 0))
    until = time.monotonic() + 5
    while (tmp_path / "c").stat().st_mtime == 0 and time.monotonic() < until:
        time.sleep(0.01)
    assert time.time() - (tmp_path / "c").stat().st_mtime < 10
    claim.release()
    assert not (tmp_path / "c").exists()


def test_a_process_whose_run_was_taken_over_ends_itself(tmp_path: Path) -> None:
    code = HOLD.replace("print(", "import medsam2.claims as c; c.BEAT = 0.05; print(")
    process = holder_process(tmp_path / "c", code)
    write_claim(tmp_path / "c", token="another's")
    assert process.wait(timeout=20) == 75
    assert json.loads((tmp_path / "c").read_text())["token"] == "another's"


def test_giving_back_in_the_middle_of_a_heartbeat_ends_nobody(tmp_path: Path) -> None:
    code = """
import sys, time
from pathlib import Path
import medsam2.claims as c
c.BEAT = 0.0005
owned = c.Claim._owned
c.Claim._owned = lambda self: (time.sleep(0.002), owned(self))[1]  # a slow file system
for _ in range(150):
    claim = c.Claim(Path(sys.argv[1]))
    assert claim.take()
    time.sleep(0.001)
    claim.release()
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "c")], cwd=PROJECT, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_requeued_job_takes_over_its_own_claim_from_another_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)
    write_claim(tmp_path / "c", job="17", restart=0)
    assert Claim(tmp_path / "c").holder() is not None
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert Claim(tmp_path / "c").holder() is None


def test_a_claim_that_the_disk_had_no_room_for_is_nobodys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(claims.json, "dump", full)
    with pytest.raises(OSError, match="No space"):
        Claim(tmp_path / "c").take()
    assert Claim(tmp_path / "c").holder() is None


@pytest.mark.parametrize(
    ("variables", "job"),
    [
        ({}, None),
        ({"SLURM_JOB_ID": "17"}, "17"),
        ({"SLURM_JOB_ID": "18", "SLURM_ARRAY_JOB_ID": "17", "SLURM_ARRAY_TASK_ID": "3"}, "17_3"),
    ],
)
def test_the_slurm_job(variables: dict[str, str], job: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert claims.slurm_job() == job
