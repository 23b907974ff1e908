"""The rows of an evaluation: kept as CSV (to read) and parquet (to compute), summarised by plain means."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from medsam2.files import write_atomic

COLUMNS = ("phase", "case_id", "patient_id", "structure", "prompt", "budget")
NOT_METRICS = {*COLUMNS, "area_label", "area_prediction", "area_unit", "iou_predicted"}

Row = dict[str, Any]


def save_rows(rows: Sequence[Row], folder: Path, name: str) -> None:
    """Writes NAME.csv and NAME.parquet into `folder`, each all or not at all."""
    frame = pd.DataFrame(list(rows))
    write_atomic(folder / f"{name}.csv", frame.to_csv(index=False, float_format="%.6g"))
    write_atomic(folder / f"{name}.parquet", frame.to_parquet(None, index=False))


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
