"""Volumes of made-up patients, drawn in memory when they are asked for: for memory and tracking without a download.

Three organs, three raters (``organs.py``). Scores say that the code runs and learns, and how methods differ on a task
where the slices beside a slice help; they say nothing about any scanner.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from medsam2.data.organs import ORGANS, Drawn, draw_volume
from medsam2.data.records import SPLITS, Case, DatasetError, Record, check_structures, compute_consensus
from medsam2.data.seeding import stable_rng

NUM_RATERS = 3
VERSION = 1  # raise when the drawing changes
KEPT = 8  # volumes; one of 16×96×96 takes 2 MB


class PhantomVolumes:
    """Slices of drawn volumes, one volume for each patient; a patient is the same whatever the other numbers are.

    Args:
        structures: some of lobe, kidney, vessel.
        volumes: how many per split.
        size, depth: pixels of a slice's side, and slices.
        noise: standard deviation of white noise; organs stand out from the tissue by about 0.25 of 1.
        seed: another one gives other patients.
        slices: labelled (those that show a chosen structure) or all.
        spacing: millimetres from slice to slice, from row to row and from column to column.
    """

    allow_shared_patient = False
    exclusive = True
    root = Path()

    def __init__(
        self,
        structures: str | Sequence[str] = tuple(ORGANS),
        volumes: Mapping[str, int] | None = None,
        size: int = 96,
        depth: int = 16,
        noise: float = 0.05,
        seed: int = 0,
        slices: str = "labelled",
        spacing: Sequence[float] = (3.0, 1.0, 1.0),
        name: str = "phantom",
    ) -> None:
        self.name = name
        self.structures = check_structures(structures, tuple(ORGANS), name)
        self.volumes = dict(volumes or {"train": 8, "val": 3, "test": 6})
        self.size = size
        self.depth = depth
        self.noise = noise
        self.seed = seed
        self.slices = slices
        self.spacing = tuple(float(mm) for mm in spacing)
        self._check()
        self._drawn: OrderedDict[str, Drawn] = OrderedDict()

    def _check(self) -> None:
        """Raises DatasetError naming the first setting that cannot be."""
        rules = {
            "volumes": (sorted(self.volumes) == sorted(SPLITS), "{train: N, val: N, test: N}"),
            "size": (self.size >= 32, "32 or more pixels, or the vessel disappears"),
            "depth": (self.depth >= 8, "8 or more slices, or organs have no beginning and end"),
            "noise": (self.noise >= 0, "0 or more"),
            "slices": (self.slices in ("labelled", "all"), "labelled or all"),
            "spacing": (len(self.spacing) == 3 and min(self.spacing) > 0, "three lengths in mm above 0"),
        }
        for name, (holds, rule) in rules.items():
            if not holds:
                raise DatasetError(f"dataset.{name}={getattr(self, name)!r} must be {rule}")

    def records(self) -> list[Record]:
        """A record per slice, sorted by case_id."""
        return list(self._records)

    @cached_property
    def _records(self) -> list[Record]:
        volumes = [(f"{split}{i:02d}", split) for split, count in self.volumes.items() for i in range(count)]
        return [
            Record(f"{volume}_z{z:0{len(str(self.depth - 1))}d}", volume, split, index=z, volume=volume)
            for volume, split in sorted(volumes)
            for z in range(self.depth)
            if self.slices == "all" or self._shows(volume, z)
        ]

    def _shows(self, volume: str, index: int) -> bool:
        raters = self.draw(volume).raters
        return any(compute_consensus(raters[structure][:, index]).any() for structure in self.structures)

    def draw(self, volume: str) -> Drawn:
        """A whole volume with all organs; the last few are kept."""
        if volume not in self._drawn:
            rng = stable_rng("phantom volume", VERSION, self.seed, volume)
            self._drawn[volume] = draw_volume(rng, self.size, self.depth, NUM_RATERS, self.noise)
        self._drawn.move_to_end(volume)
        if len(self._drawn) > KEPT:
            self._drawn.popitem(last=False)
        return self._drawn[volume]

    def load(self, record: Record) -> Case:
        """A slice, grey, with every rater's masks."""
        drawn = self.draw(record.volume)
        raters = {s: np.ascontiguousarray(drawn.raters[s][:, record.index]) for s in self.structures}
        labels = {structure: compute_consensus(masks) for structure, masks in raters.items()}
        between, row, column = self.spacing
        return Case(record, drawn.image[record.index, ..., None], labels, raters, (row, column), between)

    def decoding(self) -> dict[str, Any]:
        """Every number that decides what is drawn."""
        names = ("structures", "size", "depth", "noise", "seed", "spacing")
        return {"version": VERSION} | {name: getattr(self, name) for name in names}

    def fingerprint(self) -> str:
        """Changes with the drawing, the structures, the slices and the split."""
        facts = self.decoding() | {"volumes": self.volumes, "slices": self.slices}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_drawn": OrderedDict()}  # a process that gets a copy draws its own
