"""Chest CT: axial slices of one real patient with seven labelled structures, from the package slicerio (MIT).

It demonstrates, it does not prove: one patient, so train, val and test share an anatomy. They are contiguous blocks of
slices with a gap between them, because neighbouring slices look alike; val and test lie between blocks of train, so
what is measured is interpolation inside one chest.

Source: sample data of 3D Slicer (CTChest) as shipped by https://pypi.org/project/slicerio.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medsam2.data.files import FileFacts
from medsam2.data.records import Case, DatasetError, Record, check_structures, compute_fingerprint
from medsam2.data.splits import check_disjoint, contiguous_blocks

IMAGE_FILE, LABEL_FILE = "CTChest4.nrrd", "Segmentation.seg.nrrd"
PATIENT = "ctchest4"
SEGMENT_NAMES = {  # ours -> the name in the segmentation's header, which holds the label value
    "ribs": "ribs",
    "cervical_spine": "cervical vertebral column",
    "thoracic_spine": "thoracic vertebral column",
    "lumbar_spine": "lumbar vertebral column",
    "right_lung": "right lung",
    "left_lung": "left lung",
    "tissue": "tissue",
}
DEFAULT_BLOCKS = ({"train": 0.25}, {"test": 0.25}, {"train": 0.15}, {"val": 0.2}, {"train": 0.15})
REMEDY = 'install slicerio (0.8 MB) with the extra `demo`: pip install "medsam2[demo]"'


class ChestCT:
    """34 axial slices of 128×128 pixels, 3.05 mm in the plane and 10 mm apart; slice 0 is nearest the feet.

    Shown as radiologists do: anterior up, the patient's right on the left of the image. Only slices with at
    least one of ``structures`` become cases. ``window`` (level and width in HU) maps to grey [0, 1].
    """

    allow_shared_patient = True
    exclusive = True

    def __init__(
        self,
        structures: str | Sequence[str] = ("right_lung", "left_lung"),
        window: Mapping[str, float] | None = None,
        split_blocks: Sequence[Mapping[str, float]] = DEFAULT_BLOCKS,
        gap: int = 1,
        name: str = "chest_ct",
    ) -> None:
        self.name = name
        self.structures = check_structures(structures, tuple(SEGMENT_NAMES), name)
        self.window = check_window(window or {"level": -600.0, "width": 1500.0})
        self.split_blocks = [item for block in split_blocks for item in block.items()]
        self.gap = gap

    def records(self) -> list[Record]:
        """A record per slice that shows a chosen structure. Raises DatasetError without slicerio."""
        present = np.zeros(len(self._labels), dtype=bool)
        for structure in self.structures:
            present |= (self._labels == self._values[structure]).any(axis=(1, 2))
        slices = np.flatnonzero(present).tolist()
        blocks = contiguous_blocks(slices, self.split_blocks, self.gap)
        records = [self._record(index, split) for split, block in blocks.items() for index in block]
        records.sort(key=lambda record: record.case_id)
        check_disjoint(records, self.allow_shared_patient)
        return records

    def _record(self, index: int, split: str) -> Record:
        labels = tuple((structure, (LABEL_FILE,)) for structure in self.structures)
        return Record(f"{PATIENT}_z{index:02d}", PATIENT, split, IMAGE_FILE, labels, index)

    def load(self, record: Record) -> Case:
        """The slice in the window, grey, with one rater per structure and the spacing of the header."""
        level, width = self.window
        grey = np.clip((self._volume[record.index] - (level - width / 2)) / width, 0.0, 1.0).astype(np.float32)
        labels = {s: self._labels[record.index] == self._values[s] for s in self.structures}
        raters = {structure: label[None] for structure, label in labels.items()}
        between, row, column = self._spacing
        return Case(record, grey[..., None], labels, raters, (row, column), between)

    def fingerprint(self) -> str:
        """Changes with the files' contents, the chosen structures and the split."""
        return compute_fingerprint(self.records(), self.root, FileFacts())

    @property
    def root(self) -> Path:
        """slicerio's sample data."""
        return find_data_folder()

    def decoding(self) -> dict[str, Any]:
        """The structures and the window."""
        return {"structures": self.structures, "window": self.window}

    # Read once per process and kept: 2.2 MB as int32, 0.6 MB as uint8.

    @cached_property
    def _image(self) -> tuple[NDArray[Any], tuple[float, float, float]]:
        volume, header = _read_nrrd(IMAGE_FILE)
        x, y, z = np.abs(np.diag(np.asarray(header["space directions"], dtype=float))).tolist()
        return _to_radiological(volume, header), (z, y, x)

    @property
    def _volume(self) -> NDArray[Any]:
        return self._image[0]

    @property
    def _spacing(self) -> tuple[float, float, float]:
        return self._image[1]

    @cached_property
    def _segmentation(self) -> tuple[NDArray[Any], dict[str, int]]:
        labels, header = _read_nrrd(LABEL_FILE)
        return _to_radiological(labels, header), _label_values(header)

    @property
    def _labels(self) -> NDArray[Any]:
        return self._segmentation[0]

    @property
    def _values(self) -> dict[str, int]:
        return self._segmentation[1]


def check_window(window: Mapping[str, float]) -> tuple[float, float]:
    """(level, width) in HU. Raises DatasetError unless just these two are given and the width is positive."""
    if set(window) != {"level", "width"} or not window["width"] > 0:
        raise DatasetError(
            f"dataset.window={dict(window)} must be {{level: HU, width: HU above 0}}, "
            "for lungs {level: -600, width: 1500}"
        )
    return float(window["level"]), float(window["width"])


def find_data_folder() -> Path:
    """slicerio's sample data, found without importing the package. Raises DatasetError if it is not there."""
    spec = importlib.util.find_spec("slicerio")
    for location in (spec.submodule_search_locations or []) if spec else []:
        folder = Path(location) / "data"
        if (folder / IMAGE_FILE).is_file() and (folder / LABEL_FILE).is_file():
            return folder
    found = "is not installed" if spec is None else f"is installed without data/{IMAGE_FILE} and data/{LABEL_FILE}"
    raise DatasetError(f"dataset=chest_ct reads the sample data of the package slicerio, which {found}: {REMEDY}")


def _read_nrrd(name: str) -> tuple[NDArray[Any], dict[str, Any]]:
    folder = find_data_folder()
    try:
        import nrrd
    except ImportError as error:
        raise DatasetError(
            f"dataset=chest_ct reads NRRD files with pynrrd, which is not installed: {REMEDY}"
        ) from error
    try:
        return nrrd.read(str(folder / name))
    except Exception as error:  # pynrrd raises many kinds for a damaged file
        raise DatasetError(f"{folder / name} cannot be read ({error}): reinstall slicerio") from error


def _to_radiological(volume: NDArray[Any], header: Mapping[str, Any]) -> NDArray[Any]:
    """NRRD's (x, y, z) array as (slice from the feet, row from anterior, column from the patient's right).

    In left-posterior-superior space each axis then runs along its positive direction, so axes that run
    against it flip.
    """
    directions = np.asarray(header["space directions"], dtype=float)
    diagonal = np.diag(directions)
    if header["space"] != "left-posterior-superior" or not np.array_equal(directions, np.diag(diagonal)):
        raise DatasetError(f"expected an axis-aligned volume in left-posterior-superior space, got {header['space']}")
    flips = tuple(slice(None, None, -1 if direction < 0 else 1) for direction in diagonal)
    return np.ascontiguousarray(volume[flips].transpose(2, 1, 0))


def _label_values(header: Mapping[str, Any]) -> dict[str, int]:
    """structure -> label value, from Segment{i}_Name and Segment{i}_LabelValue."""
    count = sum(key.startswith("Segment") and key.endswith("_LabelValue") for key in header)
    by_name = {header[f"Segment{i}_Name"]: int(header[f"Segment{i}_LabelValue"]) for i in range(count)}
    missing = [name for name in SEGMENT_NAMES.values() if name not in by_name]
    if missing:
        raise DatasetError(f"{LABEL_FILE} has no segment {', '.join(missing)}; it has {', '.join(by_name)}: {REMEDY}")
    return {structure: by_name[name] for structure, name in SEGMENT_NAMES.items()}
