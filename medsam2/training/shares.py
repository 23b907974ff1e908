"""A batch that is shared out to several ranks has the loss and the gradient that it would have on one.

A loss is a sum of means over objects, and a mean of all is not the mean of the ranks' means: each rank minimises its
means weighted by its share of the objects, and gradients are summed.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from medsam2.data.loader import Batch
from medsam2.distributed import gather, world_size
from medsam2.methods.base import Loss


class Judged(NamedTuple):
    """The loss of a batch.

    total: what this rank minimises, a scalar with a graph; None where it has no object.
    terms: the loss and its terms, of the whole batch; empty where nobody has an object.
    """

    total: Tensor | None
    terms: dict[str, float]
    objects: int
    cases: list[str]


class _Share(NamedTuple):
    """What a rank tells the others: the values of its terms, of how many objects each is a mean, which are added up."""

    values: dict[str, float]
    counts: dict[str, int]
    parts: list[str]
    objects: int
    cases: list[str]


def read_terms(loss: Loss) -> dict[str, float]:
    """The loss and its terms as numbers, fetched from the device at once."""
    values = {**loss.terms, "loss": loss.total.detach()}
    return dict(zip(values, torch.stack([v.float() for v in values.values()]).tolist(), strict=True))


def judge(loss: Loss | None, batch: Batch | None) -> Judged:
    """The loss of the batch of which this rank has `batch`; None, and no loss, where it has nothing.

    Every rank has to call it, for every batch.
    """
    objects, cases = (0, []) if batch is None else (len(batch.objects), batch.case_ids)
    values = {} if loss is None else read_terms(loss)
    if world_size() == 1:
        return Judged(None if loss is None else loss.total, values, objects, cases)
    parts = {} if loss is None else loss.parts
    counts = {name: parts[name].objects if name in parts else objects for name in values}
    shares: list[_Share] = gather(_Share(values, counts, list(parts), objects, cases))
    names = dict.fromkeys(name for share in shares for name in share.counts)
    sizes = {name: max(1, sum(share.counts.get(name, 0) for share in shares)) for name in names}
    terms = {
        name: sum(share.values[name] * share.counts[name] for share in shares if name in share.values) / size
        for name, size in sizes.items()
    }
    summed = dict.fromkeys(name for share in shares for name in share.parts)
    if summed:
        terms["loss"] = sum(terms[name] for name in summed)
    everything = sum(share.objects for share in shares), [case for share in shares for case in share.cases]
    return Judged(None if loss is None else _weigh(loss, counts, sizes), terms, *everything)


def _weigh(loss: Loss, counts: dict[str, int], sizes: dict[str, int]) -> Tensor:
    """This rank's share of the loss: all shares add up to the loss of the whole batch."""
    if not loss.parts:
        return loss.total * (counts["loss"] / sizes["loss"])
    return torch.stack([part.mean * (part.objects / sizes[name]) for name, part in loss.parts.items()]).sum()
