"""Agreement with the majority of raters, with each of them, and theirs with each other."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from medsam2.results.compare.pairs import mean_of
from medsam2.results.compare.view import View, pick

RATERS = ("arm", "dataset", "structure", "rater", "mean")
ENDS = {"rater_dice": "mean of raters", "rater_ceiling": "raters among themselves"}


def compare_raters(views: Sequence[View]) -> pd.DataFrame:
    """Mean Dice by arm × board × structure × rater, of the rows that have several raters; empty without such rows."""
    lines: list[tuple[str, str, str, str, float]] = []
    for view in views:
        part = view.main
        if part is None or "rater_dice" not in part.frame.columns:
            continue
        several = part.frame["rater_dice"].notna().to_numpy()
        for column, rater in _find_raters(part.frame).items():
            values = part.frame[column].where(several).to_numpy(dtype=float)
            clusters = part.cells.clusters(values)
            for structure in part.structures:
                means = map(mean_of, pick(clusters, part.cells.structures, structure))
                named = zip(part.cells.arms, means, strict=True)
                lines += [(arm, view.name, structure, rater, mean) for arm, mean in named]
    frame = pd.DataFrame(lines, columns=list(RATERS))
    return frame[frame["mean"].notna()].reset_index(drop=True)


def _find_raters(frame: pd.DataFrame) -> dict[str, str]:
    """The columns, and what they are called: majority, rater 1, rater 2 …"""
    single = sorted(
        (c for c in frame.columns if c.startswith("rater") and c[5:-5].isdigit() and c.endswith("_dice")),
        key=lambda column: int(column[5:-5]),
    )
    found = {"dice": "majority"} | {column: f"rater {column[5:-5]}" for column in single} | ENDS
    return {column: name for column, name in found.items() if column in frame.columns}
