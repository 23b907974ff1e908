"""Prompts of one object on one frame of a video, checked and brought to the pixels the network sees."""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor

from medsam2.modeling.sam2 import Points
from medsam2.predictors.inputs import describe, read_prompts, to_numbers
from medsam2.predictors.video_state import TrackedObject


def read_points_or_box(
    size: tuple[int, int],
    image_size: int,
    device: torch.device,
    points: ArrayLike | None,
    labels: ArrayLike | None,
    box: ArrayLike | None,
    clear_old_points: bool,
    normalize_coords: bool,
) -> Points:
    """Coordinates 1 x P x 2 and labels 1 x P, box corners first; arguments as add_new_points_or_box.

    Raises:
        ValueError: no prompt, prompts of more than one object, a box that would follow old points, or what
            read_prompts refuses.
    """
    if points is None and labels is None and box is None:
        raise ValueError("points and box are both None: pass points with labels, a box, or both")
    if box is not None and not clear_old_points:
        raise ValueError("box with clear_old_points=False: a box comes before all points, pass clear_old_points=True")
    try:
        prompts = read_prompts(size, image_size, points, labels, box, normalize_coords=normalize_coords, device=device)
    except ValueError as error:  # it knows the arguments by the names the image predictor gives them
        message = str(error).replace("point_coords", "points").replace("point_labels", "labels")
        raise ValueError(message) from None
    assert prompts.coords is not None
    assert prompts.labels is not None
    if prompts.num_objects > 1:
        raise ValueError(f"prompts of {prompts.num_objects} objects: prompt one object (obj_id) per call")
    return prompts.coords, prompts.labels


def add_points(obj: TrackedObject, frame_idx: int, new: Points, clear_old_points: bool) -> None:
    """Add clicks after the old ones, or in their place; a mask on the frame is dropped."""
    old = None if clear_old_points else obj.points.get(frame_idx)
    if old is not None:
        new = torch.cat((old[0], new[0]), dim=1), torch.cat((old[1], new[1]), dim=1)
    obj.points[frame_idx] = new
    obj.masks.pop(frame_idx, None)


def read_mask(mask: ArrayLike | Tensor, size: tuple[int, int], image_size: int, device: torch.device) -> Tensor:
    """A mask H x W of False and True or 0 and 1 -> 1 x 1 x S x S of bool.

    Raises:
        ValueError: another shape, or other values.
    """
    pixels = to_numbers("mask", mask)
    if pixels.shape != size:
        raise ValueError(f"mask is {describe(pixels)}, frames are {size[0]} x {size[1]}: pass H x W of the video")
    other = pixels[~np.isin(pixels, (0, 1))]
    if other.size:
        raise ValueError(f"mask holds {other[0]}: pass 0 and 1, or False and True, for one object (mask == label)")
    given = torch.from_numpy(pixels.astype(np.float32)).to(device)[None, None]
    resized = F.interpolate(given, (image_size, image_size), mode="bilinear", align_corners=False, antialias=True)
    return resized >= 0.5
