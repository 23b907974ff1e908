"""Which memories stay: the policies of a memory bank."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from medsam2.methods.bank import Entry, Policy, compute_similarity

PolicyName = Literal["none", "fifo", "random", "diverse", "quality", "self_sorting", "legacy"]


class Fifo:
    """The oldest leaves."""

    def admits(self, iou: float) -> bool:
        return True

    def choose_leaver(self, entries: Sequence[Entry], rng: np.random.Generator) -> int:
        return 0


class Random(Fifo):
    """One of the bank leaves, by chance."""

    def choose_leaver(self, entries: Sequence[Entry], rng: np.random.Generator) -> int:
        return int(rng.integers(len(entries) - 1))


class Diverse(Fifo):
    """Whoever is most like all others leaves: the least D_i = Σ_{j≠i} (1 - sim_ij); the older of equals."""

    def choose_leaver(self, entries: Sequence[Entry], rng: np.random.Generator) -> int:
        return int(compute_dissimilarity(entries).argmin())


class Quality:
    """The worst by predicted IoU leaves.

    Args:
        min_iou: a memory must be expected to be better than this to enter.
        slack: the newcomer may be worse than the worst by this much. Above 0 a bank sinks: whoever is worse by less
            than the slack takes a place, and is the worst that the next one is measured by.
    """

    def __init__(self, min_iou: float, slack: float = 0.0) -> None:
        self.min_iou = min_iou
        self.slack = slack

    def admits(self, iou: float) -> bool:
        return iou > self.min_iou

    def choose_leaver(self, entries: Sequence[Entry], rng: np.random.Generator) -> int:
        *bank, new = [entry.iou for entry in entries]
        worst = int(np.argmin(bank))
        return worst if new > bank[worst] - self.slack else len(bank)


class SelfSorting(Diverse):
    """Medical SAM 2's bank as the paper states it (2408.00874): of those that are expected to be better than `min_iou`
    the most diverse stay; drawing by similarity, its second half, is the stream's.
    """

    def __init__(self, min_iou: float) -> None:
        self.min_iou = min_iou

    def admits(self, iou: float) -> bool:
        return iou > self.min_iou


class Legacy(Fifo):
    """Medical-SAM2's swap rule as coded: m is the entry least like the newcomer, n the entry most like m; n leaves if
    the newcomer is less like m than n is, and at most 0.1 worse than n.

    It never asks whom the newcomer resembles most, so near-duplicates enter, and the IoU may sink by 0.1 per swap. The
    original compares encoded memories, this the embeddings they are made of.
    """

    slack = 0.1

    def choose_leaver(self, entries: Sequence[Entry], rng: np.random.Generator) -> int:
        new = len(entries) - 1
        similarity = compare(entries)
        least = int(similarity[new, :new].argmin())
        np.fill_diagonal(similarity, -np.inf)
        twin = int(similarity[least, :new].argmax())
        diverse = similarity[new, least] < similarity[least, twin]
        return twin if diverse and entries[new].iou > entries[twin].iou - self.slack else new


def compare(entries: Sequence[Entry]) -> NDArray[Any]:
    """Similarity of all entries among each other, E×E."""
    embed = torch.cat([entry.embed for entry in entries])
    return compute_similarity(embed, embed).cpu().numpy()


def compute_dissimilarity(entries: Sequence[Entry]) -> NDArray[Any]:
    """D_i = Σ_{j≠i} (1 - sim_ij) of each entry: 0 where all are alike."""
    distance = 1 - compare(entries)
    np.fill_diagonal(distance, 0)  # of itself, but for rounding
    return distance.sum(axis=1)


def build_policy(name: PolicyName, min_iou: float, slack: float) -> Policy | None:
    """The policy of a name, None for "none"; `min_iou` and `slack` are for those that know them.

    Raises:
        ValueError: an unknown name.
    """
    policies = {
        "none": None,
        "fifo": Fifo(),
        "random": Random(),
        "diverse": Diverse(),
        "quality": Quality(min_iou, slack),
        "self_sorting": SelfSorting(min_iou),
        "legacy": Legacy(),
    }
    if name not in policies:
        raise ValueError(f"method.policy={name!r} must be one of {', '.join(policies)}")
    return policies[name]
