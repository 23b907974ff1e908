"""Losses on mask logits N×1×H×W against targets of the same shape in {0, 1}; MONAI's are used as they are."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits


class BCE(nn.Module):
    """Binary cross-entropy, mean over all pixels, with foreground pixels counting `pos_weight` times (> 0)."""

    def __init__(self, pos_weight: float = 1.0):
        super().__init__()
        self.register_buffer("pos_weight", torch.tensor(float(pos_weight)), persistent=False)
        self.pos_weight: Tensor

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return binary_cross_entropy_with_logits(logits, target, pos_weight=self.pos_weight)
