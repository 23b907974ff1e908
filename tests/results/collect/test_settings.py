"""Which runs may stand in one column, and what is said of those that may not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from medsam2.results.collect import Setting, Study, collect, split_settings
from medsam2.results.collect.budgets import Budgets
from medsam2.runs import RunDirectory
from tests.studies import BEGUN, FakeRun, write_run

KEYS = [("a", "cup"), ("a", "disc"), ("b", "cup"), ("b", "disc")]


def fake(keys: Sequence[tuple[str, str]] = KEYS, **changes: Any) -> FakeRun:
    return FakeRun(dict.fromkeys(keys, 0.5), **changes)


def split(folder: Path, *runs: FakeRun) -> tuple[Study, list[Setting]]:
    for i, run in enumerate(runs):
        write_run(folder, replace(run, begun=BEGUN + i))
    study = collect(folder)
    return study, split_settings(study)


def members(settings: Sequence[Setting], *runs: FakeRun) -> list[set[int]]:
    """By setting, which of these runs."""
    numbers = {run.run_id: i for i, run in enumerate(runs)}
    return [{numbers[run_id] for run_id in setting.run_ids} for setting in settings]


def test_what_is_equal_is_one_setting(tmp_path: Path) -> None:
    runs = [fake(seed=seed, model=model) for seed in (0, 1) for model in ("a", "b")]
    _, settings = split(tmp_path, *runs)
    (one,) = settings
    assert set(one.run_ids) == {run.run_id for run in runs}
    assert (one.title, one.notes) == ("phantom", ())
    assert one.key == {
        "dataset": "phantom", "split": "5b1d", "budget": "box", "structures": "cup,disc", "trained_on": "here",
        "definition": "convention=medsam2 probability=0.5 unit=volume",
    }  # fmt: skip


APART: dict[str, tuple[dict[str, Any], str, str]] = {
    "split": ({"split_hash": "77aa"}, "split 5b1d here, 77aa there", "phantom, split 77aa"),
    "budget": ({"budget": "1 click"}, "prompt budget box here, 1 click there", "phantom, 1 click"),
    "structures": (
        {"keys": KEYS[::2]},
        "structures cup,disc here, cup there",
        "phantom, structures cup",
    ),
    "unit": (
        {"params": {"metrics.unit": "slice"}},
        "metric definition unit=volume here, unit=slice there",
        "phantom, unit=slice",
    ),
    "convention": (
        {"params": {"metrics.convention": "nnunet"}},
        "metric definition convention=medsam2 here, convention=nnunet there",
        "phantom, nnunet's metrics",
    ),
    "two": (
        {"budget": "mask", "split_hash": "77aa"},
        "split 5b1d here, 77aa there, prompt budget box here, mask there",
        "phantom, split 77aa, mask",
    ),
}


@pytest.mark.parametrize("case", APART)
def test_what_differs_is_kept_apart_and_said(tmp_path: Path, case: str) -> None:
    changes, said, title = APART[case]
    runs = [fake(), fake(seed=1), fake(model="other", **changes)]
    study, settings = split(tmp_path, *runs)
    assert members(settings, *runs) == [{0, 1}, {2}]
    assert settings[0].notes == (f"not in one table with 1 other run of phantom: {said}",)
    assert settings[1].title == title
    assert settings[1].notes[0].startswith("not in one table with 2 other runs of phantom: ")
    assert study.left_out.empty


def test_metrics_that_are_not_ours_are_marked_where_nothing_else_is_beside_them(tmp_path: Path) -> None:
    theirs = {"metrics.convention": "nnunet"}
    runs = [fake(params=theirs), fake(params=theirs | {"metrics.unit": "slice"}), fake(dataset="other")]
    _, settings = split(tmp_path, *runs)
    assert {s.title for s in settings} == {
        "phantom, nnunet's metrics, unit=volume", "phantom, nnunet's metrics, unit=slice", "other",
    }  # fmt: skip
    _, alone = split(tmp_path / "alone", runs[0])
    assert [s.title for s in alone] == ["phantom, nnunet's metrics"]


@pytest.mark.parametrize(
    "params", [{"metrics.names": ["hd95"]}, {"metrics.convention": "medsam2"}, {"metrics.overlays": False}]
)
def test_which_metrics_are_computed_does_not_change_what_they_mean(tmp_path: Path, params: Mapping[str, Any]) -> None:
    runs = [fake(), fake(model="other", params=params)]
    assert members(split(tmp_path, *runs)[1], *runs) == [{0, 1}]


def test_datasets_are_settings_without_a_word_on_each_other(tmp_path: Path) -> None:
    runs = [fake(dataset="x"), fake(dataset="y", split_hash="77", budget="mask")]
    _, settings = split(tmp_path, *runs)
    assert [(s.title, s.notes) for s in settings] == [("x", ()), ("y", ())]


def test_weights_that_come_from_elsewhere_answer_another_question(tmp_path: Path) -> None:
    here, there = fake(dataset="x"), fake(dataset="x", seed=1, begun=BEGUN + 1)
    write_run(tmp_path, here)
    origin = {"run_id": "77", "dataset": "y", "split_hash": "1", "checkpoint": None}
    RunDirectory(write_run(tmp_path, there)).describe(origin=origin)
    settings = split_settings(collect(tmp_path))
    assert members(settings, here, there) == [{0}, {1}]
    assert [s.title for s in settings] == ["x, trained here", "x, trained on y"]
    assert settings[1].notes == (
        "not in one table with 1 other run of x: trained on y in this table, on x itself in that one",
    )


@pytest.mark.parametrize(("seeds", "said"), [((0,), "training not known"), ((0, 1), "trained here, or not known")])
def test_masks_of_others_were_not_trained_here(tmp_path: Path, seeds: Sequence[int], said: str) -> None:
    theirs = {"task._target_": "t.evaluate", "predictions": "0a"}
    write_run(tmp_path, fake(dataset="x", model="nnunet", params=theirs))
    if 1 in seeds:
        write_run(tmp_path, fake(dataset="x", seed=1))
    origin = {"run_id": "77", "dataset": "y", "split_hash": "1", "checkpoint": None}
    RunDirectory(write_run(tmp_path, fake(dataset="x", seed=2))).describe(origin=origin)
    titles = {setting.title for setting in split_settings(collect(tmp_path))}
    assert titles == {f"x, {said}", "x, trained on y"}


VOLUMES = {
    "numbers": ([5, 12, 7, 7], "phantom, box on 5–12 slices", "box on 7 slices (2 rows), box on 5"),
    "one number": ([3, 3, 3, 3], "phantom, box on 3 slices", "box on 3 slices"),
}


@pytest.mark.parametrize("case", VOLUMES)
def test_budgets_of_volumes_are_short_in_titles(tmp_path: Path, case: str) -> None:
    numbers, title, full = VOLUMES[case]
    path = write_run(tmp_path, fake()) / "rows" / "test.parquet"
    table = pd.read_parquet(path)
    table.assign(budget=[f"box on {n} slices" for n in numbers]).to_parquet(path, index=False)
    write_run(tmp_path, fake(model="other", budget="1 click"))
    (found,) = [one for one in split_settings(collect(tmp_path)) if "box" in one.key["budget"]]
    assert found.title == title
    assert found.key["budget"].startswith(full)
    assert found.title == f"phantom, {found.budget}"


def test_titles_are_short_and_tell_settings_apart(tmp_path: Path) -> None:
    names = [f"a structure with a very long name {i}" for i in range(3)]
    runs = [fake([("a", name) for name in names[:n]], model=f"m{n}") for n in (1, 2, 3)]
    titles = [setting.title for setting in split(tmp_path, *runs)[1]]
    assert len(set(titles)) == 3
    assert max(map(len, titles)) <= 64
    assert all(title.startswith("phantom, structures a structure") for title in titles)


def test_folds_are_one_split_where_each_has_the_same_cases(tmp_path: Path) -> None:
    runs = [
        fake([(f"case{fold}", "cup")], fold=fold, model=model, split_hash=f"f{fold}")
        for model in ("a", "b")
        for fold in (0, 1, 2)
    ]
    study, settings = split(tmp_path, *runs)
    assert members(settings, *runs) == [{0, 1, 2, 3, 4, 5}]
    assert settings[0].key["split"] == "folds 0: f0, 1: f1, 2: f2"
    assert study.left_out.empty


def test_folds_of_other_splits_are_others(tmp_path: Path) -> None:
    def folds(model: str, hashes: Mapping[int, str], **params: Any) -> list[FakeRun]:
        names = {f"dataset.{key}": value for key, value in params.items()}
        return [fake([(h, "cup")], fold=f, model=model, split_hash=h, params=names) for f, h in hashes.items()]

    runs = [
        *folds("a", {0: "f0", 1: "f1"}, folds=5, split_seed=0),
        *folds("b", {0: "g0", 1: "g1"}, folds=5, split_seed=1),
        *folds("c", {2: "h2"}, folds=3, split_seed=0),
    ]
    assert members(split(tmp_path, *runs)[1], *runs) == [{0, 1}, {2, 3}, {4}]


def test_folds_whose_cases_are_not_the_same_are_not_joined(tmp_path: Path) -> None:
    runs = [fake([(h, "cup")], fold=fold, seed=i, split_hash=h) for i, (fold, h) in enumerate([(0, "f0"), (0, "g0")])]
    assert members(split(tmp_path, *runs)[1], *runs) == [{0}, {1}]


def frame(**budgets: str) -> pd.DataFrame:
    """Cases of runs, each as letters: the budget of one case after another, a dot for none."""
    rows = [
        (run, f"case{i}", "cup", budget)
        for run, letters in budgets.items()
        for i, budget in enumerate(letters)
        if budget != "."
    ]
    return pd.DataFrame(rows, columns=["run_id", "case_id", "structure", "budget"]).astype("category")


BUDGETS: dict[str, tuple[dict[str, str], dict[str, str], list[str]]] = {
    "equal": ({"p": "bbb", "q": "bbb"}, {}, ["pq"]),
    "one case": ({"p": "bbb", "q": "bcb"}, {}, ["p", "q"]),
    "the same texts in another place": ({"p": "bc", "q": "cb", "r": "bc"}, {}, ["pr", "q"]),
    "missing rows": ({"p": "bbcc", "q": "bb.c", "r": "b.bc"}, {}, ["pq", "r"]),
    "nothing shared, one arm": ({"p": "bc..", "q": "..cd", "r": "bd.."}, {"p": "1", "q": "1", "r": "2"}, ["pq", "r"]),
    "nothing shared, one price": ({"p": "bb..", "q": "..bb"}, {"p": "1", "q": "2"}, ["pq"]),
    "nothing shared, no arm, other prices": ({"p": "bb..", "q": "..cc"}, {"p": "1", "q": "2"}, ["p", "q"]),
    "folds of two arms": (
        {"p": "b.", "q": ".c", "r": ".b", "s": "c."},
        {"p": "box", "q": "click", "r": "box", "s": "click"},
        ["pr", "qs"],
    ),
}


@pytest.mark.parametrize("case", BUDGETS)
def test_budgets_are_compared_row_by_row(case: str) -> None:
    rows, arms, groups = BUDGETS[case]
    labels = pd.Series({run: arms.get(run, run) for run in rows})
    found = Budgets(frame(**rows), list(rows)).split(list(rows), labels)
    assert sorted("".join(sorted(group)) for group in found) == groups


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ("bbb", "b"),
        ("bcbb", "b (3 rows), c (1 row)"),
        ("bcdefb", "b (2 rows), c (1 row), d (1 row) and 2 more"),
    ],
)
def test_what_prompts_cost_in_words(rows: str, text: str) -> None:
    assert Budgets(frame(p=rows), ["p"]).describe(["p"]) == text


def test_budgets_that_only_their_places_tell_apart_have_other_keys(tmp_path: Path) -> None:
    for i, texts in enumerate((["box", "click"], ["click", "box"])):
        path = write_run(tmp_path, fake([("a", "cup"), ("b", "cup")], seed=i)) / "rows" / "test.parquet"
        pd.read_parquet(path).assign(budget=texts).to_parquet(path, index=False)
    first, second = split_settings(collect(tmp_path))
    assert first.key != second.key
    assert first.title != second.title
    assert first.notes


def test_a_cup_to_disc_row_is_no_structure(tmp_path: Path) -> None:
    plain, ratio = fake(), fake(seed=1)
    write_run(tmp_path, plain)
    path = write_run(tmp_path, ratio) / "rows" / "test.parquet"
    rows = pd.read_parquet(path)
    more = rows[:1].assign(structure="cup_to_disc", budget="box, box", vcdr=0.5)
    pd.concat([rows, more]).to_parquet(path, index=False)
    study = collect(tmp_path)
    (setting,) = split_settings(study)
    assert (setting.key["structures"], setting.key["budget"]) == ("cup,disc", "box")
    assert study.left_out.empty
    assert (study.cases["structure"] == "cup_to_disc").sum() == 1
