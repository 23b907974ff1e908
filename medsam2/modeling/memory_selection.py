"""Which earlier frames a frame remembers (SAM 2 2408.00714, section 4, "memory bank").

A plan is made from frame numbers alone: objects whose plans are equal can be tracked as one batch.
"""

from collections.abc import Collection, Mapping
from typing import NamedTuple, TypeVar

Output = TypeVar("Output")


def select_closest_cond_frames(
    frame_idx: int, cond_frame_outputs: Mapping[int, Output], max_cond_frame_num: int
) -> tuple[dict[int, Output], dict[int, Output]]:
    """Split conditioning frames into those attended to and the others.

    Args:
        frame_idx: the current frame; cond_frame_outputs: anything by frame number.
        max_cond_frame_num: how many to select, at least 2; -1 selects all.

    Returns:
        selected, unselected. A limited selection holds the closest frame before, the closest at or after
        `frame_idx`, then the closest of the rest, in this order.

    Raises:
        ValueError: a limit of 0 or 1, which cannot hold one frame on each side.
    """
    if max_cond_frame_num in (0, 1) or max_cond_frame_num < -1:
        raise ValueError(f"max_cond_frames_in_attn={max_cond_frame_num}: use -1 for all frames, or at least 2")
    if max_cond_frame_num == -1 or len(cond_frame_outputs) <= max_cond_frame_num:
        return dict(cond_frame_outputs), {}
    before = sorted(t for t in cond_frame_outputs if t < frame_idx)
    after = sorted(t for t in cond_frame_outputs if t >= frame_idx)
    nearest = before[-1:] + after[:1]
    rest = sorted((t for t in cond_frame_outputs if t not in nearest), key=lambda t: abs(t - frame_idx))
    chosen = [*nearest, *rest][:max_cond_frame_num]
    unselected = {t: output for t, output in cond_frame_outputs.items() if t not in chosen}
    return {t: cond_frame_outputs[t] for t in chosen}, unselected


class Remembered(NamedTuple):
    """A remembered frame. `offset`: of a memory its temporal index, of a pointer its (signed) distance in frames."""

    frame_idx: int
    is_cond: bool
    offset: int


class MemoryPlan(NamedTuple):
    """The memories and pointers of one frame, in the order of their tokens.

    pointer_span scales pointer distances to about 1: a video of one frame has span 1, not 0.
    """

    memories: tuple[Remembered, ...]
    pointers: tuple[Remembered, ...]
    pointer_span: int


class MemorySelection:
    """Choose the frames to remember; arguments carry the names of SAM 2's configuration.

    Args:
        num_maskmem: memories per frame, conditioning frames apart: num_maskmem - 1 recent ones. 0: no memory.
        max_cond_frames_in_attn: at most so many conditioning frames; -1 all.
        max_obj_ptrs_in_encoder: pointers reach back so many frames; 0: no pointers.
        memory_temporal_stride_for_eval: in evaluation only every so many-th frame is a recent memory.
        only_obj_ptrs_in_the_past_for_eval: in evaluation no pointers from conditioning frames still to come.
        use_signed_tpos_enc_to_obj_ptrs: distances to conditioning frames carry a sign (SAM 2.1).
    """

    def __init__(
        self,
        num_maskmem: int,
        max_cond_frames_in_attn: int,
        max_obj_ptrs_in_encoder: int,
        memory_temporal_stride_for_eval: int,
        only_obj_ptrs_in_the_past_for_eval: bool,
        use_signed_tpos_enc_to_obj_ptrs: bool,
    ) -> None:
        select_closest_cond_frames(0, {}, max_cond_frames_in_attn)  # a wrong limit shows now
        if memory_temporal_stride_for_eval < 1:
            raise ValueError(f"memory_temporal_stride_for_eval={memory_temporal_stride_for_eval} must be at least 1")
        self.num_maskmem = num_maskmem
        self.max_cond_frames = max_cond_frames_in_attn
        self.max_pointers = max_obj_ptrs_in_encoder
        self.stride = memory_temporal_stride_for_eval
        self.only_past = only_obj_ptrs_in_the_past_for_eval
        self.signed = use_signed_tpos_enc_to_obj_ptrs

    @property
    def memory_reach(self) -> int:
        """A tracked frame further away than this is no memory any more."""
        return max(self.stride * (self.num_maskmem - 2) + 1, 0)

    @property
    def pointer_reach(self) -> int:
        """A tracked frame further away than this has no pointer any more."""
        return max(self.max_pointers - 1, 0)

    def plan(
        self,
        frame_idx: int,
        cond: Collection[int],
        non_cond: Collection[int],
        num_frames: int,
        reverse: bool = False,
        training: bool = False,
    ) -> MemoryPlan:
        """What frame `frame_idx` of a video of `num_frames` frames remembers.

        Args:
            cond: conditioning frames with a memory, in the order they were given; non_cond: the tracked ones.
            reverse: track towards the first frame; training: stride 1 and pointers from the future.
        """
        selected, unselected = select_closest_cond_frames(frame_idx, dict.fromkeys(cond), self.max_cond_frames)

        def recall(t: int, offset: int) -> list[Remembered]:
            return [Remembered(t, t not in non_cond, offset)] if t in non_cond or t in unselected else []

        sign = -1 if reverse else 1
        memories = [Remembered(t, True, self.num_maskmem - 1) for t in selected] if self.num_maskmem else []
        for back in range(self.num_maskmem - 1, 0, -1):
            memories += recall(self._recent(frame_idx, back, reverse, 1 if training else self.stride), back - 1)

        count = min(num_frames, self.max_pointers)
        pointers = []
        for t in selected if count else ():
            distance = (frame_idx - t) * sign
            if distance >= 0 or training or not self.only_past:
                pointers.append(Remembered(t, True, distance if self.signed else abs(distance)))
        for distance in range(1, count):
            pointers += recall(frame_idx - distance * sign, distance)
        return MemoryPlan(tuple(memories), tuple(pointers), max(count - 1, 1))

    @staticmethod
    def _recent(frame_idx: int, back: int, reverse: bool, stride: int) -> int:
        """The frame that is `back` memories away: first the neighbour, then multiples of the stride."""
        if back == 1:
            return frame_idx + 1 if reverse else frame_idx - 1
        if reverse:
            return -(-(frame_idx + 2) // stride) * stride + (back - 2) * stride
        return (frame_idx - 2) // stride * stride - (back - 2) * stride
