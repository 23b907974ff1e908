"""A study becomes a comparison, or a clear word why not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from medsam2.results.collect import Setting, Study, collect, name_arms, split_settings
from medsam2.results.compare import Comparison, compare
from medsam2.results.compare.across import compare_across
from medsam2.results.compare.boards import Question, build_board
from medsam2.results.compare.view import make_view
from medsam2.runs import RunDirectory
from tests.studies import FakeRun, write_run, write_study

RNG = np.random.default_rng(5)


def scores(mean: float = 0.8, cases: int = 8) -> dict[tuple[str, str], float]:
    values = RNG.normal(mean, 0.01, (cases, 2))
    return {(f"c{i}", name): values[i, k] for i in range(cases) for k, name in enumerate(("cup", "disc"))}


def make(folder: Path, *runs: FakeRun, **question: Any) -> Comparison:
    for run in runs:
        write_run(folder, run)
    return compare(collect(folder), resamples=200, **question)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Three arms, three seeds, two datasets."""
    folder = tmp_path_factory.mktemp("study")
    write_study(folder, {"good": 0.90, "fair": 0.80, "poor": 0.79}, datasets=("here", "there"), cases=12)
    return collect(folder)


@pytest.fixture(scope="module")
def comparison(study: Study) -> Comparison:
    return compare(study, resamples=200)


def test_what_is_compared(comparison: Comparison) -> None:
    assert sorted(comparison.arms) == ["fair", "good", "poor"]
    assert comparison.metric == "dice"
    assert comparison.higher_is_better
    assert sorted(board.name for board in comparison.boards) == ["here", "there"]
    assert comparison.matrix is None
    assert any("2 settings" in note for note in comparison.notes)
    for board in comparison.boards:
        assert len(board.pairs) == 9
        assert board.scores["arm"].iat[0] == "good"
        verdicts = board.pairs.query("structure == 'mean' and a == 'good'")["verdict"]
        assert verdicts.tolist() == ["better", "better"]
        assert "a" in board.letters["good"]
        assert "a" not in board.letters["poor"]
        assert board.stability["arm"].iat[0] == "good"
        assert board.stability["first"].tolist() == [1, 0, 0]
        assert board.stability["mean_rank"].sum() == pytest.approx(6)
        assert board.pairs["sentence"].str.contains(f"on {board.name} (box)", regex=False).all()


def test_across_datasets_scores_are_ranked(comparison: Comparison) -> None:
    across = comparison.across
    assert across is not None
    assert set(across.datasets) == {"here", "there"}
    assert across.mean_ranks.index[0] == "good"
    assert across.mean_ranks["good"] == 1
    assert across.mean_ranks.sum() == 6
    assert across.critical_difference == pytest.approx(2.343 * np.sqrt(3 * 4 / (6 * 2)), abs=1e-2)  # Demšar's table 5
    assert across.cliques == [list(across.mean_ranks.index)]
    assert any("2 datasets" in note for note in across.notes)
    for board in comparison.boards:
        means = board.scores.query("metric == 'dice' and structure == 'mean'").set_index("arm")["mean"]
        assert across.scores[board.name].to_dict() == means.to_dict()
    (alone,) = [board for board in comparison.boards if board.name == "here"]
    assert compare_across([alone], "dice") is None


def test_equal_questions_have_equal_answers(study: Study, comparison: Comparison) -> None:
    again = compare(study, resamples=200)
    for one, other in zip(comparison.boards, again.boards, strict=True):
        pd.testing.assert_frame_equal(one.scores, other.scores)
        pd.testing.assert_frame_equal(one.pairs, other.pairs)
        pd.testing.assert_frame_equal(one.stability, other.stability)


def test_with_a_baseline(study: Study) -> None:
    for board in compare(study, baseline="fair", resamples=200).boards:
        headline = board.pairs.query("structure == 'mean'")
        assert headline[["a", "b"]].to_numpy().tolist() == [["good", "fair"], ["poor", "fair"]]
        assert headline["verdict"].iat[0] == "better"
        assert headline["p_permutation_holm"].iat[0] <= 2 * headline["p_permutation"].iat[0]
        assert board.letters == {}


def test_rejecting_the_least_sure(comparison: Comparison) -> None:
    for board in comparison.boards:
        kept = comparison.rejection.query("dataset == @board.name and arm == 'good'").set_index("rejected")
        rows = board.cases[board.cases["arm"] == "good"]
        for share in (0.0, 0.5, 0.9):
            groups = [group for _, group in rows.groupby(["run_id", "structure"], observed=True)]
            left = [group.sort_values("iou_predicted")["dice"].iloc[int(share * 12) :] for group in groups]
            assert kept["mean"][share] == pytest.approx(np.mean([one.mean() for one in left]))
            assert kept["cases"][share] == sum(map(len, left))
        assert kept["mean"][0.9] > kept["mean"][0.0]


def test_costs_are_means_over_runs(comparison: Comparison) -> None:
    assert comparison.cost[["arm", "dataset"]].drop_duplicates().shape[0] == 6
    first = comparison.cost.iloc[0]
    assert first[["task", "runs", "seconds", "peak_memory", "device"]].tolist() == ["train", 3, 60.0, 2e9, "cpu"]


MISTAKES = {
    "metric": ({"metric": "dise"}, "metric=dise: no row has it; rows have dice, iou, prompt_dice"),
    "baseline": ({"baseline": "best"}, "baseline=best: there is no such arm; choose one of"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_question_without_an_answer(study: Study, name: str) -> None:
    question, message = MISTAKES[name]
    with pytest.raises(ValueError, match=message):
        compare(study, **question)


def test_no_finished_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no finished run .*: found nothing"):
        compare(collect(tmp_path))
    write_run(tmp_path, FakeRun(scores(), state="failed"))
    write_run(tmp_path, FakeRun(scores(), seed=1, state="failed"))
    with pytest.raises(
        ValueError, match=r"found 2 failed\n  sam2_nano phantom seed \d .*: failed(.|\n)*issue the command"
    ):
        compare(collect(tmp_path))


def test_one_arm_is_shown_and_compared_with_nothing(tmp_path: Path) -> None:
    comparison = make(tmp_path, FakeRun(scores()), FakeRun(scores(), seed=1))
    (board,) = comparison.boards
    assert board.pairs.empty
    assert board.letters == {}
    assert len(board.scores) == 9
    assert any("there is nothing to compare it with" in note for note in comparison.notes)


def test_one_patient_speaks_for_nobody_else(tmp_path: Path) -> None:
    one = dict.fromkeys((f"c{i}" for i in range(8)), "patient")
    runs = [FakeRun(scores(mean), model=model, patients=one) for model, mean in (("m", 0.9), ("n", 0.5))]
    (board,) = make(tmp_path, *runs).boards
    assert board.scores[["patients", "cases"]].drop_duplicates().to_numpy().tolist() == [[1, 8]]
    assert any(note.startswith("one patient, 8 cases: intervals and tests are within") for note in board.notes)
    assert any(note.startswith("one seed: results are about these weights") for note in board.notes)
    assert board.pairs[["verdict", "patients", "cases"]].drop_duplicates().to_numpy().tolist() == [["better", 1, 8]]
    for sentence in board.pairs["sentence"]:
        assert sentence.startswith("within one patient, m is better than n")
        assert "One patient: this says nothing about others." in sentence


def test_one_case_has_no_interval_and_no_test(tmp_path: Path) -> None:
    runs = [FakeRun(scores(mean, cases=1), model=model) for model, mean in (("m", 0.9), ("n", 0.5))]
    (board,) = make(tmp_path, *runs).boards
    assert board.scores[["low", "high", "sd"]].isna().all(axis=None)
    assert board.pairs[["low", "high", "more_seeds", "more_patients"]].isna().all(axis=None)
    assert set(board.pairs["verdict"]) == {"undecided"}
    assert board.pairs["sentence"].str.contains("one case decides nothing").all()
    assert board.stability.empty
    assert "one case: no interval and no test is possible" in board.notes


def test_few_patients_cannot_show_anything(tmp_path: Path) -> None:
    runs = [
        FakeRun(scores(mean, cases=4), model=model, seed=s) for model, mean in (("m", 0.9), ("n", 0.5)) for s in (0, 1)
    ]
    (board,) = make(tmp_path, *runs).boards
    assert set(board.pairs["verdict"]) == {"undecided"}
    assert any("4 patients and 1 pair: no test can reach p < 0.05, at least 6" in note for note in board.notes)


def test_prompts_are_not_mixed(tmp_path: Path) -> None:
    runs = [
        FakeRun(scores(), model="m", budget=budget, params={"prompt._target_": budget}) for budget in ("box", "1 click")
    ]
    comparison = make(tmp_path, *runs)
    assert len(comparison.boards) == 2
    assert len({board.name for board in comparison.boards}) == 2
    assert all(board.pairs.empty and len(board.setting.notes) == 1 for board in comparison.boards)
    assert set(comparison.rejection["dataset"]) == {board.name for board in comparison.boards}


def test_trained_here_tested_there(tmp_path: Path) -> None:
    for model, mean in (("m", 0.9), ("n", 0.7)):
        first = FakeRun(scores(mean), model=model, dataset="a")
        write_run(tmp_path, first)
        write_run(tmp_path, FakeRun(scores(mean - 0.05), model=model, dataset="b"))
        params = {"run": first.run_id, "task._target_": "t.evaluate"}
        elsewhere = write_run(tmp_path, FakeRun(scores(mean - 0.2), model=model, dataset="b", params=params))
        origin = {"run_id": first.run_id, "dataset": "a", "split_hash": "5b1d", "checkpoint": "best"}
        RunDirectory(elsewhere).describe(origin=origin)
    comparison = compare(collect(tmp_path), resamples=200)
    matrix = comparison.matrix
    assert matrix is not None
    assert list(matrix.columns) == ["a", "b"] or list(matrix.columns) == ["b", "a"]
    assert matrix.index.names == ["arm", "trained_on"]
    assert matrix.loc[("m", "a"), "a"] == pytest.approx(0.9, abs=0.02)
    assert matrix.loc[("m", "a"), "b"] == pytest.approx(0.7, abs=0.02)
    assert matrix.loc[("n", "b"), "b"] == pytest.approx(0.65, abs=0.02)
    assert np.isnan(matrix.loc[("n", "b"), "a"])
    (board,) = [board for board in comparison.boards if board.setting.key.get("trained_on") == "a"]
    assert "trained on a" in board.pairs["sentence"].iat[0]
    assert set(comparison.cost["task"]) == {"train", "evaluate"}


def test_the_same_arm_and_seed_twice_in_a_setting_counts_as_two(study: Study) -> None:
    """The collector leaves such runs out; where it does not, they are not added up."""
    (setting,) = [one for one in split_settings(study) if one.key["dataset"] == "here"]
    runs = study.runs.assign(seed=study.runs["seed"].where(study.runs["seed"] != 2, 1))
    view = make_view(replace(study, runs=runs), setting, name_arms(study).arm, "here")
    board = build_board(view, Question("dice", None, 100, 0))
    assert set(board.scores["seeds"]) == {3}
    assert any("further runs of a seed" in note for note in board.notes)


def test_a_board_without_the_metric_has_scores_and_no_pairs(study: Study) -> None:
    settings: list[Setting] = split_settings(study)
    view = make_view(study, settings[0], name_arms(study).arm, "x")
    board = build_board(view, Question("hd95", None, 100, 0))
    assert board.pairs.empty
    assert len(board.scores)
    assert any("no row of this setting has hd95" in note for note in board.notes)
