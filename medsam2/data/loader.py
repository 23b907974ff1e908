"""Cases become batches of prompted objects: one image, any number of objects on it, one prompt each.

What a sample holds depends only on (seed, case, structure, epoch), never on workers, batch size or order of
calls.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from medsam2.data.batch import Batch, ObjectInfo, Sample, collate, mask_to_logits, to_float
from medsam2.data.cache import Cache
from medsam2.data.prepared import Prepared, agreement, consensus
from medsam2.data.prompts import LEARNED, Prompt, Prompter, prompt_rng
from medsam2.data.records import Dataset, DatasetError, Record, compute_consensus
from medsam2.data.samplers import EpochSampler, ShareSampler
from medsam2.data.seeding import stable_rng
from medsam2.data.source import CaseSource, start_worker
from medsam2.data.targets import Majority, Target
from medsam2.data.transforms import SampleTransform
from medsam2.distributed import rank, world_size

__all__ = ["Batch", "EpochSampler", "ObjectInfo", "PromptedCases", "Sample", "build_loader", "collate", "scale_points"]


class PromptedCases(TorchDataset[Sample]):
    """The cases of one split as samples: a prompt for every structure that is present.

    A prompt that needs no object (none, learned) is given for every structure; the target of an absent one is empty.
    In training, prompts and transforms differ from epoch to epoch, and prompts are drawn from the masks as the model
    sees them, after the transforms; otherwise a case has the same prompts in every run and at every image size, drawn
    at its native size, and neither transforms nor ``targets`` are applied. Ask for ``(epoch, index)``, as EpochSampler
    does, or for ``index`` after ``set_epoch``: a worker process holds a copy of this object, so only the first way
    reaches it.
    """

    collate = staticmethod(collate)

    def __init__(
        self,
        dataset: Dataset,
        records: Sequence[Record],
        prompt: Prompter,
        image_size: int,
        seed: int,
        transforms: SampleTransform | None = None,
        training: bool = False,
        cache: Cache | None = None,
        targets: Target | None = None,
    ) -> None:
        self.source = CaseSource(dataset, image_size, cache)
        self.dataset = dataset
        self.records = list(records)
        self.prompt = prompt
        self.image_size = image_size
        self.seed = seed
        self.transforms = transforms
        self.training = training
        self.targets: Target = targets or Majority()
        self.epoch = 0
        self.pictures = False  # native images are large; they travel only where something is drawn

    def set_epoch(self, epoch: int) -> None:
        """The epoch of samples asked for by index alone."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.records)

    def count_samples(self, images: int) -> int:
        """How many samples make a batch of so many images: one image each."""
        return images

    def name_groups(self) -> list[str]:
        """For each sample what it is scored with: its volume, or nothing but itself."""
        return [record.volume or f"\0{record.case_id}" for record in self.records]

    def __getitem__(self, key: int | tuple[int, int]) -> Sample:
        epoch, index = key if isinstance(key, tuple) else (self.epoch, key)
        record = self.records[index]
        prepared = self.source.get(record)
        return self._train(record, prepared, epoch) if self.training else self._evaluate(record, prepared)

    def _train(self, record: Record, prepared: Prepared, epoch: int) -> Sample:
        image, masks = prepared.pixels(self.image_size), self._resized(prepared)
        if self.transforms is not None:
            rng = stable_rng("transforms", self.seed, record.case_id, epoch)
            image, masks = _transform(self.transforms, to_float(image), masks, rng)
        sample = _Sample(record.case_id, image)
        for structure in masks if self.prompt.needs_object else self.dataset.structures:
            count = prepared.raters[structure].shape[0]
            raters = masks[structure] if structure in masks else np.zeros((count, *image.shape[1:]), dtype=np.bool_)
            target, drawn = self._aim(record, raters, stable_rng("target", self.seed, record.case_id, epoch))
            present = bool((target >= 0.5).any())
            if present or not self.prompt.needs_object:  # too small for the model: clicks on nothing teach nothing
                prompt = self.prompt(drawn, prompt_rng(self.seed, record.case_id, structure, epoch))
                sample.add(self._describe(record, prepared, structure, prompt, present), target, target.shape)
        return sample.build(self.image_size)

    def _aim(
        self, record: Record, raters: NDArray[np.bool_], rng: np.random.Generator
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """The target of a structure, and what its prompt is drawn from."""
        try:
            return self.targets(raters, rng)
        except DatasetError as error:
            raise DatasetError(f"case {record.case_id}: {error}", error.kind) from None

    def _evaluate(self, record: Record, prepared: Prepared) -> Sample:
        sample = _Sample(record.case_id, prepared.pixels(self.image_size))
        picture = self._picture(record) if self.pictures else None
        for structure in self.dataset.structures:
            packed = prepared.raters[structure]
            label = consensus(packed)
            present = bool(label.any())
            if not present and self.prompt.needs_object:
                continue
            prompt = self.prompt(agreement(packed), prompt_rng(self.seed, record.case_id, structure))
            info = self._describe(record, prepared, structure, prompt, present)
            info.label, info.image, info.raters = label, picture, packed if packed.shape[0] > 1 else None
            sample.add(info, compute_consensus(packed.resized(self.image_size)), label.shape)
        return sample.build(self.image_size)

    def _describe(
        self, record: Record, prepared: Prepared, structure: str, prompt: Prompt, present: bool
    ) -> ObjectInfo:
        return ObjectInfo(
            case_id=record.case_id,
            patient_id=record.patient_id,
            structure=structure,
            prompt=prompt,
            spacing=prepared.spacing,
            present=present,
            volume=record.volume,
            index=record.index,
            thickness=prepared.thickness,
            exclusive=self.dataset.exclusive and prompt.name == LEARNED,
        )

    def _resized(self, prepared: Prepared) -> dict[str, NDArray[np.bool_]]:
        """R×S×S per structure that is present."""
        resized = {s: prepared.raters[s].resized(self.image_size) for s in self.dataset.structures}
        return {structure: masks for structure, masks in resized.items() if masks.any()}

    def _picture(self, record: Record) -> NDArray[np.uint8]:
        """The native image in 8 bits and three channels."""
        image = np.round(self.dataset.load(record).image * 255).astype(np.uint8)
        return image if image.shape[2] == 3 else np.repeat(image, 3, axis=2)


class _Sample:
    """A sample as it grows, object by object."""

    def __init__(self, case_id: str, image: Tensor) -> None:
        self.case_id = case_id
        self.image = image
        self.objects: list[ObjectInfo] = []
        self.targets: list[NDArray[Any]] = []
        self.points: list[Tensor] = []
        self.masks: list[Tensor | None] = []

    def add(self, info: ObjectInfo, target: NDArray[Any], shape: tuple[int, ...]) -> None:
        """``shape`` is H×W of the grid the prompt was drawn on."""
        size, prompt = self.image.shape[-1], info.prompt
        if info.label is None and prompt.mask is not None:  # in training nobody looks at the mask as it was drawn
            info = replace(info, prompt=replace(prompt, mask=None))
        self.objects.append(info)
        self.targets.append(target)
        self.points.append(scale_points(prompt.points, shape, size))
        self.masks.append(None if prompt.mask is None else mask_to_logits(prompt.mask, size // 4))

    def build(self, size: int) -> Sample:
        targets = np.stack(self.targets) if self.targets else np.zeros((0, size, size), dtype=np.bool_)
        return Sample(
            case_id=self.case_id,
            image=self.image,
            targets=torch.from_numpy(targets),
            point_coords=self.points,
            point_labels=[torch.from_numpy(info.prompt.labels) for info in self.objects],
            objects=self.objects,
            mask_inputs=self.masks,
        )


def _transform(
    transform: SampleTransform, image: Tensor, masks: dict[str, NDArray[np.bool_]], rng: np.random.Generator
) -> tuple[Tensor, dict[str, NDArray[np.bool_]]]:
    """Image and every rater's mask moved together; structures that have left the image are left out."""
    counts = [len(raters) for raters in masks.values()]
    stacked = np.concatenate(list(masks.values())) if masks else np.zeros((0, *image.shape[1:]), dtype=np.bool_)
    image, moved = transform(image, torch.from_numpy(stacked), rng)
    parts = np.split(moved.numpy(), np.cumsum(counts)[:-1]) if masks else []
    return image, {structure: part for structure, part in zip(masks, parts, strict=True) if part.any()}


def scale_points(points: NDArray[np.float32], shape: tuple[int, ...], size: int) -> Tensor:
    """(x, y) of an H×W image to (x, y) of the size×size image: x·size/W, y·size/H."""
    height, width = shape
    return torch.from_numpy(points * np.array([size / width, size / height], dtype=np.float32))


def build_loader(
    dataset: PromptedCases, batch_size: int, num_workers: int, shuffle: bool, seed: int
) -> DataLoader[Sample]:
    """A DataLoader of batches of ``batch_size`` images over all ranks, of which this one loads its part.

    For training, which shuffles, call ``loader.sampler.set_epoch(epoch)`` before each pass.

    Raises:
        ValueError: a batch for training that cannot be shared out to the ranks in equal parts.
    """
    size, world = dataset.count_samples(batch_size), world_size()
    if shuffle and size % world:
        raise ValueError(f"trainer.devices={world} cannot share the {size} samples of batch_size={batch_size} equally")
    sampler: EpochSampler | ShareSampler = EpochSampler(len(dataset), seed, shuffle, size, rank(), world)
    if world > 1 and not shuffle:
        sampler = ShareSampler(dataset.name_groups(), rank(), world)
    return DataLoader(
        dataset,
        batch_size=max(1, size // world),
        sampler=sampler,
        num_workers=num_workers,
        collate_fn=dataset.collate,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=num_workers > 0,
        worker_init_fn=start_worker,
        generator=torch.Generator().manual_seed(seed),  # else starting workers would draw from the global generator
    )
