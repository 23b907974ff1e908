"""The rows of an evaluation: kept as CSV (to read) and parquet (to compute), summarised by plain means."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from medsam2.distributed import on_first_rank
from medsam2.evaluation.calibration import compute_ece, count_bins
from medsam2.files import write_atomic

COLUMNS = ("phase", "protocol", "convention", "position", "case_id", "patient_id", "structure")
PROMPTS = ("prompt", "budget", "prompted_slices")
SIZES = ("size_label", "size_prediction", "size_unit")
NOT_METRICS = {*COLUMNS, *PROMPTS, *SIZES, "iou_predicted", "vcdr", "vcdr_label"}
DISTANCES = {"hd95", "assd", "nsd"}
OF_SLICES = "slice_dice"  # which rows of volumes have
CUP_TO_DISC = "cup_to_disc"  # a row that is about two structures, and no case of its own

Row = dict[str, Any]


@on_first_rank
def save_rows(rows: Sequence[Row], folder: Path, name: str) -> None:
    """Writes NAME.csv and NAME.parquet into `folder`, each all or not at all."""
    frame = pd.DataFrame(list(rows))
    write_atomic(folder / f"{name}.csv", frame.to_csv(index=False, float_format="%.6g"))
    write_atomic(folder / f"{name}.parquet", frame.to_parquet(None, index=False))


def save_bins(rows: Sequence[Row], folder: Path, phase: str) -> None:
    """Writes the rows of a `BinTally` as PHASE_bins.csv and .parquet; without `ece` there are none, and no file."""
    if rows:
        save_rows(rows, folder, f"{phase}_bins")


def load_rows(folder: Path, name: str) -> list[Row]:
    """The rows of NAME.parquet, as they were saved."""
    rows: Any = pd.read_parquet(folder / f"{name}.parquet").to_dict("records")
    return list(rows)


def summarise(rows: Sequence[Row], phase: str) -> dict[str, float]:
    """`phase/metric/structure`: mean over the structure's cases; `phase/metric/mean`: mean over structures.

    A metric that does not apply to a row (None) is left out of its mean. `phase/cases/structure` counts rows.
    `phase/prompted_slices/structure` is what a volume's prompts cost.
    `phase/iou_ece/structure` is the calibration error of the IoU that the model predicts for its own masks.

    Prompted and prompt-free rows never share a mean: where there are both, these are of the prompted ones, and those of
    the others are `phase/prompt_free_metric/structure`. `phase/prompted/share` is the share of prompted rows, and
    `phase/in_mm/share` says of how many rows distances are in millimetres, not in pixels.
    """
    frame = pd.DataFrame(list(rows))
    if frame.empty:
        return {}
    free, cases = frame["budget"] == "none", frame["structure"] != CUP_TO_DISC
    share = {f"{phase}/prompted/share": 1 - float(free[cases].mean())}
    if DISTANCES & set(frame.columns):
        share[f"{phase}/in_mm/share"] = float(frame["size_unit"][cases].str.startswith("mm").mean())
    if free.all() or not free.any():
        return _summarise(frame, f"{phase}/") | share
    return _summarise(frame[~free], f"{phase}/") | _summarise(frame[free], f"{phase}/prompt_free_") | share


def _summarise(frame: pd.DataFrame, prefix: str) -> dict[str, float]:
    summary: dict[str, float] = {}
    costs = {"prompted_slices"} & set(frame.columns) if OF_SLICES in frame.columns else set()
    for metric in (c for c in frame.columns if c not in NOT_METRICS or c in costs):
        values = frame[["structure", metric]].dropna()
        means = values.astype({metric: float}).groupby("structure", sort=True)[metric].mean()
        summary |= _with_mean(prefix + metric, means)
    summary |= _with_mean(f"{prefix}iou_ece", _calibrate_ious(frame))
    counts = frame[frame["structure"] != CUP_TO_DISC].groupby("structure", sort=True).size()
    return summary | {f"{prefix}cases/{structure}": float(count) for structure, count in counts.items()}


def _with_mean(key: str, of_structures: pd.Series[float]) -> dict[str, float]:
    if of_structures.empty:
        return {}
    summary = {f"{key}/{structure}": float(value) for structure, value in of_structures.items()}
    return summary | {f"{key}/mean": float(of_structures.mean())}


def _calibrate_ious(frame: pd.DataFrame) -> pd.Series[float]:
    """By structure, the calibration error of the predicted IoU; of a volume's slices where the row is a volume's."""
    if not {"iou", "iou_predicted"} <= set(frame.columns):
        return pd.Series(dtype=float)
    measured = frame["slice_iou"].fillna(frame["iou"]) if "slice_iou" in frame.columns else frame["iou"]
    pairs = pd.DataFrame({"structure": frame["structure"], "iou": measured, "expected": frame["iou_predicted"]})
    pairs = pairs.dropna().astype({"iou": float, "expected": float})
    values = {
        str(structure): compute_ece(count_bins(group["expected"].to_numpy().clip(0, 1), group["iou"].to_numpy()))
        for structure, group in pairs.groupby("structure", sort=True)
    }
    return pd.Series(values, dtype=float)
