"""Which runs are one replicate of an arm: the folds of a seed together; and which seeds are not complete."""

from __future__ import annotations

import pandas as pd


def find_replicates(runs: pd.DataFrame, labels: pd.Series[str]) -> tuple[pd.DataFrame, list[str]]:
    """The runs of a setting with the columns arm and replicate, less those of incomplete seeds, and notes on both.
    The arms are in the order of their labels.
    """
    runs = runs.assign(
        arm=labels.loc[runs.index].astype(object), fold=runs["fold"].astype(object).where(runs["fold"].notna(), None)
    )
    runs = runs.sort_values(["arm", "seed", "begun"], kind="stable")
    runs = runs.assign(replicate=runs["seed"].astype("int64"))
    notes: list[str] = []
    gone: list[str] = []
    for arm, group in runs.groupby("arm", sort=False):
        if group["fold"].notna().any():
            dropped, words = _find_incomplete(str(arm), group)
            gone, notes = gone + dropped, notes + words
    return runs.drop(index=gone), notes


def _find_incomplete(arm: str, runs: pd.DataFrame) -> tuple[list[str], list[str]]:
    """The ids of runs whose seed lacks folds that another seed has: its mean would be one over other cases."""
    folds = runs.groupby("replicate")["fold"].agg(set)
    everything = set().union(*folds)
    lacking = folds[folds.map(len) < len(everything)]
    if len(lacking) == len(folds) > 1:
        return [], [f"{arm}: no seed has all folds; the spread over its seeds is also one over cases"]
    gone, notes = [], []
    for seed, found in lacking.items() if len(lacking) < len(folds) else ():
        gone += list(runs.index[runs["replicate"] == seed])
        missing = ", ".join(map(str, sorted(everything - found, key=str)))
        notes.append(f"{arm}: seed {seed} is left out until it has the folds that other seeds have (fold {missing})")
    return gone, notes
