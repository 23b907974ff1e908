"""Scores against what a user gives: clicks, precision of the box, prompted slices; and how many clicks it takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from medsam2.results.compare.cells import locate, read_values, split_frame
from medsam2.results.compare.comparison import MEAN, range_of
from medsam2.results.compare.pairs import mean_of
from medsam2.results.compare.scores import measure
from medsam2.results.compare.view import PROMPTED, View, take

CURVES = ("arm", "dataset", "structure", "metric", "axis", "level", "mean", "low", "high", "patients", "seeds")
CLICKS = ("arm", "dataset", "target", "mean", "low", "high", "failed", "limit")
TARGETS = (0.8, 0.85, 0.9)


def draw_curves(views: Sequence[View], budgets: pd.DataFrame, metric: str, resamples: int, seed: int) -> pd.DataFrame:
    """A line per arm × board × axis × level; of the Dice where rows of budgets do not have the metric."""
    parts = []
    for view in views:
        for axis, frame in _split(view, budgets):
            measured = metric if metric in frame.columns else "dice"
            cells, values, levels = locate(frame, view.runs), read_values(frame, measured), frame["level"].to_numpy()
            for level in np.unique(levels):
                there = np.where(levels == level, values, np.nan)
                patients = cells.present(cells.unit_code, ~np.isnan(there)).any(axis=2).sum(axis=1)
                measured_at = measure(cells.clusters(there), range_of(measured), resamples, seed)
                lines = pd.DataFrame({"arm": list(cells.arms), **measured_at})
                lines["patients"] = patients if cells.unit == "patient" else np.minimum(patients, 1)
                lines["seeds"] = [len(seeds) for seeds in cells.seeds]
                about = {
                    "dataset": view.name,
                    "structure": MEAN,
                    "metric": measured,
                    "axis": axis,
                    "level": float(level),
                }
                parts.append(lines[patients > 0].assign(**about))
    frame = pd.concat(parts, ignore_index=True)[list(CURVES)] if parts else pd.DataFrame(columns=list(CURVES))
    return frame.sort_values(["dataset", "axis", "arm", "level"], ignore_index=True)


def count_clicks(views: Sequence[View], budgets: pd.DataFrame, resamples: int, seed: int) -> pd.DataFrame:
    """How many clicks a Dice of 0.80, 0.85 and 0.90 takes (NoC; Sofiiuk et al. 2022, arXiv 2102.06583, section 4).

    A case that never reaches it counts as the most clicks that were tried, `limit`; `failed` is their share.
    """
    parts = []
    for view in views:
        for axis, frame in _split(view, budgets):
            if axis == "clicks" and "dice" in frame.columns:
                parts += [_count_clicks(frame, view, target, resamples, seed) for target in TARGETS]
    frame = pd.concat(parts, ignore_index=True)[list(CLICKS)] if parts else pd.DataFrame(columns=list(CLICKS))
    return frame.sort_values(["dataset", "target", "arm"], ignore_index=True)


def _split(view: View, budgets: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The rows of budgets of a setting by axis."""
    mine = take(budgets, view.runs)
    if mine.empty:
        return
    prompted = split_frame(mine).get(PROMPTED, mine[:0])
    for axis, frame in prompted.groupby("axis", sort=True, observed=True):
        yield str(axis), frame


def _count_clicks(frame: pd.DataFrame, view: View, target: float, resamples: int, seed: int) -> pd.DataFrame:
    """The lines of one target."""
    key = frame.groupby(["run_id", "case_id", "structure"], sort=False, observed=True).ngroup().to_numpy()
    levels, dice = frame["level"].to_numpy(dtype=np.float64), read_values(frame, "dice")
    needed, most = np.full(key.max() + 1, np.inf), np.zeros(key.max() + 1)
    reached = dice >= target
    np.minimum.at(needed, key[reached], levels[reached])
    np.maximum.at(most, key, levels)
    first = ~pd.Index(key).duplicated()  # a row for each case and structure
    cells = locate(frame[first], view.runs)
    failed = np.isinf(needed)[key[first]]
    counted = np.where(failed, most[key[first]], needed[key[first]])
    counted = np.where(np.isnan(dice[first]), np.nan, counted)
    possible = float(levels.min()), float(levels.max())
    lines = pd.DataFrame({"arm": list(cells.arms), **measure(cells.clusters(counted), possible, resamples, seed)})
    lost = cells.clusters(np.where(np.isnan(counted), np.nan, failed.astype(np.float64)))
    limits = np.zeros(len(cells.arms))
    np.maximum.at(limits, cells.arm, most[key[first]])
    lines = lines.assign(failed=[mean_of(arm) for arm in lost], limit=limits, target=target, dataset=view.name)
    return lines[limits > 0]
