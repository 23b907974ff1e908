"""A study becomes a comparison, or a clear word why not."""

from __future__ import annotations

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
    "metric": ({"metric": "dise"}, "metric=dise: no row has it; rows have dice, iou$"),
    "surface": (
        {"metric": "hd95"},
        r"rows have dice, iou; it is computed with metrics=surface, or with metrics.names=\[dice,iou,hd95\]$",
    ),
    "pixels": ({"metric": "ece"}, r"computed with metrics=fundus, or with metrics.names=\[dice,iou,ece\]"),
    "baseline": ({"baseline": "best"}, "baseline=best: there is no such arm; choose one of"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_question_without_an_answer(study: Study, name: str) -> None:
    question, message = MISTAKES[name]
    with pytest.raises(ValueError, match=message):
        compare(study, **question)


def test_no_finished_run(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"no finished run .*: found nothing; train one first: python run.py dataset=chest_ct"
    ):
        compare(collect(tmp_path))
    write_run(tmp_path, FakeRun(scores(), state="failed"))
    write_run(tmp_path, FakeRun(scores(), seed=1, state="failed"))
    with pytest.raises(
        ValueError, match=r"found 2 failed\n  sam2_nano phantom seed \d .*: failed(.|\n)*issue the command"
    ):
        compare(collect(tmp_path))


def test_training_that_changed_nothing_is_said(tmp_path: Path) -> None:
    epochs = {("m", 0): 0, ("m", 1): 0, ("n", 0): 3, ("n", 1): 0, ("o", 0): 5, ("p", 0): None}
    for (model, seed), epoch in epochs.items():
        path = write_run(tmp_path, FakeRun(scores(), model=model, seed=seed))
        if epoch is not None:
            RunDirectory(path).update(metrics={"best/epoch": float(epoch)})
    (board,) = compare(collect(tmp_path), resamples=100).boards
    rest = "kept the network as it came (best epoch 0): training did not improve the validation score"
    said = [note for note in board.notes if "best epoch" in note]
    assert said == [f"2 of 2 runs of m {rest}", f"1 of 2 runs of n {rest}"]


def test_the_matrix_does_not_know_where_masks_of_others_were_trained(tmp_path: Path) -> None:
    theirs = {"task._target_": "t.evaluate", "predictions": "0a"}
    origin = {"run_id": "77", "dataset": "b", "split_hash": "1", "checkpoint": "sam"}
    write_run(tmp_path, FakeRun(scores(), model="nnunet", dataset="a", params=theirs))
    write_run(tmp_path, FakeRun(scores(), model="m", dataset="a"))
    RunDirectory(write_run(tmp_path, FakeRun(scores(), model="n", dataset="a"))).describe(origin=origin)
    matrix = compare(collect(tmp_path), resamples=100).matrix
    assert matrix is not None
    assert set(matrix.index) == {("nnunet", "unknown"), ("m", "a"), ("n", "b")}


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


def test_columns_of_the_matrix_say_what_differs(tmp_path: Path) -> None:
    first = FakeRun(scores(), dataset="a")
    write_run(tmp_path, first)
    for metrics in ({}, {"metrics.convention": "nnunet"}):
        run = FakeRun(scores(), dataset="b", params={"run": first.run_id, "task._target_": "t.evaluate"} | metrics)
        origin = {"run_id": first.run_id, "dataset": "a", "split_hash": "5b1d", "checkpoint": "best"}
        RunDirectory(write_run(tmp_path, run)).describe(origin=origin)
    write_run(tmp_path, FakeRun(scores(), dataset="b"))
    matrix = compare(collect(tmp_path), resamples=200).matrix
    assert matrix is not None
    assert set(matrix.columns) == {"a", "b, medsam2's metrics", "b, nnunet's metrics"}
    assert matrix["b, medsam2's metrics"].notna().sum() == 2


def test_masks_of_others_are_an_arm_like_any(tmp_path: Path) -> None:
    given = {"predictions": "/masks"}
    runs = [FakeRun(scores(0.8), model="unet", params={"optim.lr": lr}) for lr in (1e-3, 1e-4)]
    comparison = make(tmp_path, *runs, FakeRun(scores(0.9), model="nnunet", params=given), baseline="nnunet")
    assert comparison.arms[-1] == "nnunet"
    assert set(comparison.arms) == set(comparison.boards[0].scores["arm"])
    assert set(comparison.boards[0].pairs["b"]) == {"nnunet"}
    assert comparison.varied["optim.lr"].to_list() == ["0.001", "0.0001", "unknown"]
    assert list(comparison.varied.index) == comparison.arms


def test_one_arm_of_ours_and_masks_of_others_are_two(tmp_path: Path) -> None:
    runs = [FakeRun(scores(), model="unet"), FakeRun(scores(), model="nnunet", params={"predictions": "/masks"})]
    comparison = make(tmp_path, *runs)
    assert comparison.arms == ["unet", "nnunet"]
    assert comparison.notes == []


def write_boards(folder: Path, boards: dict[tuple[str, str], str]) -> Comparison:
    """By dataset and split, its arms."""
    runs = [FakeRun(scores(), model=m, dataset=d, split_hash=s) for (d, s), arms in boards.items() for m in arms]
    return make(folder, *runs)


def test_across_datasets_those_boards_count_that_have_arms_in_common(tmp_path: Path) -> None:
    across = write_boards(tmp_path, {("d1", "x"): "cde", ("d1", "y"): "ab", ("d2", "x"): "ab"}).across
    assert across is not None
    assert sorted(across.mean_ranks.index) == ["a", "b"]
    assert across.datasets == ["d1", "d2"]
    assert across.notes[0] == (
        "d1 has 2 boards; d1, split y counts here, which has the most arms in common with other datasets"
    )


def test_why_there_is_no_test_across_datasets(tmp_path: Path) -> None:
    comparison = write_boards(tmp_path, {("d1", "x"): "ab", ("d2", "x"): "cd"})
    assert comparison.across is None
    assert "no test across datasets: d1, d2 do not have two arms in common" in comparison.notes
    write_run(tmp_path, FakeRun(scores(), model="a", dataset="d3", extra={"hd95": 2.0}))
    notes = compare(collect(tmp_path), metric="hd95", resamples=200).notes
    assert "no test across datasets: of d1, d2, d3 only d3 has hd95" in notes


def test_a_board_without_the_metric_has_scores_and_no_pairs(study: Study) -> None:
    settings: list[Setting] = split_settings(study)
    view = make_view(study, settings[0], name_arms(study).arm, "x")
    board = build_board(view, Question("hd95", None, 100, 0))
    assert board.pairs.empty
    assert len(board.scores)
    assert any("no row of this setting has hd95" in note for note in board.notes)


def test_a_value_that_one_arm_lacks_is_in_no_difference(tmp_path: Path) -> None:
    """c is worse in every case that both have, and has no value where cases are hard."""
    easy = {(f"case{i:02d}", "cup"): 0.9 + 0.001 * i for i in range(20)}
    hard = {(f"hard{i:02d}", "cup"): 0.3 + 0.001 * i for i in range(10)}
    runs = [FakeRun(easy | hard, model="a", seed=seed) for seed in (0, 1)]
    for seed in (0, 1):
        noise = 1e-4 * (-1) ** seed
        worse = {key: value - 0.02 + noise for key, value in easy.items()}
        runs.append(FakeRun(worse | dict.fromkeys(hard, float("nan")), model="c", seed=seed))
    board = make(tmp_path, *runs).boards[0]
    assert board.scores.set_index(["arm", "metric", "structure"]).at[("c", "dice", "mean"), "mean"] > 0.85
    pair = board.pairs[board.pairs["structure"] == "mean"].iloc[0]
    sign = 1 if pair["a"] == "c" else -1
    assert sign * pair["difference"] == pytest.approx(-0.02, abs=1e-9)
    assert (pair["patients"], pair["cases"]) == (20, 20)
