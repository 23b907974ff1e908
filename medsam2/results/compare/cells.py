"""Rows become arrays: which arm, seed, patient and structure a row is about, as integers, and sums of values by them.

Everything that is averaged goes through here, so that all means are made in one way: over the cases of a structure,
over structures, over seeds. The folds of a seed test other cases each, and are one replicate together.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medsam2.evaluation.rows import CUP_TO_DISC, NOT_METRICS
from medsam2.results.compare.comparison import FREE
from medsam2.results.statistics import Clusters
from medsam2.results.statistics.clusters import mean_of_defined

NO_METRICS = NOT_METRICS | {"run_id", "arm", "axis", "level", "rater_ceiling"}
Integers = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Cells:
    """Where the rows of a setting belong.

    Attributes:
        seeds: of each arm.
        unit: what is resampled: "patient", or "case" where all cases are of one patient.
        arm, replicate, unit_code, case, structure: of each row, N integers.
    """

    arms: tuple[str, ...]
    seeds: tuple[tuple[int, ...], ...]
    structures: tuple[str, ...]
    unit: str
    arm: Integers
    replicate: Integers
    unit_code: Integers
    case: Integers
    structure: Integers

    @cached_property
    def shape(self) -> tuple[int, int, int, int]:
        """Arms × replicates × units × structures."""
        return len(self.arms), max(map(len, self.seeds)), int(self.unit_code.max()) + 1, len(self.structures)

    @cached_property
    def flat(self) -> Integers:
        """The place of each row in an array of `shape`."""
        return np.ravel_multi_index((self.arm, self.replicate, self.unit_code, self.structure), self.shape)

    def clusters(self, values: Floats) -> list[Clusters]:
        """One for each arm, of N values; NaN counts nowhere."""
        defined = np.flatnonzero(~np.isnan(values))
        place, size = self.flat[defined], int(np.prod(self.shape))
        sums = np.bincount(place, values[defined], size).astype(np.float64).reshape(self.shape)
        counts = np.bincount(place, minlength=size).astype(np.float64).reshape(self.shape)
        numbers = [len(seeds) for seeds in self.seeds]
        return [Clusters(sums[i, :n], counts[i, :n], self.seeds[i]) for i, n in enumerate(numbers)]

    def means(self, values: Floats) -> tuple[Floats, Floats]:
        """A×K and A: the mean of each structure, and over structures, both over seeds; NaN without any value."""
        defined = np.flatnonzero(~np.isnan(values))
        shape = len(self.arms), self.shape[1], len(self.structures)
        of = (part[defined] for part in (self.arm, self.replicate, self.structure))
        place = np.ravel_multi_index(tuple(of), shape)
        sums, counts = (np.bincount(place, weights, np.prod(shape)) for weights in (values[defined], None))
        cells = np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0).reshape(shape)
        return mean_of_defined(cells, axis=1), mean_of_defined(mean_of_defined(cells, axis=2), axis=1)

    def count(self, chosen: NDArray[np.bool_]) -> Integers:
        """A×K: how many rows are chosen."""
        place = self.arm[chosen] * len(self.structures) + self.structure[chosen]
        return np.bincount(place, minlength=len(self.arms) * len(self.structures)).reshape(len(self.arms), -1)

    def present(self, of: Integers, chosen: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """A×…×K: which units (or cases, by the codes `of`) the chosen rows are of."""
        seen = np.zeros((len(self.arms), int(of.max()) + 1, len(self.structures)), dtype=np.bool_)
        seen[self.arm[chosen], of[chosen], self.structure[chosen]] = True
        return seen

    @cached_property
    def rows_of(self) -> list[Integers]:
        """Of each arm, which rows are its."""
        order, ends = np.argsort(self.arm, kind="stable"), np.bincount(self.arm, minlength=len(self.arms)).cumsum()
        return np.split(order, ends[:-1])

    def restricted(self, arm: int, values: Floats, kept: NDArray[np.bool_]) -> Clusters:
        """One arm's, of the values of the cases and structures that are kept, C×K."""
        rows = self.rows_of[arm]
        rows = rows[kept[self.case[rows], self.structure[rows]] & ~np.isnan(values[rows])]
        shape = self.shape[1:]
        place = np.ravel_multi_index((self.replicate[rows], self.unit_code[rows], self.structure[rows]), shape)
        sums, counts = (
            np.bincount(place, w, np.prod(shape)).reshape(shape) for w in (values[rows], np.ones(len(rows)))
        )
        number = len(self.seeds[arm])
        return Clusters(sums[:number], counts[:number], self.seeds[arm])

    @cached_property
    def covered(self) -> NDArray[np.bool_]:
        """A×P×K: where an arm has rows."""
        return self.present(self.unit_code, np.ones(len(self.arm), dtype=np.bool_))


def locate(frame: pd.DataFrame, runs: pd.DataFrame) -> Cells:
    """The cells of rows with a run_id; `runs` has the columns arm and replicate (an integer) by run_id."""
    arms = tuple(dict.fromkeys(runs["arm"]))
    arm_of, replicate_of, seeds = _number_runs(runs, arms)
    run_codes, run_ids = pd.factorize(frame["run_id"])
    rows = runs.index.get_indexer(pd.Index(run_ids.astype(object)))
    case, _ = pd.factorize(frame["case_id"])
    patients = frame["patient_id"]
    if patients.isna().any():
        patients = patients.astype(object).fillna(frame["case_id"].astype(object))
    patient, names = pd.factorize(patients)
    structure, structures = pd.factorize(frame["structure"])
    order = np.argsort(np.asarray(structures, dtype=object))
    return Cells(
        arms=arms,
        seeds=seeds,
        structures=tuple(str(structures[i]) for i in order),
        unit="patient" if len(names) > 1 else "case",
        arm=arm_of[rows][run_codes],
        replicate=replicate_of[rows][run_codes],
        unit_code=patient if len(names) > 1 else case,
        case=case,
        structure=np.argsort(order)[structure],
    )


def _number_runs(runs: pd.DataFrame, arms: tuple[str, ...]) -> tuple[Integers, Integers, tuple[tuple[int, ...], ...]]:
    """Of each run the number of its arm and of its replicate in it; the replicates of each arm."""
    arm = pd.Index(arms).get_indexer(pd.Index(runs["arm"]))
    seeds = tuple(tuple(sorted(set(runs["replicate"][runs["arm"] == name]))) for name in arms)
    replicate = [seeds[a].index(r) for a, r in zip(arm, runs["replicate"], strict=True)]
    return arm.astype(np.int64), np.array(replicate, dtype=np.int64), seeds


def split_frame(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows with a prompt by "", those without by "prompt_free_" where there are both; never mixed in a mean.

    The rows of the cup-to-disc ratio, which are about two structures and no case, go by "ratio".
    """
    ratio = (frame["structure"] == CUP_TO_DISC).to_numpy()
    free = (frame["budget"] == "none").to_numpy() & ~ratio if "budget" in frame.columns else np.zeros_like(ratio)
    mixed = free.any() and not (free | ratio).all()
    chosen = {"": ~ratio & ~free if mixed else ~ratio, FREE: free & mixed, "ratio": ratio}
    return {name: frame if mask.all() else frame[mask] for name, mask in chosen.items() if mask.any()}


def select_rows(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The rows that a metric is about, with it as a column of that name; none where no row has it."""
    parts, bare = split_frame(frame), metric.removeprefix(FREE)
    for name in (FREE,) if metric.startswith(FREE) else ("", "ratio"):
        if name in parts and bare in frame.columns and parts[name][bare].notna().any():
            return parts[name].rename(columns={bare: metric})
    return frame.iloc[:0].assign(**{metric: np.nan})


def find_metrics(frame: pd.DataFrame) -> list[str]:
    """The columns that are metrics and have a value somewhere."""
    return [
        column
        for column in frame.columns
        if column not in NO_METRICS and not _is_single_rater(column) and _is_number(frame[column])
    ]


def read_values(frame: pd.DataFrame, metric: str) -> Floats:
    """A column as numbers; NaN where it has none, or where there is no such column."""
    if metric not in frame.columns:
        return np.full(len(frame), np.nan)
    return frame[metric].to_numpy(dtype=np.float64, na_value=np.nan)


def _is_single_rater(column: str) -> bool:
    return column.startswith("rater") and column.endswith("_dice") and column[5:-5].isdigit()


def _is_number(column: pd.Series[float]) -> bool:
    if column.dtype == object:
        column = pd.to_numeric(column, errors="coerce")
    return bool(pd.api.types.is_numeric_dtype(column) and column.notna().any())
