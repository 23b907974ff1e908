"""The order of tokens in the trunk: window after window, so that attention cuts windows out by a view.

Layer norm, linear layers and residuals do not care about the order of tokens, and global attention only permutes with
it. So the trunk keeps one order through a whole stage and goes back to rows and columns for its outputs alone. Windows
that the edge of the map cuts off are shorter, not padded: no padding is ever computed. The four tokens of a 2 x 2 cell
that will be pooled follow each other, on this map and on those it is pooled to.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class WindowGroup(NamedTuple):
    """`number` windows stored one after the other, each of `tokens` tokens, `pads` short of a whole window."""

    number: int
    tokens: int
    pads: int


class Patch(NamedTuple):
    """A rectangle of the map: rows x columns windows of height x width tokens."""

    rows: int
    columns: int
    height: int
    width: int


def split_side(length: int, window: int) -> list[tuple[int, int]]:
    """(number, extent) of the whole windows along a side, then of the one that the edge cuts off."""
    pieces = [(length // window, window), (1, length % window)]
    return [(number, extent) for number, extent in pieces if number * extent]


def join(parts: list[Tensor], dim: int) -> Tensor:
    """Concatenate without copying a single part."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


class WindowOrder(NamedTuple):
    """How the tokens of a height x width map follow each other: in windows, ready to be pooled `pools` times.

    The sides of all windows, whole or cut off, must be multiples of 2 ** pools.
    """

    height: int
    width: int
    window: int
    pools: int

    def pooled(self) -> "WindowOrder":
        """The order that is left when every four tokens became one."""
        return WindowOrder(self.height // 2, self.width // 2, self.window // 2, self.pools - 1)

    def patches(self) -> list[list[Patch]]:
        """Two rows of two patches: whole windows and right edge; bottom edge and corner. Empty ones are left out."""
        rows, columns = split_side(self.height, self.window), split_side(self.width, self.window)
        return [[Patch(r, c, h, w) for c, w in columns] for r, h in rows]

    def groups(self) -> list[WindowGroup]:
        """The windows by their number of tokens, in the order of storage."""
        groups: list[WindowGroup] = []
        for patch in (patch for row in self.patches() for patch in row):
            tokens = patch.height * patch.width
            number = patch.rows * patch.columns
            if groups and groups[-1].tokens == tokens:  # the right and the bottom edge of a square map
                number += groups.pop().number
            groups.append(WindowGroup(number, tokens, self.window**2 - tokens))
        return groups

    def flatten(self, x: Tensor) -> Tensor:
        """Map B x height x width x C -> tokens B x (height * width) x C."""
        axes = [axis for level in range(self.pools + 2) for axis in (level, level + self.pools + 2)]
        tokens, top = [], 0
        for row in self.patches():
            left = 0
            for p in row:
                part = x[:, top : top + p.rows * p.height, left : left + p.columns * p.width]
                part = part.unflatten(2, self._levels(p.columns, p.width)).unflatten(1, self._levels(p.rows, p.height))
                part = part.permute(0, *(axis + 1 for axis in axes), -1)
                tokens.append(part.reshape(x.shape[0], -1, x.shape[-1]))
                left += p.columns * p.width
            top += row[0].rows * row[0].height
        return join(tokens, dim=1)

    def unflatten(self, x: Tensor) -> Tensor:
        """Tokens B x (height * width) x C -> map B x height x width x C."""
        size, start, strips = self.pools + 2, 0, []
        for row in self.patches():
            strip = []
            for p in row:
                end = start + p.rows * p.height * p.columns * p.width
                rows, columns = self._levels(p.rows, p.height), self._levels(p.columns, p.width)
                levels = [side for pair in zip(rows, columns, strict=True) for side in pair]
                part = x[:, start:end].unflatten(1, levels)
                part = part.permute(0, *range(1, 2 * size, 2), *range(2, 2 * size + 1, 2), -1)
                strip.append(part.reshape(x.shape[0], p.rows * p.height, p.columns * p.width, x.shape[-1]))
                start = end
            strips.append(join(strip, dim=2))
        return join(strips, dim=1)

    def _levels(self, number: int, extent: int) -> list[int]:
        """A side of a patch: windows, then cells within one, then halves of a cell."""
        return [number, extent >> self.pools, *[2] * self.pools]
