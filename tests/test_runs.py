"""A run's directory: whole files or none, one owner, and nothing of anybody else is touched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from medsam2.config import PROJECT
from medsam2.runs import RunBusy, RunDirectory, RunDirectoryError, git_revision, provenance


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    run = RunDirectory(tmp_path / "run")
    run.open("aaa", "seed: 0\n", fresh=False)
    return run


def test_a_directory_that_does_not_exist_is_new(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "nothing")
    assert run.status() == {"state": "new"}
    assert run.metrics() == []
    assert not run.path.exists()


def test_open_prepares_everything(directory: RunDirectory) -> None:
    assert (directory.path / "config.yaml").read_text() == "seed: 0\n"
    assert all(folder.is_dir() for folder in (directory.checkpoints, directory.rows, directory.pictures))
    status = directory.status()
    assert (status["run_id"], status["attempts"], status["pid"]) == ("aaa", 1, os.getpid())
    stored = json.loads((directory.path / "provenance.json").read_text())
    assert stored["packages"]["torch"]
    assert stored["python"].count(".") == 2


def test_opening_again_counts_attempts_and_forgets_the_error(directory: RunDirectory) -> None:
    directory.update(state="failed", error="ValueError: x", mlflow_run_id="m1")
    directory.open("aaa", "seed: 0\n", fresh=False)
    status = directory.status()
    assert (status["attempts"], status["error"], status["mlflow_run_id"]) == (2, None, "m1")


def test_update_merges(directory: RunDirectory) -> None:
    directory.update(state="running", data="d1")
    directory.update(state="finished", value=0.5)
    status = directory.status()
    assert (status["state"], status["data"], status["value"], status["run_id"]) == ("finished", "d1", 0.5, "aaa")


def test_status_survives_a_kill_in_the_middle_of_a_write(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory.update(state="running")
    before = directory.status()

    def killed(source: object, target: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        directory.update(state="finished", value=1.0)
    assert directory.status() == before


def test_the_directory_of_another_run_is_refused(directory: RunDirectory) -> None:
    for fresh in (False, True):
        with pytest.raises(RunDirectoryError, match=r"belongs to another configuration \(run aaa, this is bbb\)"):
            directory.open("bbb", "seed: 1\n", fresh=fresh)
    assert (directory.path / "config.yaml").read_text() == "seed: 0\n"
    assert directory.status()["attempts"] == 1


def test_a_folder_of_somebody_elses_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(RunDirectoryError, match="holds files that are no run; choose another run_dir"):
        RunDirectory(tmp_path).open("aaa", "", fresh=False)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_other_data_is_refused(directory: RunDirectory) -> None:
    directory.check_data("d1")
    directory.update(data="d1")
    directory.check_data("d1")
    with pytest.raises(RunDirectoryError, match=r"fingerprint d1, now d2.*force=true"):
        directory.check_data("d2")


def test_fresh_removes_what_a_run_writes_and_nothing_else(directory: RunDirectory) -> None:
    own = ["metrics.jsonl", "split.csv", "error.txt", "rows/val.csv", "rows/val.parquet"]
    own += ["checkpoints/last.pt", "checkpoints/best.pt", "pictures/test/blob_best_case1.png"]
    own += ["rows/test_bins.csv", "pictures/test/gallery.npz"]
    foreign = ["notes.txt", "rows/notes.txt", "pictures/test/figure.svg", "checkpoints/old.ckpt", "mine/last.pt"]
    for name in own + foreign:
        (directory.path / name).parent.mkdir(parents=True, exist_ok=True)
        (directory.path / name).write_text("x")
    (directory.path / "run.log").write_text("first attempt\n")
    directory.update(state="finished", data="d1", mlflow_run_id="m1")
    directory.open("aaa", "seed: 0\n", fresh=True)
    assert [name for name in own if (directory.path / name).exists()] == []
    assert [name for name in foreign if not (directory.path / name).exists()] == []
    assert (directory.path / "run.log").read_text() == "first attempt\n"
    status = directory.status()
    assert (status["attempts"], status["state"]) == (1, "running")
    assert "data" not in status
    assert "mlflow_run_id" not in status


def test_metrics_come_back_in_order(directory: RunDirectory) -> None:
    directory.log_metrics({"val/dice/mean": 0.25}, 0)
    directory.log_metrics({"train/loss": float("inf"), "train/lr": 1e-4}, 1)
    entries = directory.metrics()
    assert [e["epoch"] for e in entries] == [0, 1]
    assert entries[0]["metrics"] == {"val/dice/mean": 0.25}
    assert entries[1]["metrics"] == {"train/loss": float("inf"), "train/lr": 1e-4}
    assert 0 < entries[0]["time"] <= entries[1]["time"]


@pytest.mark.parametrize("cut", [1, 2, 10, 40])
def test_a_last_line_cut_off_by_a_crash_is_left_out(directory: RunDirectory, cut: int) -> None:
    file = directory.path / "metrics.jsonl"
    for epoch in range(3):
        directory.log_metrics({"val/dice/mean": epoch / 10}, epoch)
    file.write_bytes(file.read_bytes()[:-cut])
    whole = [0, 1, 2] if cut == 1 else [0, 1]  # without its line end alone the line is still whole
    assert [e["epoch"] for e in directory.metrics()] == whole
    directory.open("aaa", "seed: 0\n", fresh=False)
    directory.log_metrics({"val/dice/mean": 0.9}, 3)
    assert [e["epoch"] for e in directory.metrics()] == [*whole, 3]


def test_forget_after_keeps_what_the_checkpoint_knows(directory: RunDirectory) -> None:
    for epoch in (0, 1, 1, 2, 3):
        directory.log_metrics({"x": float(epoch)}, epoch)
    directory.forget_after(1)
    assert [e["epoch"] for e in directory.metrics()] == [0, 1, 1]
    directory.forget_after(-1)
    assert directory.metrics() == []


def test_revision_names_a_commit_or_says_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    revision = git_revision()
    assert revision == "unknown" or len(revision.removesuffix("-dirty")) >= 7
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_revision() == "unknown"
    assert provenance()["revision"] == "unknown"


def test_a_run_is_computed_by_one_process_at_a_time(directory: RunDirectory) -> None:
    code = f"""
import sys, time
from pathlib import Path
from medsam2.runs import RunDirectory
with RunDirectory(Path({str(directory.path)!r})).claim():
    print("held", flush=True)
    time.sleep(60)
"""
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=PROJECT)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RunBusy, match="is being computed by process"), directory.claim(wait=0.1):
            pass
    finally:
        holder.kill()
        holder.wait()
    with directory.claim(wait=5):  # the claim of a process that was killed is gone
        pass


def test_a_run_does_not_go_on_in_another_number_format(directory: RunDirectory) -> None:
    directory.check_format("bfloat16", "cuda")
    directory.check_format("bfloat16", "cuda:1")
    with pytest.raises(RunDirectoryError, match=r"bfloat16 on cuda:1 so far.*float32 on cpu.*force=true"):
        directory.check_format("float32", "cpu")
    assert directory.status()["dtype"] == "bfloat16"
