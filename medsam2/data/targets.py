"""What a network learns where several raters drew an object: their majority, their mean, or one of them.

An evaluation is not asked: it scores against the majority and against each rater.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from medsam2.data.prepared import share
from medsam2.data.records import DatasetError, compute_consensus

Masks = NDArray[np.bool_]


class Target(Protocol):
    """Makes the target of one training object."""

    def __call__(self, raters: Masks, rng: np.random.Generator) -> tuple[NDArray[Any], NDArray[Any]]:
        """Of masks R×S×S, R ≥ 1, the target and what the object's prompt is drawn from.

        Both are S×S, bool or float32 in [0, 1]; of a kind of target all targets have one type. ``rng`` gives all
        structures of a case the same numbers.
        """


class Majority:
    """Where at least half of the raters agree; prompts by the share of raters."""

    def __call__(self, raters: Masks, rng: np.random.Generator) -> tuple[NDArray[Any], NDArray[Any]]:
        return compute_consensus(raters), share(raters)


class Soft:
    """The share of raters, float32: the network learns how sure they are together; prompts by the share too."""

    def __call__(self, raters: Masks, rng: np.random.Generator) -> tuple[NDArray[Any], NDArray[Any]]:
        return raters.mean(axis=0, dtype=np.float32), share(raters)


class RandomRater:
    """Another rater in each epoch, for all structures of a case the same one; prompts from that rater's mask."""

    def __call__(self, raters: Masks, rng: np.random.Generator) -> tuple[NDArray[Any], NDArray[Any]]:
        mask = raters[rng.integers(len(raters))]
        return mask, mask


class SingleRater:
    """One rater alone, also for prompts; ``rater`` counts from 1 in the order of the dataset.

    Calling raises DatasetError for an object that fewer raters drew.
    """

    def __init__(self, rater: int = 1) -> None:
        if rater < 1:
            raise ValueError(f"target.rater={rater} must be 1 or more: the first rater is 1")
        self.rater = rater

    def __call__(self, raters: Masks, rng: np.random.Generator) -> tuple[NDArray[Any], NDArray[Any]]:
        if self.rater > len(raters):
            has = "is 1 rater" if len(raters) == 1 else f"are {len(raters)} raters"
            raise DatasetError(
                f"target.rater={self.rater}, but there {has}; choose a lower one, or target=majority",
                "missing rater",
            )
        mask = raters[self.rater - 1]
        return mask, mask
