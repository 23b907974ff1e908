"""A bank of memories, one per structure: the memory of a cup conditions cups.

An entry is what a memory is made of, not the memory: it is encoded when it is drawn, by the weights of that moment. So
gradients reach the memory encoder, and no memory is older than what encodes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize


class Entry(NamedTuple):
    """What one object leaves behind; detached tensors of batch 1 that share no storage with a batch.

    embed: 1×C×n×n, the image embedding before any memory, in the dtype the network gave it (4 MiB in float32 at 1024
        px): rounded, it would be the memory of no image, and no longer equal to itself.
    mask_logits: 1×1×4n×4n float32, as answered. presence: 1×1, 1 or, where the answer was "absent", -1.
    token: 1×C, the output token that an object pointer is made from.
    iou: the IoU the network expects of its mask, 0..1. patient_id: whose case it is, "" where nobody knows.
    """

    embed: Tensor
    mask_logits: Tensor
    presence: Tensor
    token: Tensor
    iou: float
    case_id: str
    patient_id: str = ""


class Policy(Protocol):
    """Which memories a bank keeps."""

    def admits(self, iou: float) -> bool:
        """Whether an entry of this predicted IoU may enter at all."""

    def choose_leaver(self, entries: Sequence[Entry], rng: np.random.Generator) -> int:
        """Who leaves a full bank: `entries` are the bank's, oldest first, and the new one, last; it may be the last."""


class Bank:
    """At most `size` entries per structure, oldest first, chosen by `policy`.

    Entries come one by one, so the limit holds whatever the batch size. A case has one entry: a later one takes the
    place of an earlier one.
    """

    def __init__(self, size: int, policy: Policy) -> None:
        if size < 1:
            raise ValueError(f"method.size={size} must be 1 or more; method.policy=none keeps no memories")
        self.size = size
        self.policy = policy
        self.entries: dict[str, list[Entry]] = {}

    def insert(self, structure: str, entry: Entry, rng: np.random.Generator) -> None:
        """Offer an entry; `rng` is drawn from by policies that leave the choice to chance."""
        if not self.policy.admits(entry.iou):
            return
        kept = [other for other in self.entries.get(structure, []) if other.case_id != entry.case_id]
        kept.append(entry)
        if len(kept) > self.size:
            del kept[self.policy.choose_leaver(kept, rng)]
        self.entries[structure] = kept

    def __str__(self) -> str:
        return ", ".join(f"{structure} {len(entries)}" for structure, entries in self.entries.items()) or "empty"

    def clear(self) -> None:
        self.entries = {}

    def state_dict(self) -> dict[str, Any]:
        """Lists and dicts of plain values and tensors, by structure."""
        return {structure: [entry._asdict() for entry in entries] for structure, entries in self.entries.items()}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Goes on from a `state_dict`, with its tensors on `device`."""
        self.entries = {s: [_restore(values, device) for values in stored] for s, stored in state.items()}


def _restore(values: Mapping[str, Any], device: torch.device) -> Entry:
    moved: dict[str, Any] = {key: x.to(device) if isinstance(x, Tensor) else x for key, x in values.items()}
    return Entry(**moved)


def compute_similarity(queries: Tensor, keys: Tensor) -> Tensor:
    """Cosine of embeddings Q×... and K×..., flattened as they are laid out: Q×K in -1...1, float32."""
    with torch.autocast(queries.device.type, enabled=False):  # bfloat16 would leave two digits
        return normalize(queries.flatten(1).float()) @ normalize(keys.flatten(1).float()).T
