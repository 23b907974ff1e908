"""What was collected: finished runs, their settings and their rows, and what was found but does not count."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

RUNS = (
    *("name", "dataset", "trained_on", "arm", "seed", "fold", "split_hash", "study", "sweeps", "begun", "seconds"),
    *("task", "origin", "folder", "parameters", "trained_parameters", "peak_memory", "device", "revision", "command"),
    *("definition", "budget", "structures", "best_epoch"),
)
LEFT_OUT = ("name", "run_id", "state", "reason")
COUNTED = "finished"  # the state of what is left out although it is finished


@dataclass(frozen=True)
class Study:
    """Runs that count, by run_id, and their rows. All frames of rows begin with the categorical column `run_id`.

    runs: one row per run. name, dataset (tested on), trained_on ("" where nothing was trained, or nobody knows),
        arm, seed, fold (None without), split_hash, study, sweeps (ids, with spaces between), begun (seconds since
        1970), seconds, task, origin (run_id of the run whose weights it scores, None without), folder, parameters,
        trained_parameters, peak_memory (bytes; NaN: not known), device, revision, command, definition (what the metrics
        mean), budget (what its prompts cost), structures (with commas between), best_epoch (whose weights were kept, 0:
        as the network came; NaN: not known).
    params: a column per flat key of the identity, None where a run has no such key. A run that scores the weights of
        another has task.* and model.checkpoint of that one: they say how the weights came about.
    choices: a column per config group, None where it is not known; of old runs none is.
    cases, zero_shot, budgets, bins: the rows of phase test and zero_shot, of rising prompt budgets, and of calibration.
    left_out: name, run_id, state and reason of all that was found and does not count.
    notes: sentences that a reader of any number must know.
    """

    runs: pd.DataFrame
    params: pd.DataFrame
    cases: pd.DataFrame
    zero_shot: pd.DataFrame
    budgets: pd.DataFrame
    bins: pd.DataFrame
    left_out: pd.DataFrame
    notes: tuple[str, ...] = ()
    source: str = ""
    choices: pd.DataFrame = field(default_factory=pd.DataFrame)

    def without(self, reasons: Mapping[str, str]) -> Study:
        """The study less the runs of these ids, which are left out with a reason each."""
        if not reasons:
            return self
        gone = [(str(self.runs.at[run_id, "name"]), run_id, COUNTED, why) for run_id, why in reasons.items()]
        kept = ~self.runs.index.isin(list(reasons))
        return replace(
            self,
            runs=self.runs[kept],
            params=self.params[kept],
            choices=self.choices[kept],
            cases=drop_runs(self.cases, reasons),
            zero_shot=drop_runs(self.zero_shot, reasons),
            budgets=drop_runs(self.budgets, reasons),
            bins=drop_runs(self.bins, reasons),
            left_out=pd.concat([self.left_out, pd.DataFrame(gone, columns=list(LEFT_OUT))], ignore_index=True),
        )


def drop_runs(rows: pd.DataFrame, gone: Mapping[str, str]) -> pd.DataFrame:
    """The rows of the other runs."""
    if not gone or "run_id" not in rows.columns:
        return rows
    kept = rows[~rows["run_id"].isin(list(gone))].reset_index(drop=True)
    return kept.assign(run_id=kept["run_id"].cat.remove_unused_categories())


def objects(values: Iterable[Any], index: pd.Index | None = None) -> pd.Series:
    """A column of anything: neither None nor a list is taken for something else, and texts stay objects."""
    items = list(values)
    column = np.empty(len(items), dtype=object)
    column[:] = items
    return pd.Series(column, index=index, dtype=object)


def frame_of(records: Mapping[str, Mapping[str, Any]], columns: list[str] | None = None) -> pd.DataFrame:
    """One row per record, by its key, and an object column per key of any record; None where a record lacks it."""
    names = sorted({key for record in records.values() for key in record}) if columns is None else columns
    index = pd.Index(list(records), name="run_id", dtype=object)
    content = {name: objects((record.get(name) for record in records.values()), index) for name in names}
    return pd.DataFrame(content, index=index, columns=names)
