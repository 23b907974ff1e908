"""What must be equal so that numbers may stand in one column: cases, prompts, what metrics mean, structures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from medsam2.results.collect.arms import name_arms
from medsam2.results.collect.budgets import Budgets
from medsam2.results.collect.study import Study
from medsam2.results.collect.texts import count, enumerate_some, show

OURS = "medsam2"  # the convention of metrics where none is named
WORDS = {
    "split": "split",
    "budget": "prompt budget",
    "definition": "metric definition",
    "structures": "structures",
    "trained_on": "training",
}
MOST_NOTES = 8


@dataclass(frozen=True)
class Setting:
    """Runs whose numbers may stand in one column.

    `key`: dataset, split, budget, definition, structures, and trained_on: "here", or the other dataset whose weights
    were tried here, which is a harder question. `notes` say with which runs of this dataset they may not, and why.
    """

    key: dict[str, str]
    title: str
    run_ids: tuple[str, ...]
    notes: tuple[str, ...]


def define(params: dict[str, Any]) -> str:
    """What a run's metrics mean: its metrics.* keys, less which of them are computed and drawn."""
    skipped = {"metrics.names", "metrics.overlays", "metrics._convert_", "metrics._target_", "metrics.convention"}
    texts = [f"{k.removeprefix('metrics.')}={show(v)}" for k, v in sorted(params.items()) if k.startswith("metrics.")]
    kept = [text for text in texts if f"metrics.{text.partition('=')[0]}" not in skipped]
    return " ".join([f"convention={params.get('metrics.convention') or OURS}", *kept])


def split_settings(study: Study) -> list[Setting]:
    """The settings of a study, those of a dataset one after another, the one with the most runs first."""
    if study.runs.empty:
        return []
    keys = _comparable(study)
    arms = name_arms(study).arm
    found: list[tuple[dict[str, str], list[str]]] = []
    for _, runs in keys.groupby("dataset", sort=False):
        budgets = Budgets(study.cases, list(runs.index))
        parts: list[tuple[dict[str, str], list[str]]] = []
        for _, same in runs.groupby(list(runs.columns), sort=False):
            for ids in budgets.split(list(same.index), arms):
                parts.append((dict(same.iloc[0]) | {"budget": budgets.describe(ids)}, ids))
        found += sorted(parts, key=lambda part: -len(part[1]))
    return _explain(found)


def _comparable(study: Study) -> pd.DataFrame:
    """Run × what must be equal, the budget of prompts excepted, which is compared row by row."""
    runs = study.runs
    elsewhere = runs["origin"].notna() & (runs["trained_on"] != runs["dataset"])
    return pd.DataFrame(
        {
            "dataset": runs["dataset"],
            "split": name_splits(study),
            "definition": runs["definition"],
            "structures": runs["structures"],
            "trained_on": runs["trained_on"].where(elsewhere, "here"),
        }
    )


def name_splits(study: Study) -> pd.Series:
    """The name of each run's split. Folds are one split where each of them has the same cases in all runs."""
    names = study.runs["split_hash"].astype(object).copy()
    folded = study.runs["fold"].notna()
    own = [k for k in study.params.columns if k.startswith("dataset.") and k != "dataset.fold"]
    folds = study.params.get("dataset.folds", pd.Series(None, index=study.runs.index, dtype=object))
    table = study.runs[folded].assign(
        folds=folds[folded].map(show),
        params=["|".join(map(show, row)) for row in study.params.loc[folded, own].itertuples(index=False)],
    )
    for _, runs in table.groupby(["dataset", "folds"], sort=False):
        parts = [runs] if _agree(runs) else [part for _, part in runs.groupby("params", sort=False)]
        for part in filter(_agree, parts):
            hashes = sorted({(show(f), h) for f, h in zip(part["fold"], part["split_hash"], strict=True)})
            names[part.index] = "folds " + ", ".join(f"{fold}: {split}" for fold, split in hashes)
    return names


def _agree(runs: pd.DataFrame) -> bool:
    return bool((runs.groupby(runs["fold"].map(show))["split_hash"].nunique() == 1).all())


def _explain(found: Sequence[tuple[dict[str, str], list[str]]]) -> list[Setting]:
    """Settings with titles that tell them apart, and notes on why they are apart."""
    for key, ids in found:
        if sum(other == key for other, _ in found) > 1:  # prompts that differ, though a summary of them does not
            key["budget"] += f" (as of {ids[0]})"
    settings = []
    for key, ids in found:
        here = [(other, len(runs)) for other, runs in found if other["dataset"] == key["dataset"]]
        title = ", ".join([key["dataset"], *_titles(key, [other for other, _ in here])])
        others = [(other, number) for other, number in here if other is not key]
        settings.append(Setting(key, title, tuple(ids), tuple(_notes(key, others))))
    return settings


def _titles(key: dict[str, str], all_keys: Sequence[dict[str, str]]) -> Iterable[str]:
    for part, word in WORDS.items():
        values = {other[part] for other in all_keys}
        if len(values) == 1:
            continue
        if part == "definition":
            yield _differing(key[part], values)
        elif part == "trained_on":
            yield "trained here" if key[part] == "here" else f"trained on {key[part]}"
        elif part == "split":
            yield f"split {key[part][:20]}"
        else:
            yield f"{word} {key[part]}" if part == "structures" else key[part]


def _differing(definition: str, others: Iterable[str]) -> str:
    """Of a metric definition what is not in all the others."""
    common = set.intersection(*(set(text.split(" ")) for text in others))
    return " ".join(text for text in definition.split(" ") if text not in common) or "plain"


def _notes(key: dict[str, str], others: Sequence[tuple[dict[str, str], int]]) -> Iterable[str]:
    for other, number in others[:MOST_NOTES]:
        said = []
        for part, word in WORDS.items():
            if key[part] != other[part]:
                here, there = key[part], other[part]
                if part == "definition":
                    here, there = _differing(here, (here, there)), _differing(there, (here, there))
                elif part == "trained_on":
                    here, there = (v if v == "here" else f"on {v}" for v in (here, there))
                said.append(f"{word} {here} here, {there} there")
        yield f"not in one table with {count(number, 'other run')} of {key['dataset']}: {enumerate_some(said, 9)}"
    if len(others) > MOST_NOTES:
        yield f"nor with {count(len(others) - MOST_NOTES, 'further setting')} of {key['dataset']}"
