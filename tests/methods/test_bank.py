"""The bank keeps what it should, never more than it may, and comes back from a file as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from medsam2.methods.bank import Bank, Entry, compute_similarity
from medsam2.methods.policies import Fifo, Quality

CPU = torch.device("cpu")


def entry(case_id: str = "a", iou: float = 0.9, direction: tuple[float, ...] = (1.0, 0.0)) -> Entry:
    """An entry whose embedding, C×1×1, points somewhere: the cosine of two is that of their directions."""
    embed = torch.tensor(direction)[None, :, None, None]
    return Entry(embed, torch.zeros(1, 1, 4, 4), torch.ones(1, 1), torch.zeros(1, 2), iou, case_id)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def fill(bank: Bank, case_ids: str) -> Bank:
    for case_id in case_ids:
        bank.insert("cup", entry(case_id), rng())
    return bank


def names(bank: Bank, structure: str = "cup") -> str:
    return "".join(kept.case_id for kept in bank.entries[structure])


@pytest.mark.parametrize(
    "embed", [torch.randn(3, 5, 4, 4), torch.rand(3, 5, 4, 4) + 100, torch.randn(3, 5, 4, 4) * 1e-4]
)
@pytest.mark.parametrize("autocast", [False, True])
def test_what_is_compared_with_itself_is_one(embed: Tensor, autocast: bool) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        similarity = compute_similarity(embed, embed)
    assert similarity.dtype == torch.float32
    torch.testing.assert_close(similarity.diag(), torch.ones(3), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [((1, 0), (1, 0), 1), ((1, 0), (0, 2), 0), ((1, 0), (-3, 0), -1), ((1, 1), (1, 0), 0.5**0.5), ((0, 0), (1, 0), 0)],
)
def test_similarity_is_the_cosine(a: Any, b: Any, expected: float) -> None:
    value = compute_similarity(entry(direction=a).embed, entry(direction=b).embed)
    torch.testing.assert_close(value, torch.tensor([[float(expected)]]))


def test_in_another_layout_the_same_feature_is_a_stranger() -> None:
    embed = torch.randn(1, 64, 16, 16, generator=torch.Generator().manual_seed(0))
    assert compute_similarity(embed.permute(0, 2, 3, 1), embed).abs().item() < 0.05


@pytest.mark.parametrize("batch", [1, 4, 5, 6, 16, 40])
def test_the_bank_holds_no_more_than_its_size_whatever_the_batch(batch: int) -> None:
    bank, largest = Bank(16, Fifo()), 0
    for first in range(0, 80, batch):
        for i in range(first, first + batch):
            bank.insert("cup", entry(str(i)), rng())
            largest = max(largest, len(bank.entries["cup"]))
    assert largest == 16


def test_structures_have_banks_of_their_own() -> None:
    bank = fill(Bank(2, Fifo()), "abc")
    bank.insert("disc", entry("a"), rng())
    assert (names(bank), names(bank, "disc")) == ("bc", "a")
    assert str(bank) == "cup 2, disc 1"


def test_a_case_has_one_memory_the_latest() -> None:
    bank = fill(Bank(4, Fifo()), "abc")
    bank.insert("cup", entry("a", iou=0.1), rng())
    assert names(bank) == "bca"
    assert bank.entries["cup"][-1].iou == 0.1


def test_who_is_not_admitted_changes_nothing() -> None:
    bank = Bank(2, Quality(min_iou=0.5))
    bank.insert("cup", entry("a", iou=0.5), rng())
    assert bank.entries == {}
    assert str(bank) == "empty"


def test_state_goes_through_a_file_and_back(tmp_path: Path) -> None:
    bank = Bank(3, Fifo())
    for i, dtype in enumerate((torch.float32, torch.bfloat16)):
        kept = entry(f"case {i}", iou=0.1 + i)._replace(embed=torch.randn(1, 2, 3, 3).to(dtype), patient_id=f"p{i}")
        bank.insert("cup", kept, rng())
    torch.save(bank.state_dict(), tmp_path / "state.pt")
    other = fill(Bank(3, Fifo()), "xyz")
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True), CPU)
    assert len(other.entries["cup"]) == 2
    for one, same in zip(bank.entries["cup"], other.entries["cup"], strict=True):
        assert one.embed.dtype == same.embed.dtype
        assert all(torch.equal(a, b) for a, b in zip(one[:4], same[:4], strict=True))
        assert one[4:] == same[4:]
    assert [kept.patient_id for kept in other.entries["cup"]] == ["p0", "p1"]


def test_a_cleared_bank_is_empty() -> None:
    bank = fill(Bank(2, Fifo()), "ab")
    bank.clear()
    assert bank.entries == {}


def test_a_bank_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match=r"method\.size=0 must be 1 or more.*policy=none"):
        Bank(0, Fifo())
