"""The table of a sweep: what is averaged, what is counted, and how it is written."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from medsam2.results.table import SweepRun, build_table, print_table, save_table, split_structures


def done(model: str, seed: int, dice: float, dataset: str = "refuge", **more: float) -> SweepRun:
    swept = {"model": model, "seed": str(seed), "dataset": dataset}
    return SweepRun(swept, dataset, seed, "finished", {"test/dice/mean": dice} | more)


RUNS = [
    done("s", 0, 0.80),
    done("s", 1, 0.84),
    done("s", 2, 0.91),
    done("b", 0, 0.95),
    SweepRun({"model": "b", "seed": "1", "dataset": "refuge"}, "refuge", 1, "failed", {}),
    SweepRun({"model": "b", "seed": "2", "dataset": "refuge"}, "refuge", 2, "running", {"test/dice/mean": 0.1}),
    SweepRun({"model": "l", "seed": "0", "dataset": "refuge"}, "refuge", 0, "new", {}),
]


def test_seeds_are_averaged_and_unfinished_runs_are_not() -> None:
    frame = build_table(RUNS)
    assert list(frame.columns) == ["model", "runs", "refuge dice mean", "refuge dice sd", "refuge dice n"]
    assert frame["model"].tolist() == ["s", "b", "l"]
    assert frame["runs"].tolist() == ["3/3", "1/3", "0/1"]
    assert frame["refuge dice n"].tolist() == [3, 1, 0]
    assert frame["refuge dice mean"].tolist() == pytest.approx([0.85, 0.95, math.nan], nan_ok=True)
    sd = math.sqrt((0.05**2 + 0.01**2 + 0.06**2) / 2)  # n - 1
    assert frame["refuge dice sd"].tolist() == pytest.approx([sd, math.nan, math.nan], nan_ok=True)


def test_folds_are_averaged_as_seeds_are() -> None:
    scores = [0.7, 0.8, 0.9]
    runs = [
        SweepRun({"model": "s", "dataset.fold": str(fold)}, "refuge", 0, "finished", {"test/dice/mean": score})
        for fold, score in enumerate(scores)
    ]
    frame = build_table(runs)
    assert frame["runs"].tolist() == ["3/3"]
    assert frame["refuge dice mean"].tolist() == pytest.approx([0.8])
    assert frame["refuge dice sd"].tolist() == pytest.approx([0.1])


def test_datasets_are_columns_in_their_order() -> None:
    runs = [done("s", 0, 0.8, "refuge"), done("s", 0, 0.6, "ct"), done("b", 0, 0.7, "ct")]
    frame = build_table(runs)
    assert [c for c in frame.columns if c.endswith("mean")] == ["refuge dice mean", "ct dice mean"]
    assert frame["runs"].tolist() == ["2/2", "1/1"]
    assert frame["ct dice mean"].tolist() == [0.6, 0.7]
    assert frame["refuge dice n"].tolist() == [1, 0]


def test_only_metrics_that_some_run_has_are_columns() -> None:
    runs = [done("s", 0, 0.8, **{"zero_shot/dice/mean": 0.5, "val/dice/mean": 0.9}), done("b", 0, 0.7)]
    frame = build_table(runs)
    assert [c for c in frame.columns if c.endswith("mean")] == ["refuge zero-shot dice mean", "refuge dice mean"]
    assert frame["refuge zero-shot dice n"].tolist() == [1, 0]


def means(frame: pd.DataFrame) -> list[str]:
    return [column.removesuffix(" mean") for column in frame.columns if column.endswith(" mean")]


def test_every_headline_metric_has_a_column_and_its_unit() -> None:
    metrics = {"test/iou/mean": 0.7, "test/hd95/mean": 4.0, "test/assd/mean": 1.0, "test/nsd/mean": 0.9}
    metrics |= {"test/volume_error/mean": 0.1, "test/vcdr_error/mean": 0.05, "test/ece/mean": 0.02}
    metrics |= {"test/rater_dice/mean": 0.8, "test/rater_ceiling/mean": 0.85, "test/prompt_dice/mean": 0.6}
    metrics |= {"test/slice_dice/mean": 0.5, "test/iou_ece/mean": 0.1}  # in the run's metrics, not in its headline
    runs = [done("s", 0, 0.8, "ct", **metrics, **{"test/in_mm/share": 1.0})]
    assert means(build_table(runs)) == [
        "ct prompt alone dice", "ct raters' own dice", "ct dice per rater", "ct dice", "ct iou", "ct hd95 mm",
        "ct assd mm", "ct nsd", "ct volume error", "ct vCDR error", "ct ece",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("shares", "heading"), [([1.0, 1.0], "hd95 mm"), ([0.0, 0.0], "hd95 px"), ([0.5, 0.5], "hd95 mm or px")]
)
def test_distances_are_headed_by_their_unit(shares: list[float], heading: str) -> None:
    runs = [
        done("s", i, 0.8, "refuge", **{"test/hd95/mean": 4.0 + i, "test/in_mm/share": share})
        for i, share in enumerate(shares)
    ]
    runs += [done("s", 0, 0.8, "ct", **{"test/hd95/mean": 9.0, "test/in_mm/share": 1.0})]
    frame = build_table(runs)
    assert means(frame) == ["refuge dice", f"refuge {heading}", "ct dice", "ct hd95 mm"]
    assert frame[f"refuge {heading} mean"].tolist() == [4.5]


def test_prompted_and_prompt_free_scores_share_no_column() -> None:
    prompted = done(
        "box", 0, 0.9, **{"test/prompted/share": 1.0, "zero_shot/prompted/share": 1.0, "zero_shot/dice/mean": 0.5}
    )
    free = done(
        "learned", 0, 0.7, **{"test/prompted/share": 0.0, "zero_shot/prompted/share": 0.0, "zero_shot/dice/mean": 0.1}
    )
    mixed = done("mixed", 0, 0.8, **{"test/prompted/share": 0.5, "test/prompt_free_dice/mean": 0.6})
    runs = [replace(run, metrics={**run.metrics, "test/rater_ceiling/mean": 0.95}) for run in (prompted, free, mixed)]
    frame = build_table(runs)
    columns = {name: frame[f"{name} mean"].tolist() for name in means(frame)}
    nan = math.nan
    expected = {
        "refuge zero-shot dice": [0.5, nan, nan],
        "refuge raters' own dice": [0.95, 0.95, 0.95],  # of the data, whoever asks
        "refuge dice": [0.9, nan, 0.8],
        "refuge prompt-free zero-shot dice": [nan, 0.1, nan],
        "refuge prompt-free dice": [nan, 0.7, 0.6],
    }
    assert list(columns) == list(expected)
    for name, values in expected.items():
        assert columns[name] == pytest.approx(values, nan_ok=True)


def test_structures_keep_prompted_and_prompt_free_apart_and_their_units() -> None:
    def scores(**more: float) -> dict[str, float]:
        return {"test/dice/cup": 0.6, "test/hd95/cup": 3.0, "test/hd95/mean": 5.0, "test/in_mm/share": 1.0} | more

    runs = [
        done("box", 0, 0.9, **scores(**{"test/prompted/share": 0.5, "test/prompt_free_dice/cup": 0.4})),
        done("learned", 0, 0.7, **scores(**{"test/prompted/share": 0.0})),
    ]
    frame = build_table(split_structures(runs))
    assert means(frame) == ["refuge dice", "refuge hd95 mm", "refuge prompt-free dice", "refuge prompt-free hd95 mm"]
    assert frame["refuge dice mean"].tolist() == pytest.approx([0.6, math.nan], nan_ok=True)
    assert frame["refuge prompt-free dice mean"].tolist() == [0.4, 0.6]
    assert frame["refuge prompt-free hd95 mm mean"].tolist() == pytest.approx([math.nan, 3.0], nan_ok=True)


def test_axes_that_a_job_does_not_sweep_are_empty() -> None:
    runs = [done("s", 0, 0.8), SweepRun({"optim.lr": "1e-3", "seed": "0"}, "refuge", 0, "finished", {})]
    frame = build_table(runs)
    assert frame[["model", "optim.lr"]].to_numpy().tolist() == [["s", ""], ["", "1e-3"]]


def test_structures_are_rows_with_their_own_numbers() -> None:
    cup = {"test/dice/cup": 0.6, "zero_shot/dice/cup": 0.2, "val/dice/cup": 0.9}
    runs = [done("s", seed, 0.7, **{**cup, "test/dice/disc": 0.8 + seed / 10}) for seed in (0, 1)]
    runs += [SweepRun({"model": "b", "seed": "0"}, "refuge", 0, "failed", {})]
    frame = build_table(split_structures(runs))
    assert frame[["model", "structure", "runs"]].to_numpy().tolist() == [
        ["s", "cup", "2/2"], ["s", "disc", "2/2"], ["b", "cup", "0/1"], ["b", "disc", "0/1"]
    ]  # fmt: skip
    assert frame["refuge dice mean"].tolist()[:2] == pytest.approx([0.6, 0.85])
    assert frame["refuge dice n"].tolist() == [2, 2, 0, 0]
    assert frame["refuge zero-shot dice mean"].tolist()[:1] == [0.2]
    assert frame["refuge zero-shot dice n"].tolist() == [2, 0, 0, 0]
    assert split_structures([done("s", 0, 0.8)]) == []  # no structure is known


def test_a_sweep_over_seeds_alone_is_one_row() -> None:
    runs = [SweepRun({"seed": str(i)}, "refuge", i, "finished", {"test/dice/mean": i / 10}) for i in range(3)]
    frame = build_table(runs)
    assert frame["refuge dice mean"].tolist() == pytest.approx([0.1])
    assert frame["runs"].tolist() == ["3/3"]


def test_markdown_is_what_a_paper_prints(tmp_path: Path) -> None:
    files = save_table(build_table(RUNS), tmp_path)
    assert files == [tmp_path / "table.csv", tmp_path / "table.md"]
    assert files[1].read_text().splitlines() == [
        "| model | runs | refuge dice (n) |",
        "| --- | --- | --- |",
        "| s | 3/3 | 0.850 ± 0.056 (3) |",
        "| b | 1/3 | 0.950 (1) |",
        "| l | 0/1 | - |",
    ]


def test_csv_holds_numbers(tmp_path: Path) -> None:
    save_table(build_table(RUNS), tmp_path)
    with (tmp_path / "table.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert lines[0] == {
        "model": "s",
        "runs": "3/3",
        "refuge dice mean": "0.85",
        "refuge dice sd": "0.0556776",
        "refuge dice n": "3",
    }
    assert lines[2]["refuge dice mean"] == ""
    assert sorted(p.name for p in tmp_path.iterdir()) == ["table.csv", "table.md"]


def test_the_table_is_printed_unfolded(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(build_table(RUNS), title="sweep abc")
    printed = capsys.readouterr().out
    assert "sweep abc" in printed
    assert any("s" in line and "3/3" in line and "0.850 ± 0.056 (3)" in line for line in printed.splitlines())


def test_swept_values_with_brackets_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    runs = [
        SweepRun(
            {"optim.betas": "[0.9,0.99]", "dataset.structures": "[cup]"}, "ct", 0, "finished", {"test/dice/mean": 0.5}
        )
    ]
    print_table(build_table(runs), title="sweep abc")
    printed = capsys.readouterr().out
    assert "[0.9,0.99]" in printed
    assert "[cup]" in printed


def test_bars_in_values_do_not_break_the_markdown(tmp_path: Path) -> None:
    runs = [SweepRun({"study": "a|b"}, "ct", 0, "finished", {"test/dice/mean": 0.5})]
    save_table(build_table(runs), tmp_path)
    assert "| a\\|b | 1/1 |" in (tmp_path / "table.md").read_text()


def test_no_runs_no_rows() -> None:
    assert isinstance(build_table([]), pd.DataFrame)
    assert len(build_table([])) == 0
