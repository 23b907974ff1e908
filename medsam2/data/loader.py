"""Cases become batches of prompted objects: one image, any number of objects on it, one prompt each.

What a sample holds depends only on (seed, case, structure, epoch), never on workers, batch size or order of
calls.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Sampler
from torch.utils.data import Dataset as TorchDataset

from medsam2.data.batch import Batch, ObjectInfo, Sample, collate
from medsam2.data.prompts import Prompter, prompt_rng
from medsam2.data.records import Case, Dataset, DatasetError, Record
from medsam2.data.seeding import stable_rng
from medsam2.data.transforms import CaseTransform

__all__ = [
    "Batch",
    "EpochSampler",
    "ObjectInfo",
    "PromptedCases",
    "Sample",
    "build_loader",
    "collate",
    "resize_image",
    "resize_label",
    "scale_points",
]


class PromptedCases(TorchDataset[Sample]):
    """The cases of one split as samples: a prompt for every structure that is present.

    In training, prompts and transforms differ from epoch to epoch; otherwise a case has the same prompts in
    every run and transforms are not applied. Ask for ``(epoch, index)``, as EpochSampler does, or for
    ``index`` after ``set_epoch``: a worker process holds a copy of this object, so only the first way reaches
    it.
    """

    def __init__(
        self,
        dataset: Dataset,
        records: Sequence[Record],
        prompt: Prompter,
        image_size: int,
        seed: int,
        transforms: CaseTransform | None = None,
        training: bool = False,
    ) -> None:
        self.dataset = dataset
        self.records = list(records)
        self.prompt = prompt
        self.image_size = image_size
        self.seed = seed
        self.transforms = transforms
        self.training = training
        self.epoch = 0
        self.pictures = False  # native images are large; they travel only where something is drawn

    def set_epoch(self, epoch: int) -> None:
        """The epoch of samples asked for by index alone."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, key: int | tuple[int, int]) -> Sample:
        epoch, index = key if isinstance(key, tuple) else (self.epoch, key)
        case = self.dataset.load(self.records[index])
        self._check_finite(case)
        if self.training and self.transforms is not None:
            case = self.transforms(case, stable_rng("transforms", self.seed, case.record.case_id, epoch))
        return self._sample(case, epoch if self.training else None)

    def _check_finite(self, case: Case) -> None:
        if not np.isfinite(case.image).all():
            file = f" ({case.record.image})" if case.record.image else ""
            raise DatasetError(
                f"dataset={self.dataset.name}, case {case.record.case_id}: its image{file} holds NaN or infinite "
                "values; correct it, or take the case out of the dataset"
            )

    def _sample(self, case: Case, epoch: int | None) -> Sample:
        picture = np.round(case.image * 255).astype(np.uint8) if self.pictures else None
        objects, targets = [], []
        for structure in self.dataset.structures:
            if not case.labels[structure].any():
                continue
            target = resize_label(case.labels[structure], self.image_size)
            if self.training and not target.any():
                continue  # too small for the model's resolution: a click with an empty target teaches nothing
            targets.append(target)
            objects.append(self._object(case, structure, epoch, picture))
        return Sample(
            case_id=case.record.case_id,
            image=resize_image(case.image, self.image_size),
            targets=torch.stack(targets) if targets else torch.zeros(0, self.image_size, self.image_size),
            point_coords=[scale_points(o.prompt.points, case.image.shape[:2], self.image_size) for o in objects],
            point_labels=[torch.from_numpy(o.prompt.labels) for o in objects],
            objects=objects,
        )

    def _object(self, case: Case, structure: str, epoch: int | None, picture: NDArray[np.uint8] | None) -> ObjectInfo:
        record = case.record
        rng = prompt_rng(self.seed, record.case_id, structure, epoch)
        return ObjectInfo(
            case_id=record.case_id,
            patient_id=record.patient_id,
            structure=structure,
            prompt=self.prompt(_agreement(case, structure), rng),
            spacing=case.spacing,
            label=None if self.training else case.labels[structure],
            image=picture,
        )


def _agreement(case: Case, structure: str) -> NDArray[Any]:
    """The fraction of raters per pixel where there are several, else the label itself."""
    raters = case.raters.get(structure)
    if raters is None or len(raters) < 2:
        return case.labels[structure]
    return raters.mean(axis=0, dtype=np.float32)


def resize_image(image: NDArray[np.float32], size: int) -> Tensor:
    """H×W×3 to 3×size×size, bilinear and antialiased, aspect not kept: as SAM 2 does."""
    tensor = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None]
    if tensor.shape[-2:] != (size, size):
        tensor = F.interpolate(tensor, (size, size), mode="bilinear", align_corners=False, antialias=True)
    return tensor[0].clamp_(0.0, 1.0)


def resize_label(label: NDArray[np.bool_], size: int) -> Tensor:
    """H×W to size×size float32 in {0, 1}: nearest by pixel centres, to stay aligned with the image."""
    tensor = torch.from_numpy(np.ascontiguousarray(label)).to(torch.float32)[None, None]
    return F.interpolate(tensor, (size, size), mode="nearest-exact")[0, 0]


def scale_points(points: NDArray[np.float32], shape: tuple[int, ...], size: int) -> Tensor:
    """(x, y) of an H×W image to (x, y) of the size×size image: x·size/W, y·size/H."""
    height, width = shape
    return torch.from_numpy(points * np.array([size / width, size / height], dtype=np.float32))


class EpochSampler(Sampler[tuple[int, int]]):
    """Yields (epoch, index), so that worker processes learn the epoch with every index.

    The order is a permutation that depends on (seed, epoch) alone, or 0…n-1 without ``shuffle``. ``start``
    skips the first samples of the epoch: a run that stopped after k samples goes on with ``set_epoch(epoch,
    start=k)``.
    """

    def __init__(self, length: int, seed: int, shuffle: bool = True) -> None:
        self.length = length
        self.seed = seed
        self.shuffle = shuffle
        self.epoch = 0
        self.start = 0

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Call before iterating. A ``start`` past the end leaves nothing; below 0 it raises ValueError."""
        if start < 0:
            raise ValueError(f"start={start} lies before the epoch")
        # batches done times batch size: the last batch may have been smaller
        self.epoch, self.start = epoch, min(start, self.length)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.arange(self.length)
        if self.shuffle:
            order = stable_rng("order", self.seed, self.epoch).permutation(self.length)
        return iter([(self.epoch, int(index)) for index in order[self.start :]])

    def __len__(self) -> int:
        return self.length - self.start


def build_loader(
    dataset: PromptedCases, batch_size: int, num_workers: int, shuffle: bool, seed: int
) -> DataLoader[Sample]:
    """A DataLoader of ``Batch``es. Call ``loader.sampler.set_epoch(epoch)`` before each pass."""
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=EpochSampler(len(dataset), seed, shuffle),
        num_workers=num_workers,
        collate_fn=collate,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=num_workers > 0,
        worker_init_fn=_start_worker,
        generator=torch.Generator().manual_seed(seed),  # else starting workers would draw from the global generator
    )


def _start_worker(worker_id: int) -> None:
    torch.set_num_threads(1)  # a forked OpenMP pool can deadlock, and workers are the parallelism already
