"""Small layers shared by the whole network. Parameter names are those of the released checkpoints."""

import copy
from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu}


def get_activation_fn(activation: str) -> Callable[[Tensor], Tensor]:
    """The function of a name, "relu" or "gelu" (the exact form); ValueError for another name."""
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation={activation!r} is unknown: use {' or '.join(ACTIVATIONS)}")
    return ACTIVATIONS[activation]


def get_clones(module: nn.Module, count: int) -> nn.ModuleList:
    """`count` independent copies of a module, equal at the start."""
    return nn.ModuleList(copy.deepcopy(module) for _ in range(count))


class MLP(nn.Module):
    """`depth` linear layers with an activation between them: ... x in_dim -> ... x out_dim."""

    def __init__(
        self,
        in_dim: int,
        hidden_dim: int,
        out_dim: int,
        depth: int,
        activation: Callable[[Tensor], Tensor] = F.relu,
    ) -> None:
        super().__init__()
        widths = [in_dim] + [hidden_dim] * (depth - 1) + [out_dim]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        return self.layers[-1](x)


class LayerNorm2d(nn.Module):
    """Layer norm over the channels of every pixel, B x C x H x W; eps 1e-6 as in SAM 2."""

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        # One fused kernel on the channels-last view instead of mean, variance, root and affine apart.
        y = F.layer_norm(x.permute(0, 2, 3, 1), self.weight.shape, self.weight, self.bias, self.eps)
        return y.permute(0, 3, 1, 2)


class DropPath(nn.Module):
    """Stochastic depth: in training a sample loses its residual branch with probability `rate` in [0, 1)."""

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if self.rate == 0.0 or not self.training:
            return x
        keep = 1.0 - self.rate
        mask = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(keep)
        return x * (mask / keep)
