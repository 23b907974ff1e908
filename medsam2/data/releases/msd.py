"""The ten tasks of the Medical Segmentation Decathlon, each described by its ``dataset.json``.

Source: http://medicaldecathlon.com; Antonelli et al., Nature Communications 13 (2022) 4128.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from medsam2.data.records import Record
from medsam2.data.releases.base import Listing, Problem, Volume, missing
from medsam2.data.releases.volume_pairs import (
    VolumePairs,
    check_channels,
    choose_channels,
    find_modality,
    make_record,
    parse_labels,
    read_dataset_json,
)
from medsam2.data.volumes import NIFTI, read_volume


class MSD(VolumePairs):
    """One task; its test scans have no labels.

    Args:
        task: the folder's name, Task01_BrainTumour to Task10_Colon.
        channels: of the tasks with several images a case, 01 and 05: one ([0]) or three ([0, 1, 2]) of them.
    """

    def __init__(self, task: str = "Task09_Spleen", channels: Sequence[int] | None = None) -> None:
        self.task = task
        self.channels = check_channels(channels)

    @property
    def tree(self) -> str:
        return """dataset.json
imagesTr/….nii.gz   labelsTr/….nii.gz        as dataset.json lists them
imagesTs/…                                   not used: no labels"""

    @property
    def remedy(self) -> str:
        return f"Download {self.task}.tar from http://medicaldecathlon.com and unpack it."

    def find_labels(self, root: Path) -> dict[str, tuple[int, ...]]:
        """The labels of dataset.json; background is left out."""
        return parse_labels(read_dataset_json(self, root)["labels"], root / "dataset.json")

    def list_cases(self, root: Path, structures: Sequence[str]) -> Listing:
        """Every training case of dataset.json, without a split."""
        described = read_dataset_json(self, root)
        names = {str(k): str(v) for k, v in described.get("modality", {"0": "CT"}).items()}
        chosen = choose_channels(self.channels, names, root / "dataset.json")
        modality, listing = find_modality(names[str(chosen[0])]), Listing([])
        for image, label in self._list_training(described, root):
            if Path(image).name.startswith("."):
                continue  # a few lists name the hidden files that a Mac adds
            problems = [
                Problem(kind, f"{name}: dataset.json lists it, and it is not there")
                for kind, name in (("missing image", image), ("missing mask", label))
                if not (root / name).is_file()
            ]
            listing.problems += problems
            if not problems:
                listing.records.append(make_record(_stem(image), label, image, structures, "", modality))
        return listing

    def _list_training(self, described: dict[str, Any], root: Path) -> Iterator[tuple[str, str]]:
        try:
            for entry in described["training"]:
                yield entry["image"].removeprefix("./"), entry["label"].removeprefix("./")
        except (KeyError, TypeError, AttributeError) as error:
            what = f"dataset.json lists no training cases ({error!r}; nnU-Net's format is read with dataset=nnunet)"
            raise missing(self, root, what) from error

    def read_image(self, root: Path, record: Record) -> Volume:
        """The intensities, raw; with three channels X×Y×Z×3."""
        return read_volume(root / record.image, self.channels)


def _stem(name: str) -> str:
    ending = next((e for e in sorted(NIFTI, key=len, reverse=True) if name.endswith(e)), "")
    return Path(name).name.removesuffix(ending)
