"""Clips made by hand: moving discs on noise, and prompts where a test wants them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medsam2.data.batch import ObjectInfo
from medsam2.data.clip_batch import Clip, ClipPrompt
from medsam2.data.prompts import Prompt
from medsam2.modeling.sam2 import SAM2
from tests.goldens import build_model, draw_weight

SIZE = 64
Y, X = np.mgrid[:SIZE, :SIZE]


def build(bias: float = 3.0, *overrides: str) -> SAM2:
    """A network with drawn weights, whose presence score is near `bias` everywhere."""
    model = build_model("sam2_nano", SIZE, list(overrides))
    model.load_state_dict({name: draw_weight(name, x.shape) for name, x in model.state_dict().items()})
    with torch.no_grad():
        last = model.sam_mask_decoder.pred_obj_score_head.layers[-1]
        last.weight.mul_(0.1)
        last.bias.fill_(bias)
    return model


def disc(t: int, kind: int = 0) -> np.ndarray[Any, np.dtype[np.bool_]]:
    centre = (20 + 3 * t, 24 + 2 * t) if kind == 0 else (44 - 2 * t, 40)
    return (X - centre[0]) ** 2 + (Y - centre[1]) ** 2 <= (10 + 2 * kind) ** 2


def box(t: int, kind: int = 0) -> ClipPrompt:
    rows, columns = np.nonzero(disc(t, kind))
    corners = [[columns.min(), rows.min()], [columns.max(), rows.max()]]
    return ClipPrompt(torch.tensor(corners, dtype=torch.float32), torch.tensor([2, 3]))


def clicks(t: int, *labels: int) -> ClipPrompt:
    points = torch.tensor([[20.0 + 3 * t + 4 * i, 24.0 + 2 * t] for i in range(len(labels))])
    return ClipPrompt(points, torch.tensor(labels))


def mask(t: int, empty: bool = False) -> ClipPrompt:
    given = torch.from_numpy(disc(t) & (not empty))[None]
    return ClipPrompt(torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64), given)


def make_images(length: int, seed: int = 0) -> Tensor:
    """T×3×S×S uint8."""
    rng = np.random.default_rng(seed)
    noise = rng.integers(0, 90, (length, 3, SIZE, SIZE))
    bright = np.stack([80 * disc(t) + 60 * disc(t, 1) for t in range(length)])[:, None]
    return torch.from_numpy((noise + bright).astype(np.uint8))


def make_clip(
    prompts: Sequence[Mapping[int, ClipPrompt]],
    length: int = 6,
    present: Sequence[Sequence[bool]] | None = None,
    seed: int = 0,
) -> Clip:
    """A clip with targets: object n is the disc of kind n % 2, where it is present."""
    shown = torch.ones(len(prompts), length, dtype=torch.bool) if present is None else torch.tensor(present)
    masks = np.stack([[disc(t, n % 2) for t in range(length)] for n in range(len(prompts))])
    bare = Prompt(np.zeros((0, 2), np.float32), np.zeros(0, np.int64), "box", "box")
    infos = [
        [ObjectInfo(f"v_{t}", "p", f"s{n}", bare, None, volume="v", index=t) for t in range(length)]
        for n in range(len(prompts))
    ]
    targets = torch.from_numpy(masks) & shown[..., None, None]
    return Clip("v", make_images(length, seed), targets, shown, [dict(p) for p in prompts], infos)
