"""What the golden files hold of the video predictor: two objects, tracked through the first frames."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from medsam2.modeling.sam2 import SAM2
from medsam2.predictors.video import SAM2VideoPredictor

POINT = torch.tensor([[190.0, 60.75]])  # of the second object, in a 256-pixel image


@dataclass
class GivenFrames:
    """Frames 3 x S x S, declared as a video of another size."""

    images: Sequence[Tensor]
    height: int
    width: int

    def __len__(self) -> int:
        return len(self.images)

    def load(self, frame_idx: int) -> Tensor:
        return self.images[frame_idx]


def compute_predictor(model: SAM2, frames_rgb: list[Tensor], size: int, prompts: dict[str, Any]) -> dict[str, Tensor]:
    """All predictor/... tensors; frames_rgb: 3 x S x S in [0, 1]; prompts: those of the file, in pixels of S.

    The model must binarise prompted masks (binarize_mask_from_pts_for_mem_enc), which other scenes of a file do not.
    """
    assert model.binarize_prompted
    predictor = SAM2VideoPredictor(model)
    height, width = 3 * size // 4 + 5, size + 11
    state = predictor.init_state(GivenFrames(frames_rgb, height, width))
    extent = torch.tensor([width, height])
    box = prompts["box"][0][0] * extent / size
    tensors = {"predictor/add_box": predictor.add_new_points_or_box(state, 0, obj_id=7, box=box.flatten())[2]}
    point = POINT * extent / 256
    tensors["predictor/add_point"] = predictor.add_new_points_or_box(state, 0, 3, points=point, labels=[1])[2]
    for frame_idx, obj_ids, logits in predictor.propagate_in_video(state):
        assert obj_ids == [7, 3]
        key = f"predictor/frame{frame_idx}"
        answer = state.objects[7].answer(frame_idx)
        assert answer is not None
        assert answer.features is not None
        tensors |= {key: logits, f"{key}/obj0/maskmem_bf16": answer.features.float()}
        tensors[f"{key}/obj0/obj_ptr"] = answer.obj_ptr
    return tensors
