"""Which samples come in which order, and which of them are whose where several processes share the work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from medsam2.data.seeding import stable_rng


class EpochSampler(Sampler[tuple[int, int]]):
    """Yields (epoch, index), so that worker processes learn the epoch with every index.

    The order is a permutation that depends on (seed, epoch) alone, or 0…n-1 without ``shuffle``. ``start``
    skips the first samples of the epoch: a run that stopped after k samples goes on with ``set_epoch(epoch,
    start=k)``.

    Of every ``batch`` samples each of ``world`` ranks has its part, the first rank the first ones: all of them together
    have what one process has, in the same order. The epoch's last batch may be smaller, and empty for some ranks.
    """

    def __init__(
        self, length: int, seed: int, shuffle: bool = True, batch: int = 1, rank: int = 0, world: int = 1
    ) -> None:
        self.length = length
        self.seed = seed
        self.shuffle = shuffle
        self.batch = batch
        self.rank, self.world = rank, world
        self.epoch = 0
        self.start = 0

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Call before iterating. A ``start`` past the end leaves nothing; below 0 it raises ValueError."""
        if start < 0:
            raise ValueError(f"start={start} lies before the epoch")
        # batches done times batch size: the last batch may have been smaller
        self.epoch, self.start = epoch, min(start, self.length)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.arange(self.length)
        if self.shuffle:
            order = stable_rng("order", self.seed, self.epoch).permutation(self.length)
        return iter([(self.epoch, int(index)) for index in order[self._places()]])

    def _places(self) -> NDArray[np.int64]:
        """The places in the epoch's order that are this rank's."""
        places = np.arange(self.start, self.length)
        if self.world == 1:
            return places
        batches = [places[i : i + self.batch] for i in range(0, len(places), self.batch)]
        return np.concatenate([np.array_split(of_all, self.world)[self.rank] for of_all in batches] or [places])

    def __len__(self) -> int:
        return len(self._places())


class ShareSampler(Sampler[tuple[int, int]]):
    """Yields (0, index) for a rank's share of an evaluation: neighbours, and never a part of a group.

    Args:
        groups: by sample, as PromptedCases.name_groups.
    """

    def __init__(self, groups: Sequence[str], rank: int, world: int) -> None:
        starts = [i for i, name in enumerate(groups) if i == 0 or name != groups[i - 1]] + [len(groups)]
        first, last = (min(starts, key=lambda i: abs(i * world - part * len(groups))) for part in (rank, rank + 1))
        self.share = range(first, last)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter([(0, index) for index in self.share])

    def __len__(self) -> int:
        return len(self.share)
