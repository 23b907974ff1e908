"""LoRA: a linear layer's weight W becomes W + alpha / rank * B A, of which only A and B train (2106.09685, section 4).

B is zero at the start, so a network starts as it was. The sum is a torch parametrization of `weight`: a layer stays the
module it was, and whoever reads layer.weight reads the sum. Merged, the tensors have the network's own names again.
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

ORIGINAL = ".parametrizations.weight.original"  # what torch calls the W of a layer with a sum


class LowRank(nn.Module):
    """W, out x in, to W + alpha / rank * B A; A is rank x in, drawn with variance 1 / in, B is out x rank."""

    def __init__(self, weight: Tensor, rank: int, alpha: float, generator: torch.Generator) -> None:
        super().__init__()
        width = weight.shape[1]
        self.scale = alpha / rank
        self.lora_a = nn.Parameter(torch.randn(rank, width, generator=generator).to(weight) / width**0.5)
        self.lora_b = nn.Parameter(weight.new_zeros(weight.shape[0], rank))

    def forward(self, weight: Tensor) -> Tensor:
        with torch.autocast(weight.device.type, enabled=False):  # in float32, as it will be merged
            return torch.addmm(weight, self.lora_b, self.lora_a, alpha=self.scale)


def add_lora(model: nn.Module, targets: Sequence[str], rank: int, alpha: float, seed: int = 0) -> None:
    """Give the linear layers whose names match a shell-style pattern a low-rank update each, in place.

    What trains is not decided here: see optim.build_groups and the names `*.lora_a`, `*.lora_b`.

    Args:
        rank: of the updates, at least 1; alpha: they are scaled by alpha / rank, > 0.
        seed: of A; the global generators are left as they are.

    Raises:
        ValueError: a pattern that matches no linear layer, a rank below 1, an alpha that is not positive.
    """
    if rank < 1 or not alpha > 0:
        raise ValueError(f"model.tuning.lora: rank={rank}, alpha={alpha}: rank must be at least 1, alpha above 0")
    layers = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    for pattern in targets:
        if not any(fnmatchcase(name, pattern) for name in layers):
            raise ValueError(
                f"model.tuning.lora.targets: {pattern!r} matches no linear layer; they have names such as "
                f"{next(iter(layers), 'none at all')}"
            )
    generator = torch.Generator().manual_seed(seed)
    for name, layer in layers.items():
        if any(fnmatchcase(name, pattern) for pattern in targets):
            parametrize.register_parametrization(layer, "weight", LowRank(layer.weight, rank, alpha, generator))


def merged_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The state dict of the merged model, under the names it had without LoRA; the model stays as it is."""
    state: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        if name.endswith(ORIGINAL):
            layer = model.get_submodule(name.removesuffix(ORIGINAL))
            state[name.removesuffix(ORIGINAL) + ".weight"] = layer.weight.detach()  # type: ignore[union-attr, operator]
        elif ".parametrizations." not in name:
            state[name] = value
    return state


def merge_lora(model: nn.Module) -> None:
    """Write every update into its weight, in place: what is left are plain layers. Nothing happens without LoRA."""
    for layer in list(model.modules()):
        if isinstance(layer, nn.Linear) and parametrize.is_parametrized(layer, "weight"):
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)
