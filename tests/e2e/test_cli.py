"""The command line as a user meets it: real processes, the real CT, a real MLflow store."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from mlflow import MlflowClient

from medsam2.config import PROJECT
from medsam2.data.phantom import write_refuge

QUICK = ["experiment=ct_quick", "trainer.max_epochs=1", "trainer.val_every=1", "num_threads=1"]


def command(output: Path, *arguments: str) -> list[str]:
    return [sys.executable, str(PROJECT / "run.py"), *arguments, f"paths.output_dir={output}"]


def call(output: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
    return subprocess.run(command(output, *arguments), capture_output=True, text=True, timeout=280, env=environment)


def statuses(output: Path) -> list[dict[str, object]]:
    return [json.loads(f.read_text()) for f in sorted((output / "runs").rglob("status.json"))]


def test_a_sweep_ends_in_a_table_and_in_mlflow_and_is_not_run_twice(tmp_path: Path) -> None:
    sweep = ["-m", *QUICK, "loss=dice_ce,bce", "seed=0,1"]
    first = call(tmp_path, *sweep)
    assert first.returncode == 0, first.stdout + first.stderr
    assert first.stdout.count("dice_ce") >= 1
    assert "± " in first.stdout

    folder = next((tmp_path / "sweeps").iterdir())
    table = pd.read_csv(folder / "table.csv")
    assert table["loss"].tolist() == ["dice_ce", "bce"]
    assert table["runs"].tolist() == ["2/2", "2/2"]
    assert table["chest_ct dice n"].tolist() == [2, 2]
    assert (folder / "table.md").read_text().startswith("| loss | runs |")
    written = dict(zip(table["loss"], table["chest_ct dice mean"], strict=True))
    assert written == pytest.approx(_means(tmp_path), rel=1e-5)  # files hold six digits

    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    (study,) = [e for e in client.search_experiments() if e.name == "medsam2"]
    runs = client.search_runs([study.experiment_id])
    parents = [r for r in runs if "mlflow.parentRunId" not in r.data.tags]
    children = [r for r in runs if r not in parents]
    assert len(parents) == 1
    assert {r.info.status for r in runs} == {"FINISHED"}
    assert {r.data.tags["mlflow.parentRunId"] for r in children} == {parents[0].info.run_id}
    assert len(children) == 4
    child = children[0]
    assert child.data.params["optim.lr"] == "0.001"
    assert child.inputs.dataset_inputs[0].dataset.name == "chest_ct"
    assert {a.path for a in client.list_artifacts(child.info.run_id)} >= {"rows", "pictures", "config.yaml"}
    assert {a.path for a in client.list_artifacts(parents[0].info.run_id)} == {"table.csv", "table.md"}

    before = [s["updated"] for s in statuses(tmp_path)]
    second = call(tmp_path, *sweep)
    assert second.returncode == 0
    assert "4 jobs, 4 finished before" in second.stdout
    assert [s["updated"] for s in statuses(tmp_path)] == before
    assert len(client.search_runs([study.experiment_id])) == 5


def _means(output: Path) -> dict[str, float]:
    """Mean test Dice per loss, recomputed from the rows of the runs."""
    groups: dict[str, list[float]] = {"dice_ce": [], "bce": []}
    for file in (output / "runs").rglob("test.csv"):
        config = (file.parent.parent / "config.yaml").read_text()
        means = pd.read_csv(file).groupby("structure")["dice"].mean()
        groups["bce" if "medsam2.losses.BCE" in config else "dice_ce"].append(means.mean())
    return {loss: sum(values) / len(values) for loss, values in groups.items()}


@pytest.mark.slow
def test_a_failing_job_is_named_and_leaves_the_others_alone(tmp_path: Path) -> None:
    done = call(tmp_path, "-m", *QUICK, "++optim.lr=1e30,1e-3", "tracking=offline")
    assert done.returncode == 1
    assert "failed (non-finite): optim.lr=1e+30: " in done.stdout
    assert "NonFiniteLoss: " in done.stdout
    assert sorted(str(s["state"]) for s in statuses(tmp_path)) == ["failed", "finished"]
    table = pd.read_csv(next((tmp_path / "sweeps").iterdir()) / "table.csv")
    assert (table["optim.lr"].tolist(), table["runs"].tolist()) == ([1e30, 1e-3], ["0/1", "1/1"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "kill",
    [pytest.param(signal.SIGKILL, id="killed"), pytest.param(signal.SIGINT, id="interrupted")],
)
def test_a_stopped_run_goes_on_and_ends_as_if_it_had_not_been_stopped(tmp_path: Path, kill: signal.Signals) -> None:
    run = [*QUICK, "trainer.max_epochs=4", "tracking=offline"]
    whole = tmp_path / "whole"
    assert call(whole, *run).returncode == 0

    stopped = tmp_path / "stopped"
    process = subprocess.Popen(
        command(stopped, *run),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # a test runner in the background of a shell is started with SIGINT ignored, and so would be its children
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    _wait_for_epoch(stopped, 2)
    process.send_signal(kill)
    output, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    if kill is signal.SIGINT:
        assert process.returncode == 130
        assert "goes on where it stopped" in output
        assert "Traceback" not in output
        assert statuses(stopped)[0]["state"] == "interrupted"
    again = call(stopped, *run)
    assert again.returncode == 0
    assert "resuming after epoch" in again.stdout

    (left,), (right,) = list((whole / "runs").rglob("test.csv")), list((stopped / "runs").rglob("test.csv"))
    assert left.read_text() == right.read_text()
    assert _metrics(left.parent.parent) == _metrics(right.parent.parent)


def _wait_for_epoch(output: Path, epoch: int) -> None:
    _wait_for(lambda: any(f'{{"epoch": {epoch},' in text for text in _logs(output)))


def _logs(output: Path, model: str = "") -> list[str]:
    return [f.read_text() for f in (output / "runs").rglob("metrics.jsonl") if model in f.parent.name]


def _wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError("did not come in two minutes")


def _metrics(run: Path) -> list[tuple[int, dict[str, float]]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(line["epoch"], line["metrics"]) for line in lines]


@pytest.mark.slow
def test_the_quick_run_beats_filling_the_box_by_a_margin(tmp_path: Path) -> None:
    done = call(tmp_path, "experiment=ct_quick", "model=sam2_nano", "tracking=offline")
    assert done.returncode == 0, done.stdout
    (rows,) = (tmp_path / "runs").rglob("test.csv")
    means = pd.read_csv(rows).groupby("structure")[["dice", "prompt_dice"]].mean().mean()
    assert means["dice"] >= means["prompt_dice"] + 0.15


@pytest.mark.slow
def test_fine_tuning_lifts_a_pretrained_model_on_real_slices(tmp_path: Path) -> None:
    done = call(tmp_path, "model=litemedsam", "dataset=chest_ct", "tracking=offline", "trainer.max_epochs=3")
    assert done.returncode == 0, done.stdout
    (folder,) = (tmp_path / "runs").rglob("rows")
    before, after = (
        pd.read_csv(folder / f"{phase}.csv").groupby("structure")["dice"].mean() for phase in ("zero_shot", "test")
    )
    assert before.min() > 0.8  # it knows lungs from its training
    assert after.mean() >= before.mean() + 0.05
    assert (after >= before + 0.03).all()


@pytest.mark.slow
def test_a_killed_sweep_goes_on_with_what_is_missing(tmp_path: Path) -> None:
    write_refuge(tmp_path / "data", train=6, test=2, size=128)
    sweep = ["-m", "model=sam2_nano,sam2_micro", "dataset=refuge", f"paths.data_root={tmp_path / 'data'}"]
    sweep += ["image_size=64", "trainer.max_epochs=3", "num_workers=0", "num_threads=1"]
    process = subprocess.Popen(command(tmp_path, *sweep), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _wait_for(lambda: len(statuses(tmp_path)) == 2 and any('"epoch": 1,' in text for text in _logs(tmp_path, "micro")))
    process.kill()
    process.wait()
    again = call(tmp_path, *sweep)
    assert again.returncode == 0, again.stdout
    assert "2 jobs, 1 finished before" in again.stdout
    assert "resuming after epoch" in again.stdout
    assert [s["state"] for s in statuses(tmp_path)] == ["finished", "finished"]
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert {r.info.status for r in runs} == {"FINISHED"}
    assert sorted("mlflow.parentRunId" in r.data.tags for r in runs) == [False, True, True]


def test_evaluate_scores_without_training(tmp_path: Path) -> None:
    done = call(tmp_path, *QUICK, "task=evaluate", "tracking=offline")
    assert done.returncode == 0, done.stdout
    (run,) = (tmp_path / "runs" / "chest_ct").glob("sam2_nano-*")
    assert not list((run / "checkpoints").iterdir())
    assert len(pd.read_csv(run / "rows" / "test.csv")) == 12


BAD = {  # what is typed -> what must be said
    "unknown choice": (["model=sam2_x"], ["Could not find 'model/sam2_x'", "sam2_nano"]),
    "misspelt key": (["optim.l=1"], ["optim.l", "Key 'l' is not in struct"]),
    "key of the run, not of the task": (
        ["task=compare", "dataset=phantom"],
        ["dataset: this task does not read it; give task.dataset=…"],
    ),
    "several at once": (
        [
            "model=sam2_nano",
            "optim.lr=-1",
            "optim.betas=[0.9,1.0]",
            "model.mask_selection.thresh=2",
            "trainer.accumulate=0",
        ],
        ["4 problems", "optim.lr=-1", "optim.betas=[0.9, 1.0]", "mask_selection.thresh=2", "trainer.accumulate=0"],
    ),
}


@pytest.mark.parametrize(("arguments", "said"), BAD.values(), ids=BAD.keys())
def test_a_mistake_is_explained_before_any_work(tmp_path: Path, arguments: list[str], said: list[str]) -> None:
    _refused(tmp_path, arguments, said)


def test_a_sweep_starts_nothing_while_a_job_is_wrong(tmp_path: Path) -> None:
    said = ["image_size=200: must be a multiple of 32: use 192 or 224 [image_size=200 "]
    _refused(tmp_path, ["-m", "image_size=128,200"], said)


def _refused(output: Path, arguments: list[str], said: list[str]) -> None:
    done = call(output, *arguments)
    text = done.stdout + done.stderr
    assert done.returncode == 1
    for words in said:
        assert words in text, text
    assert "Traceback" not in text
    assert not (output / "runs").exists()
