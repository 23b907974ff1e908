"""The score lines of a board: every metric of every arm, with interval and with every count that belongs beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medsam2.results.compare.cells import Cells, Floats, read_values
from medsam2.results.compare.comparison import MEAN, is_higher_better, range_of
from medsam2.results.compare.pairs import spread_of_defined
from medsam2.results.compare.threads import side_by_side
from medsam2.results.compare.view import Part, View, pick
from medsam2.results.statistics import Clusters, Draws
from medsam2.results.statistics.clusters import mean_of_defined, seed_means, stack

COLUMNS = (
    "arm", "structure", "metric", "mean", "sd", "low", "high", "runs", "seeds", "folds", "patients", "cases", "rows",
    "undefined", "missed", "false_positives", "zero_shot", "ceiling",
)  # fmt: skip
OF_RATERS = ("dice", "rater_dice")  # the metrics of which raters' agreement among themselves is a ceiling


def score(view: View, main: str, resamples: int, seed: int) -> pd.DataFrame:
    """All lines of a board, `main` metric first, and best arm first within metric × structure."""
    blocks = [block for part in view.parts.values() for block in _score_part(part, view.runs, resamples, seed)]
    if not blocks:
        return pd.DataFrame(columns=list(COLUMNS))
    blocks.sort(key=lambda block: block["metric"].iat[0] != main)
    return pd.concat(blocks, ignore_index=True)[list(COLUMNS)]


def _score_part(part: Part, runs: pd.DataFrame, resamples: int, seed: int) -> Iterator[pd.DataFrame]:
    counts = _count_sizes(part)
    ceilings = part.cells.means(part.values("rater_ceiling"))
    about = runs.groupby("arm", sort=False).agg(runs=("replicate", "size"), folds=("fold", "nunique"))
    about = about.assign(seeds=runs.groupby("arm", sort=False)["replicate"].nunique()).loc[list(part.cells.arms)]
    for metric in part.metrics:
        values = part.values(metric)
        clusters, numbers = part.cells.clusters(values), _count_values(part.cells, values) | counts
        earlier = part.before and part.before[1].means(read_values(part.before[0], metric))
        chosen = [pick(clusters, part.cells.structures, structure) for structure in part.structures]
        measured = side_by_side(partial(measure, limits=range_of(metric), resamples=resamples, seed=seed), chosen)
        for structure, lines in zip(part.structures, measured, strict=True):
            k = None if structure == MEAN else part.cells.structures.index(structure)
            lines |= {key: _at(number, k) for key, number in numbers.items()}
            lines["zero_shot"] = _look_up(part.before, earlier, structure)
            lines["ceiling"] = _at(ceilings, k) if metric in OF_RATERS else np.nan
            block = pd.DataFrame({"arm": list(part.cells.arms), **lines, **about.reset_index(drop=True)})
            block = block.assign(structure=structure, metric=part.prefix + metric)
            yield block.sort_values("mean", ascending=not is_higher_better(metric), kind="stable")


def measure(arms: Sequence[Clusters], limits: tuple[float, float], resamples: int, seed: int) -> dict[str, Any]:
    """Mean, standard deviation over seeds, and interval of each arm; NaN where nothing is defined.

    The truth lies between `limits`, and so do the intervals.
    """
    there = [i for i, arm in enumerate(arms) if (arm.counts > 0).any()]
    bounds = np.full((len(arms), 2), np.nan)
    if there and _are_alike(arms):  # what a prompt alone would score, for instance
        bounds[:] = Draws(arms[:1], resamples, seed).intervals()
    elif there:
        bounds[there] = Draws([arms[i] for i in there], resamples, seed).intervals()
    bounds, seeds = bounds.clip(*limits), seed_means(*stack(arms))
    return {
        "mean": mean_of_defined(seeds, axis=1),
        "sd": spread_of_defined(seeds),
        "low": bounds[:, 0],
        "high": bounds[:, 1],
    }


def _are_alike(arms: Sequence[Clusters]) -> bool:
    first = arms[0]
    pairs = ((arm.sums, first.sums, arm.counts, first.counts) for arm in arms)
    return all(np.array_equal(a, b) and np.array_equal(c, d) for a, b, c, d in pairs)


Counted = dict[str, tuple[NDArray[Any], NDArray[Any]]]  # A×K and A: of each structure, and of all


def _count_values(cells: Cells, values: Floats) -> Counted:
    defined = ~np.isnan(values)
    undefined, rows = cells.count(~defined), cells.count(np.ones_like(defined))
    cases, patients = (_count_distinct(cells.present(of, defined)) for of in (cells.case, cells.unit_code))
    if cells.unit == "case":
        patients = np.minimum(patients[0], 1), np.minimum(patients[1], 1)
    return {
        "patients": patients,
        "cases": cases,
        "rows": (rows, rows.sum(axis=1)),
        "undefined": (undefined, undefined.sum(axis=1)),
    }


def _count_distinct(present: NDArray[np.bool_]) -> tuple[NDArray[Any], NDArray[Any]]:
    return present.sum(axis=1), present.any(axis=2).sum(axis=1)


def _count_sizes(part: Part) -> Counted:
    """Over all rows of an arm: labels that were missed, and answers to empty labels; NaN where no sizes are known."""
    label, answer = (part.values(column) for column in ("size_label", "size_prediction"))
    chosen = {"missed": (label > 0) & (answer == 0), "false_positives": (label == 0) & (answer > 0)}
    counts = {name: part.cells.count(mask) for name, mask in chosen.items()}
    if np.isnan(label).all():
        counts = {name: np.full(count.shape, np.nan) for name, count in counts.items()}
    return {name: (count, count.sum(axis=1)) for name, count in counts.items()}


def _at(numbers: tuple[NDArray[Any], NDArray[Any]], structure: int | None) -> NDArray[Any]:
    return numbers[1] if structure is None else numbers[0][:, structure]


def _look_up(
    before: tuple[pd.DataFrame, Cells] | None, means: tuple[Floats, Floats] | None, structure: str
) -> Floats | float:
    """The means of the arms before training, NaN where there was no such score."""
    if before is None or means is None or structure not in (MEAN, *before[1].structures):
        return np.nan
    return _at(means, None if structure == MEAN else before[1].structures.index(structure))
