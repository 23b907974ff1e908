"""A trained method asked again and again: more clicks, other boxes, more slices, with each image encoded once."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medsam2.data.batch import Batch, ObjectInfo
from medsam2.data.budget_prompt import ClickBudget, Point, draw_box
from medsam2.data.clip_batch import Clip, ClipBatch, ClipPrompt
from medsam2.data.clip_policy import ClipPolicy
from medsam2.data.clips import ClipCases
from medsam2.data.loader import PromptedCases, scale_points
from medsam2.data.prompts import Prompt, order_slices
from medsam2.methods.base import Method, Prediction
from medsam2.methods.corrections import add_to_budget, place_clicks
from medsam2.methods.decoding import Prompts, choose, decode
from medsam2.methods.image import ImageMethod
from medsam2.methods.memory_stream import MemoryStream
from medsam2.methods.volume import VolumeMethod
from medsam2.modeling.sam import ImageFeatures

log = logging.getLogger(__name__)

Listener = Callable[[Point, Prediction], None]
Answers = Iterator[tuple[Point, Prediction]]


class Interactive(Method):
    """A method as it answers at every point of a budget; `predict` gives the answer of the first point.

    Args:
        method: image, memory_stream (where cases do not depend on those before) or volume.
        budget: what it is asked with.
        listener: told the answers of all points, batch by batch in the same order; None: only the first is asked.

    Raises:
        ValueError: a method that cannot be asked so, or not along an axis of the budget.
    """

    def __init__(self, method: Method, budget: ClickBudget, listener: Listener | None = None) -> None:
        super().__init__(method.model, method.seed)
        self.method, self.budget, self.listener = method, budget, listener
        self.protocol, self.in_order, self.support_cases = method.protocol, method.in_order, method.support_cases
        self.chunk = getattr(method, "chunk", None)  # of a volume, for who reckons with memory
        self.axes = find_axes(method, budget.axes)

    @property
    def points(self) -> list[Point]:
        """What is asked, in this order."""
        return [point for axis in self.axes for point in self.budget.points(axis)]

    def build_cases(self, **settings: Any) -> PromptedCases:
        """Cases with the prompts that the first axis begins with; volumes with all prompts that will be needed."""
        settings["prompt"] = self.budget.first(self.axes[0])
        if not isinstance(self.method, VolumeMethod):
            return self.method.build_cases(**settings)
        most = _limit(self.budget.points("slices")[-1])
        return ClipCases(replace(self.method.policy, num_prompts=most), **settings)

    def start_evaluation(self, support: Callable[[], Iterable[Batch]]) -> None:
        self.method.start_evaluation(support)

    def predict(self, batch: Any) -> Prediction:
        first = None
        for point, prediction in self._ask(batch, self.points if self.listener else self.points[:1]):
            first = first or prediction
            if self.listener:
                self.listener(point, prediction)
        assert first is not None, "a budget has a point"
        return first

    def _ask(self, batch: Any, points: Sequence[Point]) -> Answers:
        if isinstance(self.method, VolumeMethod):
            return ask_volumes(self.method, batch, points)
        return ask_images(self.method, batch, points)


def find_axes(method: Method, wanted: Sequence[str] | None) -> list[str]:
    """Along which axes a method is asked; all it knows where none are `wanted`.

    Raises ValueError for a method that is no network's, answers in an order, or does not know a wanted axis.
    """
    known = _know_axes(method)
    if wanted is None:
        if "clicks" in known and not method.model.sam_prompt_encoder.num_padding:
            log.warning(
                "prompt=click_budget: this network was trained on boxes alone, so it is asked along jitter; "
                "prompt.axes=[clicks,jitter] clicks all the same"
            )
            known.remove("clicks")
        return known
    for axis in wanted:
        if axis not in known:
            raise ValueError(
                f"prompt.axes={list(wanted)}: {type(method).__name__} is asked along {', '.join(known)}, not along "
                f"{axis}; slices are for method=volume, clicks and jitter for method=image or memory_stream"
            )
    return list(wanted)


def _know_axes(method: Method) -> list[str]:
    if isinstance(method, VolumeMethod):
        if method.policy.legacy_absent_oracle:
            raise ValueError(
                "prompt=click_budget: method.legacy_absent_oracle=true prompts slices by itself; use false"
            )
        return ["slices"]
    if not isinstance(method, ImageMethod | MemoryStream):
        raise ValueError(
            f"prompt=click_budget asks a network again and again, and {type(method).__name__} cannot be asked so; "
            "use another prompt, or method=image, memory_stream or volume"
        )
    if method.in_order:
        raise ValueError(
            "prompt=click_budget: with method.evaluation=stream or method.eval_prompt_share below 1 answers depend on "
            "the cases before; use method.evaluation=support or no_memory and method.eval_prompt_share=1"
        )
    return ["clicks", "jitter"]


# ------------------------------------------------------------------------------------------------- images


def ask_images(method: Any, batch: Batch, points: Sequence[Point]) -> Answers:
    """The answers about a batch's objects, whose own prompt is the first click.

    The decoder is given its last mask with every further click, as SAM 2 does. Boxes are drawn from the labels.
    """
    features = _encode(method, batch)
    prompts = Prompts.of(batch, method.model)
    for point in points:
        if point.axis == "jitter":
            objects = [_with_box(info, point, method.seed) for info in batch.objects]
            masks, ious = _answer(method, features, _take_boxes(objects, batch))
        else:
            if point.level > 1:
                logits = method.supervision.enlarge(masks, batch.targets.shape[-2:])
                prompts = prompts.with_masks(masks).add_clicks(*place_clicks(logits, batch.targets))
            corrections = int(point.level) - 1
            objects = [add_to_budget(info, corrections) if corrections else info for info in batch.objects]
            masks, ious = _answer(method, features, prompts)
        logits = masks
        if method.supervision.legacy_nearest:
            logits = method.supervision.enlarge(masks, batch.targets.shape[-2:])
        yield point, Prediction(logits.float(), ious.float(), objects)


def _encode(method: Any, batch: Batch) -> ImageFeatures:
    """The features of the images, one entry for each object; conditioned on memories by a method that has them."""
    model = method.model
    if not isinstance(method, MemoryStream):
        encoded: ImageFeatures = model.encode_image(batch.images)
        return encoded.select(batch.image_index)
    raw: ImageFeatures = model.forward_image(model.normalize(batch.images)).select(batch.image_index)
    bank = None if method.protocol == "no_memory" else method.evaluated
    embed = method.recall.condition(raw.embed, batch.objects, bank, None, method.recall_own_patient)
    return raw._replace(embed=embed)


def _answer(method: Any, features: ImageFeatures, prompts: Prompts) -> tuple[Tensor, Tensor]:
    """Masks and predicted IoUs; a method that refines its answers does so after every click."""
    candidates = getattr(method, "candidates", False)
    masks, ious = choose(decode(method.model, features, prompts, candidates))
    rounds = 1 if getattr(method, "correct", True) else method.eval_rounds
    for _ in range(1, rounds):
        masks, ious = choose(decode(method.model, features, prompts.with_masks(masks), candidates))
    return masks, ious


def _with_box(info: ObjectInfo, point: Point, seed: int) -> ObjectInfo:
    assert info.label is not None, "an evaluation has labels"
    return replace(info, prompt=draw_box(info.label, point, seed, info.case_id, info.structure))


def _take_boxes(objects: Sequence[ObjectInfo], batch: Batch) -> Prompts:
    """Boxes as the network takes them."""
    size, device = batch.images.shape[-1], batch.images.device
    shapes = [info.label.shape for info in objects if info.label is not None]
    coords = [scale_points(info.prompt.points, shape, size) for info, shape in zip(objects, shapes, strict=True)]
    labels = torch.from_numpy(np.stack([info.prompt.labels for info in objects]))
    return Prompts(torch.stack(coords).to(device), labels.to(device), [2] * len(objects))


# ------------------------------------------------------------------------------------------------ volumes


def ask_volumes(method: VolumeMethod, batch: ClipBatch, points: Sequence[Point]) -> Answers:
    """The answers about whole volumes, of which clips hold the prompts of the largest budget.

    Budgets are followed through a volume as objects of their own, in one batch; where a network shares out the pixels
    of its memories among objects, one after the other.
    """
    together = [[point] for point in points] if method.model.non_overlap_memories else [list(points)]
    for group in together:
        clips = [_multiply(clip, group, method.policy) for clip in batch.clips if clip.prompts]
        prediction = method.predict(ClipBatch(clips))
        owners = [number for clip in clips for number in _number_budgets(clip, len(group))]
        for number, point in enumerate(group):
            rows = [row for row, owner in enumerate(owners) if owner == number]
            logits, ious = prediction.mask_logits[rows], prediction.iou_predictions[rows]
            yield point, Prediction(logits, ious, [prediction.objects[row] for row in rows])


def _number_budgets(clip: Clip, budgets: int) -> list[int]:
    """Which budget each answer about a multiplied clip is of."""
    each = len(clip.prompts) // budgets
    return [number for _ in clip.images for number in range(budgets) for _ in range(each)]


def _multiply(clip: Clip, points: Sequence[Point], policy: ClipPolicy) -> Clip:
    """The clip with its objects once for each point, prompted on as many slices."""
    chosen = [
        _choose(clip.prompts[row], clip.objects[row], _limit(point), policy)
        for point in points
        for row in range(len(clip.prompts))
    ]
    return replace(
        clip,
        present=clip.present.repeat(len(points), 1),
        prompts=[prompts for prompts, _ in chosen],
        objects=[infos for _, infos in chosen],
    )


def _choose(
    prompts: dict[int, ClipPrompt], infos: Sequence[ObjectInfo], limit: int | None, policy: ClipPolicy
) -> tuple[dict[int, ClipPrompt], list[ObjectInfo]]:
    """The first prompts of an object in the policy's order, and what is then known of it on each slice."""
    areas = [0 if info.label is None else int(info.label.sum()) for info in infos]
    kept = sorted(order_slices(areas, policy.prompted, policy.step)[:limit])
    bare = _empty(infos[kept[0]].prompt)
    shown = [info if t in kept else replace(info, prompt=bare, prompted=False) for t, info in enumerate(infos)]
    return {t: prompts[t] for t in kept}, shown


def _empty(prompt: Prompt) -> Prompt:
    return replace(prompt, points=prompt.points[:0], labels=prompt.labels[:0], mask=None)


def _limit(point: Point) -> int | None:
    return None if math.isinf(point.level) else int(point.level)
