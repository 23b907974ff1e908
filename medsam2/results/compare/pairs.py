"""Arms two by two: difference, interval, tests, verdict, and what would decide an open one.

A pair is compared on the cases that both arms have. What counts as a difference is decided by `statistics.decide`: the
permutation test over patients, the joint test that knows of seeds too (Holm over all pairs of the structure for both)
and the interval must agree.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medsam2.results.compare.cells import Floats, Integers
from medsam2.results.compare.comparison import is_higher_better, range_of
from medsam2.results.compare.flips import permute_pairs
from medsam2.results.compare.sentences import ALPHA, Finding, needed_units, warn_of_seeds, write
from medsam2.results.statistics import (
    Clusters,
    Draws,
    cohen_dz,
    decide,
    holm,
    needed_patients,
    needed_seeds,
    rank_biserial,
    rank_sums,
    share_better,
    wilcoxon,
)
from medsam2.results.statistics.clusters import patient_means, stack

MOST_ARMS = 150  # above, only pairs with the best arm
COLUMNS = (
    "a", "b", "structure", "metric", "difference", "low", "high", "patients", "cases", "seeds", "p_wilcoxon",
    "p_permutation", "p_joint", "p_wilcoxon_holm", "p_permutation_holm", "p_joint_holm", "effect_dz", "effect_rank",
    "share_better", "verdict", "more_seeds", "more_patients", "caution", "sentence",
)  # fmt: skip


@dataclass(frozen=True)
class Table:
    """What the pairs of one structure are computed from.

    Attributes:
        clusters: of each arm, of this structure, or of all of which the mean is taken.
        scored: A×C×K: of which cases and structures an arm has a value in some seed.
        whole: A×C×K: of which it lacks none.
        restrict: the clusters of an arm, of the cases and structures C×K alone that are kept.
        pairs: M×2 numbers of arms. family: over how many pairs p-values are corrected, M or more.
        where, unit, size_unit: words for the sentences.
    """

    arms: tuple[str, ...]
    clusters: Sequence[Clusters]
    scored: NDArray[np.bool_]
    whole: NDArray[np.bool_]
    restrict: Callable[[int, NDArray[np.bool_]], Clusters]
    pairs: Integers
    family: int
    structure: str
    metric: str
    where: str
    unit: str
    size_unit: str
    resamples: int
    seed: int


def choose_pairs(order: Sequence[int], baseline: int | None) -> tuple[Integers, int]:
    """M×2: all pairs, the better arm first; pairs with `baseline`; or with the best arm where there are very many.

    Also over how many pairs p-values are corrected: which arm is the best was seen in the same cases, so that pairs
    with it are a choice among all pairs.
    """
    everything = len(order) * (len(order) - 1) // 2
    if baseline is not None:
        pairs = [(a, baseline) for a in order if a != baseline]
        return np.array(pairs, dtype=np.int64).reshape(-1, 2), len(pairs)
    some = combinations(order, 2) if len(order) <= MOST_ARMS else ((order[0], other) for other in order[1:])
    return np.array(list(some), dtype=np.int64).reshape(-1, 2), everything


def compare_pairs(table: Table) -> pd.DataFrame:
    """A line per pair, with the columns of `Board.pairs`."""
    if not len(table.pairs):
        return pd.DataFrame(columns=list(COLUMNS))
    groups = _group(table)
    parts = [_measure(table, chosen, kept) for chosen, kept in groups]
    order = np.argsort(np.concatenate([chosen for chosen, _ in groups]), kind="stable")
    found: dict[str, Any] = {key: np.concatenate([part[key] for part in parts])[order] for key in parts[0]}
    for name in ("wilcoxon", "permutation", "joint"):
        found[f"p_{name}_holm"] = _correct(found[f"p_{name}"], table.family)
    found["verdict"] = _judge(found, table)
    found["more_patients"], found["more_seeds"] = _plan(found, table.family)
    found |= {"structure": table.structure, "metric": table.metric}
    found |= {key: np.array(table.arms, dtype=object)[table.pairs[:, i]] for i, key in enumerate("ab")}
    found["caution"] = _warn_all(table)
    found["sentence"] = _write_all(found, table)
    found["patients"] = found["units"] if table.unit == "patient" else np.minimum(found["units"], 1)
    found["seeds"] = found["seeds_of"].min(axis=1)
    return pd.DataFrame({key: found[key] for key in COLUMNS})


def _group(table: Table) -> list[tuple[Integers, NDArray[np.bool_]]]:
    """Numbers of pairs that are compared on the same cases and structures, and C×K: which."""
    kinds: dict[bytes, int] = {}
    complete = table.scored & table.whole
    kind = np.array([kinds.setdefault(one.tobytes(), len(kinds)) for one in complete])
    keys = kind[table.pairs] @ np.array([len(kinds), 1])
    groups = []
    for key in np.unique(keys):
        chosen = np.flatnonzero(keys == key)
        groups.append((chosen, complete[table.pairs[chosen[0]]].all(axis=0)))
    return groups


def _measure(table: Table, chosen: Integers, kept: NDArray[np.bool_]) -> dict[str, NDArray[Any]]:
    """All that is computed from the rows, for some pairs, on the cases and structures that both arms have, C×K."""
    used, pairs = np.unique(table.pairs[chosen], return_inverse=True)
    pairs = pairs.reshape(-1, 2)
    arms = [table.clusters[i] if np.array_equal(table.scored[i], kept) else table.restrict(int(i), kept) for i in used]
    of_units = patient_means(*stack(arms))
    d = of_units[pairs[:, 0]] - of_units[pairs[:, 1]]  # M×P
    better, sign = (d, 1) if is_higher_better(table.metric) else (-d, -1)
    ranked = rank_sums(d)
    return {
        "units": (~np.isnan(d)).sum(axis=1),
        "cases": np.full(len(pairs), kept.any(axis=1).sum()),
        "tied": (np.nan_to_num(d) == 0).all(axis=1),
        "seeds_of": np.array([len(arm.seeds) for arm in arms])[pairs],
        "p_wilcoxon": wilcoxon(ranked),
        "p_permutation": permute_pairs(of_units, pairs, table.seed),
        "effect_dz": cohen_dz(better),
        "effect_rank": sign * rank_biserial(ranked),
        "share_better": share_better(better),
        "sd_units": spread_of_defined(d),
    } | _draw(arms, pairs, table)


def _draw(arms: Sequence[Clusters], pairs: Integers, table: Table) -> dict[str, NDArray[Any]]:
    """What knows of seeds: difference, its interval, its p, and its variance from seed to seed; NaN without values."""
    found = {key: np.full(len(pairs), np.nan) for key in ("difference", "low", "high", "p_joint", "of_seeds")}
    there = np.array([bool((arm.counts > 0).any()) for arm in arms])
    fine = there[pairs].all(axis=1)
    if fine.any():
        draws = Draws([arm for arm, some in zip(arms, there, strict=True) if some], table.resamples, table.seed)
        some_pairs = (np.cumsum(there) - 1)[pairs[fine]]
        spread = draws.spread(some_pairs)
        found["difference"][fine], found["of_seeds"][fine] = spread.estimate, spread.seeds.sum(axis=1)
        lowest, highest = range_of(table.metric)
        found["low"][fine], found["high"][fine] = draws.differences(some_pairs).T.clip(
            lowest - highest, highest - lowest
        )
        found["p_joint"][fine] = draws.p_values(some_pairs)
    return found


def mean_of(arm: Clusters) -> float:
    """The mean over seeds of what each run would print; NaN where no value is defined."""
    means = arm.seed_means()
    return float(np.nanmean(means)) if not np.isnan(means).all() else np.nan


def spread_of_defined(values: Floats) -> Floats:
    """Sample standard deviation of each row, NaN left out; NaN for fewer than two values."""
    numbers = (~np.isnan(values)).sum(axis=1)
    centred = values - (np.nansum(values, axis=1) / np.maximum(numbers, 1))[:, None]
    squares = np.nansum(centred**2, axis=1)
    return np.where(numbers > 1, np.sqrt(squares / np.maximum(numbers - 1, 1)), np.nan)


def _correct(p: Floats, family: int) -> Floats:
    """Holm over `family` tests, those that were not made counting as 1."""
    return np.where(np.isnan(p), np.nan, holm(_fill(np.where(np.isnan(p), 1, p), family))[: len(p)])


def _fill(values: Floats, family: int) -> Floats:
    return np.concatenate([values, np.ones((family - len(values), *values.shape[1:]))])


def _judge(found: dict[str, Any], table: Table) -> NDArray[np.object_]:
    """What is said of the first arm of each pair."""
    sign = 1 if is_higher_better(table.metric) else -1
    limits = np.stack([found["low"], found["high"]], axis=1)
    tests = (np.where(np.isnan(found[key]), 1, found[key]) for key in ("p_permutation", "p_joint"))
    arguments = sign * found["difference"], limits, *tests
    difference, limits, flips, joint = (_fill(values, table.family) for values in arguments)
    decided = decide(difference, limits, flips, joint)[: len(found["low"])]
    return np.array(["worse", "undecided", "better"], dtype=object)[decided + 1]


def _plan(found: dict[str, Any], family: int) -> tuple[Floats, Floats]:
    """How many more units, or more seeds, each alone, would decide an undecided pair; NaN where decided or unknown."""
    more = np.full((2, len(found["units"])), np.nan)
    chosen = np.flatnonzero((found["verdict"] == "undecided") & (found["units"] > 1) & ~found["tied"])
    size, sd, of_seeds = (found[key][chosen] for key in ("difference", "sd_units", "of_seeds"))
    units, seeds = found["units"][chosen], found["seeds_of"][chosen]
    fewest = seeds.min(axis=1)
    of_seeds = np.where(seeds.max(axis=1) > 1, of_seeds, np.nan)  # one seed each: nothing is known of others
    alpha = ALPHA / family
    enough = needed_patients(size, sd, alpha, rest=np.sqrt(np.nan_to_num(of_seeds)), rest_freedom=fewest - 1)
    more[0, chosen] = np.maximum(np.maximum(enough, needed_units(family)) - units, 1)
    enough = needed_seeds(size, np.sqrt(of_seeds * fewest), alpha, rest=sd / np.sqrt(units), rest_freedom=units - 1)
    more[1, chosen] = np.maximum(enough - fewest, 1)
    return more[0], more[1]


def _warn_all(table: Table) -> NDArray[np.object_]:
    said = [
        warn_of_seeds(table.arms[a], table.arms[b], table.clusters[a].seeds, table.clusters[b].seeds)
        for a, b in table.pairs.tolist()
    ]
    return np.array(said, dtype=object)


def _write_all(found: dict[str, Any], table: Table) -> list[str]:
    words = {"where": table.where, "unit": table.unit, "size_unit": table.size_unit, "family": table.family}
    same = ("a", "b", "difference", "low", "high", "units", "verdict", "more_seeds", "more_patients", "tied", "caution")
    sources = {key: key for key in same} | {name: f"{name}_holm" for name in ("p_wilcoxon", "p_permutation", "p_joint")}
    columns = [np.asarray(found[source]).tolist() for source in sources.values()]
    seeds = [tuple(pair) for pair in found["seeds_of"].tolist()]
    fixed: dict[str, Any] = {"structure": table.structure, "metric": table.metric, **words}
    return [
        write(Finding(**dict(zip(sources, values, strict=True)), seeds=both, **fixed))
        for *values, both in zip(*columns, seeds, strict=True)
    ]
