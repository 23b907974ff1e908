"""The board of a sweep, from its files alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medsam2.manifest import Manifest
from medsam2.results.board import count_states, survey
from medsam2.runs import RunDirectory
from medsam2.tasks.status import status


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    """Six jobs, each in another state."""
    manifest = Manifest(tmp_path / "sweeps" / "abc123")
    jobs = [
        {"run_id": f"r{i}", "run_dir": str(tmp_path / "runs" / f"r{i}"), "overrides": [f"seed={i}", "paths.x=/y"]}
        for i in range(6)
    ]
    jobs[2]["job"] = "slurm 7_2"
    manifest.update(name="sweep seed (abc123)", axes=["seed"], command=["run.py", "-m", "seed=0,1"], jobs=jobs)
    directories = [RunDirectory(Path(str(job["run_dir"]))) for job in jobs]
    for i in (0, 1, 3):
        directories[i].open(f"r{i}", "", fresh=False)
    directories[0].update(state="finished", value=0.875, seconds=90.0, metrics={"best/epoch": 3.0})
    directories[1].log_metrics({"val/dice/mean": 0.5}, 4)  # running, and nobody computes it
    directories[2].update(run_id="r2", state="queued")
    directories[3].update(state="failed", reason="memory", error="OutOfMemory: lower batch_size\nmore")
    directories[5].update(run_id="another", state="finished", value=1.0)
    return manifest


def test_the_states_are_as_they_really_are(manifest: Manifest) -> None:
    found = survey(manifest)
    assert [name for name, _ in found] == [f"seed={i}" for i in range(6)]
    assert [s["state"] for _, s in found] == ["finished", "failed", "queued", "failed", "new", "failed"]
    assert [s.get("reason") for _, s in found] == [None, "killed", None, "memory", None, "config"]
    assert found[1][1]["epoch"] == 4
    assert found[2][1]["job"] == "slurm 7_2"
    assert count_states(found) == "3 failed, 1 finished, 1 queued, 1 new"


def test_status_shows_a_sweep_and_how_to_go_on(
    manifest: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status(str(tmp_path), "abc")
    printed = capsys.readouterr().out
    rows = {line.split("│")[1].strip(): line for line in printed.splitlines() if line.startswith("│")}
    assert [cell.strip() for cell in rows["seed=0"].split("│")[2:-1]][::4] == ["finished", "val 0.8750"]
    assert "memory: OutOfMemory: lower batch_size " in rows["seed=3"]
    assert "slurm 7_2" in rows["seed=2"]
    assert "runs what is missing: python run.py -m seed=0,1" in printed


def test_status_without_a_name_lists_all_sweeps(
    manifest: Manifest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Manifest(tmp_path / "sweeps" / "later").update(name="sweep lr (later)", axes=["lr"], command=["run.py"], jobs=[])
    status(str(tmp_path))
    printed = capsys.readouterr().out
    assert "abc123  sweep seed (abc123): 3 failed, 1 finished, 1 queued, 1 new" in printed
    assert "sweep later" in printed


def test_a_name_that_no_sweep_has_lists_those_there_are(manifest: Manifest, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"sweep=xyz: there is none in .*; there is abc123"):
        status(str(tmp_path), "xyz")
    Manifest(tmp_path / "sweeps" / "abd").update(jobs=[])
    with pytest.raises(ValueError, match="sweep=ab: several begin so"):
        status(str(tmp_path), "ab")


def test_a_manifest_is_merged_and_keeps_labels(manifest: Manifest) -> None:
    manifest.note_jobs({"r0": "slurm 9_0"})
    assert manifest.labels() == {"r0": "slurm 9_0", "r2": "slurm 7_2"}
    assert json.loads(manifest.path.read_text())["axes"] == ["seed"]
