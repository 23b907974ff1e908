"""What tracking leaves behind, frame by frame, for B objects tracked as one batch.

S is the image size, n the side of the image embedding, C its channels, M the channels of a memory.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from medsam2.modeling.memory_selection import Remembered


class FrameOutput(NamedTuple):
    """The answer for B objects on one frame, gated: an absent object has NO_OBJ_SCORE at every pixel.

    low_res_multimasks: B x K x 4n x 4n logits of all candidates; iou_predictions: B x K in [0, 1].
    low_res_masks: B x 1 x 4n x 4n, the chosen candidate; high_res_masks: B x 1 x S x S, the same enlarged.
    obj_ptr: B x C; object_score_logits: B x 1, positive where the object is present.
    ungated_masks: low_res_multimasks before they are gated; a constant has nothing to learn from.
    """

    low_res_multimasks: Tensor
    iou_predictions: Tensor
    low_res_masks: Tensor
    high_res_masks: Tensor
    obj_ptr: Tensor
    object_score_logits: Tensor
    ungated_masks: Tensor


class FrameMemory(NamedTuple):
    """What later frames see of a frame: features B x M x n x n (None: the pointer only) and obj_ptr B x C."""

    features: Tensor | None
    obj_ptr: Tensor


@dataclass
class History:
    """Memories by frame number. `cond`: frames that were prompted, in the order of prompting; `non_cond`: tracked."""

    cond: dict[int, FrameMemory] = field(default_factory=dict)
    non_cond: dict[int, FrameMemory] = field(default_factory=dict)

    def recall(self, frame: Remembered) -> FrameMemory:
        return (self.cond if frame.is_cond else self.non_cond)[frame.frame_idx]

    def features(self, frame: Remembered) -> Tensor:
        features = self.recall(frame).features
        assert features is not None, f"the features of frame {frame.frame_idx} were released too early"
        return features


class MemoryTokens(NamedTuple):
    """memory: B x L x M, position: 1 x L x M; n^2 tokens per memory, then num_obj_ptr_tokens of pointers."""

    memory: Tensor
    position: Tensor
    num_obj_ptr_tokens: int
