"""What is collected from run directories: what counts, what does not and why, and that rows arrive unchanged."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from medsam2.evaluation.rows import save_rows
from medsam2.results.collect import Study, collect, split_settings
from medsam2.runs import RunDirectory
from tests.studies import BEGUN, FakeRun, make_rows, write_run, write_study

SCORES = {("a", "cup"): 0.5, ("a", "disc"): 0.75, ("b", "cup"): 0.25, ("b", "disc"): 1.0}
CATEGORIES = ("run_id", "case_id", "patient_id", "structure", "prompt", "budget", "protocol", "size_unit")


def fake(**changes: Any) -> FakeRun:
    return FakeRun(changes.pop("scores", SCORES), **changes)


def describe(path: Path, **entries: Any) -> None:
    RunDirectory(path).describe(**entries)


def reasons(study: Study) -> dict[str, str]:
    return dict(zip(study.left_out["run_id"], study.left_out["reason"], strict=True))


def test_rows_arrive_as_they_were_saved(tmp_path: Path) -> None:
    runs = [fake(seed=0), fake(seed=1, scores={key: value / 2 for key, value in SCORES.items()})]
    for run in runs:
        write_run(tmp_path, run)
    study = collect(tmp_path)
    assert set(study.runs.index) == {run.run_id for run in runs}
    assert {name: str(study.cases[name].dtype) for name in CATEGORIES} == dict.fromkeys(CATEGORIES, "category")
    assert study.cases.columns[0] == "run_id"
    for run in runs:
        for frame, factor in ((study.cases, 1.0), (study.zero_shot, 0.5)):
            found = frame[frame["run_id"] == run.run_id]
            keys = zip(found["case_id"], found["structure"], strict=True)
            assert dict(zip(keys, found["dice"], strict=True)) == {k: v * factor for k, v in run.scores.items()}
    assert set(study.cases["phase"]) == {"test"}
    assert set(study.zero_shot["phase"]) == {"zero_shot"}
    assert study.left_out.empty
    assert study.notes == ()
    assert study.source == f"run directories below {tmp_path}"
    assert [len(frame) for frame in (study.budgets, study.bins)] == [0, 0]


def test_what_is_said_of_a_run(tmp_path: Path) -> None:
    path = write_run(tmp_path, fake(seed=3, fold=1, study="eyes", seconds=12.5, begun=BEGUN + 5))
    (path / "provenance.json").write_text(json.dumps({"revision": "abc", "command": ["run.py", "seed=3", "a b"]}))
    RunDirectory(path).update(metrics={"best/epoch": 4.0})
    study = collect(tmp_path)
    (run,) = study.runs.to_dict("records")
    wanted = {
        "name": f"sam2_nano phantom seed 3 ({study.runs.index[0]})", "dataset": "phantom", "trained_on": "phantom",
        "arm": "sam2_nano", "seed": 3, "fold": 1, "split_hash": "5b1d", "study": "eyes", "sweeps": "",
        "begun": BEGUN + 5, "seconds": 12.5, "task": "train", "origin": None, "folder": str(path),
        "parameters": 1.5e6, "trained_parameters": 1.2e6, "peak_memory": 2e9, "device": "cpu", "revision": "abc",
        "command": "run.py seed=3 'a b'", "definition": "convention=medsam2 probability=0.5 unit=volume",
        "budget": "box", "structures": "cup,disc", "best_epoch": 4.0,
    }  # fmt: skip
    assert run == wanted
    assert study.params.loc[study.runs.index[0], "dataset.structures"] == ["cup", "disc"]
    assert study.params.loc[study.runs.index[0], "dataset.fold"] == 1


def test_old_runs_know_neither_choices_nor_cost(tmp_path: Path) -> None:
    path = write_run(tmp_path, fake())
    for name, key in (("run.json", "choices"), ("status.json", "cost")):
        content = json.loads((path / name).read_text())
        del content[key]
        (path / name).write_text(json.dumps(content))
    (path / "provenance.json").unlink()
    (path / "rows" / "zero_shot.parquet").unlink()
    (run,) = collect(tmp_path).runs.to_dict("records")
    assert np.isnan([run[key] for key in ("parameters", "trained_parameters", "peak_memory", "best_epoch")]).all()
    assert (run["arm"], run["revision"], run["command"], run["fold"]) == ("sam2_nano", "", "", None)


def test_unfinished_runs_are_counted_and_never_averaged(tmp_path: Path) -> None:
    states = ("finished", "failed", "pruned", "preempted", "interrupted", "running", "queued")
    runs = {state: fake(seed=i, state=state) for i, state in enumerate(states)}
    for state, run in runs.items():
        path = write_run(tmp_path, run)
        if state == "failed":
            RunDirectory(path).update(reason="out of memory", error="40 GiB are not there")
    study = collect(tmp_path)
    assert list(study.runs.index) == [runs["finished"].run_id]
    assert set(study.cases["run_id"]) == {runs["finished"].run_id}
    left = study.left_out.set_index("run_id")["state"]
    # nobody computes the one that says running
    expected = {runs[state].run_id: "failed" if state == "running" else state for state in states[1:]}
    assert left.to_dict() == expected
    assert reasons(study)[runs["failed"].run_id] == "failed: out of memory: 40 GiB are not there"
    assert "killed" in reasons(study)[runs["running"].run_id]


def test_jobs_of_a_sweep_that_never_began_are_counted(tmp_path: Path) -> None:
    done, other = fake(seed=0), fake(seed=1)
    jobs = [{"run_id": done.run_id, "run_dir": str(write_run(tmp_path, done)), "overrides": ["seed=0"]}]
    jobs += [{"run_id": other.run_id, "run_dir": str(tmp_path / "runs" / "x"), "overrides": ["model=a", "seed=1"]}]
    (tmp_path / "sweeps" / "5a5a").mkdir(parents=True)
    content = {"sweep_id": "5a5a", "axes": ["seed"], "jobs": jobs}
    (tmp_path / "sweeps" / "5a5a" / "manifest.json").write_text(json.dumps(content))
    study = collect(tmp_path)
    assert study.runs["sweeps"].to_dict() == {done.run_id: "5a5a"}
    assert study.left_out.to_dict("records") == [
        {"name": "seed=1", "run_id": other.run_id, "state": "new", "reason": "new: never begun"}
    ]


@pytest.mark.parametrize("same", [True, False])
def test_one_identity_counts_once(tmp_path: Path, same: bool) -> None:
    early = fake(begun=BEGUN)
    late = fake(begun=BEGUN + 9, scores=SCORES if same else dict.fromkeys(SCORES, 0.125))
    first = write_run(tmp_path, early)
    kept = first.rename(first.with_name("earlier"))
    write_run(tmp_path, late)
    study = collect(tmp_path)
    assert study.runs["begun"].to_dict() == {late.run_id: BEGUN + 9}
    assert sorted(study.cases["dice"]) == sorted(late.scores.values())
    assert list(study.left_out["reason"]) == [f"another run of this identity began later: {first}"]
    said = "their rows are equal" if same else "their rows differ"
    assert study.notes == (f"{study.runs['name'].iloc[0]} was found 2 times; the one that began last counts; {said}",)
    assert kept.exists()


def test_an_unfinished_copy_does_not_replace_a_finished_one(tmp_path: Path) -> None:
    path = write_run(tmp_path, fake())
    path.rename(path.with_name("elsewhere"))
    write_run(tmp_path, fake(begun=BEGUN + 9, state="failed"))
    study = collect(tmp_path)
    assert (len(study.runs), list(study.left_out["state"]), study.notes) == (1, ["failed"], ())


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


def rewrite(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[Path], None]:
    return lambda path: change(pd.read_parquet(path)).to_parquet(path, index=False)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "absent": (Path.unlink, "rows/test.parquet is not there"),
    "cut off": (cut, "rows/test.parquet cannot be read: Parquet magic bytes not found"),
    "empty": (rewrite(lambda f: f[:0]), "rows/test.parquet has no rows"),
    "a column": (rewrite(lambda f: f.drop(columns="budget")), "rows/test.parquet lacks the column budget"),
    "no case": (rewrite(lambda f: f.assign(case_id=None)), "rows/test.parquet has rows without case_id"),
    "twice": (rewrite(lambda f: pd.concat([f, f[:1]])), "rows/test.parquet has rows twice (1), as of a, cup"),
    "missing": (rewrite(lambda f: f[1:]), "lacks 1 of 4 rows that other runs of this split have: a cup"),
    "infinite": (rewrite(lambda f: f.assign(dice=[0.5, np.inf, -np.inf, 1.0])),
                 "rows/test.parquet: dice is infinite in 2 rows of 4"),
    "a text": (rewrite(lambda f: f.assign(dice="high")), "rows/test.parquet cannot be read: Failed to parse string"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_run_without_all_of_its_rows_is_left_out(tmp_path: Path, damage: str) -> None:
    harm, reason = DAMAGE[damage]
    good, bad = fake(seed=0), fake(seed=1)
    write_run(tmp_path, good)
    harm(write_run(tmp_path, bad) / "rows" / "test.parquet")
    study = collect(tmp_path)
    assert list(study.runs.index) == [good.run_id]
    assert list(study.left_out["state"]) == ["finished"]
    assert reasons(study)[bad.run_id].startswith(reason)
    assert set(study.cases["run_id"].cat.categories) == {good.run_id}


def test_many_missing_rows_are_counted_and_the_first_named(tmp_path: Path) -> None:
    write_study(tmp_path, {"a": 0.5}, seeds=(0,), cases=9)
    short = {(f"case{i:03d}", s): 0.5 for i in range(4) for s in ("cup", "disc")}
    write_run(tmp_path, FakeRun(short, model="b"))
    study = collect(tmp_path)
    assert list(study.runs["arm"]) == ["a"]
    wanted = "lacks 10 of 18 rows that other runs of this split have: case004 cup, case004 disc, case005 cup and 7 more"
    assert list(study.left_out["reason"]) == [wanted]


def test_the_cases_of_most_runs_are_those_of_the_setting(tmp_path: Path) -> None:
    odd = fake(seed=9, scores=SCORES | {("c", "cup"): 0.5, ("c", "disc"): 0.5})
    for run in (fake(seed=0), fake(seed=1), odd):
        write_run(tmp_path, run)
    study = collect(tmp_path)
    assert sorted(study.runs["seed"]) == [0, 1]
    assert reasons(study) == {odd.run_id: "has 2 rows that most runs of this split do not have: c cup, c disc"}
    name = f"sam2_nano phantom seed 9 ({odd.run_id})"
    assert study.notes == (f"phantom: 1 of 3 runs left out, whose rows are not those of the others: {name}",)


def test_where_as_many_runs_have_other_cases_none_may_lack_any(tmp_path: Path) -> None:
    few, more = fake(seed=0), fake(seed=1, scores=SCORES | {("c", "cup"): 0.5})
    for run in (few, more):
        write_run(tmp_path, run)
    assert list(reasons(collect(tmp_path))) == [few.run_id]


def test_a_status_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    path = write_run(tmp_path, fake())
    (path / "status.json").write_text("{")
    study = collect(tmp_path)
    assert study.runs.empty
    assert list(study.left_out["state"]) == ["unreadable"]
    assert "run.json or status.json cannot be read" in study.left_out["reason"][0]


@pytest.mark.parametrize("prepare", [lambda folder: None, lambda folder: write_run(folder, fake(state="failed"))])
def test_without_a_finished_run_the_study_is_empty(tmp_path: Path, prepare: Callable[[Path], object]) -> None:
    prepare(tmp_path)
    study = collect(tmp_path)
    assert study.runs.empty
    assert {"name", "arm", "budget"} <= set(study.runs.columns)
    assert {"run_id", "case_id", "structure", "budget"} <= set(study.cases.columns)
    assert split_settings(study) == []


def test_columns_that_a_run_lacks_are_nan_there(tmp_path: Path) -> None:
    plain, more = fake(seed=0), fake(seed=1, extra={"hd95": 3, "prompt_dice": None, "rater1_dice": 0.5})
    for run in (plain, more):
        write_run(tmp_path, run)
    cases = collect(tmp_path).cases
    assert cases.loc[cases["run_id"] == plain.run_id, ["hd95", "rater1_dice"]].isna().all(axis=None)
    assert list(cases.loc[cases["run_id"] == more.run_id, "hd95"]) == [3.0] * 4
    assert cases.loc[cases["run_id"] == more.run_id, "prompt_dice"].isna().all()
    assert cases["prompt_dice"].dtype == float


def test_budgets_and_bins_come_along(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    runs = [fake(seed=0), fake(seed=1)]
    paths = [write_run(tmp_path, run) for run in runs]
    levels = [row | {"axis": "slices", "level": level} for level in (1.0, np.inf) for row in make_rows(runs[0])]
    save_rows(levels, paths[0] / "rows", "budget")
    bins = {"phase": "test", "structure": "cup", "bin": 3, "number": 10, "expected": 2.5, "actual": 3.0}
    save_rows([bins], paths[0] / "rows", "test_bins")
    (paths[1] / "rows" / "budget.parquet").write_bytes(b"no rows")
    study = collect(tmp_path)
    assert study.budgets.groupby(["run_id", "level"], observed=True)["dice"].sum().to_list() == [2.5, 2.5]
    assert set(study.budgets["run_id"]) == {runs[0].run_id}
    assert study.bins[["run_id", "number", "actual"]].values.tolist() == [[runs[0].run_id, 10, 3.0]]
    assert "rows/budget.parquet cannot be read" in caplog.text


def evaluation(tmp_path: Path, origin: Mapping[str, Any], **changes: Any) -> FakeRun:
    """A run that scores the weights of another, as it is left behind."""
    params = {"task._target_": "t.evaluate", "model.checkpoint": f"best of {origin['run_id']}", "run": origin["run_id"]}
    run = fake(params=params | changes.pop("params", {}), **changes)
    describe(write_run(tmp_path, run), origin=dict(origin))
    return run


def test_an_evaluation_elsewhere_is_of_the_arm_that_was_trained(tmp_path: Path) -> None:
    made = [fake(seed=seed, model=m, params={"optim.lr": lr, "model.checkpoint": "sam", "task.legacy": False})
            for seed in (0, 1) for m, lr in (("a", 1e-3), ("b", 1e-4))]  # fmt: skip
    for run in made:
        write_run(tmp_path, run)
    for run in made:
        origin = {"run_id": run.run_id, "dataset": "phantom", "split_hash": "5b1d", "checkpoint": "sam"}
        params = {"optim.lr": run.params["optim.lr"], "model.tuning.lora": None}
        evaluation(tmp_path, origin, dataset="other", model=run.model, seed=run.seed, params=params)
    study = collect(tmp_path)
    assert study.runs.groupby(["arm", "dataset"]).size().to_dict() == {
        ("a", "other"): 2, ("a", "phantom"): 2, ("b", "other"): 2, ("b", "phantom"): 2,
    }  # fmt: skip
    elsewhere = study.runs[study.runs["dataset"] == "other"]
    assert set(elsewhere["trained_on"]) == {"phantom"}
    assert set(elsewhere["task"]) == {"evaluate"}
    assert set(elsewhere["origin"]) == {run.run_id for run in made}
    assert set(study.params["model.checkpoint"]) == {"sam"}
    # the runs that made the weights are found, though they do not count
    alone = collect(tmp_path, dataset=["other"])
    assert (sorted(alone.runs["arm"]), alone.notes) == (["a", "a", "b", "b"], ())


def test_weights_whose_training_is_not_here_are_said(tmp_path: Path) -> None:
    for seed, sam in ((0, "sam 2.0"), (1, "sam 2.0"), (0, "sam 2.1")):
        origin = {"run_id": f"gone{seed}{sam}", "dataset": "far", "split_hash": "77", "checkpoint": sam}
        evaluation(tmp_path, origin, seed=seed)
    study = collect(tmp_path)
    assert sorted(study.runs["arm"]) == [f"model.checkpoint={sam}" for sam in ("sam 2.0", "sam 2.0", "sam 2.1")]
    (note,) = study.notes
    assert note.startswith("the weights of 3 runs were made by runs that are not here")


def test_the_same_weights_on_the_same_cases_count_once(tmp_path: Path) -> None:
    made = fake()
    write_run(tmp_path, made)
    origin = {"run_id": made.run_id, "dataset": "phantom", "split_hash": "5b1d", "checkpoint": None}
    again = evaluation(tmp_path, origin)
    study = collect(tmp_path)
    assert list(study.runs.index) == [made.run_id]
    assert reasons(study) == {
        again.run_id: f"the same arm, seed and cases as {study.runs['name'].iloc[0]}, which counts"
    }
    more = evaluation(tmp_path, origin, params={"metrics.names": ["dice", "hd95"]}, extra={"hd95": 2.0})
    assert list(collect(tmp_path).runs.index) == [more.run_id]


@pytest.mark.parametrize("trained_with", ["box", "1 click"])
def test_trying_many_prompts_makes_no_other_arm(tmp_path: Path, trained_with: str) -> None:
    """Whether its first prompt is that of the training, so that the cases are scored again, or another."""
    made = fake(budget=trained_with, choices={"prompt": "center"})
    write_run(tmp_path, made)
    origin = {"run_id": made.run_id, "dataset": "phantom", "split_hash": "5b1d", "checkpoint": None}
    asked = {"prompt._target_": "medsam2.data.budget_prompt.ClickBudget", "prompt.clicks": 10}
    tried = evaluation(tmp_path, origin, budget="1 click", params=asked, choices={"prompt": "click_budget"})
    (path,) = (tmp_path / "runs").glob(f"*/*{tried.run_id}")
    save_rows([row | {"axis": "clicks", "level": 1.0} for row in make_rows(tried)], path / "rows", "budget")
    study = collect(tmp_path)
    assert set(study.runs["arm"]) == {"sam2_nano"}
    assert set(study.choices["prompt"]) == {"center"}
    assert list(study.params["prompt._target_"].unique()) == ["p.BoxPrompt"]
    assert len(study.runs) == (1 if trained_with == "1 click" else 2)
    kept = made if trained_with == "1 click" else tried
    assert list(study.budgets["run_id"].astype(str).unique()) == [kept.run_id]
    assert len(study.budgets) == len(SCORES)


def test_weights_are_not_tested_on_what_they_may_have_seen(tmp_path: Path) -> None:
    made = fake(fold=0, split_hash="f0")
    write_run(tmp_path, made)
    origin = {"run_id": made.run_id, "dataset": "phantom", "split_hash": "f0", "checkpoint": None}
    seen = evaluation(tmp_path, origin, fold=1, split_hash="f1")
    study = collect(tmp_path)
    assert list(study.runs.index) == [made.run_id]
    assert "trained on another split of phantom" in reasons(study)[seen.run_id]


def test_runs_that_were_not_computed_alike_are_said(tmp_path: Path) -> None:
    for seed, revision in ((0, "abc"), (1, "abc"), (2, "def")):
        path = write_run(tmp_path, fake(seed=seed))
        (path / "provenance.json").write_text(json.dumps({"revision": revision}))
    assert collect(tmp_path).notes == ("runs are of more than one revision of the code: abc (2), def (1)",)
