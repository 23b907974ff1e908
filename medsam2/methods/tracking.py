"""Objects followed through the slices of volumes by SAM 2's memory (2408.00714, section 4), in training as well.

Prompted slices are answered first, each alone, and remembered by all others; then an object is tracked from its first
prompted slice to the last slice, and back to slice 0. Objects whose memories lie alike run as one batch, whichever
slices and volumes they are on, and an object's answer does not depend on the others. In training gradients flow through
the memories, all the way back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch

from medsam2.data.clip_batch import Clip, ClipPrompt
from medsam2.methods.slice_features import SliceFeatures
from medsam2.modeling.history import FrameMemory, FrameOutput, History
from medsam2.modeling.memory_selection import MemoryPlan, Remembered

if TYPE_CHECKING:
    from medsam2.modeling.sam2 import SAM2

DIRECTIONS = ("forward", "backward", "both")


@dataclass(eq=False)
class Track:
    """An object of a clip, and what it remembers. `first`: the number of the clip's first slice among all slices."""

    clip: Clip
    row: int
    first: int
    history: History = field(default_factory=History)

    @property
    def prompts(self) -> dict[int, ClipPrompt]:
        return self.clip.prompts[self.row]

    def find_due(self, direction: str, reverse: bool) -> list[int]:
        """The slices to be tracked one way, in their order."""
        if reverse:
            start = max(self.prompts) if direction == "backward" else min(self.prompts)
            return [t for t in range(start - 1, -1, -1) if t not in self.prompts]
        return [t for t in range(min(self.prompts) + 1, len(self.clip.images)) if t not in self.prompts]


class Place(NamedTuple):
    """An object on a slice of its clip."""

    track: Track
    frame_idx: int

    @property
    def number(self) -> int:
        """Of the slice, among all slices."""
        return self.track.first + self.frame_idx

    @property
    def prompt(self) -> ClipPrompt:
        return self.track.prompts[self.frame_idx]


class Step(NamedTuple):
    """The answers for some objects on some slices.

    prompted: they answer prompts there; given: prompts that are masks, which are their own answers.
    """

    places: list[Place]
    output: FrameOutput
    prompted: bool = False
    given: bool = False


class ObjectTracker:
    """Follows the objects of clips.

    Args:
        direction: forward: from the first prompted slice to the last slice; backward: from the last prompted one to
            slice 0; both: forward, then from the first prompted one to slice 0. What is out of reach has no answer.
        candidates: ask for candidates where SAM 2 does, and go on with the one of highest predicted IoU.
        chunk: slices per pass of the encoder.
        keep: keep the features of all slices: objects then run as one batch wherever they are, else slice by slice.
    """

    def __init__(
        self, model: SAM2, clips: Sequence[Clip], direction: str, candidates: bool, chunk: int, keep: bool
    ) -> None:
        self.model = model
        self.direction = direction
        self.candidates = candidates
        # objects that share out the pixels of their memories are on the same slice
        self.keep = keep and (model.training or not model.non_overlap_memories)
        self.features = SliceFeatures(model, [clip.images for clip in clips], chunk, self.keep)
        self.tracks, first = list[Track](), 0
        for clip in clips:
            self.tracks += [Track(clip, row, first) for row in range(len(clip.prompts))]
            first += len(clip.images)

    def run(self) -> Iterator[Step]:
        """The answers, each object on each slice within reach once."""
        yield from self._run([sorted(track.prompts) for track in self.tracks], self._answer_prompts)
        for reverse in (False, True):
            if self.direction != ("forward" if reverse else "backward"):
                due = [track.find_due(self.direction, reverse) for track in self.tracks]
                yield from self._run(due, partial(self._track, reverse=reverse), reverse)

    def _run(
        self, due: Sequence[Sequence[int]], answer: Callable[[list[Place]], list[Step]], reverse: bool = False
    ) -> Iterator[Step]:
        """Answers each object on the slices that are due, in their order; then remembers the answers."""
        rounds: dict[int, list[Place]] = {}
        for track, frames in zip(self.tracks, due, strict=True):
            for count, frame_idx in enumerate(frames):
                place = Place(track, frame_idx)
                rounds.setdefault(count if self.keep else place.number, []).append(place)
        ordered = [rounds[key] for key in sorted(rounds, reverse=reverse and not self.keep)]
        self.features.expect([place.number for places in ordered for place in places])
        for places in ordered:
            steps = answer(places)
            self._remember(steps)
            yield from steps
            self._forget(places, reverse)

    def _answer_prompts(self, places: Sequence[Place]) -> list[Step]:
        groups: dict[tuple[bool, int], list[Place]] = {}  # padding points would be seen, so there are none
        for place in places:
            groups.setdefault((place.prompt.mask is not None, len(place.prompt.labels)), []).append(place)
        return [Step(members, self._ask(members), prompted=True, given=given) for (given, _), members in groups.items()]

    def _ask(self, places: Sequence[Place]) -> FrameOutput:
        """What prompted objects are, all prompted alike."""
        features = self.features.take([place.number for place in places])
        device = features.embed.device
        masks = [place.prompt.mask for place in places if place.prompt.mask is not None]
        if masks:
            return self.model.use_mask_as_output(features, torch.stack(masks).to(device, non_blocking=True))
        coords = torch.stack([place.prompt.coords for place in places]).to(device, non_blocking=True)
        labels = torch.stack([place.prompt.labels for place in places]).to(device, non_blocking=True)
        ambiguous = self.candidates and self.model.use_multimask(labels.shape[1])
        return self.model.predict_masks(self.model.without_memory(features), (coords, labels), None, ambiguous)

    def _track(self, places: Sequence[Place], reverse: bool) -> list[Step]:
        groups: dict[MemoryPlan, list[tuple[Place, MemoryPlan]]] = {}
        for place in places:
            length = len(place.track.clip.images)
            plan = self.model.plan_memory(place.frame_idx, place.track.history, length, reverse)
            groups.setdefault(_number_memories(plan), []).append((place, plan))
        ambiguous = self.candidates and self.model.use_multimask(0, is_init_cond_frame=False)
        steps = []
        for layout, members in groups.items():
            alike = [place for place, _ in members]
            features = self.features.take([place.number for place in alike])
            conditioned = self.model.condition(features, layout, _stack(members, layout))
            conditioned = conditioned._replace(embed=conditioned.embed.expand(len(alike), -1, -1, -1))
            steps.append(Step(alike, self.model.predict_masks(conditioned, None, None, ambiguous)))
        return steps

    def _remember(self, steps: Sequence[Step]) -> None:
        """Adds the memories of a round to the objects' histories."""
        places = [place for step in steps for place in step.places]
        features = self.features.take([place.number for place in places])
        logits = torch.cat([step.output.high_res_masks for step in steps])
        scores = torch.cat([step.output.object_score_logits for step in steps])
        memories = self.model.encode_memory(features, logits, scores, steps[0].prompted).split(1)
        pointers = torch.cat([step.output.obj_ptr for step in steps]).split(1)
        for place, memory, pointer in zip(places, memories, pointers, strict=True):
            history = place.track.history
            store = history.cond if steps[0].prompted else history.non_cond
            store[place.frame_idx] = FrameMemory(memory, pointer)

    def _forget(self, places: Sequence[Place], reverse: bool) -> None:
        """Drops memories that are out of reach now, but for those that the way back begins with; pointers stay."""
        reach = self.model.memory_selection.memory_reach
        for track, frame_idx in places:
            tracked, old = track.history.non_cond, frame_idx + (reach + 1 if reverse else -reach - 1)
            if old in tracked and (reverse or self.direction == "forward" or old > min(track.prompts) + reach):
                tracked[old] = tracked[old]._replace(features=None)


def _number_memories(plan: MemoryPlan) -> MemoryPlan:
    """A plan whose frames are numbers of its memories, pointers below 0: equal for all whose memories lie alike."""
    memories = tuple(Remembered(i, True, frame.offset) for i, frame in enumerate(plan.memories))
    pointers = tuple(Remembered(-1 - i, True, frame.offset) for i, frame in enumerate(plan.pointers))
    return plan._replace(memories=memories, pointers=pointers)


def _stack(members: Sequence[tuple[Place, MemoryPlan]], layout: MemoryPlan) -> History:
    """What objects of one layout remember, as one batch, by the numbers of the layout."""
    stacked = History()
    for i, frame in enumerate(layout.memories):
        recalled = [place.track.history.recall(plan.memories[i]) for place, plan in members]
        features = torch.cat([memory.features for memory in recalled if memory.features is not None])
        stacked.cond[frame.frame_idx] = FrameMemory(features, recalled[0].obj_ptr)
    for i, frame in enumerate(layout.pointers):
        pointers = [place.track.history.recall(plan.pointers[i]).obj_ptr for place, plan in members]
        stacked.cond[frame.frame_idx] = FrameMemory(None, torch.cat(pointers))
    return stacked
