"""Volumes become clips: slices as the frames of a video, with objects that are prompted on some of them.

In training a clip is a few slices, in an evaluation the whole volume. What it holds depends only on (seed, volume,
epoch, the clip's number in it), never on workers, batch size or order of calls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medsam2.data.batch import ObjectInfo, to_float
from medsam2.data.clip_batch import Clip, ClipPrompt, collate_clips
from medsam2.data.clip_policy import ClipPolicy, group_volumes
from medsam2.data.loader import PromptedCases, scale_points
from medsam2.data.prepared import Prepared, agreement, consensus, resize
from medsam2.data.prompts import Prompt, Prompter, prompt_rng
from medsam2.data.records import Record
from medsam2.data.seeding import stable_rng

TRIES = 20  # clips drawn until one shows an object


class _Frame(NamedTuple):
    """A slice in training. By structure that is on it: its target S×S, and what prompts are drawn from."""

    record: Record
    prepared: Prepared
    image: Tensor
    targets: dict[str, NDArray[Any]]
    drawn: dict[str, NDArray[Any]]


class _Followed(NamedTuple):
    """An object of a clip."""

    infos: list[ObjectInfo]
    prompts: dict[int, ClipPrompt]
    present: list[bool]
    targets: NDArray[Any] | None


class ClipCases(PromptedCases):
    """The volumes of one split as clips, each asked for all structures that are in it.

    An object may be absent from slices of its clip; its target is empty there. An evaluation draws the same prompts in
    every run, on the native grid; in training clips and prompts differ from epoch to epoch.

    Args:
        policy: which slices make a clip, which objects are followed, and where they are prompted.
        settings: as PromptedCases.

    Raises:
        ValueError: a prompt that is none, or nothing to train on or to evaluate.
    """

    collate = staticmethod(collate_clips)  # type: ignore[assignment]

    def __init__(self, policy: ClipPolicy, **settings: Any) -> None:
        super().__init__(**settings)
        check_prompter(self.prompt)
        self.policy = policy
        volumes = group_volumes(self.records)
        self.volumes = volumes if self.training else [v for v in map(policy.choose_evaluated, volumes) if v]
        self._check_volumes()
        counts = [policy.count_clips(len(slices)) if self.training else 1 for slices in self.volumes]
        self.samples = [(volume, number) for volume, count in enumerate(counts) for number in range(count)]

    def _check_volumes(self) -> None:
        if self.training and all(len(slices) == 1 for slices in self.volumes):
            raise ValueError(
                f"dataset={self.dataset.name} has no neighbouring slices to train on, and method=volume follows "
                "objects from slice to slice; choose a dataset of volumes, or method=image"
            )
        if not self.volumes:
            raise ValueError("method.legacy_quarter=true leaves nothing: a quarter of each volume is less than a slice")

    def __len__(self) -> int:
        return len(self.samples)

    def count_samples(self, images: int) -> int:
        """Clips of a batch of so many slices, at least one; an evaluation takes volume by volume."""
        return max(1, images // self.policy.frames) if self.training else 1

    def name_groups(self) -> list[str]:
        """Each sample is scored alone."""
        return [str(index) for index in range(len(self))]

    def __getitem__(self, key: int | tuple[int, int]) -> Any:
        """A Clip; ``key`` as PromptedCases."""
        epoch, index = key if isinstance(key, tuple) else (self.epoch, key)
        volume, number = self.samples[index]
        slices = self.volumes[volume]
        return self._draw(slices, number, epoch) if self.training else self._take_whole(slices)

    # -------------------------------------------------------------------------------------------- training

    def _draw(self, slices: Sequence[Record], number: int, epoch: int) -> Clip:
        """A clip that shows an object, unless none is found in ``TRIES`` clips."""
        key = (self.seed, slices[0].volume or slices[0].case_id, epoch, number)
        rng, frames, shown = stable_rng("clip", *key), list[_Frame](), list[str]()
        for _ in range(TRIES):
            frames = [self._load(slices[t], key) for t in self.policy.draw_frames(len(slices), rng)]
            shown = [s for s in self.dataset.structures if any(s in frame.targets for frame in frames)]
            if shown:
                break
        objects = [self._train_object(s, frames, epoch) for s in self.policy.draw_objects(shown, rng)]
        return self._build([frame.record for frame in frames], [frame.image for frame in frames], objects)

    def _load(self, record: Record, key: tuple[object, ...]) -> _Frame:
        """A slice, transformed as all of its clip: each is given the same random numbers."""
        prepared = self.source.get(record)
        image = prepared.pixels(self.image_size)
        masks = {s: prepared.raters[s].resized(self.image_size) for s in self.dataset.structures}
        if self.transforms is not None:
            counts = np.cumsum([len(raters) for raters in masks.values()])[:-1]
            stacked = torch.from_numpy(np.concatenate(list(masks.values())))
            image, moved = self.transforms(to_float(image), stacked, stable_rng("transforms", *key))
            masks = dict(zip(masks, np.split(moved.numpy(), counts), strict=True))
        targets, drawn = {}, {}
        for structure, raters in masks.items():
            target, source = self._aim(record, raters, stable_rng("target", *key))
            if (target >= 0.5).any():
                targets[structure], drawn[structure] = target, source
        return _Frame(record, prepared, image, targets, drawn)

    def _train_object(self, structure: str, frames: Sequence[_Frame], epoch: int) -> _Followed | None:
        empty = np.zeros((self.image_size, self.image_size), dtype=np.bool_)
        targets = np.stack([frame.targets.get(structure, empty) for frame in frames])
        areas = (targets >= 0.5).sum((1, 2)).tolist()

        def ask(t: int) -> Prompt:
            rng = prompt_rng(self.seed, frames[t].record.case_id, structure, epoch)
            return self.prompt(frames[t].drawn[structure], rng)

        prompts, given = self._ask(areas, ask, empty.shape)
        if not prompts:
            return None
        first = min(prompts)
        shown = replace(prompts[first], mask=None)  # in training nobody looks at the mask as it was drawn
        info = self._describe(frames[first].record, frames[first].prepared, structure, shown, present=True)
        return _Followed([info], given, [area > 0 for area in areas], targets)

    # ------------------------------------------------------------------------------------------ evaluation

    def _take_whole(self, slices: Sequence[Record]) -> Clip:
        prepared = [self.source.get(record) for record in slices]
        pictures = [self._picture(record) if self.pictures else None for record in slices]
        objects = [self._evaluate_object(s, slices, prepared, pictures) for s in self.dataset.structures]
        return self._build(slices, [one.pixels(self.image_size) for one in prepared], objects)

    def _evaluate_object(
        self,
        structure: str,
        slices: Sequence[Record],
        prepared: Sequence[Prepared],
        pictures: Sequence[NDArray[np.uint8] | None],
    ) -> _Followed | None:
        packed = [one.raters[structure] for one in prepared]
        labels = [consensus(masks) for masks in packed]
        areas = [int(label.sum()) for label in labels]

        def ask(t: int) -> Prompt:
            return self.prompt(agreement(packed[t]), prompt_rng(self.seed, slices[t].case_id, structure))

        prompts, given = self._ask(areas, ask, prepared[0].shape)
        if not prompts:
            return None
        bare, empty = _without_points(prompts[min(prompts)]), np.zeros_like(labels[0])
        infos = []
        for t, record in enumerate(slices):
            info = self._describe(record, prepared[t], structure, prompts.get(t, bare), present=areas[t] > 0)
            info.label = labels[t] if areas[t] else empty  # one for all: most slices lack most organs
            info.raters = packed[t] if packed[t].shape[0] > 1 else None
            info.image, info.prompted = pictures[t], t in given
            infos.append(info)
        return _Followed(infos, given, [area > 0 for area in areas], None)

    # -------------------------------------------------------------------------------------------- together

    def _ask(
        self, areas: Sequence[int], ask: Callable[[int], Prompt], shape: tuple[int, ...]
    ) -> tuple[dict[int, Prompt], dict[int, ClipPrompt]]:
        """The prompts of an object by slice, and what the network is given: of an oracle also empty masks."""
        if not any(areas):
            return {}, {}
        chosen = self.policy.choose_prompted(areas)
        prompts = {t: ask(t) for t in chosen if areas[t]}
        absent = ClipPrompt(torch.zeros(0, 2), torch.zeros(0), torch.zeros(1, self.image_size, self.image_size).bool())
        given = {t: _bring(prompts[t], shape, self.image_size) if t in prompts else absent for t in chosen}
        return prompts, given

    def _build(self, slices: Sequence[Record], images: list[Tensor], objects: Sequence[_Followed | None]) -> Clip:
        followed = [one for one in objects if one is not None]
        targets = [torch.from_numpy(one.targets) for one in followed if one.targets is not None]
        first, last = slices[0].case_id, slices[-1].case_id
        return Clip(
            case_id=first if first == last else f"{first} to {last}",
            images=torch.stack(images),
            targets=torch.stack(targets) if targets else None,
            present=torch.tensor([one.present for one in followed], dtype=torch.bool).reshape(-1, len(slices)),
            prompts=[one.prompts for one in followed],
            objects=[one.infos for one in followed],
        )


def check_prompter(prompt: Prompter) -> None:
    """ValueError for a prompt that gives nothing to follow an object from, or may do so."""
    for kind in getattr(prompt, "prompts", {prompt.name: prompt}).values():
        if not kind.needs_object:
            raise ValueError(
                f"prompt={kind.name} shows no object to follow: method=volume needs prompts on slices, such as "
                "prompt=box, click or mask; use method=image without prompts"
            )


def _without_points(prompt: Prompt) -> Prompt:
    """What an unprompted slice of the same object shows: a prompt of that kind with nothing in it."""
    return replace(prompt, points=prompt.points[:0], labels=prompt.labels[:0], mask=None)


def _bring(prompt: Prompt, shape: tuple[int, ...], size: int) -> ClipPrompt:
    """A prompt drawn on an H×W grid to the network's size×size; a mask as SAM 2 does on videos."""
    mask = None
    if prompt.mask is not None:
        mask = resize(torch.from_numpy(np.ascontiguousarray(prompt.mask)).float()[None], size, size) >= 0.5
    return ClipPrompt(scale_points(prompt.points, shape, size), torch.from_numpy(prompt.labels), mask)
