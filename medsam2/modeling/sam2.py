"""SAM 2: SAM with a memory of earlier frames (2408.00714, section 4); parameter names of the released checkpoints.

B objects are tracked as one batch through a frame whose features have batch 1. n is the side of the image
embedding, C its channels, M the channels of a memory, S = image_size. All mask logits are positive inside.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medsam2.modeling.history import FrameMemory, FrameOutput, History, MemoryTokens
from medsam2.modeling.image_encoder import ImageEncoder
from medsam2.modeling.layers import MLP
from medsam2.modeling.mask_decoder import MaskDecoder, MaskPredictions
from medsam2.modeling.memory_attention import MemoryAttention
from medsam2.modeling.memory_encoder import MemoryEncoder
from medsam2.modeling.memory_selection import MemoryPlan, MemorySelection
from medsam2.modeling.position import get_1d_sine_pe
from medsam2.modeling.prompt_encoder import PromptEncoder
from medsam2.modeling.sam import SAM, ImageFeatures

NO_OBJ_SCORE = -1024.0  # mask logit of an absent object
MASK_LOGIT = 10.0  # logits +10 and -10 stand for a given mask

Points = tuple[Tensor, Tensor]  # coordinates B x P x 2 in pixels and labels B x P, as in SAM.decode


def resize(x: Tensor, size: int, antialias: bool = False) -> Tensor:
    """Bilinear to size x size, in float32."""
    return F.interpolate(x.float(), (size, size), mode="bilinear", align_corners=False, antialias=antialias)


class SAM2(SAM):
    """SAM 2.

    Args:
        image_encoder ... pixel_std, keep_features: as SAM.
        memory_attention, memory_encoder, memory_selection: the built parts of the memory.
        multimask_output_in_sam: whether to ask for candidates at all; multimask_output_for_tracking: on tracked frames.
        multimask_min_pt_num, multimask_max_pt_num: the numbers of points, inclusive, that ask for them.
        sigmoid_scale_for_mem_enc, sigmoid_bias_for_mem_enc: probabilities p enter the memory as scale * p + bias.
        binarize_mask_from_pts_for_mem_enc: in evaluation the masks of prompted frames enter it as 0 or 1.
        non_overlap_masks_for_mem_enc: in evaluation a pixel enters the memory of one object only.
        add_tpos_enc_to_obj_ptrs: pointers carry their distance in time (SAM 2.1).
        proj_tpos_enc_in_obj_ptrs: through a linear layer (SAM 2.1).
        no_obj_embed_spatial: a memory of an absent object is marked (SAM 2.1).
    """

    image_encoder: ImageEncoder

    def __init__(
        self,
        image_encoder: ImageEncoder,
        sam_prompt_encoder: PromptEncoder,
        sam_mask_decoder: MaskDecoder,
        image_size: int,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        memory_attention: MemoryAttention,
        memory_encoder: MemoryEncoder,
        memory_selection: MemorySelection,
        multimask_output_in_sam: bool,
        multimask_output_for_tracking: bool,
        multimask_min_pt_num: int,
        multimask_max_pt_num: int,
        sigmoid_scale_for_mem_enc: float,
        sigmoid_bias_for_mem_enc: float,
        binarize_mask_from_pts_for_mem_enc: bool,
        non_overlap_masks_for_mem_enc: bool,
        add_tpos_enc_to_obj_ptrs: bool,
        proj_tpos_enc_in_obj_ptrs: bool,
        no_obj_embed_spatial: bool,
        keep_features: int = 0,
    ) -> None:
        parts = (image_encoder, sam_prompt_encoder, sam_mask_decoder)
        super().__init__(*parts, image_size, pixel_mean, pixel_std, keep_features=keep_features)
        self.memory_attention = memory_attention
        self.memory_encoder = memory_encoder
        self.memory_selection = memory_selection
        self.multimask_output_in_sam = multimask_output_in_sam
        self.multimask_output_for_tracking = multimask_output_for_tracking
        self.multimask_points = range(multimask_min_pt_num, multimask_max_pt_num + 1)
        self.sigmoid_scale = sigmoid_scale_for_mem_enc
        self.sigmoid_bias = sigmoid_bias_for_mem_enc
        self.binarize_prompted = binarize_mask_from_pts_for_mem_enc
        self.non_overlap_memories = non_overlap_masks_for_mem_enc
        self.add_tpos_enc_to_obj_ptrs = add_tpos_enc_to_obj_ptrs

        dim, mem_dim = image_encoder.neck.d_model, memory_encoder.out_dim
        self.mem_dim = mem_dim
        self.maskmem_tpos_enc = nn.Parameter(torch.zeros(memory_selection.num_maskmem, 1, 1, mem_dim))
        self.no_mem_embed = nn.Parameter(torch.zeros(1, 1, dim))
        self.no_mem_pos_enc = nn.Parameter(torch.zeros(1, 1, dim))  # in every released file, used by none
        self.no_obj_ptr = nn.Parameter(torch.zeros(1, dim))
        self.no_obj_embed_spatial = nn.Parameter(torch.zeros(1, mem_dim)) if no_obj_embed_spatial else None
        for parameter in self.parameters(recurse=False):
            nn.init.trunc_normal_(parameter, std=0.02)
        self.mask_downsample = nn.Conv2d(1, 1, 4, stride=4)  # a given mask to the size of a mask prompt
        self.obj_ptr_proj = MLP(dim, dim, dim, depth=3)
        self.obj_ptr_tpos_proj = nn.Linear(dim, mem_dim) if proj_tpos_enc_in_obj_ptrs else None

    def encode_image(self, images: Tensor) -> ImageFeatures:
        """Encode images B x 3 x S x S, RGB in [0, 1], that stand alone: embed includes "no memory".

        Raises:
            ValueError: as SAM.encode_image.
        """
        return self.without_memory(super().encode_image(images))

    def without_memory(self, features: ImageFeatures) -> ImageFeatures:
        """Raw features of forward_image, marked as having no memory."""
        return features._replace(embed=features.embed + self.no_mem_embed.reshape(1, -1, 1, 1))

    def use_multimask(self, num_points: int, is_init_cond_frame: bool = True) -> bool:
        """Whether to ask for candidates given this many labels per object (a box has 2; PromptEncoder's own padding
        does not count)."""
        asked = is_init_cond_frame or self.multimask_output_for_tracking
        return self.multimask_output_in_sam and asked and num_points in self.multimask_points

    # ---------------------------------------------------------------------------------------------- memory

    def plan_memory(self, frame_idx: int, history: History, num_frames: int, reverse: bool = False) -> MemoryPlan:
        """Which frames of the history frame `frame_idx` remembers, as MemorySelection.plan."""
        tracked = history.non_cond
        return self.memory_selection.plan(frame_idx, history.cond, tracked, num_frames, reverse, self.training)

    def gather_memory(self, plan: MemoryPlan, history: History) -> MemoryTokens:
        """The tokens of a plan: its memories (which must have features), then its pointers."""
        features = [history.features(frame) for frame in plan.memories]
        # One dtype for all: memories may be kept in half precision, whatever the pointers and autocast are in.
        tokens = [x.flatten(2).transpose(1, 2).float() for x in features]
        place = self.memory_encoder.position_encoding(features[0].float()).flatten(2).transpose(1, 2)
        positions = [place + self.maskmem_tpos_enc[frame.offset] for frame in plan.memories]
        if not plan.pointers:
            return MemoryTokens(torch.cat(tokens, dim=1), torch.cat(positions, dim=1), 0)
        pointers = torch.stack([history.recall(frame).obj_ptr for frame in plan.pointers], dim=1)
        pointers = pointers.reshape(pointers.shape[0], -1, self.mem_dim)  # C / M tokens per pointer
        split = pointers.shape[1] // len(plan.pointers)
        pointer_positions = self._pointer_positions(plan, pointers.device).repeat_interleave(split, dim=0)
        memory = torch.cat([*tokens, pointers.float()], dim=1)
        return MemoryTokens(memory, torch.cat([*positions, pointer_positions[None]], dim=1), pointers.shape[1])

    def _pointer_positions(self, plan: MemoryPlan, device: torch.device) -> Tensor:
        """Encoded distances of the plan's pointers: P x M."""
        if not self.add_tpos_enc_to_obj_ptrs:
            return torch.zeros(len(plan.pointers), self.mem_dim, device=device)
        offsets = torch.tensor([frame.offset / plan.pointer_span for frame in plan.pointers])
        distance = offsets.to(device, non_blocking=True)
        if self.obj_ptr_tpos_proj is None:
            return get_1d_sine_pe(distance, self.mem_dim)
        return self.obj_ptr_tpos_proj(get_1d_sine_pe(distance, self.obj_ptr_tpos_proj.in_features))

    def condition(self, features: ImageFeatures, plan: MemoryPlan, history: History) -> ImageFeatures:
        """Let the raw features of one frame attend to what it remembers: embed becomes B x C x n x n."""
        if not plan.memories:
            return self.without_memory(features)
        tokens = self.gather_memory(plan, history)
        position = self.image_encoder.neck.position_encoding(features.embed)
        embed = self.memory_attention(
            features.embed, position, tokens.memory, tokens.position, tokens.num_obj_ptr_tokens
        )
        return features._replace(embed=embed)

    def encode_memory(
        self, features: ImageFeatures, mask_logits: Tensor, object_score_logits: Tensor, prompted: bool
    ) -> Tensor:
        """The memory of a frame, B x M x n x n.

        Args:
            features: raw features of the frame, batch 1 or B.
            mask_logits: B x 1 x S x S; object_score_logits: B x 1.
            prompted: the masks answer a prompt on this frame.
        """
        if self.non_overlap_memories and not self.training:
            mask_logits = suppress_overlap(mask_logits)
        if prompted and self.binarize_prompted and not self.training:
            masks = (mask_logits > 0).float()
        else:
            masks = mask_logits.float().sigmoid()
        memory: Tensor = self.memory_encoder(features.embed, masks * self.sigmoid_scale + self.sigmoid_bias)
        if self.no_obj_embed_spatial is not None:
            absent = (object_score_logits <= 0).to(memory.dtype)
            memory = memory + (absent * self.no_obj_embed_spatial)[..., None, None]
        return memory

    # ----------------------------------------------------------------------------------------------- heads

    def predict_masks(
        self, features: ImageFeatures, points: Points | None, mask_input: Tensor | None, multimask_output: bool
    ) -> FrameOutput:
        """Ask the decoder as a video does: "no prompt" is a point that is none, absent objects get no mask.

        Args:
            features: conditioned features, batch 1 or B.
            mask_input: B x 1 logits of any size, resized to 4n x 4n.
        """
        every = self._decode_frame(features, points, mask_input, multimask_output)
        present = every.object_score_logits > 0
        gated = every.low_res_masks.where(present[..., None, None], NO_OBJ_SCORE)
        best = every.iou_predictions.argmax(dim=1, keepdim=True)
        low = torch.take_along_dim(gated, best[..., None, None], dim=1)
        # One token serves all candidates where the decoder hands on only that of the single mask.
        token = torch.take_along_dim(every.mask_tokens, best[..., None].clamp(max=every.mask_tokens.shape[1] - 1), 1)
        return FrameOutput(
            gated,
            every.iou_predictions,
            low,
            resize(low, self.image_size),
            self._point_at(token[:, 0], present),
            every.object_score_logits,
            every.low_res_masks,
        )

    def _decode_frame(
        self, features: ImageFeatures, points: Points | None, mask_input: Tensor | None, multimask_output: bool
    ) -> MaskPredictions:
        """Decode as a video does: without points there is one that is none. Not gated."""
        if points is None:
            count = max(features.embed.shape[0], 1 if mask_input is None else mask_input.shape[0])
            labels = torch.full((count, 1), -1, device=features.embed.device)
            points = (torch.zeros(count, 1, 2, device=labels.device), labels)
        size = self.sam_prompt_encoder.mask_size
        if mask_input is not None and mask_input.shape[-2:] != (size, size):
            mask_input = resize(mask_input, size, antialias=True)
        return self.decode(features, *points, mask_input, multimask_output=multimask_output)

    def use_mask_as_output(self, features: ImageFeatures, masks: Tensor) -> FrameOutput:
        """Take given masks, B x 1 x S x S of 0 and 1, for the answer; the decoder makes the pointers only.

        Args:
            features: raw features of the frame, batch 1 or B.
        """
        masks = masks.float()
        high = masks * 2 * MASK_LOGIT - MASK_LOGIT
        low = resize(high, self.sam_prompt_encoder.mask_size, antialias=True)
        every = self._decode_frame(features, None, self.mask_downsample(masks), multimask_output=False)
        present = masks.flatten(1).any(dim=1, keepdim=True)
        scores = present * 2 * MASK_LOGIT - MASK_LOGIT
        pointers = self._point_at(every.mask_tokens[:, 0], present)
        return FrameOutput(low, torch.ones_like(scores), low, high, pointers, scores, low)

    def _point_at(self, token: Tensor, present: Tensor) -> Tensor:
        """Object pointers B x C from output tokens B x C; a learned one for objects not `present`, B x 1."""
        return torch.where(present, self.obj_ptr_proj(token), self.no_obj_ptr)

    # --------------------------------------------------------------------------------------------- a frame

    def track_step(
        self,
        frame_idx: int,
        features: ImageFeatures,
        history: History,
        num_frames: int,
        points: Points | None = None,
        masks: Tensor | None = None,
        mask_input: Tensor | None = None,
        is_init_cond_frame: bool = False,
        reverse: bool = False,
    ) -> FrameOutput:
        """Segment B objects on one frame of a video; `remember` turns the answer into a memory.

        Args:
            frame_idx: 0 ... num_frames - 1; features: its raw features (forward_image), batch 1 or B.
            history: memories of the B objects on other frames.
            points: clicks and boxes on this frame; masks: B x 1 x S x S of 0 and 1, taken as they are.
            mask_input: low-res logits of an earlier answer on this frame, to be corrected by `points`.
            is_init_cond_frame: the first prompt of these objects here: the memory is not asked.
            reverse: tracking goes towards frame 0.
        """
        if masks is not None:
            return self.use_mask_as_output(features, masks)
        if is_init_cond_frame:
            conditioned = self.without_memory(features)
        else:
            plan = self.plan_memory(frame_idx, history, num_frames, reverse)
            conditioned = self.condition(features, plan, history)
        num_points = 0 if points is None else points[1].shape[1]
        return self.predict_masks(conditioned, points, mask_input, self.use_multimask(num_points, is_init_cond_frame))

    def remember(self, features: ImageFeatures, output: FrameOutput, prompted: bool) -> FrameMemory:
        """The memory of a frame from its raw features and the answer; `prompted` as in encode_memory."""
        memory = self.encode_memory(features, output.high_res_masks, output.object_score_logits, prompted)
        return FrameMemory(memory, output.obj_ptr)


def suppress_overlap(mask_logits: Tensor) -> Tensor:
    """Leave each pixel to the object with the largest logit, the others at most -10: B x 1 x H x W, B objects."""
    owner = mask_logits.argmax(dim=0, keepdim=True)
    others = owner != torch.arange(mask_logits.shape[0], device=mask_logits.device).view(-1, 1, 1, 1)
    return torch.where(others, mask_logits.clamp(max=-MASK_LOGIT), mask_logits)
