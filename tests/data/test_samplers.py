"""Shares of an epoch and of an evaluation: together what one process has, in its order."""

from __future__ import annotations

import pytest

from medsam2.data.samplers import EpochSampler, ShareSampler


@pytest.mark.parametrize(
    ("length", "batch", "world"), [(8, 4, 2), (7, 4, 2), (9, 4, 2), (13, 6, 3), (3, 4, 4), (0, 2, 2)]
)
@pytest.mark.parametrize("start", [0, 1])
def test_ranks_have_parts_of_the_same_batches(length: int, batch: int, world: int, start: int) -> None:
    alone = EpochSampler(length, seed=3)
    alone.set_epoch(2, start * batch)
    whole = list(alone)
    shares = []
    for rank in range(world):
        sampler = EpochSampler(length, 3, batch=batch, rank=rank, world=world)
        sampler.set_epoch(2, start * batch)
        shares.append(list(sampler))
        assert len(sampler) == len(shares[-1])
    own = batch // world
    for first in range(0, len(whole), batch):
        number = first // batch
        parts = [share[number * own : (number + 1) * own] for share in shares]
        assert [key for part in parts for key in part] == whole[first : first + batch]
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize(
    ("groups", "world", "expected"),
    [
        ("abcde", 2, [[0, 1], [2, 3, 4]]),
        ("aaabbbbcc", 2, [[0, 1, 2], [3, 4, 5, 6, 7, 8]]),
        ("aaaaaaab", 2, [[0, 1, 2, 3, 4, 5, 6], [7]]),
        ("aaaa", 2, [[], [0, 1, 2, 3]]),
        ("abcdef", 3, [[0, 1], [2, 3], [4, 5]]),
        ("", 2, [[], []]),
    ],
)
def test_an_evaluation_is_shared_out_in_whole_groups(groups: str, world: int, expected: list[list[int]]) -> None:
    shares = [[index for _, index in ShareSampler(groups, rank, world)] for rank in range(world)]
    assert shares == expected
    assert [len(ShareSampler(groups, rank, world)) for rank in range(world)] == [len(share) for share in expected]
