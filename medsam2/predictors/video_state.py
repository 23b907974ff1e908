"""What a video predictor knows of a video: its frames, its objects, and what tracking left behind of each.

S is the image size, n the side of the image embedding, C its channels, M the channels of a memory.
"""

from collections import OrderedDict
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import NamedTuple

import torch
from torch import Tensor

from medsam2.modeling.history import FrameMemory, History
from medsam2.modeling.memory_selection import MemoryPlan, MemorySelection, Remembered
from medsam2.modeling.sam import ImageFeatures
from medsam2.predictors.frames import FrameSource

CACHED_FRAMES = 2  # image features kept: of the frame being tracked, and of the one being corrected


class Answer(NamedTuple):
    """One object on one frame.

    low_res_masks: 1 x 1 x 4n x 4n logits, holes filled; None: released.
    obj_ptr: 1 x C. object_score_logits: 1 x 1. prompted: it answers a prompt, and tracking leaves it as it is.
    features: 1 x M x n x n, the memory; None: not encoded yet, or released.
    """

    low_res_masks: Tensor | None
    obj_ptr: Tensor
    object_score_logits: Tensor
    prompted: bool
    features: Tensor | None = None


@dataclass(eq=False)
class TrackedObject:
    """Prompts and answers of one object, by frame.

    points: coordinates 1 x P x 2 and labels 1 x P, in pixels the network sees; masks: 1 x 1 x S x S of bool, stored.
    cond, non_cond: answers on conditioning and other frames; new_cond, new_non_cond: answers to prompts that
    tracking has not taken over yet. tracked: whether frame was tracked in reverse.
    """

    points: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    masks: dict[int, Tensor] = field(default_factory=dict)
    cond: dict[int, Answer] = field(default_factory=dict)
    non_cond: dict[int, Answer] = field(default_factory=dict)
    new_cond: dict[int, Answer] = field(default_factory=dict)
    new_non_cond: dict[int, Answer] = field(default_factory=dict)
    tracked: dict[int, bool] = field(default_factory=dict)

    @property
    def prompted_frames(self) -> list[int]:
        return sorted({*self.points, *self.masks})

    @property
    def new_frames(self) -> set[int]:
        return {*self.new_cond, *self.new_non_cond}

    def answer(self, frame_idx: int) -> Answer | None:
        """The newest answer on a frame."""
        stores = (self.new_cond, self.new_non_cond, self.cond, self.non_cond)
        return next((store[frame_idx] for store in stores if frame_idx in store), None)

    def settled(self, frame_idx: int) -> Answer | None:
        """The answer that tracking passes on instead of making one."""
        answer = self.cond.get(frame_idx) or self.non_cond.get(frame_idx)
        return answer if answer is not None and answer.prompted else None

    def propose(self, frame_idx: int, answer: Answer, correct_as_cond: bool) -> None:
        """Keep the answer to a prompt, in place of one that still waits, until tracking takes it over.

        The first prompt of a frame conditions, and so does any prompt of an object that has nothing else to go by.
        """
        known = {*self.cond, *self.new_cond}
        is_cond = frame_idx not in self.tracked or frame_idx in known or not known or correct_as_cond
        for store in (self.new_cond, self.new_non_cond):
            store.pop(frame_idx, None)
        (self.new_cond if is_cond else self.new_non_cond)[frame_idx] = answer

    def commit(self, frame_idx: int, features: Tensor, clear_radius: int) -> None:
        """Let tracking take over the new answer on a frame, with its memory.

        clear_radius: forget tracked answers this near, which the prompt may have proven wrong; -1: none.
        """
        for t in [t for t, answer in self.non_cond.items() if abs(t - frame_idx) <= clear_radius]:
            if not self.non_cond[t].prompted:
                del self.non_cond[t]
        if frame_idx in self.new_cond:
            self.non_cond.pop(frame_idx, None)
            self.cond[frame_idx] = self.new_cond.pop(frame_idx)._replace(features=features)
        else:
            self.non_cond[frame_idx] = self.new_non_cond.pop(frame_idx)._replace(features=features)

    def clear_prompts(self, frame_idx: int) -> None:
        """Forget the prompts of a frame; a committed answer stays as if it had been tracked."""
        for store in (self.points, self.masks, self.new_cond, self.new_non_cond):
            store.pop(frame_idx, None)
        if frame_idx in self.cond:
            self.non_cond[frame_idx] = self.cond.pop(frame_idx)
            self.tracked.pop(frame_idx, None)
        if frame_idx in self.non_cond:
            self.non_cond[frame_idx] = self.non_cond[frame_idx]._replace(prompted=False)

    def plan(self, selection: MemorySelection, frame_idx: int, num_frames: int, reverse: bool) -> MemoryPlan:
        """What this object remembers on a frame, sorted: the order is all the same to the attention.

        Frames whose memory was released are left out; tracking on in one direction never asks for one.
        """
        plan = selection.plan(frame_idx, self.cond, self.non_cond, num_frames, reverse)
        memories = (frame for frame in plan.memories if self.recall(frame).features is not None)
        return plan._replace(memories=tuple(sorted(memories)), pointers=tuple(sorted(plan.pointers)))

    def recall(self, frame: Remembered) -> Answer:
        return (self.cond if frame.is_cond else self.non_cond)[frame.frame_idx]

    def release(self, upcoming: Collection[tuple[int, int]], memory_reach: int, pointer_reach: int) -> None:
        """Drop what tracked frames hold beyond the reach of all to come; prompted ones keep their masks and pointers.

        Args:
            upcoming: next frames to be tracked, each with its direction: 1 towards the end, -1 towards the start.
        """
        for t, answer in list(self.non_cond.items()):
            distance = min((frame_idx - t) * direction for frame_idx, direction in upcoming)
            if distance > max(memory_reach, pointer_reach) and not answer.prompted:
                del self.non_cond[t]
            elif distance > memory_reach:
                masks = answer.low_res_masks if answer.prompted else None
                self.non_cond[t] = answer._replace(low_res_masks=masks, features=None)


def stack_history(objects: Sequence[TrackedObject], plan: MemoryPlan, device: torch.device) -> History:
    """What the objects remember by their common plan, as one batch on the device."""
    history = History()
    memories = {frame[:2] for frame in plan.memories}
    for frame in (*plan.memories, *plan.pointers):
        store = history.cond if frame.is_cond else history.non_cond
        if frame.frame_idx in store:  # a pointer to a frame that is a memory, too
            continue
        answers = [obj.recall(frame) for obj in objects]
        features = None
        if frame[:2] in memories:  # in float32: autocast refuses to concatenate the other half-precision format
            features = torch.cat([x.features.to(device).float() for x in answers if x.features is not None])
        store[frame.frame_idx] = FrameMemory(features, torch.cat([answer.obj_ptr for answer in answers]))
    return history


@dataclass(eq=False)
class VideoState:
    """A video being segmented.

    frames: the video; stream: whether tracking releases what it cannot need any more; storage_device: of masks
    and memories; objects: by the user's id, in the order of their first prompts; features: of the last frames.
    """

    frames: FrameSource
    stream: bool
    storage_device: torch.device
    objects: dict[Hashable, TrackedObject] = field(default_factory=dict)
    features: OrderedDict[int, ImageFeatures] = field(default_factory=OrderedDict)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.frames.height, self.frames.width

    @property
    def obj_ids(self) -> list[Hashable]:
        return list(self.objects)

    def keep_features(self, frame_idx: int, features: ImageFeatures) -> None:
        """Keep the features of a frame, and drop those that were used longest ago."""
        self.features[frame_idx] = features
        self.features.move_to_end(frame_idx)
        while len(self.features) > CACHED_FRAMES:
            self.features.popitem(last=False)

    def check_frame(self, frame_idx: int, name: str = "frame_idx") -> None:
        """ValueError for a frame the video does not have; name: of the argument."""
        if not isinstance(frame_idx, Integral):
            raise ValueError(f"{name}={frame_idx!r} is no integer: frames are numbered from 0")
        if not 0 <= frame_idx < len(self.frames):
            raise ValueError(
                f"{name}={frame_idx} is outside the video of {len(self.frames)} frames: "
                f"pass 0 ... {len(self.frames) - 1}"
            )

    def choose_frames(self, start: int | None, count: int | None, reverse: bool) -> range:
        """The frames to track, of which `start` is the first; arguments and errors as propagate_in_video."""
        if not self.objects:
            raise ValueError("there is nothing to track: call add_new_points_or_box or add_new_mask first")
        conditioning = {obj_id: {*obj.cond, *obj.new_cond} for obj_id, obj in self.objects.items()}
        missing = [obj_id for obj_id, frames in conditioning.items() if not frames]
        if missing:
            raise ValueError(
                f"objects {missing} have no conditioning frame any more: prompt them on a frame, or call remove_object"
            )
        start = min(min(frames) for frames in conditioning.values()) if start is None else start
        self.check_frame(start, "start_frame_idx")
        if count is not None and (not isinstance(count, Integral) or count < 1):
            raise ValueError(
                f"max_frame_num_to_track={count} must be a number of frames from 1; None tracks to the end"
            )
        available = start + 1 if reverse else len(self.frames) - start
        count = available if count is None else min(count, available)
        return range(start, start - count, -1) if reverse else range(start, start + count)

    def add_object(self, obj_id: Hashable) -> TrackedObject:
        """The object of this id, a new one if there is none; ValueError for what cannot be an id."""
        check_object_id(obj_id)
        return self.objects.setdefault(obj_id, TrackedObject())

    def get_object(self, obj_id: Hashable) -> TrackedObject:
        """An object that was prompted; ValueError for another id."""
        check_object_id(obj_id)
        if obj_id not in self.objects:
            known = ", ".join(map(repr, self.objects)) or "none yet"
            raise ValueError(f"obj_id={obj_id!r} is unknown, objects are: {known}; prompt it first")
        return self.objects[obj_id]


def check_object_id(obj_id: Hashable) -> None:
    """ValueError for what cannot be found again: lists and arrays have no hash, a tensor equals no other."""
    if not isinstance(obj_id, Hashable) or isinstance(obj_id, Tensor):
        raise ValueError(f"obj_id={obj_id!r} is a {type(obj_id).__name__}: pass a number or a string for one object")
