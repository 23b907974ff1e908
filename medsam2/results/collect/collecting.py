"""From what a folder or a store has to a study: which runs count, and why the others do not."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from medsam2.results.collect import mlflow, rows
from medsam2.results.collect.arms import name_arms
from medsam2.results.collect.budgets import Budgets
from medsam2.results.collect.describe import describe_runs
from medsam2.results.collect.directories import list_directories
from medsam2.results.collect.entries import FINISHED, Entry, select
from medsam2.results.collect.identities import find_choices, find_params, latest, leaking
from medsam2.results.collect.settings import split_settings
from medsam2.results.collect.study import LEFT_OUT, RUNS, Study, drop_runs, frame_of
from medsam2.results.collect.texts import count, enumerate_some

log = logging.getLogger(__name__)

Names = Sequence[str] | str | None


def collect(
    output_dir: str | Path,
    source: str | None = None,
    dataset: Names = (),
    study: Names = (),
    sweep: str | None = None,
    tag: str | None = None,
    since: str | None = None,
    runs: Names = (),
) -> Study:
    """The finished runs of an output folder, or of an MLflow store, and their rows.

    Args:
        source: None for the run directories below `output_dir`/runs and those that its sweeps name; an MLflow URI,
            whose runs are fetched into `output_dir`/cache/mlflow; `mlflow` for the store in `output_dir`.
        dataset, study: names, any of which will do: of the dataset a run was tested on, of what it was filed under.
        sweep: the id of a sweep, or the beginning of it.
        tag: `key=value`.
        since: a date, as 2026-11-23 or 2026-11-23T14:30.
        runs: run_ids, or beginnings of them.

    Raises:
        ValueError: a filter matches nothing; the message lists what there is.
        FileNotFoundError, ConnectionError: there is no such store, or it does not answer.
    """
    folder = Path(output_dir).expanduser().absolute()
    store = mlflow.open_store(folder, str(source)) if source else None
    cache = folder / "cache" / "mlflow"
    everything = mlflow.list_store(store, cache) if store else list_directories(folder)
    found = select(everything, _names(dataset), _names(study), sweep, tag, since, _names(runs))
    if store:
        done = [entry for entry in found if entry.state == FINISHED]
        found = [entry for entry in found if entry.state != FINISHED] + mlflow.fetch(store, done, cache)
        made = {entry.origin for entry in found} - {entry.run_id for entry in found}
        everything = mlflow.fetch(store, [entry for entry in everything if entry.run_id in made], cache)
    name = f"MLflow store {store}" if store else f"run directories below {folder}"
    return build_study(found, everything, name)


def _names(given: Names) -> tuple[str, ...]:
    return tuple(given.split(",")) if isinstance(given, str) else tuple(map(str, given or ()))


def build_study(found: Sequence[Entry], everything: Sequence[Entry], source: str) -> Study:
    """A study of these entries; `everything` is where the runs are looked up whose weights others score."""
    left = [(entry.name, entry.run_id, entry.state, entry.reason) for entry in found if entry.state != FINISHED]
    counted, older, notes = latest([entry for entry in found if entry.state == FINISHED])
    entries = {entry.run_id: entry for entry in counted}
    cases, without = _read(entries, "test")
    without |= rows.repeated_keys(cases)
    without |= leaking(entries)
    left += older + [(entries[run_id].name, run_id, FINISHED, why) for run_id, why in without.items()]
    entries = {run_id: entry for run_id, entry in entries.items() if run_id not in without}
    params, lost = find_params(entries, everything)
    study = Study(
        runs=describe_runs(entries, params, cases),
        params=frame_of(params),
        cases=drop_runs(cases, without),
        zero_shot=_read_if_there(entries, "zero_shot"),
        budgets=_read_if_there(entries, "budget"),
        bins=_read_if_there(entries, "test_bins"),
        left_out=pd.DataFrame(left, columns=list(LEFT_OUT)),
        notes=(*notes, *lost),
        source=source,
        choices=frame_of(find_choices(entries, everything)),
    )
    return _finish(study)


def _finish(study: Study) -> Study:
    """Less the runs that would make means of unequal cases or count weights twice; with names of arms and budgets."""
    odd, notes = _find_odd(study)
    study = study.without(odd)
    again, names = _find_scored_again(study), study.runs["name"]
    reasons = {gone: f"the same arm, seed and cases as {names[kept]}, which counts" for gone, kept in again.items()}
    study = _move_budgets(study, again).without(reasons)
    budgets = Budgets(study.cases, list(study.runs.index))
    named = study.runs.assign(
        arm=name_arms(study).arm, budget=[budgets.describe([run_id]) for run_id in study.runs.index]
    )
    return replace(study, runs=named[list(RUNS)], notes=(*study.notes, *notes, *_computed_differently(study)))


def _read(entries: Mapping[str, Entry], name: str) -> tuple[pd.DataFrame, dict[str, str]]:
    tables, without = rows.read_files({run_id: entry.folder for run_id, entry in entries.items()}, name)
    return rows.join(tables, name), without


def _read_if_there(entries: Mapping[str, Entry], name: str) -> pd.DataFrame:
    """Rows that a run may have or not; a file that is there and cannot be used is said."""
    frame, without = _read(entries, name)
    for run_id, why in without.items():
        if why != rows.ABSENT.format(name):
            log.warning("%s: %s", entries[run_id].name, why)
    return frame


def _find_odd(study: Study) -> tuple[dict[str, str], list[str]]:
    """Runs whose cases are not those of their setting, and why; and a note on each setting that has some."""
    found: dict[str, str] = {}
    notes = []
    for setting in split_settings(study):
        odd: dict[str, str] = {}
        for _, runs in study.runs.loc[list(setting.run_ids)].groupby("split_hash", sort=False):
            odd |= Budgets(study.cases, list(runs.index)).odd(list(runs.index))
        if odd:
            names = enumerate_some(list(study.runs.loc[list(odd), "name"]))
            of = f"{len(odd)} of {count(len(setting.run_ids), 'run')}"
            notes.append(f"{setting.title}: {of} left out, whose rows are not those of the others: {names}")
        found |= odd
    return found, notes


def _find_scored_again(study: Study) -> dict[str, str]:
    """Runs of one arm, seed and fold in one setting, the same weights scored again, and which of them counts instead.

    The most metrics count.
    """
    if study.runs.empty:
        return {}
    there = study.cases.notna().groupby(study.cases["run_id"], observed=True).any().sum(axis=1)
    table = study.runs.assign(
        arm=name_arms(study).arm,
        columns=there.rename(str).reindex(study.runs.index),
        fold=study.runs["fold"].map(str),
        copy=study.runs["origin"].notna(),
    ).sort_values(["columns", "copy", "begun"], ascending=[False, True, False])
    found = {}
    for setting in split_settings(study):
        runs = table[table.index.isin(setting.run_ids)]
        for _, same in runs.groupby(["arm", "seed", "fold", "split_hash"], sort=False):
            for run_id in same.index[1:]:
                found[run_id] = str(same.index[0])
    return found


def _move_budgets(study: Study, again: Mapping[str, str]) -> Study:
    """Rows of rising budgets that only a run that is left out has become those of the one that counts instead."""
    there = set(study.budgets["run_id"].unique())
    moved = {kept: gone for gone, kept in again.items() if gone in there and kept not in there}
    if not moved:
        return study
    ids = study.budgets["run_id"].astype(object).replace({gone: kept for kept, gone in moved.items()})
    return replace(study, budgets=study.budgets.assign(run_id=ids.astype("category")))


def _computed_differently(study: Study) -> list[str]:
    """Where runs were not computed alike, in words."""
    notes = []
    for column, noun in (("revision", "revision of the code"), ("device", "kind of device")):
        counts = Counter(study.runs[column])
        if len(counts) > 1:
            said = enumerate_some([f"{value or 'unknown'} ({number})" for value, number in counts.most_common()])
            notes.append(f"runs are of more than one {noun}: {said}")
    return notes
