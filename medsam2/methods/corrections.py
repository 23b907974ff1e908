"""Clicks that correct an answer, as SAM 2 is trained and asked with (2408.00714, section 5 and 2304.02643, appendix A).

A click lies where the answer is wrong: positive where it misses the target, negative where it exceeds it. Where nothing
is wrong it confirms the target, and where there is no target either, the background.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medsam2.data.batch import ObjectInfo
from medsam2.data.prompt_shapes import compute_depth
from medsam2.data.seeding import stable_rng


def draw_numbers(objects: Sequence[ObjectInfo], seed: int, epoch: int, number: int) -> Tensor:
    """N×2 in [0, 1), on the host: what the `number`-th click of each object in an epoch is drawn by."""
    keys = [(seed, info.case_id, info.structure, epoch, number) for info in objects]
    return torch.from_numpy(np.stack([stable_rng("correction", *key).random(2, dtype=np.float32) for key in keys]))


@torch.no_grad()
def draw_clicks(
    logits: Tensor, targets: Tensor, numbers: Tensor, ground_truth_share: float = 0.1
) -> tuple[Tensor, Tensor]:
    """Clicks drawn uniformly, for training; nothing waits for the device.

    Args:
        logits: N×1×S×S, the answers; targets: N×1×S×S in [0, 1], inside above 0.5.
        numbers: N×2 of draw_numbers: which region, which of its pixels.
        ground_truth_share: how often a click is drawn from the target instead of from the error.

    Returns:
        coords: N×2, (x, y) in pixels of S×S; labels: N, 1 positive and 0 negative.
    """
    numbers = numbers.to(logits.device, non_blocking=True)
    truth = targets.flatten(1) > 0.5
    wrong = (logits.flatten(1) > 0) ^ truth
    confirm = (numbers[:, :1] < ground_truth_share) & truth.any(1, keepdim=True) | ~wrong.any(1, keepdim=True)
    region = torch.where(confirm, truth, wrong)
    region = region | ~region.any(1, keepdim=True)
    rank = region.cumsum(1, dtype=torch.int32)  # of each pixel among those of the region, from 1
    drawn = (numbers[:, 1:] * rank[:, -1:]).int()  # a float32 below 1 times a count never rounds up to the count
    place = torch.searchsorted(rank, drawn + 1)
    size = logits.shape[-1]
    return torch.cat([place % size, place // size], dim=1).float(), truth.gather(1, place)[:, 0].long()


@torch.no_grad()
def place_clicks(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Clicks on the innermost wrong pixels, for evaluation; arguments and result as draw_clicks.

    Misses and excesses are regions of their own: the click lies on neither's border.
    """
    masks, truths = (logits[:, 0] > 0).cpu().numpy(), (targets[:, 0] > 0.5).cpu().numpy()
    places = [_find_deepest(mask, truth) for mask, truth in zip(masks, truths, strict=True)]
    coords = torch.tensor([[x, y] for y, x in places], dtype=torch.float32)
    labels = torch.tensor([int(truth[place]) for truth, place in zip(truths, places, strict=True)])
    return coords.to(logits.device), labels.to(logits.device)


def _find_deepest(mask: NDArray[np.bool_], truth: NDArray[np.bool_]) -> tuple[int, int]:
    """Row and column of the pixel farthest inside a region of error, else of the target, else of the image."""
    errors = [truth & ~mask, mask & ~truth]
    regions = next(found for found in (errors, [truth], [~truth]) if any(region.any() for region in found))
    depth = np.maximum.reduce([compute_depth(region) for region in regions if region.any()])
    row, column = np.unravel_index(depth.argmax(), depth.shape)
    return int(row), int(column)


def add_to_budget(info: ObjectInfo, clicks: int) -> ObjectInfo:
    """The object with that many correction clicks in the budget of its prompt: "box + 2 clicks".

    An answer without a user is none any more once it was corrected: neither budget nor name say so then.
    """
    spent = "1 click" if clicks == 1 else f"{clicks} clicks"
    if info.prompt.budget == "none":
        return replace(info, prompt=replace(info.prompt, budget=spent, name=f"{info.prompt.name} + clicks"))
    return replace(info, prompt=replace(info.prompt, budget=f"{info.prompt.budget} + {spent}"))
