"""A comparison with made-up numbers in every frame, for tests of the report alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from medsam2.results.collect.settings import Setting
from medsam2.results.collect.study import LEFT_OUT, RUNS, Study
from medsam2.results.compare.comparison import Across, Board, Comparison

NAN = float("nan")
ARMS = ("sam2_s", "model=sam2_t <b>&lr=1e-4 | 50%_{x}$ [a]")  # what every format has to escape
STRUCTURES = ("cup", "disc")
METRICS = ("dice", "iou", "hd95")


def make_comparison(
    arms: Sequence[str] = ARMS, datasets: Sequence[str] = ("refuge", "papila"), seeds: int = 3
) -> Comparison:
    """Arms on datasets, with raters, calibration, curves and a run left out."""
    rng, empty = np.random.default_rng(0), pd.DataFrame()
    boards = [make_board(arms, name, seeds, rng) for name in datasets]
    left_out = pd.DataFrame([("sam2_l refuge", "0badc0ffee", "failed", "memory: out of <memory>")], columns=LEFT_OUT)
    cases = pd.concat([board.cases for board in boards], ignore_index=True)
    runs = make_runs(arms, datasets, seeds)
    study = Study(runs, empty, cases, empty, empty, empty, left_out, ("one run counted once",), "run directories in /r")
    several = len(arms) > 1 and len(datasets) > 1
    return Comparison(
        study=study,
        metric="dice",
        higher_is_better=True,
        arms=list(arms),
        by=["model"],
        varied=pd.DataFrame({"optim.lr": np.linspace(1e-4, 1e-3, len(arms))}, list(arms)),
        fixed=pd.Series({"image_size": 256, "loss._target_": "DiceCE", "model.checkpoint": None}),
        boards=boards,
        across=make_across(arms, datasets) if several else None,
        matrix=cross(arm=arms, trained_on=datasets)
        .assign(**dict.fromkeys(datasets, 0.8125))
        .set_index(["arm", "trained_on"]),
        **make_extras(arms, datasets, rng),
        notes=["these numbers are made up"],
        left_out=left_out,
    )  # fmt: skip


def strip(made: Comparison, keep_boards: bool = False) -> Comparison:
    """The same without anything that a study may lack: pairs, raters, curves, calibration, cost, notes."""
    empty = pd.DataFrame()
    bare = [
        replace(b, pairs=empty, letters={}, stability=empty, notes=[], setting=replace(b.setting, notes=()))
        for b in made.boards
    ]
    boards = made.boards if keep_boards else bare
    names = ("curves", "clicks_needed", "calibration", "rejection", "raters", "cost", "left_out", "varied")
    study = replace(made.study, notes=(), left_out=empty)
    lacking: dict[str, Any] = {"across": None, "matrix": None, "notes": [], "fixed": pd.Series(dtype=object)}
    return replace(made, boards=boards, study=study, **lacking, **dict.fromkeys(names, empty))


def cross(**axes: Sequence[Any]) -> pd.DataFrame:
    """Every combination."""
    return pd.MultiIndex.from_product([list(values) for values in axes.values()], names=list(axes)).to_frame(
        index=False
    )


def make_board(arms: Sequence[str], dataset: str, seeds: int, rng: np.random.Generator) -> Board:
    key = {"dataset": dataset, "split": "5b1d", "budget": "box", "definition": "unit=volume", "structures": "cup,disc"}
    setting = Setting(
        key, f"{dataset}, box prompts", tuple(make_runs(arms, [dataset], seeds).index), ("not with clicks",)
    )
    cases = cross(arm=arms, seed=range(seeds), case_id=[f"{dataset}{i:02d}" for i in range(12)], structure=STRUCTURES)
    dice = 0.9 - 0.08 * (cases["arm"] != arms[0]) + rng.normal(0, 0.03, len(cases))
    cases = cases.assign(
        run_id=cases["arm"].str[:6] + dataset + cases["seed"].astype(str), patient_id=cases["case_id"], dice=dice,
        iou=dice / (2 - dice), hd95=40 * (1 - dice), size_label=9.0, size_prediction=8.0, size_unit="mm2",
    )  # fmt: skip
    rank = np.arange(len(arms)) + 1.125
    stability = pd.DataFrame(
        {"arm": list(arms), "mean_rank": rank, "first": 1 / rank, "rank_low": rank - 0.125, "rank_high": 2.0}
    )
    return Board(
        setting,
        make_scores(arms, cases, seeds),
        make_pairs(arms, seeds),
        dict(zip(arms, "abcdefgh", strict=False)) if len(arms) > 1 else {},
        stability,
        cases,
        ["one row is undefined"],
        dataset,
    )  # fmt: skip


def make_scores(arms: Sequence[str], cases: pd.DataFrame, seeds: int) -> pd.DataFrame:
    """Means and deviations are those of the cases."""
    frame = cross(metric=METRICS, structure=("mean", *STRUCTURES), arm=arms)
    rows = [
        cases[(cases["arm"] == arm) & ((cases["structure"] == s) | (s == "mean"))]
        for s, arm in frame[["structure", "arm"]].to_numpy()
    ]
    by_seed = [part.groupby("seed")[metric].mean() for part, metric in zip(rows, frame["metric"], strict=True)]
    mean = np.array([means.mean() for means in by_seed])
    return frame.assign(
        mean=mean, sd=[means.std(ddof=1) for means in by_seed], low=mean - 0.012345678901, high=mean + 0.02345678901,
        runs=seeds, seeds=seeds, folds=0, patients=12, cases=12, rows=24, undefined=1, missed=2, false_positives=0,
        zero_shot=np.where(frame["arm"] == arms[0], mean / 2, NAN),
        ceiling=np.where(frame["metric"] == "dice", 0.95, NAN),
    )  # fmt: skip


def make_pairs(arms: Sequence[str], seeds: int) -> pd.DataFrame:
    """Clear for the mean, undecided for structures."""
    frame = cross(structure=("mean", *STRUCTURES), pair=list(combinations(arms, 2)))
    clear = frame["structure"] == "mean"
    a, b = frame["pair"].str[0], frame["pair"].str[1]
    tests = ("p_wilcoxon", "p_permutation", "p_joint")
    p = {f"{test}{suffix}": np.where(clear, 0.0004, 0.5) for suffix in ("", "_holm") for test in tests}
    return frame.drop(columns="pair").assign(
        a=a, b=b, metric="dice", difference=np.where(clear, 0.0801, -0.002), low=np.where(clear, 0.05, -0.01),
        high=np.where(clear, 0.11, 0.006), patients=12, cases=12, seeds=seeds, **p, effect_dz=2.3, effect_rank=1.0,
        share_better=0.75, verdict=np.where(clear, "better", "undecided"), more_seeds=np.where(clear, NAN, 7.3),
        more_patients=np.where(clear, NAN, np.inf), caution="",
        sentence=a + " is better than " + b + " in dice: +0.080.",
    )  # fmt: skip


def make_runs(arms: Sequence[str], datasets: Sequence[str], seeds: int) -> pd.DataFrame:
    frame = cross(arm=arms, dataset=datasets, seed=range(seeds))
    frame = frame.assign(
        run_id=frame["arm"].str[:6] + frame["dataset"] + frame["seed"].astype(str),
        name=frame["arm"] + " " + frame["dataset"],
        trained_on=frame["dataset"], fold=None, split_hash="5b1d", study="medsam2", sweeps="a1b2c3d4e5", seconds=61.5,
        begun=1_790_000_000.0 + 600 * frame["seed"], task="train", origin=None, folder="/r/" + frame["dataset"],
        parameters=1e7,
        trained_parameters=1e6, peak_memory=2.0**31, device="cpu", revision="83141e2f1b81bbc96248",
        definition="unit=volume",
        command="run.py -m model=a,b dataset=refuge seed=0,1,2", budget="box", structures="cup,disc",
        best_epoch=7.0,
    )  # fmt: skip
    return frame.set_index("run_id")[list(RUNS)]


def make_across(arms: Sequence[str], datasets: Sequence[str]) -> Across:
    ranks = pd.Series(np.linspace(1.25, len(arms) - 0.25, len(arms)), list(arms))
    scores = pd.DataFrame(np.full((len(arms), len(datasets)), 0.875), list(arms), list(datasets))
    return Across(ranks, 4.5, 0.034, 1.4, [list(arms)], list(datasets), scores, ["two datasets are few"])


def make_extras(arms: Sequence[str], datasets: Sequence[str], rng: np.random.Generator) -> dict[str, pd.DataFrame]:
    cells = {"arm": arms, "dataset": datasets}
    clicks = cross(**cells, axis=["clicks"], level=[1.0, 2.0, 3.0, 5.0, 10.0])
    curves = pd.concat([clicks, cross(**cells, axis=["jitter"], level=[0.0, 0.05, 0.1, 0.2])], ignore_index=True)
    mean = 0.7 + 0.02 * curves["level"] + rng.normal(0, 0.005, len(curves))
    bins = cross(**cells, kind=("pixels", "iou"), bin=range(15))
    expected = (bins["bin"] + 0.5) / 15
    rejection = cross(**cells, rejected=[i / 10 for i in range(10)])
    names = ("majority", "rater 1", "rater 2", "mean of raters", "raters among themselves")
    raters = cross(**cells, structure=("mean", *STRUCTURES), rater=names)
    cost = cross(**cells)
    return {
        "curves": curves.assign(
            structure="mean", metric="dice", mean=mean, low=mean - 0.03, high=mean + 0.03, patients=12, seeds=3
        ),
        "clicks_needed": cross(**cells, target=(0.8, 0.9)).assign(mean=3.25, low=2.5, high=NAN, failed=0.125, limit=20),
        "calibration": bins.assign(
            expected=expected, actual=(expected + rng.normal(0, 0.04, len(bins))).clip(0, 1), number=99, ece=0.03125
        ),
        "rejection": rejection.assign(mean=0.8 + rejection["rejected"] / 10, cases=12),
        "raters": raters.assign(mean=rng.uniform(0.7, 0.9, len(raters))),
        "cost": cost.assign(
            task="train", runs=3, seconds=61.5 + 900 * cost.index, peak_memory=np.where(cost.index > 0, 2.5e9, NAN),
            parameters=4.6e7, trained_parameters=4.1e6, device="cpu",
        ),
    }  # fmt: skip
