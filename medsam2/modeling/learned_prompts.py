"""Prompts that nobody gives: tokens learned for each structure, with which the network segments without a user."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class LearnedPrompts(nn.Module):
    """`num_tokens` prompt tokens for each structure, in place of a user's points (prompt tuning, 2104.08691).

    They are kept by the structure's name: a checkpoint of other structures does not load.

    Args:
        structures: the names, each once.
        num_tokens: T, tokens of each structure.
        dim: C, channels of the prompt encoder's tokens.

    `untrained` names those that a checkpoint had nothing for.

    Raises:
        ValueError: no structure, a name twice, or fewer than one token.
    """

    def __init__(self, structures: Sequence[str], num_tokens: int, dim: int) -> None:
        super().__init__()
        self.untrained: list[str] = []
        keys = [_to_key(name) for name in structures]
        if not keys or len(set(keys)) < len(keys):
            raise ValueError(f"learned prompts are for structures={list(structures)}: name one or more, each once")
        if num_tokens < 1:
            raise ValueError(f"prompt.num_tokens={num_tokens} must be 1 or more")
        # as large as the token of a click, whose position is sines and cosines
        self.tokens = nn.ParameterDict({key: 0.5**0.5 * torch.randn(num_tokens, dim) for key in keys})

    def forward(self, names: Sequence[str]) -> Tensor:
        """The tokens of N structures, N x T x C. Raises ValueError for a structure that has none."""
        missing = [name for name in names if _to_key(name) not in self.tokens]
        if missing:
            known = ", ".join(self.tokens)
            raise ValueError(f"no prompt is learned for structure {missing[0]!r}: there are those for {known}")
        first = next(iter(self.tokens.values()))
        return (
            torch.stack([self.tokens[_to_key(name)] for name in names]) if names else first.new_empty(0, *first.shape)
        )


def _to_key(name: str) -> str:
    return name.replace(".", "_")  # torch takes no dot in a parameter's name
