"""Splits: by patient, seeded, checked, saved whole."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medsam2.data.records import DatasetError, Record, compute_consensus, of_split
from medsam2.data.splits import (
    carve_validation,
    check_disjoint,
    contiguous_blocks,
    save_split,
    split_hash,
    split_table,
)

EYES = [Record(f"p{i}_{eye}", f"p{i}", "train") for i in range(10) for eye in ("left", "right")]
TEST = [Record("t0", "t0", "test")]
THIRDS = [("train", 1 / 3), ("val", 1 / 3), ("test", 1 / 3)]


@given(st.floats(0.01, 0.9), st.integers(0, 1000))
def test_carving_keeps_patients_together(fraction: float, seed: int) -> None:
    carved = carve_validation(EYES + TEST, fraction, seed)
    check_disjoint(carved)
    assert carved == carve_validation(EYES + TEST, fraction, seed)
    assert len(of_split(carved, "val")) == 2 * max(1, round(fraction * 10))
    assert of_split(carved, "test") == TEST
    assert [r.case_id for r in carved] == [r.case_id for r in EYES + TEST]


def test_carving_does_not_depend_on_the_order_of_records() -> None:
    forward, backward = carve_validation(EYES, 0.3, 4), carve_validation(EYES[::-1], 0.3, 4)
    assert set(forward) == set(backward)


def test_carving_twice_is_refused() -> None:
    with pytest.raises(DatasetError, match="val split already"):
        carve_validation(carve_validation(EYES, 0.1, 0), 0.1, 0)


@given(st.integers(12, 60), st.integers(0, 3))
def test_blocks_are_in_order_with_gaps(count: int, gap: int) -> None:
    blocks = contiguous_blocks(range(count), THIRDS, gap)
    assert sum(map(len, blocks.values())) == count - 2 * gap
    assert blocks["train"][0] == 0
    assert blocks["test"][-1] == count - 1
    assert blocks["val"][0] - blocks["train"][-1] == blocks["test"][0] - blocks["val"][-1] == gap + 1
    for block in blocks.values():
        assert block == list(range(block[0], block[-1] + 1))


def test_a_split_may_have_several_blocks() -> None:
    order = [("train", 0.2), ("test", 0.2), ("train", 0.4), ("val", 0.2)]
    blocks = contiguous_blocks("abcdefghijklm", order, 1)
    assert blocks == {"train": ["a", "b", "g", "h", "i", "j"], "test": ["d", "e"], "val": ["l", "m"]}


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([Record("a", "p", "train"), Record("b", "p", "test")], r"1 patients.*p \(test, train\)"),
        ([Record("a", "p", "train"), Record("a", "q", "train")], "a is listed twice"),
        ([Record("a", "p", "dev")], "split='dev'"),
    ],
)
def test_check_disjoint(records: list[Record], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        check_disjoint(records)


def test_one_patient_may_be_shared_where_declared() -> None:
    check_disjoint([Record("a", "p", "train"), Record("b", "p", "test")], allow_shared_patient=True)


def test_split_file_and_hash(tmp_path: Path) -> None:
    records = [Record("b", "p2", "test"), Record("a", "p1", "train")]
    path = save_split(records, tmp_path / "deep" / "split.csv")
    assert path.read_text() == "case_id,patient_id,split\na,p1,train\nb,p2,test\n"
    assert [p.name for p in path.parent.iterdir()] == ["split.csv"]
    assert split_table(records) == [("a", "p1", "train"), ("b", "p2", "test")]
    assert (
        split_hash(records) == split_hash(records[::-1]) != split_hash([replace(records[0], split="val"), records[1]])
    )


def test_a_failed_save_keeps_the_old_file(tmp_path: Path) -> None:
    path = save_split(TEST, tmp_path / "split.csv")
    with pytest.raises(AttributeError):
        save_split([None], path)  # type: ignore[list-item]
    assert "t0" in path.read_text()
    assert len(list(tmp_path.iterdir())) == 1


def test_of_split_refuses_other_names() -> None:
    with pytest.raises(DatasetError, match="train, val, test"):
        of_split(EYES, "valid")


def test_consensus_counts_ties_as_foreground() -> None:
    import numpy as np

    raters = np.array([[[1, 1, 0, 0]], [[1, 0, 1, 0]]], dtype=bool)
    assert compute_consensus(raters).tolist() == [[True, True, True, False]]
    assert compute_consensus(np.concatenate([raters, raters[:1] * False])).tolist() == [[True, False, False, False]]
