"""The rows of an evaluation: kept as CSV (to read) and parquet (to compute), summarised by plain means."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

COLUMNS = ("phase", "case_id", "patient_id", "structure", "prompt", "budget")
NOT_METRICS = {*COLUMNS, "area_label", "area_prediction", "area_unit", "iou_predicted"}

Row = dict[str, Any]


def save_rows(rows: Sequence[Row], folder: Path, name: str) -> None:
    """Writes NAME.csv and NAME.parquet into `folder`, each under a temporary name first."""
    frame = pd.DataFrame(list(rows))
    for suffix, write in ((".csv", _to_csv), (".parquet", _to_parquet)):
        temporary = folder / f".{name}{suffix}.{os.getpid()}"
        write(frame, temporary)
        os.replace(temporary, folder / f"{name}{suffix}")


def load_rows(folder: Path, name: str) -> list[Row]:
    """The rows of NAME.parquet, as they were saved."""
    rows: Any = pd.read_parquet(folder / f"{name}.parquet").to_dict("records")
    return list(rows)


def summarise(rows: Sequence[Row], phase: str) -> dict[str, float]:
    """`phase/metric/structure`: mean over the structure's cases; `phase/metric/mean`: mean over structures.

    A metric that does not apply to a row (None) is left out of its mean. `phase/cases/structure` counts rows.
    """
    summary: dict[str, float] = {}
    frame = pd.DataFrame(list(rows))
    if frame.empty:
        return summary
    metrics = [c for c in frame.columns if c not in NOT_METRICS]
    for metric in metrics:
        values = frame[["structure", metric]].dropna()
        if values.empty:
            continue
        means = values.astype({metric: float}).groupby("structure", sort=True)[metric].mean()
        summary |= {f"{phase}/{metric}/{structure}": float(mean) for structure, mean in means.items()}
        summary[f"{phase}/{metric}/mean"] = float(means.mean())
    counts = frame.groupby("structure", sort=True).size()
    return summary | {f"{phase}/cases/{structure}": float(count) for structure, count in counts.items()}


def _to_csv(frame: pd.DataFrame, path: Path) -> None:
    frame.to_csv(path, index=False, float_format="%.6g")


def _to_parquet(frame: pd.DataFrame, path: Path) -> None:
    frame.to_parquet(path, index=False)
