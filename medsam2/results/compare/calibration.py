"""Whether predicted probabilities and predicted IoUs hold, and whether it pays to reject what a model is unsure of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medsam2.evaluation.calibration import NUM_BINS, compute_ece, count_bins
from medsam2.results.compare.cells import Cells, Floats
from medsam2.results.compare.view import Part, View, take

CALIBRATION = ("arm", "dataset", "kind", "bin", "expected", "actual", "number", "ece")
REJECTION = ("arm", "dataset", "rejected", "mean", "cases")
Line = tuple[str, str, str, int, float, float, float, float]  # of CALIBRATION
SHARES = tuple(i / 10 for i in range(10))


def calibrate(views: Sequence[View], bins: pd.DataFrame) -> pd.DataFrame:
    """Reliability of pixels' probabilities and of predicted IoUs; bins that nothing fell into are left out.

    Cases, structures and seeds of an arm are pooled, and `ece` is that of the pooled bins: it belongs to this diagram.
    """
    lines = [line for view in views for line in (*_calibrate_ious(view), *_calibrate_pixels(view, bins))]
    return pd.DataFrame(lines, columns=list(CALIBRATION))


def _calibrate_ious(view: View) -> Iterator[Line]:
    if view.main is None:
        return
    expected, actual = view.main.values("iou_predicted").clip(0, 1), _measure_iou(view.main)
    known = np.flatnonzero(~np.isnan(expected) & ~np.isnan(actual))
    known = known[np.argsort(view.main.cells.arm[known], kind="stable")]
    ends = np.searchsorted(view.main.cells.arm[known], np.arange(1, len(view.main.cells.arms)))
    for arm, chosen in zip(view.main.cells.arms, np.split(known, ends), strict=True):
        if len(chosen):
            yield from _describe(count_bins(expected[chosen], actual[chosen]), arm, view.name, "iou")


def _calibrate_pixels(view: View, bins: pd.DataFrame) -> Iterator[Line]:
    mine = take(bins, view.runs)
    if mine.empty:
        return
    mine = mine[mine["phase"] == "test"] if "phase" in mine.columns else mine
    for arm, some in mine.groupby(view.runs["arm"].reindex(mine["run_id"].astype(object)).to_numpy(), sort=True):
        sums = some.groupby("bin")[["number", "expected", "actual"]].sum().reindex(range(NUM_BINS), fill_value=0)
        if sums["number"].any():
            yield from _describe(sums.to_numpy(dtype=np.float64).T, str(arm), view.name, "pixels")


def _describe(counted: NDArray[np.float64], arm: str, name: str, kind: str) -> Iterator[Line]:
    """The lines of one diagram, from 3×B numbers and sums."""
    number, expected, actual = counted
    ece = compute_ece(counted)
    for i in np.flatnonzero(number).tolist():
        yield arm, name, kind, i, expected[i] / number[i], actual[i] / number[i], number[i], ece


def _measure_iou(part: Part) -> Floats:
    """What the predicted IoU is about: that of a volume's slices where the row is a volume's."""
    of_slices = part.values("slice_iou")
    return np.where(np.isnan(of_slices), part.values("iou"), of_slices)


def reject(views: Sequence[View], metric: str) -> pd.DataFrame:
    """The mean of what is left when the least sure cases of each structure and seed are rejected.

    With nothing rejected it is the arm's mean; `cases` counts the rows that are left. Ties of the predicted IoU are
    rejected in the order of the rows.
    """
    lines: list[tuple[str, str, float, float, int]] = []
    for view in views:
        part = view.part_of(metric)
        if part is None or not part.averaged:
            continue
        values, sure = part.values(metric), part.values("iou_predicted")
        values = np.where(np.isnan(sure), np.nan, values)
        if not np.isnan(values).all():
            lines += _reject(part.cells, values, sure, view.name)
    return pd.DataFrame(lines, columns=list(REJECTION))


def _reject(cells: Cells, values: Floats, sure: Floats, name: str) -> list[tuple[str, str, float, float, int]]:
    """The lines of one board."""
    share = _order(cells, values, sure)
    lines = []
    for rejected in SHARES:
        kept = share > rejected + 1e-9
        (_, means), counts = cells.means(np.where(kept, values, np.nan)), cells.count(kept).sum(axis=1)
        lines += [
            (arm, name, rejected, mean, count)
            for arm, mean, count in zip(cells.arms, means.tolist(), counts.tolist(), strict=True)
            if count
        ]
    return sorted(lines, key=lambda line: line[0])


def _order(cells: Cells, values: Floats, sure: Floats) -> Floats:
    """Of each row the share of its structure's and seed's rows that go no later than it, 0..1; NaN without a value."""
    known = np.flatnonzero(~np.isnan(values))
    group = (cells.arm * cells.shape[1] + cells.replicate)[known] * len(cells.structures) + cells.structure[known]
    order = np.lexsort((sure[known], group))
    sizes = np.bincount(group)
    first = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    rank = np.empty(len(known), dtype=np.int64)
    rank[order] = np.arange(len(known)) - first[group[order]]
    share = np.full(len(values), np.nan)
    share[known] = (rank + 1) / sizes[group]
    return share
