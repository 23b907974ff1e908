"""Volumes as slices: a case is one slice, and the slices of a volume are decoded together."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from medsam2.data.code import hash_code
from medsam2.data.dataset import FileDataset, describe, have_own_values
from medsam2.data.geometry import PLANES, Geometry, find_geometry
from medsam2.data.intensity import Intensity, scale
from medsam2.data.records import Case, DatasetError, Record
from medsam2.data.releases.base import VolumeRelease
from medsam2.data.splits import Split
from medsam2.data.volume_checks import check_finite, check_label, check_same_grid, count_values

log = logging.getLogger(__name__)


class Opened(NamedTuple):
    """A decoded volume: ``image`` and ``label`` are slice×row×column(×C), not yet scaled."""

    name: str
    image: NDArray[Any]
    label: NDArray[Any]
    limits: list[tuple[float, float]]  # shown as black and white, per channel
    geometry: Geometry


class VolumeDataset(FileDataset):
    """Slices of volumes in one plane; the volume opened last stays in memory. Other arguments as FileDataset and Split.

    Args:
        intensity: how intensities become grey, per modality of the release: {ct: Window, mr: Percentiles}.
        plane: axial, coronal, sagittal, or acquired (across the thickest slices).
        slices: labelled (those that show a chosen structure) or all.
        min_pixels: a structure counts as shown on a slice from this many pixels on.
    """

    release: VolumeRelease

    def __init__(
        self,
        root: str | Path,
        release: VolumeRelease,
        intensity: Mapping[str, Intensity],
        structures: str | Sequence[str] | None = None,
        name: str = "volumes",
        plane: str = "axial",
        slices: str = "labelled",
        min_pixels: int = 1,
        val_fraction: float = 0.1,
        test_fraction: float = 0.2,
        split_seed: int = 0,
        fold: int | None = None,
        folds: int = 5,
        split_file: str | None = None,
        cache_dir: str | None = None,
    ) -> None:
        split = Split(val_fraction, test_fraction, split_seed, fold, folds, split_file)
        super().__init__(root, release, structures, name, split, cache_dir)
        if plane not in (*PLANES, "acquired"):
            raise DatasetError(f"dataset.plane={plane!r} is not one of {', '.join(PLANES)}, acquired")
        if slices not in ("labelled", "all"):
            raise DatasetError(f"dataset.slices={slices!r} must be labelled or all")
        if min_pixels < 1:
            raise DatasetError(f"dataset.min_pixels={min_pixels} must be 1 or more")
        self.intensity = dict(intensity)
        self.plane = plane
        self.slices = slices
        self.min_pixels = min_pixels
        self._opened: Opened | None = None
        self._counting = False

    def divide(self, records: list[Record]) -> list[Record]:
        """A record per slice. The slices of a volume have the same split, but for those that a split_file leaves out.

        Raises DatasetError as ``Split`` and ``label_counts``, if nothing is shown, or ``intensity`` lacks a modality.
        """
        for volume in records:
            self._find_intensity(volume)
        # every slice, not the shown ones alone: a split that was saved with other structures may name it
        slices = [one for volume in records for one in self.slices_of(volume)]
        shown = {volume.case_id: self.find_shown(volume) for volume in records}
        found = [one for one in self.split.assign(slices) if one.index in shown[one.volume]]
        if not found:
            raise DatasetError(
                f"dataset={self.name}: no slice shows {', '.join(self.structures)} with {self.min_pixels} pixels or "
                "more; choose other dataset.structures or a lower dataset.min_pixels",
                kind="empty volume",
            )
        return found

    def slices_of(self, volume: Record) -> list[Record]:
        """A record for each slice of a volume, the first at index 0."""
        name, count = volume.case_id, self.slice_areas(volume)[0]
        return [replace(volume, case_id=f"{name}_z{i:03d}", index=i, volume=name) for i in range(count)]

    def find_shown(self, volume: Record) -> set[int]:
        """The indices of the slices that become cases."""
        count, areas = self.slice_areas(volume)
        if self.slices == "all":
            return set(range(count))
        return {i for i in range(count) if any(areas[s][i] >= self.min_pixels for s in self.structures)}

    def slice_areas(self, volume: Record) -> tuple[int, dict[str, list[int]]]:
        """The number of slices and each chosen structure's pixels on each of them; remembered per label file."""
        counts = self.label_counts(volume)
        zeros = [0] * counts["slices"]
        areas = {
            s: np.sum([counts["pixels"].get(str(v), zeros) for v in self._values[s]], axis=0).tolist()
            for s in self.structures
        }
        return counts["slices"], areas

    def label_counts(self, volume: Record) -> dict[str, Any]:
        """{"slices": n, "pixels": {label value: pixels per slice}} of a volume's label; background is left out.

        Raises DatasetError for a label with values that nobody declared, or without a place in space.
        """
        files = [self.root / name for name in volume.labels[0][1]]
        name = f"label counts {self.plane} {volume.case_id} {describe(self.release)} {hash_code()}"
        return dict(self.facts.find(files, name, lambda: self._count(volume)))

    def _count(self, volume: Record) -> dict[str, Any]:
        if not self._counting:  # said once, for it may take minutes
            log.info("%s: the slices that show something are looked for in the labels, once", self.name)
            self._counting = True
        label = self.release.read_label(self.root, volume)
        geometry = find_geometry(label.array.shape, label.affine, self.plane, self._files(volume)[1])
        counts = count_values(self._check_label(geometry.to_slices(label.array), volume)).T
        pixels = {str(value): counts[value].tolist() for value in range(1, len(counts)) if counts[value].any()}
        return {"slices": counts.shape[1], "pixels": pixels}

    def load(self, record: Record) -> Case:
        """One slice, with one rater per structure. Raises DatasetError naming the file with what is wrong in it."""
        opened = self.open(record)
        channels = opened.image[record.index].reshape(*opened.image.shape[1:3], -1)
        grey = [scale(channels[..., c], *opened.limits[c]) for c in range(channels.shape[-1])]
        label = opened.label[record.index]
        labels = {s: np.isin(label, self._values[s]) for s in self.structures}
        raters = {structure: mask[None] for structure, mask in labels.items()}
        spacing = opened.geometry.spacing
        thickness, in_plane = (spacing[0], spacing[1:]) if spacing else (None, None)
        return Case(record, np.stack(grey, axis=-1), labels, raters, in_plane, thickness)

    def open(self, record: Record) -> Opened:
        """The volume of a slice or of a volume's record, decoded; the last one is kept while its files stay."""
        paths = [self.root / file for file in record.files]
        times = [path.stat().st_mtime_ns for path in paths if path.exists()]
        name = f"{record.volume or record.case_id} {times}"
        if self._opened is None or self._opened.name != name:
            self._opened = None  # two volumes at once would need twice the memory
            self._opened = self._open(record, name)
        return self._opened

    def _open(self, record: Record, name: str) -> Opened:
        image, label = self.release.read_image(self.root, record), self.release.read_label(self.root, record)
        files = self._files(record)
        geometry = find_geometry(image.array.shape, image.affine, self.plane, files[0])
        check_same_grid(image, label, *files)
        slices = geometry.to_slices(image.array)
        check_finite(slices, files[0])
        channels, find_limits = slices.reshape(*slices.shape[:3], -1), self._find_intensity(record)
        limits = [find_limits(channels[..., c]) for c in range(channels.shape[-1])]
        return Opened(name, slices, self._check_label(geometry.to_slices(label.array), record), limits, geometry)

    def _find_intensity(self, record: Record) -> Intensity:
        if record.modality not in self.intensity:
            raise DatasetError(
                f"dataset.intensity says nothing about {record.modality!r}, the modality of {record.case_id}; "
                f"it knows {', '.join(self.intensity)}"
            )
        return self.intensity[record.modality]

    def _check_label(self, label: NDArray[Any], record: Record) -> NDArray[Any]:
        declared = {0}.union(*self._values.values())
        return check_label(label, declared, self._files(record)[1])

    def _files(self, record: Record) -> tuple[Path, Path]:
        return self.root / record.image, self.root / record.labels[0][1][0]

    @cached_property
    def _values(self) -> dict[str, tuple[int, ...]]:
        return dict(self.release.find_labels(self.root))

    @property
    def exclusive(self) -> bool:
        return have_own_values(self._values, self.structures)

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_opened": None}  # a process that gets a copy opens its own

    def decoding(self) -> dict[str, Any]:
        return super().decoding() | {
            "labels": {structure: self._values[structure] for structure in self.structures},
            "intensity": describe(self.intensity),
            "plane": self.plane,
        }
