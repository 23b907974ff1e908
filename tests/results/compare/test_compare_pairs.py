"""Arms two by two: on what both have, in the right direction, and decided only by what is there."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from medsam2.results.compare.pairs import COLUMNS, MOST_ARMS, Table, choose_pairs, compare_pairs
from medsam2.results.statistics import Clusters, Draws, holm, permute, wilcoxon

RNG = np.random.default_rng(3)
UNITS, SEEDS = 30, 3


def cluster(mean: float, difficulty: np.ndarray, seeds: int = SEEDS) -> Clusters:
    values = mean + difficulty + RNG.normal(0, 0.01, (seeds, *difficulty.shape)) + RNG.normal(0, 0.001, (seeds, 1, 1))
    return Clusters(values, np.ones_like(values), tuple(range(seeds)))


def table(*clusters: Clusters, metric: str = "dice", unit: str = "patient", family: int | None = None) -> Table:
    """One case of each unit."""

    def restrict(arm: int, kept: np.ndarray) -> Clusters:
        return Clusters(clusters[arm].sums * kept, clusters[arm].counts * kept, clusters[arm].seeds)

    pairs, everything = choose_pairs(range(len(clusters)), None)
    scored = np.stack([(arm.counts > 0).any(axis=0) for arm in clusters])
    return Table(
        tuple("abcdefg"[: len(clusters)]), clusters, scored, np.ones_like(scored), restrict, pairs,
        family or everything, "mean", metric, "x (box)", unit, "", 300, 0,
    )  # fmt: skip


DIFFICULTY = RNG.normal(0, 0.05, (UNITS, 2))
A, B, C = (cluster(mean, DIFFICULTY) for mean in (0.85, 0.85, 0.80))


def test_a_planted_difference_is_found_and_a_null_is_not() -> None:
    frame = compare_pairs(table(A, B, C))
    assert list(frame.columns) == list(COLUMNS)
    assert frame[["a", "b"]].to_numpy().tolist() == [["a", "b"], ["a", "c"], ["b", "c"]]
    assert frame["verdict"].tolist() == ["undecided", "better", "better"]
    assert frame["difference"].tolist() == pytest.approx(
        [x.seed_means().mean() - y.seed_means().mean() for x, y in [(A, B), (A, C), (B, C)]]
    )
    assert frame[["patients", "cases", "seeds"]].to_numpy().tolist() == [[UNITS, UNITS, SEEDS]] * 3
    assert frame["more_patients"].notna().tolist() == [True, False, False]
    assert "about" in frame["sentence"][0] or "not even" in frame["sentence"][0]
    assert frame["sentence"][1].startswith("a is better than c in dice on x (box): +0.0")


def test_numbers_are_those_of_the_statistics() -> None:
    frame = compare_pairs(table(A, B, C))
    draws = Draws([A, B, C], 300, 0)
    d = np.stack([x.patient_means() - y.patient_means() for x, y in [(A, B), (A, C), (B, C)]])
    limits = draws.differences(np.array([[0, 1], [0, 2], [1, 2]]))
    assert np.allclose(frame[["low", "high"]].to_numpy(), limits)
    assert np.allclose(frame["p_wilcoxon"], wilcoxon(d))
    assert np.allclose(frame["p_permutation"], permute(d), atol=0.02)
    for name in ("wilcoxon", "permutation", "joint"):
        assert np.allclose(frame[f"p_{name}_holm"], holm(frame[f"p_{name}"]))
    assert frame["share_better"][1] == (d[1] > 0).mean()
    assert frame["effect_dz"][1] == pytest.approx(d[1].mean() / d[1].std(ddof=1))


def test_a_lower_distance_is_better() -> None:
    frame = compare_pairs(table(A, C, metric="hd95"))
    assert frame["verdict"].tolist() == ["worse"]
    assert frame["difference"][0] > 0 > frame["effect_dz"][0]
    assert frame["share_better"][0] < 0.5
    assert "a is worse than b in hd95" in frame["sentence"][0]
    assert "lower is better" in frame["sentence"][0]


def test_a_pair_is_compared_on_what_both_have() -> None:
    kept = np.arange(UNITS)[:, None] < 20
    cut = Clusters(B.sums * kept, B.counts * kept, B.seeds)
    frame = compare_pairs(table(A, cut, C))
    assert frame["patients"].tolist() == [20, UNITS, 20]
    assert frame["cases"].tolist() == [20, UNITS, 20]
    common = Clusters(A.sums[:, :20], A.counts[:, :20], A.seeds)
    assert frame["difference"][0] == pytest.approx(common.seed_means().mean() - cut.seed_means().mean())
    alone = compare_pairs(table(A, C))
    assert frame["difference"][1] == pytest.approx(alone["difference"][0])
    assert frame["p_permutation"][1] == pytest.approx(alone["p_permutation"][0], rel=1e-6)


def test_a_case_that_one_seed_has_no_value_of_is_compared_by_nobody() -> None:
    both = table(A, C)
    whole = both.whole.copy()
    whole[1, 3, 0] = False
    frame = compare_pairs(replace(both, whole=whole))
    kept = whole.all(axis=0)
    ours, theirs = (Clusters(arm.sums * kept, arm.counts * kept, arm.seeds) for arm in (A, C))
    assert frame["difference"][0] == pytest.approx(ours.seed_means().mean() - theirs.seed_means().mean(), rel=1e-12)


def test_more_tests_need_more() -> None:
    one, many = (compare_pairs(table(A, cluster(0.841, DIFFICULTY), family=family)) for family in (1, 4950))
    assert many["p_permutation_holm"][0] == pytest.approx(min(1, 4950 * many["p_permutation"][0]))
    assert one["verdict"][0] == "better"
    strong = compare_pairs(table(A, C, family=4950))
    assert strong["p_permutation_holm"][0] < 0.05  # ten thousand flips alone could not show it
    assert "Holm over 4950 pairs" in strong["sentence"][0]


@pytest.mark.parametrize("units", [1, 2, 5])
def test_few_units_decide_nothing(units: int) -> None:
    few = [Clusters(one.sums[:, :units], one.counts[:, :units], one.seeds) for one in (A, C)]
    frame = compare_pairs(table(*few))
    assert frame["verdict"].tolist() == ["undecided"]
    assert ("one patient decides nothing" if units == 1 else "at least 6 are needed") in frame["sentence"][0]
    assert np.isnan(frame["more_patients"][0]) == (units == 1)


def test_one_seed_says_nothing_of_further_ones() -> None:
    frame = compare_pairs(table(cluster(0.85, DIFFICULTY, 1), cluster(0.849, DIFFICULTY, 1)))
    assert frame["verdict"][0] == "undecided"
    assert np.isnan(frame["more_seeds"][0])
    assert frame["more_patients"][0] >= 1
    assert "(one seed each: training noise is not known)" in frame["sentence"][0]


def test_arms_that_score_the_same_are_not_said_to_differ() -> None:
    frame = compare_pairs(table(A, A, C))
    assert frame["verdict"].tolist() == ["undecided", "better", "better"]
    assert frame[["more_seeds", "more_patients"]].isna().all(axis=None)
    assert frame["sentence"][0].startswith("a and b score the same in every patient: dice on x (box) (30 patients")
    assert "would decide" not in frame["sentence"][0]


def test_differences_are_possible_ones() -> None:
    few = [Clusters(np.array([[[v], [w]]]), np.ones((1, 2, 1)), (0,)) for v, w in ((0.99, 0.2), (0.01, 0.1))]
    frame = compare_pairs(table(*few))
    assert frame[["low", "high"]].to_numpy().tolist() == [[-1, 1]]
    free = compare_pairs(table(*few, metric="hd95"))
    assert free["low"][0] < -1 < 1 < free["high"][0]


def test_an_arm_without_a_value_is_not_compared() -> None:
    nothing = Clusters(np.zeros_like(A.sums), np.zeros_like(A.counts), A.seeds)
    frame = compare_pairs(table(A, nothing, C))
    assert frame["verdict"].tolist() == ["undecided", "better", "undecided"]
    assert frame["difference"].isna().tolist() == [True, False, True]
    assert frame["sentence"][0].startswith("nothing to compare")
    assert np.isnan(frame["p_permutation_holm"][0])


def test_which_pairs() -> None:
    assert choose_pairs([2, 0, 1], None)[0].tolist() == [[2, 0], [2, 1], [0, 1]]
    pairs, family = choose_pairs([2, 0, 1], 0)
    assert pairs.tolist() == [[2, 0], [1, 0]]
    assert family == 2
    pairs, family = choose_pairs(range(MOST_ARMS), None)
    assert len(pairs) == family == MOST_ARMS * (MOST_ARMS - 1) // 2
    pairs, family = choose_pairs(range(MOST_ARMS + 1), None)
    assert len(pairs) == MOST_ARMS
    assert set(pairs[:, 0]) == {0}
    assert family == MOST_ARMS * (MOST_ARMS + 1) // 2
    assert compare_pairs(replace(table(A), pairs=choose_pairs([0], None)[0])).empty
