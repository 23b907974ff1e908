"""The numbers of a report once more, from the rows in the run directories alone, by the plainest means.

Nothing of `medsam2.results` is used: sums are loops over seeds and structures, tests are those of SciPy and
statsmodels. Prompted runs of one setting, all structures averaged, no folds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import nct, permutation_test, t, wilcoxon
from statsmodels.stats.multitest import multipletests

DRAWS = 3000


class Page(HTMLParser):
    """The tables of a page by name: rows of (what the row is about, its numbers by column)."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tables: dict[str, list[tuple[dict[str, str], list[dict[str, str]]]]] = {}
        self._table = ""
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {key: value or "" for key, value in attrs}
        if tag == "table":
            self._table = found.get("data-table", "")
            self.tables.setdefault(self._table, [])
        elif tag == "tr" and self._table:
            about = {key.removeprefix("data-"): value for key, value in found.items() if key.startswith("data-")}
            self.tables[self._table].append((about, []))
        elif "data-value" in found and self._table and self.tables[self._table]:
            self.tables[self._table][-1][1].append(found)

    def handle_endtag(self, tag: str) -> None:
        if tag == "table":
            self._table = ""


@dataclass
class Arm:
    """The rows of an arm by seed."""

    rows: Mapping[int, pd.DataFrame]
    zero_shot: Mapping[int, pd.DataFrame]

    def of(self, structure: str, phase: str = "rows") -> dict[int, pd.DataFrame]:
        return {s: f if structure == "mean" else f[f.structure == structure] for s, f in getattr(self, phase).items()}

    def seed_means(self, metric: str, structure: str, phase: str = "rows") -> list[float]:
        return [f.groupby("structure")[metric].mean().mean() for f in self.of(structure, phase).values()]

    def unit_means(self, metric: str, structure: str, unit: str) -> pd.Series[float]:
        """By patient or case: over its cases, seeds, structures."""
        frame = pd.concat([f.assign(seed=s) for s, f in self.of(structure).items()])
        cells = frame.groupby([unit, "structure", "seed"])[metric].mean()
        return cells.groupby([unit, "structure"]).mean().groupby(unit).mean()


@dataclass
class Runs:
    """The finished runs of one setting, by the model's name."""

    arms: dict[str, Arm]
    unit: str
    common: bool = False  # rows of cases that one of the arms lacks were taken out

    @classmethod
    def read(cls, folder: Path) -> Runs:
        found: dict[str, dict[int, Path]] = {}
        for status in sorted((folder / "runs").glob("*/*/status.json")):
            about = json.loads((status.parent / "run.json").read_text())
            if json.loads(status.read_text())["state"] == "finished":
                found.setdefault(about["params"]["model.name"], {})[about["params"]["seed"]] = status.parent
        arms = {
            name: Arm(*(_read_rows(paths, phase) for phase in ("test", "zero_shot"))) for name, paths in found.items()
        }
        patients = {p for arm in arms.values() for f in arm.rows.values() for p in f.patient_id}
        return cls(arms, "patient_id" if len(patients) > 1 else "case_id")

    @cached_property
    def pairs(self) -> list[tuple[str, str]]:
        return list(combinations(self.arms, 2))

    # ------------------------------------------------------------------------------------------- scores

    def score(self, arm: str, structure: str, metric: str) -> dict[str, float]:
        """Every number of a line of scores but the interval."""
        own = self.arms[arm]
        means, before = own.seed_means(metric, structure), own.seed_means(metric, structure, "zero_shot")
        frame = pd.concat(own.of(structure).values())
        defined = frame[frame[metric].notna()]
        missed = (frame.size_label > 0) & (frame.size_prediction == 0)
        excess = (frame.size_label == 0) & (frame.size_prediction > 0)
        counted = {
            "runs": len(means),
            "seeds": len(means),
            "patients": defined.patient_id.nunique(),
            "cases": defined.case_id.nunique(),
            "undefined": int(frame[metric].isna().sum()),
            "missed": int(missed.sum()),
            "false_positives": int(excess.sum()),
        }
        spread = float(np.std(means, ddof=1)) if len(means) > 1 else np.nan
        return counted | {"mean": float(np.mean(means)), "sd": spread, "zero_shot": float(np.mean(before))}

    def ranks(self, metric: str) -> pd.DataFrame:
        """mean_rank, first, rank_low and rank_high of each arm over draws of patients and of seeds."""
        names = list(self.arms)
        parts = [_Variance(self, (name,), "mean", metric) for name in names]
        units, runs = parts[0].units, parts[0].runs
        means = np.array([self.arms[name].seed_means(metric, "mean") for name in names])
        drawn = np.stack([part.measure(_draw(units, seed=98))[0] for part in parts], axis=1)
        if runs > 1:
            rng = np.random.default_rng(97)
            turned = rng.standard_normal((DRAWS, runs)) @ (means - means.mean(1, keepdims=True)).T
            drawn += turned / np.sqrt(runs * rng.chisquare(runs - 1, (DRAWS, 1)))
        found = pd.DataFrame(-drawn).rank(axis=1).to_numpy()
        low, high = np.percentile(found, [2.5, 97.5], axis=0)
        columns = {"mean_rank": found.mean(0), "first": (found == 1).mean(0), "rank_low": low, "rank_high": high}
        return pd.DataFrame(columns, index=names)

    def interval(self, arms: tuple[str, ...], structure: str, metric: str) -> tuple[float, float]:
        """The 95 % interval of an arm's mean, or of a difference, as `docs/results.md` words it."""
        runs = self if len(arms) == 1 else self.on_common(arms, metric)
        parts = _Variance(runs, arms, structure, metric)
        weights = _draw(parts.units, seed=99)
        mean, influence = parts.measure(weights)
        error = np.sqrt((weights * influence**2).sum(1) * parts.units / (parts.units - 1))
        pivots = np.divide(mean - parts.mean, error, out=np.zeros(DRAWS), where=error > 0)
        low, high = np.quantile(pivots, [0.025, 0.975])
        of_seeds = t.ppf(0.975, max(parts.runs - 1, 1))
        shares = np.array([parts.of_patients, parts.of_seeds]) ** 1.4
        below, above = ((shares * [limit, of_seeds]).sum() / shares.sum() for limit in (high, -low))
        size = np.sqrt(parts.of_patients + parts.of_seeds)
        limits = parts.mean - below * size, parts.mean + above * size
        if metric not in ("dice", "iou", "prompt_dice"):
            return limits
        lowest, highest = np.clip(limits, 1.0 - len(arms), 1.0)  # shares; of two arms their difference
        return float(lowest), float(highest)

    # -------------------------------------------------------------------------------------------- pairs

    def pair(self, a: str, b: str, structure: str, metric: str) -> dict[str, float]:
        """Every number of a line of differences but interval, Holm's corrections and plans."""
        if self is not (common := self.on_common((a, b), metric)):
            return common.pair(a, b, structure, metric)
        means = [np.mean(self.arms[name].seed_means(metric, structure)) for name in (a, b)]
        units = [self.arms[name].unit_means(metric, structure, self.unit) for name in (a, b)]
        d = (units[0] - units[1]).dropna().to_numpy()
        ranks = pd.Series(np.abs(d)).rank()
        flips = permutation_test((d,), np.mean, permutation_type="samples", n_resamples=100_000, rng=5)
        return {
            "difference": float(means[0] - means[1]),
            "p_wilcoxon": float(wilcoxon(d, zero_method="pratt").pvalue),
            "p_permutation": float(flips.pvalue),
            "p_joint": self.joint(a, b, structure, metric),
            "effect_dz": float(d.mean() / d.std(ddof=1)),
            "effect_rank": float((ranks * np.sign(d)).sum() / ranks.sum()),
            "share_better": float(((d > 0) + (d == 0) / 2).mean()),
            "patients": len(d) if self.unit == "patient_id" else 1,
            "cases": len(self._cases(a, metric, structure) & self._cases(b, metric, structure)),
            "seeds": min(len(self.arms[a].rows), len(self.arms[b].rows)),
        }

    def joint(self, a: str, b: str, structure: str, metric: str) -> float:
        """The level at which patients' and seeds' limits, squared and added, end at 0."""
        parts = _Variance(self.on_common((a, b), metric), (a, b), structure, metric)

        def excess(level: float) -> float:
            quantiles = t.ppf(1 - level / 2, parts.units - 1), t.ppf(1 - level / 2, max(parts.runs - 1, 1))
            return float(parts.of_patients * quantiles[0] ** 2 + parts.of_seeds * quantiles[1] ** 2 - parts.mean**2)

        return float(brentq(excess, 1e-12, 1 - 1e-12))

    def on_common(self, arms: tuple[str, ...], metric: str) -> Runs:
        """Of each arm the rows of the cases and structures that all of them have a value of, in every seed."""
        if len(self.arms) == len(arms) and self.common:
            return self
        frames = [frame for arm in arms for frame in self.arms[arm].rows.values()]
        keys = [set(zip(f.case_id, f.structure, strict=True)) for f in frames]
        lacking = {
            key for f in frames for key in zip(*(f[f[metric].isna()][c] for c in ("case_id", "structure")), strict=True)
        }
        kept = set.intersection(*keys) - lacking
        chosen = {name: Arm(_only(self.arms[name].rows, kept), _only(self.arms[name].zero_shot, kept)) for name in arms}
        return Runs(chosen, self.unit, common=True)

    def correct(self, lines: Mapping[tuple[str, str], Mapping[str, float]], key: str) -> dict[tuple[str, str], float]:
        """Holm over all pairs of a structure."""
        return dict(zip(lines, multipletests([line[key] for line in lines.values()], method="holm")[1], strict=True))

    def plan(self, a: str, b: str, structure: str, metric: str, pairs: int) -> dict[str, float]:
        """How many more patients, or more seeds, decide, if the other part of the variance stays as it is."""
        runs = self.on_common((a, b), metric)
        parts = _Variance(runs, (a, b), structure, metric)
        units = [runs.arms[name].unit_means(metric, structure, self.unit) for name in (a, b)]
        sd, alpha = float((units[0] - units[1]).dropna().std()), 0.05 / pairs
        fewest = int(np.floor(1 + np.log2(pairs / 0.05))) + 1
        left = np.sqrt(parts.of_seeds), sd / np.sqrt(parts.units)
        patients = _enough(parts.mean, sd, left[0], parts.runs - 1, alpha)
        seeds = _enough(parts.mean, np.sqrt(parts.of_seeds * parts.runs), left[1], parts.units - 1, alpha)
        more = max(max(patients, fewest) - parts.units, 1), max(seeds - parts.runs, 1)
        return {"more_patients": more[0], "more_seeds": more[1]}

    def _cases(self, arm: str, metric: str, structure: str) -> set[str]:
        return {c for f in self.arms[arm].of(structure).values() for c in f.case_id[f[metric].notna()]}

    # ---------------------------------------------------------------------------------- predicted IoU

    def rejection(self, arm: str, share: float) -> float:
        """Mean Dice when this share of each structure's least sure cases of each seed is rejected."""
        means = []
        for frame in self.arms[arm].rows.values():
            kept = []
            for _, rows in frame[frame.dice.notna()].groupby("structure"):
                sure = rows.sort_values("iou_predicted", kind="stable")
                kept.append(sure.dice.iloc[int(share * len(rows) + 1e-9) :].mean())
            means.append(np.mean(kept))
        return float(np.mean(means))

    def iou_error(self, arm: str) -> float:
        """Expected calibration error of the predicted IoU over 15 bins, all rows of the arm."""
        frame = pd.concat(self.arms[arm].rows.values())[["iou_predicted", "iou"]].dropna()
        error = 0.0
        for i in range(15):
            low = -1.0 if i == 0 else i / 15
            inside = frame[(frame.iou_predicted > low) & (frame.iou_predicted <= (i + 1) / 15)]
            error += abs((inside.iou_predicted - inside.iou).sum())
        return error / len(frame)


class _Variance:
    """A mean, or the difference of two arms of equal seeds, and how much patients and seeds move it."""

    def __init__(self, runs: Runs, arms: tuple[str, ...], structure: str, metric: str):
        frames = {(a, s): f for a in arms for s, f in runs.arms[a].of(structure).items()}
        units = sorted({u for f in frames.values() for u in f[runs.unit][f[metric].notna()]})
        structures = sorted({x for f in frames.values() for x in f.structure})
        self.units, self.runs = len(units), len(runs.arms[arms[0]].rows)
        self._signs = dict(zip(arms, (1, -1), strict=False))
        self._cells: dict[tuple[str, int, str], tuple[NDArray[np.float64], NDArray[np.float64]]] = {}
        for (arm, seed), frame in frames.items():
            for name in structures:
                mine = frame[(frame.structure == name) & frame[metric].notna()].groupby(runs.unit)[metric]
                sums, counts = (x.reindex(units, fill_value=0).to_numpy(float) for x in (mine.sum(), mine.count()))
                self._cells[arm, seed, name] = sums, counts
        self._structures = structures
        self.mean = float(self.measure(np.ones((1, self.units)))[0][0])
        seeds = sorted({seed for _, seed, _ in self._cells})
        self._by_seed = np.array([self._influence(seed) for seed in seeds])
        means = [self._mean(seed, np.ones(self.units)) for seed in seeds]
        average = self._by_seed.mean(0)
        joint = float((average**2).sum())
        between, noise = 0.0, 0.0
        if self.runs > 1:
            between = float(np.var(means, ddof=1)) / self.runs
            noise = max(float((self._by_seed**2).sum()) - self.runs * joint, 0) / (self.runs - 1) / self.runs
        self.of_seeds, self.of_patients = between, max(joint - noise, 0)

    def measure(self, weights: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Of each line of weights, how often patients come: the mean, and by how much each patient moves it."""
        total, influence = np.zeros(len(weights)), np.zeros(weights.shape)
        for (arm, _, _), (sums, counts) in self._cells.items():
            share = self._signs[arm] / self.runs / len(self._structures)
            number = (weights * counts).sum(1)
            mean = (weights * sums).sum(1) / number
            total += share * mean
            influence += share * (sums - mean[:, None] * counts) / number[:, None]
        return total, influence

    def _mean(self, seed: int, weights: NDArray[np.float64]) -> float:
        return sum(
            self._signs[arm] * (weights * sums).sum() / (weights * counts).sum() / len(self._structures)
            for (arm, own, _), (sums, counts) in self._cells.items()
            if own == seed
        )

    def _influence(self, seed: int) -> NDArray[np.float64]:
        """What leaving each patient out changes in a seed's mean, scaled as the jackknife does."""
        changes = np.zeros(self.units)
        for (arm, own, _), (sums, counts) in self._cells.items():
            if own != seed:
                continue
            seen = int((counts > 0).sum())
            whole = sums.sum() / counts.sum()
            for p in np.flatnonzero(counts):
                left = (sums.sum() - sums[p]) / (counts.sum() - counts[p])
                changes[p] += self._signs[arm] * (whole - left) * np.sqrt((seen - 1) / seen) / len(self._structures)
        return changes


def _draw(units: int, seed: int) -> NDArray[np.float64]:
    """DRAWS×units: how often each comes when as many are drawn with replacement."""
    return np.random.default_rng(seed).multinomial(units, np.full(units, 1 / units), size=DRAWS).astype(float)


def _enough(size: float, sd: float, left: float, freedom: int, alpha: float) -> float:
    """The smallest number with which a t-test finds a difference with probability 0.8; infinite where none does."""

    def power(n: float) -> float:
        error = np.sqrt(sd**2 / n + left**2)
        bound = np.hypot(t.ppf(1 - alpha / 2, n - 1) * sd / np.sqrt(n), t.ppf(1 - alpha / 2, max(freedom, 1)) * left)
        shift = min(abs(size) / error, 30.0)
        return float(1 - nct.cdf(bound / error, n - 1, shift) + nct.cdf(-bound / error, n - 1, shift))

    low, high = 2, 2
    while not power(high) >= 0.8:
        low, high = high, 2 * high
        if high > 1e9:
            return np.inf
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if power(middle) >= 0.8 else (middle, high)
    return float(high)


def _only(rows: Mapping[int, pd.DataFrame], kept: set[tuple[str, str]]) -> dict[int, pd.DataFrame]:
    return {
        seed: frame[[key in kept for key in zip(frame.case_id, frame.structure, strict=True)]]
        for seed, frame in rows.items()
    }


def _read_rows(paths: Mapping[int, Path], phase: str) -> dict[int, pd.DataFrame]:
    return {seed: pd.read_parquet(path / "rows" / f"{phase}.parquet") for seed, path in sorted(paths.items())}


def every_line(runs: Runs, structures: list[str], metric: str) -> dict[str, dict[tuple[str, str], dict[str, float]]]:
    """By structure, the lines of all pairs with Holm's corrections."""
    found: dict[str, dict[tuple[str, str], dict[str, float]]] = {}
    for structure in ("mean", *structures):
        lines = {pair: runs.pair(*pair, structure, metric) for pair in runs.pairs}
        for key in ("p_wilcoxon", "p_permutation", "p_joint"):
            for pair, value in runs.correct(lines, key).items():
                lines[pair][f"{key}_holm"] = value
        found[structure] = lines
    return found
