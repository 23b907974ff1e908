"""SAM 2 on videos and volumes: prompt objects on any frame, then track them through all (2408.00714, section 4).

Masks come back as logits at the video's size, positive inside, objects in the order of their first prompts. Every
object has its own memory, so objects may be added, corrected and removed at any time; objects that remember the
same frames are tracked as one batch.
"""

from collections.abc import Hashable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from medsam2.modeling.sam2 import SAM2, suppress_overlap
from medsam2.predictors.frames import FrameSource, open_video
from medsam2.predictors.video_prompts import add_points, read_mask, read_points_or_box
from medsam2.predictors.video_state import TrackedObject, VideoState, check_object_id
from medsam2.predictors.video_tracking import VideoTracker

FrameMasks = tuple[int, list[Hashable], Tensor]  # frame, ids of the objects, their logits objects x 1 x H x W


class SAM2VideoPredictor:
    """Segment objects in videos.

    Args:
        model: the network, in evaluation mode; it stays on its device.
        fill_hole_area: holes of at most this many pixels of the low-resolution mask (4n x 4n, n the side of the image
            embedding) are filled.
        non_overlap_masks: a pixel of the returned masks belongs to one object only.
        clear_non_cond_mem_around_input: a prompt makes its object forget the tracked frames around it.
        add_all_frames_to_correct_as_cond: a correction of a tracked frame makes it a conditioning frame, which
            every other frame remembers; else it is remembered as long as a tracked one.
        memory_dtype: of the stored memories.

    Raises:
        ValueError: a model without memory, a negative area.
    """

    def __init__(
        self,
        model: SAM2,
        fill_hole_area: int = 0,
        non_overlap_masks: bool = False,
        clear_non_cond_mem_around_input: bool = False,
        add_all_frames_to_correct_as_cond: bool = False,
        memory_dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        if not hasattr(model, "memory_selection"):  # not isinstance: a compiled network is wrapped
            raise ValueError(f"{type(model).__name__} has no memory to track with: use one of model=sam2_*")
        if fill_hole_area < 0:
            raise ValueError(f"fill_hole_area={fill_hole_area} is negative: pass an area in pixels, 0 for no filling")
        self.model = model
        self.non_overlap_masks = non_overlap_masks
        self.add_all_frames_to_correct_as_cond = add_all_frames_to_correct_as_cond
        selection = model.memory_selection
        self.clear_radius = selection.stride * selection.num_maskmem if clear_non_cond_mem_around_input else -1
        self.tracker = VideoTracker(model, fill_hole_area, memory_dtype)

    @torch.inference_mode()
    def init_state(
        self,
        video_path: str | Path | np.ndarray | Tensor | FrameSource,
        offload_video_to_cpu: bool = False,
        offload_state_to_cpu: bool = False,
        stream: bool = False,
    ) -> VideoState:
        """Open a video; its frames are read when they are needed.

        Args:
            video_path: a folder of frames, or the frames themselves: as open_video.
            offload_video_to_cpu: resize frames on the CPU, not on the device of the model.
            offload_state_to_cpu: keep memories and masks on the CPU.
            stream: tracking releases what it cannot need any more in its direction, so that the state does not
                grow with the video. A later correction starts without the masks and memories that were released;
                those of conditioning frames always stay. To track both ways call propagate_both_ways: after a
                call that went forward, one with reverse=True finds the frames behind the start released, and
                answers otherwise than without stream.

        Raises:
            ValueError, FileNotFoundError: as open_video. RuntimeError: the model is in training mode.
        """
        self.tracker.check_mode()
        cpu, device = torch.device("cpu"), self.tracker.device
        frames = open_video(video_path, self.model.image_size, cpu if offload_video_to_cpu else device)
        return VideoState(frames, stream, cpu if offload_state_to_cpu else device)

    @torch.inference_mode()
    def add_new_points_or_box(
        self,
        inference_state: VideoState,
        frame_idx: int,
        obj_id: Hashable,
        points: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        clear_old_points: bool = True,
        normalize_coords: bool = True,
        box: ArrayLike | None = None,
    ) -> FrameMasks:
        """Prompt an object, known or new, on a frame: corrects its latest answer there, and drops a mask it was given.

        Args:
            points: P x 2 (x, y) in pixels of the video; labels: P, 1 inside, 0 outside.
            clear_old_points: forget earlier points and boxes of this object on this frame.
            normalize_coords: coordinates are pixels; False: they are in [0, 1] of width and height.
            box: (x0, y0, x1, y1).

        Returns:
            frame_idx, ids of all objects, their logits on this frame: objects x 1 x H x W, -1024 where an object
            has no answer yet.

        Raises:
            ValueError: a frame or an id that is none; prompts that are missing, malformed or outside the frame.
            RuntimeError: the model is in training mode.
        """
        given = (points, labels, box, clear_old_points, normalize_coords)
        new = read_points_or_box(inference_state.size, self.model.image_size, self.tracker.device, *given)
        self.tracker.encode_frame(inference_state, frame_idx)  # an unreadable frame changes nothing
        obj = inference_state.add_object(obj_id)
        add_points(obj, frame_idx, new, clear_old_points)
        return self._answer(inference_state, frame_idx, obj)

    def add_new_points(self, *args: Any, **kwargs: Any) -> FrameMasks:
        """The official package's older name of add_new_points_or_box."""
        return self.add_new_points_or_box(*args, **kwargs)

    @torch.inference_mode()
    def add_new_mask(
        self, inference_state: VideoState, frame_idx: int, obj_id: Hashable, mask: ArrayLike | Tensor
    ) -> FrameMasks:
        """Give the mask of an object on a frame, H x W of False and True or 0 and 1; its points there are dropped.

        Returns and raises as add_new_points_or_box. The object is remembered from this mask, resized to S x S.
        """
        given = read_mask(mask, inference_state.size, self.model.image_size, self.tracker.device)
        self.tracker.encode_frame(inference_state, frame_idx)
        obj = inference_state.add_object(obj_id)
        obj.points.pop(frame_idx, None)
        obj.masks[frame_idx] = given.to(inference_state.storage_device)
        return self._answer(inference_state, frame_idx, obj)

    def propagate_in_video(
        self,
        inference_state: VideoState,
        start_frame_idx: int | None = None,
        max_frame_num_to_track: int | None = None,
        reverse: bool = False,
    ) -> Iterator[FrameMasks]:
        """Track all objects, from one frame to the end of the video or, in reverse, to its start.

        Args:
            start_frame_idx: None: the first conditioning frame of any object.
            max_frame_num_to_track: the number of frames, the first one included; None: all.

        Yields:
            As add_new_points_or_box returns. Prompted frames keep the answers to their prompts; prompts that come
            while tracking is under way are tracked by the next call.

        Raises:
            ValueError: at once, if an object has no conditioning frame, or the start is outside the video.
            RuntimeError: the model is in training mode.
        """
        return self._track(
            inference_state, self._begin(inference_state, start_frame_idx, max_frame_num_to_track, reverse)
        )

    def propagate_both_ways(
        self, inference_state: VideoState, start_frame_idx: int | None = None, max_frame_num_to_track: int | None = None
    ) -> Iterator[FrameMasks]:
        """Track forward from one frame, then back from the one before it: every frame comes once.

        Args, yields and raises as propagate_in_video; max_frame_num_to_track counts each way, both with the first.
        """
        forward = self._begin(inference_state, start_frame_idx, max_frame_num_to_track, reverse=False)
        back = self._begin(inference_state, forward.start, max_frame_num_to_track, reverse=True)[1:]
        return chain(self._track(inference_state, forward, then=back), self._track(inference_state, back))

    @torch.inference_mode()
    def clear_all_prompts_in_frame(
        self, inference_state: VideoState, frame_idx: int, obj_id: Hashable, need_output: bool = True
    ) -> FrameMasks | None:
        """Forget the prompts of an object on a frame; what was tracked from them stays until it is tracked anew.

        Returns as add_new_points_or_box, or None without need_output; ValueError for a frame or object that is none.
        """
        inference_state.check_frame(frame_idx)
        inference_state.get_object(obj_id).clear_prompts(frame_idx)
        return self._compute_output(inference_state, frame_idx) if need_output else None

    @torch.inference_mode()
    def remove_object(
        self, inference_state: VideoState, obj_id: Hashable, strict: bool = False, need_output: bool = True
    ) -> tuple[list[Hashable], list[tuple[int, Tensor]]]:
        """Forget an object.

        Args:
            strict: an unknown id is a ValueError.

        Returns:
            Ids of the objects left, and with need_output the frames it was prompted on with their logits.
        """
        check_object_id(obj_id)
        if not strict and obj_id not in inference_state.objects:
            return inference_state.obj_ids, []
        frames = inference_state.get_object(obj_id).prompted_frames
        del inference_state.objects[obj_id]
        frames = frames if need_output and inference_state.objects else []
        return inference_state.obj_ids, [(t, self._compute_output(inference_state, t)[2]) for t in frames]

    def reset_state(self, inference_state: VideoState) -> None:
        """Forget all objects; the video stays open."""
        inference_state.objects.clear()

    @torch.inference_mode()
    def _begin(self, state: VideoState, start: int | None, count: int | None, reverse: bool) -> range:
        """Let tracking take over new answers; the frames to track, of which `start` is the first."""
        self.tracker.check_mode()
        frames = state.choose_frames(start, count, reverse)
        self.tracker.commit_prompts(state, self.clear_radius)
        return frames

    @torch.inference_mode()
    def _track(self, state: VideoState, frames: range, then: range = range(0)) -> Iterator[FrameMasks]:
        """Track `frames`; `then`: those that will follow, and must find their memories."""
        selection = self.model.memory_selection
        for frame_idx in frames:
            if not state.objects:  # all were removed meanwhile
                return
            self.tracker.track_frame(state, frame_idx, reverse=frames.step < 0)
            output = self._compute_output(state, frame_idx)
            if state.stream:
                upcoming = [(frame_idx + frames.step, frames.step), (then.start, then.step)][: 1 + bool(then)]
                for obj in state.objects.values():
                    obj.release(upcoming, selection.memory_reach, selection.pointer_reach)
            yield output

    def _answer(self, state: VideoState, frame_idx: int, obj: TrackedObject) -> FrameMasks:
        """Answer the prompts of an object on a frame; tracking takes the answer over when it begins."""
        answer = self.tracker.answer_prompt(state, frame_idx, obj)
        obj.propose(frame_idx, answer, self.add_all_frames_to_correct_as_cond)
        return self._compute_output(state, frame_idx)

    def _compute_output(self, state: VideoState, frame_idx: int) -> FrameMasks:
        logits = self.tracker.compute_logits(state, frame_idx)
        return frame_idx, state.obj_ids, suppress_overlap(logits) if self.non_overlap_masks else logits
