"""The frame of runs: what run.json, status.json, provenance.json and the rows say of each."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from medsam2.evaluation.rows import CUP_TO_DISC
from medsam2.results.collect.entries import Entry
from medsam2.results.collect.settings import define
from medsam2.results.collect.study import RUNS, frame_of

COSTS = ("parameters", "trained_parameters", "peak_memory")
NUMBERS = ("begun", "seconds", "best_epoch", *COSTS)


def describe_runs(
    entries: Mapping[str, Entry], params: Mapping[str, dict[str, Any]], cases: pd.DataFrame
) -> pd.DataFrame:
    """A row per run, as of `Study`; arm and budget are empty yet."""
    structures = _structures(cases)
    records = {
        run_id: _who(entry) | _cost(entry) | {"definition": define(params[run_id]), "structures": structures[run_id]}
        for run_id, entry in entries.items()
    }
    return frame_of(records, list(RUNS)).astype(dict.fromkeys(NUMBERS, float) | {"seed": int})


def _who(entry: Entry) -> dict[str, Any]:
    task = str(entry.params.get("task._target_") or "train").rpartition(".")[2]
    origin = entry.about.get("origin") or {}
    return {
        "name": entry.name,
        "dataset": entry.dataset,
        "trained_on": str(origin.get("dataset") or "") if origin else entry.dataset if task == "train" else "",
        "arm": "",
        "seed": int(entry.params.get("seed") or 0),
        "fold": entry.params.get("dataset.fold"),
        "split_hash": str(entry.about.get("split_hash") or ""),
        "study": str(entry.about.get("study") or ""),
        "sweeps": " ".join(entry.sweeps),
        "begun": entry.begun,
        "task": task,
        "origin": entry.origin,
        "folder": str(entry.folder),
        "budget": "",
    }


def _cost(entry: Entry) -> dict[str, Any]:
    cost = entry.status.get("cost") or {}
    numbers = {key: cost.get(key) for key in COSTS} | {"seconds": entry.status.get("seconds")}
    numbers["best_epoch"] = (entry.status.get("metrics") or {}).get("best/epoch")
    return {key: np.nan if value is None else float(value) for key, value in numbers.items()} | {
        "device": str(entry.status.get("device") or ""),
        "revision": str(entry.provenance.get("revision") or ""),
        "command": shlex.join(map(str, entry.provenance.get("command") or [])),
    }


def _structures(cases: pd.DataFrame) -> dict[str, str]:
    pairs = cases.loc[cases["structure"] != CUP_TO_DISC, ["run_id", "structure"]].drop_duplicates()
    found: dict[str, list[str]] = {str(run_id): [] for run_id in cases["run_id"].cat.categories}
    for run_id, structure in sorted(zip(pairs["run_id"].astype(str), pairs["structure"].astype(str), strict=True)):
        found[run_id].append(structure)
    return {run_id: ",".join(names) for run_id, names in found.items()}
