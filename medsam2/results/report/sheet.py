"""A table of the report with the frame it was made from."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from medsam2.results.report.grid import Grid


@dataclass(frozen=True)
class Sheet:
    """A grid as people read it, and the frame that is stored as CSV: all rows, full precision."""

    grid: Grid
    frame: pd.DataFrame

    @property
    def name(self) -> str:
        return self.grid.name
