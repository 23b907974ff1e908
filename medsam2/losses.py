"""Losses on mask logits N×1×H×W against targets of the same shape in [0, 1]; MONAI's are used as they are."""

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


class FocalDice(nn.Module):
    """Focal loss (Lin et al. 2017, 1708.02002) and soft Dice, weighted as SAM 2 is trained (2408.00714).

    Args:
        focal, dice: weights of the two.
        alpha: share of the foreground in the focal loss, the background has 1 - alpha.
        gamma: how little pixels count that are right already; 0 or at least 1, between them the gradient explodes.

    Raises:
        ValueError: a negative weight, alpha outside 0...1, or such a gamma.
    """

    def __init__(self, focal: float = 20.0, dice: float = 1.0, alpha: float = 0.25, gamma: float = 2.0):
        super().__init__()
        if min(focal, dice) < 0 or not 0 <= alpha <= 1 or not (gamma == 0 or gamma >= 1):
            raise ValueError(
                f"loss.focal={focal}, loss.dice={dice}, loss.alpha={alpha}, loss.gamma={gamma}: weights are 0 or more, "
                "alpha lies in 0...1, gamma is 0 or at least 1"
            )
        self.focal = focal
        self.dice = dice
        self.alpha = alpha
        self.gamma = gamma

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return self.per_mask(logits, target).mean()

    def per_mask(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss of each of K masks of an object: N×K×H×W and N×1×H×W -> N×K."""
        target = target.expand_as(logits)
        inside = logits.sigmoid()
        # written without masks of the two classes, so that soft targets are taken as they are
        wrong = inside + target - 2 * inside * target
        balance = self.alpha * target + (1 - self.alpha) * (1 - target)
        entropy = binary_cross_entropy_with_logits(logits, target, reduction="none")
        focal = (balance * wrong**self.gamma * entropy).mean((-2, -1))
        return self.focal * focal + self.dice * compute_dice_loss(inside, target)


def compute_dice_loss(inside: Tensor, target: Tensor, smooth: float = 1.0) -> Tensor:
    """1 - soft Dice of each mask of probabilities, `smooth` pixels added above and below: ...×H×W -> ..."""
    shared = (inside * target).sum((-2, -1))
    return 1 - (2 * shared + smooth) / (inside.sum((-2, -1)) + target.sum((-2, -1)) + smooth)
