"""The rows of one setting, located: what all frames of a comparison are computed from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from medsam2.results.compare.cells import Cells, Floats, find_metrics, locate, read_values, split_frame
from medsam2.results.compare.comparison import FREE, MEAN
from medsam2.results.compare.replicates import find_replicates
from medsam2.results.statistics import Clusters

if TYPE_CHECKING:
    from medsam2.results.collect import Setting, Study

PROMPTED, RATIO = "", "ratio"  # parts, beside FREE


@dataclass(frozen=True)
class Part:
    """Rows that may share a mean: the prompted ones, those without a prompt, or those of a ratio.

    Attributes:
        prefix: of the names of their metrics.
        before: the same rows before training, and their cells; None where there are none.
        averaged: whether there is a mean over structures.
    """

    frame: pd.DataFrame
    cells: Cells
    prefix: str
    before: tuple[pd.DataFrame, Cells] | None
    averaged: bool

    @property
    def structures(self) -> list[str]:
        """What a score is about: the mean over structures, and each of them."""
        return [*([MEAN] if self.averaged else []), *self.cells.structures]

    @property
    def metrics(self) -> list[str]:
        """Those that have a value somewhere, without prefix."""
        return find_metrics(self.frame)

    def values(self, metric: str) -> Floats:
        """Of each row; `metric` may have the prefix."""
        return read_values(self.frame, metric.removeprefix(self.prefix))

    def clusters(self, metric: str) -> list[Clusters]:
        """Of each arm, of all structures."""
        return self.cells.clusters(self.values(metric))


@dataclass(frozen=True)
class View:
    """A setting's runs and rows.

    Attributes:
        name: of its board, in columns named `dataset`.
        runs: with arm and replicate, by run_id.
        cases: the rows, with arm.
        parts: by PROMPTED (all rows, where none or all are prompted), FREE and RATIO.
        notes: on its runs.
    """

    setting: Setting
    name: str
    runs: pd.DataFrame
    cases: pd.DataFrame
    parts: dict[str, Part]
    notes: list[str]

    @property
    def main(self) -> Part | None:
        """The prompted rows that are about a structure each; None where there are none."""
        return self.parts.get(PROMPTED)

    def part_of(self, metric: str) -> Part | None:
        """The rows that a metric is of; None where no row has it."""
        order = (FREE,) if metric.startswith(FREE) else (PROMPTED, RATIO)
        parts = [self.parts[name] for name in order if name in self.parts]
        return next((part for part in parts if metric.removeprefix(part.prefix) in part.metrics), None)

    @property
    def where(self) -> str:
        """The setting in a sentence: `refuge (box)`."""
        key, title = self.setting.key, self.setting.title
        origin = key.get("trained_on", "here")
        texts = [self.setting.budget or key["budget"], "" if origin == "here" else f"trained on {origin}"]
        more = [text for text in texts if text and text not in title]
        return f"{title} ({'; '.join(more)})" if more else title


def make_view(study: Study, setting: Setting, labels: pd.Series[str], name: str) -> View:
    """The view of one setting; `labels` are the arms by run_id."""
    runs, notes = find_replicates(study.runs.loc[list(setting.run_ids)], labels)
    cases, zero_shot = take(study.cases, runs), take(study.zero_shot, runs)
    parts, before = {}, split_frame(zero_shot) if len(zero_shot) else {}
    for part, frame in split_frame(cases).items():
        earlier = (before[part], locate(before[part], runs)) if part in before else None
        parts[part] = Part(frame, locate(frame, runs), FREE if part == FREE else "", earlier, part != RATIO)
    codes, run_ids = pd.factorize(cases["run_id"])
    names = list(dict.fromkeys(runs["arm"]))
    arm = pd.Index(names).get_indexer(runs["arm"].reindex(pd.Index(run_ids.astype(object))).tolist())
    labelled = cases.assign(arm=pd.Categorical.from_codes(arm[codes], categories=pd.Index(names)))
    return View(setting, name, runs, labelled, parts, notes)


def take(frame: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """The rows of these runs."""
    if "run_id" not in frame.columns or frame.empty:
        return frame
    chosen = frame["run_id"].isin(list(runs.index)).to_numpy()
    return frame if chosen.all() else frame[chosen]


def pick(clusters: Sequence[Clusters], structures: Sequence[str], structure: str) -> list[Clusters]:
    """The clusters of one structure; all of them where it is the mean over structures."""
    if structure == MEAN:
        return list(clusters)
    k = structures.index(structure)
    return [Clusters(one.sums[:, :, k : k + 1], one.counts[:, :, k : k + 1], one.seeds) for one in clusters]
