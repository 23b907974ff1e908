"""Track the objects of a video through its frames: what is equal for several objects runs as one batch.

Objects that remember the same frames differ in numbers only, never in layout, so they share one pass of memory
attention and decoder; the memories of a frame are encoded in one pass for all of them.
"""

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from medsam2.modeling.history import FrameOutput
from medsam2.modeling.memory_selection import MemoryPlan
from medsam2.modeling.sam import LOGIT_LIMIT, ImageFeatures
from medsam2.modeling.sam2 import MASK_LOGIT, NO_OBJ_SCORE, SAM2, resize, suppress_overlap
from medsam2.predictors.components import fill_holes
from medsam2.predictors.inputs import check_evaluation
from medsam2.predictors.video_state import Answer, TrackedObject, VideoState, stack_history

FILLED_LOGIT = 0.1  # of a filled hole


class VideoTracker:
    """The network, applied to the objects of a VideoState.

    Args:
        fill_hole_area: holes of at most this many pixels of the low-resolution mask are filled.
        memory_dtype: of the stored memories.
    """

    def __init__(self, model: SAM2, fill_hole_area: int, memory_dtype: torch.dtype) -> None:
        self.model = model
        self.fill_hole_area = fill_hole_area
        self.memory_dtype = memory_dtype

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.model.no_mem_embed.device

    def check_mode(self) -> None:
        """RuntimeError in training mode."""
        check_evaluation(self.model)

    def encode_frame(self, state: VideoState, frame_idx: int) -> ImageFeatures:
        """Raw features of a frame, encoded unless it was among the last ones.

        Raises:
            ValueError: a frame that is none. RuntimeError: the model is in training mode.
        """
        self.check_mode()
        state.check_frame(frame_idx)
        features = state.features.get(frame_idx)
        if features is None:
            image = state.frames.load(frame_idx)
            size = self.model.image_size
            if image.shape != (3, size, size):
                raise ValueError(
                    f"frame {frame_idx} is loaded as {' x '.join(map(str, image.shape))}, the model was built for "
                    f"image_size={size}: the frame source must give 3 x {size} x {size}"
                )
            features = self.model.forward_image(self.model.normalize(image.to(self.device)[None]))
        state.keep_features(frame_idx, features)
        return features

    def answer_prompt(self, state: VideoState, frame_idx: int, obj: TrackedObject) -> Answer:
        """Segment one object on a frame from all its prompts there and its latest answer to them."""
        features = self.encode_frame(state, frame_idx)
        if frame_idx in obj.masks:
            output = self.model.use_mask_as_output(features, obj.masks[frame_idx].to(self.device))
            return self._split(state, output, prompted=True)[0]
        is_first = frame_idx not in obj.tracked
        if is_first:
            conditioned = self.model.without_memory(features)
        else:
            conditioned = self._condition(features, [obj], self._plan(state, frame_idx, obj, obj.tracked[frame_idx]))
        points = obj.points[frame_idx]
        latest = obj.answer(frame_idx)
        mask_input = None
        if latest is not None and latest.low_res_masks is not None:
            mask_input = latest.low_res_masks.to(self.device).clamp(-LOGIT_LIMIT, LOGIT_LIMIT)
        multimask_output = self.model.use_multimask(points[1].shape[1], is_first)
        output = self.model.predict_masks(conditioned, points, mask_input, multimask_output)
        return self._split(state, output, prompted=True)[0]

    def compute_logits(self, state: VideoState, frame_idx: int) -> Tensor:
        """Logits of all objects on a frame at the video's size, NO_OBJ_SCORE of those without an answer."""
        side = self.model.sam_prompt_encoder.mask_size
        absent = torch.full((1, 1, side, side), NO_OBJ_SCORE, device=self.device)
        answers = [obj.answer(frame_idx) for obj in state.objects.values()]
        masks = [absent if x is None or x.low_res_masks is None else x.low_res_masks for x in answers]
        low = torch.cat([x.to(self.device) for x in masks])
        return F.interpolate(low, state.size, mode="bilinear", align_corners=False)

    def commit_prompts(self, state: VideoState, clear_radius: int) -> None:
        """Encode the memories of all new answers, frame by frame; clear_radius as in TrackedObject.commit."""
        for frame_idx in sorted({t for obj in state.objects.values() for t in obj.new_frames}):
            objects = [obj for obj in state.objects.values() if frame_idx in obj.new_frames]
            features = self.encode_frame(state, frame_idx)
            logits = torch.cat(list(self._memory_logits(objects, frame_idx)))
            scores = torch.cat([a.object_score_logits for obj in objects if (a := obj.answer(frame_idx)) is not None])
            others = [obj for obj in state.objects.values() if frame_idx not in obj.new_frames]
            memories = self._remember(state, frame_idx, features, logits, scores, others, prompted=True)
            for obj, memory in zip(objects, memories.split(1), strict=True):
                obj.commit(frame_idx, memory, clear_radius)

    def track_frame(self, state: VideoState, frame_idx: int, reverse: bool) -> None:
        """Answer a frame for all objects that no prompt has settled there, group by group of equal plans."""
        tracked = [obj for obj in state.objects.values() if obj.cond]  # a new object waits for commit_prompts
        objects = [obj for obj in tracked if obj.settled(frame_idx) is None]
        if objects:
            self._track_objects(state, frame_idx, reverse, objects)
        for obj in tracked:
            obj.tracked[frame_idx] = reverse

    def _track_objects(self, state: VideoState, frame_idx: int, reverse: bool, objects: list[TrackedObject]) -> None:
        features = self.encode_frame(state, frame_idx)
        groups: dict[MemoryPlan, list[TrackedObject]] = {}
        for obj in objects:
            groups.setdefault(self._plan(state, frame_idx, obj, reverse), []).append(obj)
        multimask_output = self.model.use_multimask(0, is_init_cond_frame=False)
        outputs = []
        for plan, members in groups.items():
            conditioned = self._condition(features, members, plan)
            outputs.append(self.model.predict_masks(conditioned, None, None, multimask_output))
        members = [obj for group in groups.values() for obj in group]
        others = [obj for obj in state.objects.values() if obj.settled(frame_idx) is not None]
        logits = torch.cat([output.high_res_masks for output in outputs])
        scores = torch.cat([output.object_score_logits for output in outputs])
        memories = self._remember(state, frame_idx, features, logits, scores, others, prompted=False)
        answers = [answer for output in outputs for answer in self._split(state, output, prompted=False)]
        for obj, answer, memory in zip(members, answers, memories.split(1), strict=True):
            obj.non_cond[frame_idx] = answer._replace(features=memory)

    def _plan(self, state: VideoState, frame_idx: int, obj: TrackedObject, reverse: bool) -> MemoryPlan:
        return obj.plan(self.model.memory_selection, frame_idx, len(state.frames), reverse)

    def _condition(self, features: ImageFeatures, objects: Sequence[TrackedObject], plan: MemoryPlan) -> ImageFeatures:
        """Features conditioned on the memories of the objects, one batch entry each."""
        conditioned = self.model.condition(features, plan, stack_history(objects, plan, self.device))
        return conditioned._replace(embed=conditioned.embed.expand(len(objects), -1, -1, -1))

    def _split(self, state: VideoState, output: FrameOutput, prompted: bool) -> list[Answer]:
        """The answer of each object, in storage, without memory."""
        masks = fill_holes(output.low_res_masks, self.fill_hole_area, margin=FILLED_LOGIT).to(state.storage_device)
        rows = zip(masks.split(1), output.obj_ptr.split(1), output.object_score_logits.split(1), strict=True)
        return [Answer(mask, pointer, score, prompted) for mask, pointer, score in rows]

    def _memory_logits(self, objects: Iterable[TrackedObject], frame_idx: int) -> Iterable[Tensor]:
        """Logits 1 x 1 x S x S on a frame of all objects that have any: a given mask itself, else the answer's."""
        for obj in objects:
            answer = obj.answer(frame_idx)
            if frame_idx in obj.masks:
                yield obj.masks[frame_idx].to(self.device).float() * 2 * MASK_LOGIT - MASK_LOGIT
            elif answer is not None and answer.low_res_masks is not None:
                yield resize(answer.low_res_masks.to(self.device), self.model.image_size)

    def _remember(
        self,
        state: VideoState,
        frame_idx: int,
        features: ImageFeatures,
        logits: Tensor,
        scores: Tensor,
        others: Iterable[TrackedObject],
        prompted: bool,
    ) -> Tensor:
        """Memories of a frame in storage; `others`: objects whose answers there are known, and may own pixels."""
        if self.model.non_overlap_memories:
            every = torch.cat([logits, *self._memory_logits(others, frame_idx)])
            logits = suppress_overlap(every)[: len(logits)]
        memories = self.model.encode_memory(features, logits, scores, prompted)
        return memories.to(state.storage_device, self.memory_dtype)
