"""What the runs of an arm took: time, memory, parameters."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from medsam2.results.compare.view import View

COST = ("arm", "dataset", "task", "runs", "seconds", "peak_memory", "parameters", "trained_parameters", "device")
NUMBERS = ("seconds", "peak_memory", "parameters", "trained_parameters")


def measure_cost(views: Sequence[View]) -> pd.DataFrame:
    """Means over the runs of an arm, by board and task; training and mere evaluation are not one number."""
    parts = []
    for view in views:
        runs = view.runs.assign(**{name: pd.to_numeric(view.runs[name]) for name in NUMBERS})
        groups = runs.groupby(["arm", "task"], sort=True, dropna=False)
        lines = groups[list(NUMBERS)].mean().assign(runs=groups.size(), device=groups["device"].agg(_join))
        parts.append(lines.reset_index().assign(dataset=view.name))
    return pd.concat(parts, ignore_index=True)[list(COST)] if parts else pd.DataFrame(columns=list(COST))


def note_devices(cost: pd.DataFrame) -> list[str]:
    """A word where seconds were measured on different devices."""
    devices = sorted({name for text in cost["device"] for name in text.split(", ") if name})
    if len(devices) < 2:
        return []
    return [f"runs were made on different devices ({', '.join(devices)}): their seconds are not comparable"]


def _join(names: pd.Series[str]) -> str:
    return ", ".join(sorted({str(name) for name in names.dropna()} - {""}))
