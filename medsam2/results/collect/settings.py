"""What must be equal so that numbers may stand in one column: cases, prompts, what metrics mean, structures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from textwrap import shorten
from typing import Any, NamedTuple

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
LONGEST = 60  # letters of a title
HERE = "here"  # that runs were trained on the dataset that they were tested on, or nobody says where


@dataclass(frozen=True)
class Setting:
    """Runs whose numbers may stand in one column.

    `key`: dataset, split, budget, definition, structures, and trained_on: "here", or the other dataset whose weights
    were tried here, which is a harder question. `notes` say with which runs of this dataset they may not, and why.
    `budget` is that of the key in short, `tested` the title less where was trained.
    """

    key: dict[str, str]
    title: str
    run_ids: tuple[str, ...]
    notes: tuple[str, ...]
    budget: str = ""
    tested: str = ""


class _Found(NamedTuple):
    """The runs of a setting; what their prompts cost in short, and where they were trained in words."""

    key: dict[str, str]
    ids: list[str]
    budget: str
    trained: str


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
    found: list[_Found] = []
    for _, runs in keys.groupby("dataset", sort=False):
        budgets = Budgets(study.cases, list(runs.index))
        parts: list[_Found] = []
        for _, same in runs.groupby(list(runs.columns), sort=False):
            for ids in budgets.split(list(same.index), arms):
                key = dict(same.iloc[0]) | {"budget": budgets.describe(ids)}
                parts.append(_Found(key, ids, budgets.abridge(ids), _say_trained(key, study.runs.loc[ids])))
        found += sorted(parts, key=lambda part: -len(part.ids))
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
            "trained_on": runs["trained_on"].where(elsewhere, HERE),
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


def _say_trained(key: dict[str, str], runs: pd.DataFrame) -> str:
    """Of masks of others, and of networks as they came, nobody knows."""
    if key["trained_on"] != HERE:
        return f"trained on {key['trained_on']}"
    known = runs["trained_on"] != ""
    return "trained here" if known.all() else "trained here, or not known" if known.any() else "training not known"


def _explain(found: Sequence[_Found]) -> list[Setting]:
    """Settings with titles that tell them apart, and notes on why they are apart."""
    for one in found:
        if sum(other.key == one.key for other in found) > 1:  # prompts that differ, though a summary of them does not
            one.key["budget"] += f" (as of {one.ids[0]})"
    settings, titles = [], Counter[str]()
    for one in found:
        here = [other for other in found if other.key["dataset"] == one.key["dataset"]]
        parts = [one.key["dataset"], *_titles(one, [other.key for other in here])]
        title = shorten(", ".join(parts), LONGEST, placeholder=" …")
        tested = ", ".join(part for part in parts if part != one.trained)
        titles[title] += 1
        others = [other for other in here if other is not one]
        number = f" ({titles[title]})" if titles[title] > 1 else ""
        settings.append(
            Setting(one.key, title + number, tuple(one.ids), tuple(_notes(one, others)), one.budget, tested)
        )
    return settings


def _titles(found: _Found, all_keys: Sequence[dict[str, str]]) -> Iterable[str]:
    """What differs; before it the convention of metrics wherever one is not ours, which nobody would guess."""
    key = found.key
    conventions = {_split_definition(other)[0] for other in all_keys}
    if conventions != {OURS}:
        yield f"{_split_definition(key)[0]}'s metrics"
    for part, word in WORDS.items():
        values = {other[part] for other in all_keys}
        if len(values) == 1:
            continue
        if part == "definition":
            rests = {_split_definition(other)[1] for other in all_keys}
            yield from [_differing(_split_definition(key)[1], rests)] if len(rests) > 1 else []
        elif part == "trained_on":
            yield found.trained
        elif part == "split":
            yield f"split {key[part][:20]}"
        else:
            yield f"{word} {key[part]}" if part == "structures" else found.budget


def _split_definition(key: dict[str, str]) -> tuple[str, str]:
    """The convention, and all else."""
    convention, _, rest = key["definition"].partition(" ")
    return convention.removeprefix("convention="), rest


def _differing(definition: str, others: Iterable[str]) -> str:
    """Of a metric definition what is not in all the others."""
    common = set.intersection(*(set(text.split(" ")) for text in others))
    return " ".join(text for text in definition.split(" ") if text not in common) or "plain"


def _notes(found: _Found, others: Sequence[_Found]) -> Iterable[str]:
    dataset = found.key["dataset"]
    for other in others[:MOST_NOTES]:
        said = []
        for part, word in WORDS.items():
            here, there = found.key[part], other.key[part]
            if here == there:
                continue
            if part == "definition":
                here, there = _differing(here, (here, there)), _differing(there, (here, there))
            if part == "trained_on":
                here, there = (one.trained.replace("here", f"on {dataset} itself") for one in (found, other))
                said.append(f"{here} in this table, {there.removeprefix('trained ')} in that one")
            else:
                said.append(f"{word} {here} here, {there} there")
        number = count(len(other.ids), "other run")
        yield f"not in one table with {number} of {dataset}: {enumerate_some(said, 9)}"
    if len(others) > MOST_NOTES:
        yield f"nor with {count(len(others) - MOST_NOTES, 'further setting')} of {dataset}"
