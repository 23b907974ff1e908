"""A small video with objects to prompt, and what tests of the video predictor share."""

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor

from medsam2.predictors.video import FrameMasks, SAM2VideoPredictor
from medsam2.predictors.video_state import VideoState
from tests.goldens import draw_image

SIZE, HEIGHT, WIDTH = 64, 48, 80
VIDEO = np.stack([draw_image(WIDTH, t)[:HEIGHT] for t in range(8)])
BOX = (20, 15, 50, 45)
Y, X = np.mgrid[:HEIGHT, :WIDTH]
DISC = (X - 55) ** 2 + (Y - 20) ** 2 < 100
OTHER_DISC = (X - 48) ** 2 + (Y - 22) ** 2 < 120


def add_box(predictor: SAM2VideoPredictor, state: VideoState, obj_id: int) -> FrameMasks:
    return predictor.add_new_points_or_box(state, 0, obj_id, box=BOX)


def add_point(predictor: SAM2VideoPredictor, state: VideoState, obj_id: int) -> FrameMasks:
    return predictor.add_new_points_or_box(state, 0, obj_id, points=[[60, 10]], labels=[1])


def add_mask(predictor: SAM2VideoPredictor, state: VideoState, obj_id: int) -> FrameMasks:
    return predictor.add_new_mask(state, 3, obj_id, DISC)


def collect(outputs: Iterable[FrameMasks]) -> dict[int, Tensor]:
    return {frame_idx: logits for frame_idx, _, logits in outputs}


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=1e-4)


def count_batches(function: Callable[..., object], sizes: list[int]) -> Callable[..., object]:
    def counted(first: Tensor | tuple[Tensor, ...], *args: object) -> object:
        tensors = (first, *args) if isinstance(first, Tensor) else (*first, *args)
        batches = [len(x) for x in tensors if isinstance(x, Tensor)]
        sizes.append(max(batches))
        return function(first, *args)

    return counted
