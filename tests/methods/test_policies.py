"""Each policy keeps exactly whom it says, on entries whose similarities are known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from medsam2.methods.bank import Bank, Entry
from medsam2.methods.policies import Legacy, Quality, build_policy, compute_dissimilarity
from tests.methods.test_bank import entry


def at(degrees: float, iou: float = 0.9, case_id: str = "") -> Entry:
    """An entry whose embedding points that way: sim of two is the cosine of the angle between them."""
    angle = math.radians(degrees)
    return entry(case_id or f"{degrees:g}", iou, (math.cos(angle), math.sin(angle)))


def stream(name: Any, entries: list[Entry], size: int = 3, min_iou: float = 0.5, slack: float = 0.0) -> list[str]:
    """Who is in the bank after all entries came, oldest first."""
    policy = build_policy(name, min_iou, slack)
    assert policy is not None
    bank = Bank(size, policy)
    for i, new in enumerate(entries):
        bank.insert("cup", new, np.random.default_rng(i))
    return [kept.case_id for kept in bank.entries.get("cup", [])]


SPREAD = [at(0), at(60), at(120)]
KEPT = {
    # policy, who comes, who stays
    "fifo takes the newest": ("fifo", [*SPREAD, at(30), at(10)], ["120", "30", "10"]),
    "fifo admits the worst": ("fifo", [at(0, iou=0.0)], ["0"]),
    "diverse drops whom the newcomer crowds": ("diverse", [*SPREAD, at(90)], ["0", "120", "90"]),
    "diverse drops the newcomer in the middle": ("diverse", [at(0), at(90), at(180), at(91)], ["0", "90", "180"]),
    "diverse drops the older of twins": ("diverse", [at(0), at(90), at(180), at(90, case_id="x")], ["0", "180", "x"]),
    "diverse admits the worst": ("diverse", [at(0, iou=0.0)], ["0"]),
    "quality drops the worst": ("quality", [at(0, 0.9), at(1, 0.6), at(2, 0.8), at(3, 0.7)], ["0", "2", "3"]),
    "quality keeps equals": ("quality", [at(0, 0.9), at(1, 0.7), at(2, 0.8), at(3, 0.7)], ["0", "1", "2"]),
    "quality asks for more than min_iou": ("quality", [at(0, 0.5), at(1, 0.51)], ["1"]),
    "self_sorting asks for more than min_iou": ("self_sorting", [at(0, 0.5), at(1, 0.51)], ["1"]),
    "self_sorting is diverse among the good": ("self_sorting", [*SPREAD, at(170, iou=0.4), at(90)], ["0", "120", "90"]),
    "self_sorting does not mind how good": ("self_sorting", [*SPREAD, at(90, iou=0.51)], ["0", "120", "90"]),
}  # fmt: skip


@pytest.mark.parametrize("case", KEPT, ids=str)
def test_who_stays(case: str) -> None:
    name, entries, kept = KEPT[case]
    assert stream(name, entries) == kept


def test_dissimilarity_is_the_papers_sum() -> None:
    near = 1 - math.cos(math.radians(30))
    expected = [0.5 + 1.5 + 1, 0.5 + 0.5 + near, 1.5 + 0.5 + near, 1 + near + near]
    np.testing.assert_allclose(compute_dissimilarity([*SPREAD, at(90)]), expected, atol=1e-6)


def test_slack_lets_the_quality_sink() -> None:
    worse = [at(i, iou=0.9 - 0.05 * i) for i in range(8)]
    assert stream("quality", worse, size=1, slack=0.0) == ["0"]
    assert stream("quality", worse, size=1, slack=0.1) == ["7"]  # 0.9 has become 0.55, by steps of less than the slack


def test_random_replaces_any_but_the_newcomer_by_the_generator_alone() -> None:
    leavers = set()
    for seed in range(50):
        policy = build_policy("random", 0.5, 0.0)
        assert policy is not None
        chosen = [policy.choose_leaver([*SPREAD, at(90)], np.random.default_rng(seed)) for _ in range(2)]
        assert chosen[0] == chosen[1]
        leavers.add(chosen[0])
    assert leavers == {0, 1, 2}


SWAPS = {
    # the bank, the newcomer; who leaves: 3 is the newcomer
    "least like 0; its nearest is 20; less like 0 than 20 is: 20 leaves": ([at(0), at(20), at(90)], at(150), 1),
    "as good less 0.1: refused": ([at(0), at(20, 0.9), at(90)], at(150, 0.8), 3),
    "a bit better than that: accepted": ([at(0), at(20, 0.9), at(90)], at(150, 0.81), 1),
    "least like 90; more like it than its nearest, 20, is: refused": ([at(0), at(20), at(90)], at(40), 3),
    # what is wrong with it: the newcomer is a copy of 90, and enters in place of 20
    "a copy of another entry enters": ([at(0), at(20), at(90)], at(90, case_id="copy"), 1),
}


@pytest.mark.parametrize("case", SWAPS, ids=str)
def test_the_legacy_rule_swaps_as_the_original_does(case: str) -> None:
    bank, new, leaver = SWAPS[case]
    assert Legacy().choose_leaver([*bank, new], np.random.default_rng(0)) == leaver


def test_policies_by_name() -> None:
    assert build_policy("none", 0.5, 0.0) is None
    quality = build_policy("quality", 0.7, 0.2)
    assert isinstance(quality, Quality)
    assert (quality.min_iou, quality.slack) == (0.7, 0.2)
    with pytest.raises(ValueError, match=r"method\.policy='best' must be one of none, fifo, random, diverse, quality"):
        build_policy("best", 0.5, 0.0)  # type: ignore[arg-type]
