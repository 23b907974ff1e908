"""The tables of a whole study: what was compared, across datasets, raters, calibration, clicks, cost, provenance."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import PurePath

import pandas as pd

from medsam2.results.collect.texts import show
from medsam2.results.compare.comparison import Comparison
from medsam2.results.report.grid import Column, Part, build, filled, interval, one, text
from medsam2.results.report.sheet import Sheet
from medsam2.results.report.words import count

WORDS = {"budget": "prompt budget", "definition": "metric definition", "trained_on": "training"}
RATERS = ("majority", "mean of raters", "raters among themselves")


def arm_sheets(comparison: Comparison) -> list[Sheet]:
    """What tells the arms apart, and what was the same in all runs."""
    varied, fixed = comparison.varied, comparison.fixed
    sheets = []
    if len(varied.columns) and len(varied) > 1:
        sheets.append(_arms(varied.map(_typed).astype(object)))
    if len(fixed):
        frame = pd.DataFrame({"key": fixed.index, "value": fixed.map(_typed).to_numpy(object)})
        columns = [text("key", "key"), text("value", "value")]
        sheets.append(Sheet(build(frame, "fixed", "The same in all runs", columns, ("key",)), frame))
    return sheets


def _arms(varied: pd.DataFrame) -> Sheet:
    """A row per arm; a row per key where there are more keys than arms."""
    turned = len(varied.columns) > len(varied)
    frame = (varied.T.rename_axis("key") if turned else varied.rename_axis("arm")).reset_index()
    columns = [text(str(key), str(key)) for key in frame.columns]
    about = ("key",) if turned else ("arm",)
    return Sheet(build(frame, "arms", "The settings in which arms differ", columns, about), frame)


def _typed(value: object) -> str:
    return show(value, short=False)


def setting_sheet(comparison: Comparison) -> list[Sheet]:
    """What had to be equal for numbers to stand in one column."""
    records = [
        {"board": number, "title": board.setting.title, **board.setting.key, "runs": len(board.setting.run_ids)}
        for number, board in enumerate(comparison.boards)
    ]
    frame = pd.DataFrame(records)
    keys = [key for key in frame.columns if key not in ("board", "runs")]
    columns = [one("board", "table", "count"), *(text(key, WORDS.get(key, key)) for key in keys)]
    columns.append(one("runs", "runs", "count"))
    return [Sheet(build(frame, "settings", "What is equal within a table", columns, ("board",)), frame)]


def across_sheets(comparison: Comparison) -> list[Sheet]:
    """Friedman's test and mean ranks over datasets; the matrix of datasets trained and tested on."""
    sheets, across, matrix = [], comparison.across, comparison.matrix
    if across is not None:
        ranks = across.scores.loc[across.mean_ranks.index].reset_index(names="arm")
        ranks.insert(1, "mean_rank", across.mean_ranks.to_numpy())
        caption = f"{comparison.metric} and mean rank over {len(across.datasets)} datasets"
        columns = [text("arm", "arm"), one("mean_rank", "mean rank", "rank")]
        columns += [Column(str(name), (Part(name),)) for name in across.scores.columns]
        sheets.append(Sheet(build(ranks, "ranks", caption, columns), ranks))
        keys = ("statistic", "p", "critical_difference")
        test = pd.DataFrame([{"datasets": len(across.datasets), **{key: getattr(across, key) for key in keys}}])
        why = _lacking(len(across.mean_ranks)) if across.p != across.p else ""
        columns = [
            one("datasets", "datasets", "count"),
            one("statistic", "Friedman χ²", "score", why=why),
            one("p", "p", "p", "of Friedman's test", why),
            one("critical_difference", "critical difference", "score", "of mean ranks, Nemenyi, 5 %"),
        ]
        caption = "Do the arms differ over the datasets?"
        sheets.append(Sheet(build(test, "friedman", caption, columns, (), 0, note=why), test))
    if matrix is not None:
        frame = matrix.reset_index()
        why = "not tested there"
        columns = [text("arm", "arm"), text("trained_on", "trained on")]
        columns += [Column(str(name), (Part(name, why=why),)) for name in matrix.columns]
        caption = f"{comparison.metric} by dataset of training (rows) and of test (columns)"
        sheets.append(Sheet(build(frame, "matrix", caption, columns, ("arm", "trained_on"), 2), frame))
    return sheets


def _lacking(arms: int) -> str:
    """Why Friedman's test has no value."""
    few = f"it ranks three arms or more, and {count(arms, 'arm')} were tested on all datasets"
    return f"No Friedman test: {few if arms < 3 else 'too few datasets'}."


def rater_sheet(comparison: Comparison) -> list[Sheet]:
    """A column per rater, and what raters score against each other."""
    if comparison.raters.empty:
        return []
    about = [key for key in ("dataset", "structure", "arm") if key in comparison.raters]
    wide = comparison.raters.pivot_table("mean", about, "rater", sort=False, dropna=False).dropna(how="all")
    order = [RATERS[0], *sorted(name for name in wide.columns if name not in RATERS), *RATERS[1:]]
    wide = wide[[name for name in order if name in wide.columns]].reset_index()
    columns = [*(text(key, key) for key in about), *_numbers(wide, about, "not scored against")]
    caption = "Dice against each rater"
    return [Sheet(build(wide, "raters", caption, columns, about, len(about)), comparison.raters)]


def _numbers(wide: pd.DataFrame, about: Sequence[str], why: str) -> list[Column]:
    return [Column(str(name), (Part(name, why=why),)) for name in wide.columns if name not in about]


def calibration_sheets(comparison: Comparison) -> list[Sheet]:
    """Calibration errors, and scores where the least sure answers are rejected."""
    sheets, frame, rejection = [], comparison.calibration, comparison.rejection
    if not frame.empty:
        errors = frame.drop_duplicates(["arm", "dataset", "kind"])[["dataset", "arm", "kind", "ece"]]
        about = ["dataset", "arm"]
        wide = errors.pivot_table("ece", about, "kind", sort=False).reset_index()
        titles = {"pixels": "ECE of mask probabilities", "iou": "ECE of the predicted IoU"}
        columns = [*(text(key, key) for key in about)]
        columns += [one(key, title, why="not recorded") for key, title in titles.items() if key in wide]
        caption = "Expected calibration error (15 bins, lower is better)"
        sheets.append(Sheet(build(wide, "calibration", caption, columns, about, 2), frame))
    if not rejection.empty:
        about = ["dataset", "arm"]
        wide = rejection.pivot_table("mean", about, "rejected", sort=False).reset_index()
        columns = [*(text(key, key) for key in about)]
        columns += [Column(f"{share:.0%}", (Part(share),)) for share in wide.columns if share not in about]
        caption = f"{comparison.metric} of what is kept when the answers of lowest predicted IoU are rejected, by share"
        sheets.append(Sheet(build(wide, "rejection", caption, columns, about, 2), rejection))
    return sheets


def interaction_sheets(comparison: Comparison) -> list[Sheet]:
    """Scores by number of clicks, jitter and prompted slices; the clicks needed for a target."""
    sheets = []
    if not comparison.clicks_needed.empty:
        why = "never reached"
        columns = [
            text("dataset", "dataset"),
            text("arm", "arm"),
            one("target", "target", "share"),
            one("mean", "clicks needed", "rank", "cases that never get there count with the limit", why),
            interval(kind="about"),
            one("failed", "never reached", "share", "share of the cases that never reach the target"),
            one("limit", "limit", "count", "clicks given at most"),
        ]
        about = ("arm", "dataset", "target")
        caption, note = "Number of clicks (NoC) to a target", _say_limit(comparison.clicks_needed["limit"])
        grid = build(comparison.clicks_needed, "clicks", caption, columns, about, 2, note=note)
        sheets.append(Sheet(grid, comparison.clicks_needed))
    if not comparison.curves.empty:
        columns = [
            text("dataset", "dataset"),
            text("arm", "arm"),
            text("axis", "axis"),
            one("level", "level", "level"),
            one("mean", comparison.metric),
            interval(),
            one("patients", "patients", "count"),
            one("seeds", "seeds", "count"),
        ]
        keys = ("arm", "dataset", "structure", "axis", "level")
        grid = build(comparison.curves, "curves", f"{comparison.metric} by what the user gives", columns, keys, 3)
        sheets.append(Sheet(grid, comparison.curves))
    return sheets


def _say_limit(limits: pd.Series[float]) -> str:
    """How cases count that never get there."""
    known = sorted(limits.dropna().unique())
    clicks = f"the limit ({known[0]:g} clicks)" if len(known) == 1 else "the limit of their row"
    return f"Cases that never reach the target count with {clicks}."


def cost_sheet(comparison: Comparison) -> list[Sheet]:
    """What a run of each arm took."""
    if comparison.cost.empty:
        return []
    columns = [
        text("dataset", "dataset"),
        text("arm", "arm"),
        one("runs", "runs", "count"),
        one("seconds", "time per run", "seconds"),
        one("peak_memory", "peak memory", "bytes"),
        one("parameters", "parameters", "parameters"),
        one("trained_parameters", "of these trained", "parameters"),
        text("device", "device"),
    ]
    grid = build(comparison.cost, "cost", "What a run took, mean over runs", columns, ("arm", "dataset"), 2)
    return [Sheet(grid, comparison.cost)]


def left_out_sheet(comparison: Comparison) -> list[Sheet]:
    """Everything that was found and is not counted."""
    if comparison.left_out.empty:
        return []
    keys = ("name", "run_id", "state", "reason")
    columns = [text("name", "name"), text("run_id", "run"), text("state", "state"), text("reason", "reason")]
    grid = build(comparison.left_out, "left-out", "Found, and not counted", columns, keys)
    return [Sheet(grid, comparison.left_out)]


def run_sheet(comparison: Comparison) -> list[Sheet]:
    """The runs that were counted."""
    runs = comparison.study.runs.rename_axis("run_id").reset_index()
    runs["commit"] = runs["revision"].astype(object).map(lambda name: str(name)[:12] if name else None)
    columns = [
        text("run_id", "run"),
        text("arm", "arm"),
        text("dataset", "dataset"),
        text("trained_on", "trained on"),
        one("seed", "seed", "count"),
        text("fold", "fold"),
        one("begun", "begun (UTC)", "date"),
        one("seconds", "time", "seconds"),
        text("device", "device"),
        text("commit", "revision"),
        text("folder", "folder"),
    ]
    runs = runs.sort_values(["dataset", "arm", "seed", "run_id"], kind="stable")
    shown, above = _shorten(runs)
    note = f"Folders are below {above}; runs.csv has them in full." if above else ""
    grid = build(shown, "runs", "The runs that were counted", filled(runs, columns), ("run_id", "arm"), note=note)
    return [Sheet(grid, runs)]


def _shorten(runs: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The runs with folders relative to the one above them all, and that one; as they are where there is none."""
    folders = [PurePath(str(folder)) for folder in runs["folder"]]
    above = PurePath(os.path.commonpath(folder.parent for folder in folders)) if folders else PurePath()
    if len(above.parts) < 2:
        return runs, ""
    return runs.assign(folder=[str(folder.relative_to(above)) for folder in folders]), str(above)
