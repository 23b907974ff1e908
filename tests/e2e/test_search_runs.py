"""A search as a user meets it: real processes, the real CT, Optuna's own files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pandas as pd
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from medsam2.config import PROJECT
from tests.tracking.helpers_servers import PASSWORD, postgres

SEARCH = [
    "-m",
    "hydra/sweeper=optuna",
    "experiment=ct_quick",
    "tracking=offline",
    "trainer.max_epochs=2",
    "trainer.val_every=1",
    "num_threads=1",
    "optim.lr=tag(log,interval(1e-4,1e-2))",
]
LOCAL = ["hydra/launcher=local", "hydra.launcher.jobs=2"]
HALVING = ["hydra.sweeper.pruner=halving", "hydra.sweeper.prune_after=1"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def start(output: Path, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(PROJECT / "run.py"), *SEARCH, f"paths.output_dir={output}", *arguments]
    env = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")} | {"OMP_NUM_THREADS": "1"} | environment
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env, start_new_session=True
    )


def call(output: Path, *arguments: str, **environment: str) -> tuple[int, str]:
    process = start(output, *arguments, **environment)
    said = process.communicate(timeout=280)[0]
    return process.returncode, said


def statuses(output: Path) -> list[dict[str, object]]:
    return [json.loads(f.read_text()) for f in sorted((output / "runs").rglob("status.json"))]


def study(output: Path) -> optuna.Study:
    (file,) = (output / "sweeps").glob("*/study.journal")
    return optuna.load_study(study_name=file.parent.name, storage=JournalStorage(JournalFileBackend(str(file))))


def test_a_search_goes_on_where_it_was_and_names_the_best(tmp_path: Path) -> None:
    code, said = call(tmp_path, "hydra.sweeper.n_trials=2", "optim.betas=[0.9,0.99],[0.9,0.999]")
    assert code == 0, said
    first = {s["run_id"]: s["updated"] for s in statuses(tmp_path)}
    assert len(first) == 2
    code, said = call(tmp_path, "hydra.sweeper.n_trials=3", "optim.betas=[0.9,0.99],[0.9,0.999]")
    assert code == 0, said
    assert "3 trials, 2 finished before" in said
    again = {s["run_id"]: s["updated"] for s in statuses(tmp_path)}
    assert first.items() <= again.items()
    assert len(again) == 3

    (folder,) = (tmp_path / "sweeps").iterdir()
    table = pd.read_csv(folder / "table.csv")
    assert list(table)[:5] == ["optim.lr", "optim.betas", "trial", "val", "runs"]
    assert table["val"].is_monotonic_decreasing
    assert sorted(table["trial"]) == [0, 1, 2]
    best = study(tmp_path).best_trial
    assert table["trial"][0] == best.number
    run = next(s for s in statuses(tmp_path) if s["run_id"] == best.user_attrs["run_id"])
    assert run["value"] == best.value
    assert table["chest_ct dice mean"][0] == pytest.approx(run["metrics"]["test/dice/mean"], rel=1e-5)
    line = f"best: optim.lr={table['optim.lr'][0]:.6g} optim.betas={best.params['optim.betas']} val {best.value:.3f}, "
    assert f"{line}test {run['metrics']['test/dice/mean']:.3f} (trial {best.number})" in said
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["state"] == "finished"
    assert {job["run_id"] for job in manifest["jobs"]} == set(again)


def test_a_killed_head_loses_nothing_and_those_behind_are_pruned(tmp_path: Path) -> None:
    arguments = [*LOCAL, *HALVING, "hydra.sweeper.n_trials=5"]
    head = start(tmp_path, *arguments)
    until = time.monotonic() + 120
    while sum(s["state"] == "running" for s in statuses(tmp_path)) < 2:
        assert time.monotonic() < until
        assert head.poll() is None
        time.sleep(0.1)
    os.kill(head.pid, signal.SIGKILL)
    head.communicate(timeout=120)
    before = [trial.params for trial in study(tmp_path).trials]
    assert len(before) == 2

    code, said = call(tmp_path, *arguments)
    assert code == 0, said
    trials = study(tmp_path).trials
    assert [trial.params for trial in trials[:2]] == before
    assert len(trials) == len(statuses(tmp_path)) == 5
    assert [s["attempts"] for s in statuses(tmp_path)] == [1] * 5  # what ran was waited for
    states = {trial.user_attrs["run_id"]: trial.state.name for trial in trials}
    wanted = {"finished": "COMPLETE", "pruned": "PRUNED"}
    assert {s["run_id"]: wanted[str(s["state"])] for s in statuses(tmp_path)} == states
    pruned = list(states.values()).count("PRUNED")
    assert pruned >= 1
    assert f"5 trials: {5 - pruned} finished, {pruned} pruned" in said


def test_a_study_in_postgresql_and_its_password_stays_where_it_is(tmp_path: Path) -> None:
    pytest.importorskip("psycopg2", reason="no driver for PostgreSQL here: pip install psycopg2-binary")
    with postgres() as server:
        arguments = ["hydra.sweeper.storage=${oc.env:STUDY_URL}", "hydra.sweeper.n_trials=2", *HALVING]
        code, said = call(tmp_path, *arguments, STUDY_URL=server.uri)
        assert code == 0, said
        assert "2 trials: " in said
        assert "cannot be reached" not in said
    assert PASSWORD not in said
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert len(files) > 10
    assert [file for file in files if PASSWORD.encode() in file.read_bytes()] == []
    assert any(b"env:STUDY_URL" in file.read_bytes() for file in files if file.name == "config.yaml")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["seed=0,1"], "seed=0,1: the search would choose the luckiest seed"),
        (["optim.eps=tag(log,interval(0,1))"], "optim.eps=tag(log,interval(0,1)): the lower end 0.0 must be above 0"),
        (["image_size=96,100"], "image_size=100: must be a multiple of 32"),
        (["hydra.sweeper.sampler=luck"], "hydra.sweeper.sampler=luck: choose one of tpe, gp, random"),
        (["hydra.sweeper.n_trials=many"], "hydra.sweeper.n_trials=many: must be a whole number >= 1"),
        (["force=true"], "force=true: a search goes on with its study"),
        (["task=fetch"], "task: a command makes no run"),
        (["run_dir=mine"], "run_dir: the trials would share a folder"),
        (["hydra/sweeper=grid"], "optim.lr=tag(log,interval(1e-4,1e-2)): a grid has no intervals"),
    ],
)
def test_a_wrong_search_ends_before_it_begins(tmp_path: Path, arguments: list[str], problem: str) -> None:
    code, said = call(tmp_path, *arguments)
    assert code == 1
    assert problem in said
    assert "Traceback" not in said
    assert not (tmp_path / "runs").exists()
    assert not (tmp_path / "sweeps").exists()
