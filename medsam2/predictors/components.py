"""Clean masks of small holes and islands without a compiled extension: connected components by SciPy or torch.

Pixels are 8-connected, areas are pixels of the mask given. Masks on a CPU are labelled by SciPy, masks on any
other device by torch where they are; both count the same.
"""

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

CONNECTED = np.zeros((3, 3, 3), dtype=bool)
CONNECTED[1] = True  # the 8 neighbours, none in the next mask


def compute_areas(masks: Tensor) -> Tensor:
    """Area of the component around each foreground pixel, 0 in the background: N x H x W bool -> integers."""
    return compute_areas_scipy(masks) if masks.device.type == "cpu" else compute_areas_torch(masks)


def compute_areas_scipy(masks: Tensor) -> Tensor:
    """compute_areas for a CPU: all masks are labelled in one call."""
    labels, _ = ndimage.label(masks.numpy(), CONNECTED)
    areas = np.bincount(labels.ravel(), minlength=1)
    areas[0] = 0
    return torch.from_numpy(areas[labels])


def compute_areas_torch(masks: Tensor) -> Tensor:
    """compute_areas on any device; one host sync per round, the rounds grow with the log of a component's length.

    Every pixel points at a pixel of its component. Per round its target and itself learn the largest target
    among the neighbours, then each pointer is followed once, until all of a component point at its last pixel.
    """
    position = torch.arange(1, masks.numel() + 1, device=masks.device)
    target = torch.where(masks.flatten(), position, 0)
    while True:
        largest = torch.where(masks, spread(target.view(masks.shape)), 0).flatten()
        spread_target = F.pad(torch.maximum(target, largest), (1, 0)).scatter_reduce(0, target, largest, "amax")
        new_target = spread_target[spread_target[1:]]
        if torch.equal(new_target, target):
            areas = torch.bincount(target, minlength=masks.numel() + 1)
            return torch.where(masks.flatten(), areas[target], 0).view(masks.shape)
        target = new_target


def spread(x: Tensor) -> Tensor:
    """Largest of the 3 x 3 non-negative integers around each pixel of N x H x W, which pooling does not take."""
    x = F.pad(x, (1, 1, 1, 1))
    x = torch.maximum(torch.maximum(x[..., :-2], x[..., 2:]), x[..., 1:-1])
    return torch.maximum(torch.maximum(x[:, :-2], x[:, 2:]), x[:, 1:-1])


def clean_masks(masks: Tensor, max_hole_area: int, max_sprinkle_area: int) -> Tensor:
    """Fill background components, then drop foreground components, of at most these areas; 0 leaves them.

    Args:
        masks: N x H x W bool. A background component at the border counts as a hole, too.
    """
    if max_hole_area > 0:
        masks = masks | (compute_areas(~masks) <= max_hole_area)
    if max_sprinkle_area > 0:
        masks = masks & (compute_areas(masks) > max_sprinkle_area)
    return masks


def fill_holes(
    mask_logits: Tensor,
    max_hole_area: int = 0,
    max_sprinkle_area: int = 0,
    threshold: float = 0.0,
    margin: float = 10.0,
) -> Tensor:
    """Fill small holes and remove small islands of masks given as logits.

    Args:
        mask_logits: ... x H x W, inside where greater than `threshold`.
        max_hole_area, max_sprinkle_area: largest hole and island, in pixels, that goes; 0 keeps all.
        margin: filled pixels become threshold + margin, removed ones threshold - margin.

    Returns:
        New logits, or `mask_logits` itself where both areas are 0.
    """
    if max(max_hole_area, max_sprinkle_area) <= 0:
        return mask_logits
    inside = mask_logits > threshold
    cleaned = clean_masks(inside.flatten(0, -3), max_hole_area, max_sprinkle_area).view(inside.shape)
    logits = torch.where(cleaned & ~inside, threshold + margin, mask_logits)
    return torch.where(inside & ~cleaned, threshold - margin, logits)
