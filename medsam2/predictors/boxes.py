"""Boxes of masks, and non-maximum suppression without torchvision. Boxes are (x0, y0, x1, y1)."""

import torch
from torch import Tensor

CHUNK = 2**20  # pairs of boxes compared at a time: the temporaries stay in the cache


def compute_mask_boxes(masks: Tensor) -> Tensor:
    """First and last column and row of each mask, inclusive: N x H x W bool -> N x 4; zeros for an empty mask."""
    sides = []
    for filled in (masks.any(1), masks.any(2)):  # columns, rows
        filled = filled.int()
        last = filled.shape[1] - 1 - filled.flip(1).argmax(1)
        sides.append(torch.stack((filled.argmax(1), last * filled.amax(1)), dim=1))
    return torch.cat(sides, dim=1)[:, [0, 2, 1, 3]]


def compute_box_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU of every pair of boxes, N x 4 and M x 4 -> N x M; area is width times height, NaN for two points."""
    ax0, ay0, ax1, ay1 = a.float()[:, None].unbind(2)  # N x 1
    bx0, by0, bx1, by1 = b.float().T  # M
    width = (torch.minimum(ax1, bx1) - torch.maximum(ax0, bx0)).clamp_(min=0)
    overlap = width * (torch.minimum(ay1, by1) - torch.maximum(ay0, by0)).clamp_(min=0)
    area_a, area_b = (ax1 - ax0) * (ay1 - ay0), (bx1 - bx0) * (by1 - by0)
    return overlap / (area_a + area_b - overlap)


def suppress_overlaps(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Greedy non-maximum suppression: a box goes if one that stays, with a higher score, overlaps it by more.

    The rule is applied to all boxes at once until nothing changes: by then every box has been judged by the
    final verdict on those before it, so the result is exactly that of the loop over boxes.

    Args:
        boxes: N x 4; scores: N, the earlier of equal ones counts as higher.

    Returns:
        Indices of the boxes that stay, highest score first.
    """
    order = scores.argsort(descending=True, stable=True)
    boxes, count = boxes[order], len(order)
    rows = torch.arange(count, device=boxes.device).split(max(1, CHUNK // max(1, count)))
    overlapping = [compute_box_iou(boxes[part], boxes) > iou_threshold for part in rows]
    suppresses = torch.cat(overlapping).triu(1)
    keep = torch.ones(count, dtype=torch.bool, device=boxes.device)
    while True:
        judged = ~(suppresses & keep[:, None]).any(0)
        if torch.equal(judged, keep):
            return order[keep]
        keep = judged


def touch_crop(boxes: Tensor, crop_box: Tensor, image_box: Tensor, margin: float = 20.0) -> Tensor:
    """Whether a side lies within `margin` pixels of the crop's same side, but not so near to the image's.

    Such a box is likely to be cut by the crop. boxes: N x 4; crop_box, image_box: 4; all in image pixels -> N.
    """
    near_crop, near_image = ((boxes - border).abs() <= margin for border in (crop_box, image_box))
    return (near_crop & ~near_image).any(1)
