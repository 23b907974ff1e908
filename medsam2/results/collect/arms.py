"""What is compared: runs are one arm where they differ in nothing but seed, fold and dataset.

An arm is named by as few keys as tell it from the others, those first that a person would choose by.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medsam2.results.collect.study import Study, objects
from medsam2.results.collect.texts import canonical, show

AVERAGED = ("seed", "dataset.fold", "dataset.name")
NO_ARM = ("metrics", "run", "labels")  # how is measured is a matter of settings, not of arms
NO_CHOICE = ("tracking", "cache", "paths", "task", "experiment", "sweeps", "debug", "dataset", "metrics")
FIRST = ("model", "model.name", "method", "prompt", "loss", "optim")  # of two keys that tell as much
MASKS = "predictions"  # the key of a run that scores masks of others

Codes = NDArray[np.int64]


@dataclass(frozen=True)
class Arms:
    """arm: label by run_id. by: the keys that labels are made of. varied: arm × keys that vary, as texts, those of
    the labels first. fixed: the value of every key that does not vary, a key of one dataset as `key [dataset]`.

    Masks of others are an arm by the name that they were given; nothing else is known of how they came about, and
    varied and fixed do not speak of them.
    """

    arm: pd.Series
    by: list[str]
    varied: pd.DataFrame
    fixed: pd.Series


def name_arms(study: Study) -> Arms:
    """Groups the runs of a study into arms and names them.

    As in `litemedsam`, `optim.lr=0.001`, `model=sam2_s image_size=512`: a value stands alone where it is a choice of a
    config group, or the model's name.
    """
    masks = study.params[MASKS].notna() if MASKS in study.params else pd.Series(False, index=study.runs.index)
    choices = study.choices.reindex(study.runs.index)
    ours = _name(study.runs[~masks], study.params[~masks], choices[~masks])
    if not masks.any():
        return ours
    names = study.params.loc[masks, "model.name"].map(str)
    known = set(ours.arm)
    theirs = objects((f"{name} (masks)" if name in known else name for name in names), names.index)
    arm = pd.concat([ours.arm, theirs]).reindex(study.runs.index).rename("arm")
    by = ours.by or (["model.name"] if arm.nunique() > 1 else [])
    return Arms(arm, by, ours.varied, ours.fixed)


def _name(runs: pd.DataFrame, params: pd.DataFrame, choices: pd.DataFrame) -> Arms:
    if runs.empty:
        return Arms(pd.Series(dtype=object), [], pd.DataFrame(), pd.Series(dtype=object))
    keys = _find_keys(runs, params)
    varying = sorted((str(key) for key in keys if keys[key].nunique() > 1), key=_rank)
    codes = _number([keys[key] for key in varying], len(runs))
    usable = _usable_choices(runs, choices, codes, varying)
    first = ~pd.Index(codes).duplicated()  # of each arm the first run stands for it
    arms = pd.concat([usable, params[varying]], axis=1)[first].set_axis(pd.Index(codes[first]))
    model = choices.get("model", pd.Series([None])).iloc[0] or params.get("model.name", pd.Series([None])).iloc[0]
    by = _choose_keys(arms)
    bare = by[0] in (*usable.columns, "model.name") if len(by) == 1 else False
    labels = _label(arms, by, str(model or "all runs"), bare)
    order = dict.fromkeys([*by, *arms.columns])
    index = pd.Index(objects(labels.values()), name="arm")
    varied = pd.DataFrame({key: objects(map(show, arms[key]), index) for key in order}, index=index)
    label = objects((labels[code] for code in codes), runs.index).rename("arm")
    return Arms(label, by, varied, _find_fixed(runs, params, choices, set(varying)))


def _find_keys(runs: pd.DataFrame, params: pd.DataFrame) -> pd.DataFrame:
    """Run × key, as canonical texts: all that makes an arm.

    A key of a dataset counts where it varies among the runs of one dataset; runs of the others have no value of it.
    """
    names = [str(k) for k in params.columns if k not in AVERAGED and k.partition(".")[0] not in NO_ARM]
    texts = {name: np.array([canonical(value) for value in params[name]], dtype=object) for name in names}
    datasets = runs["dataset"].to_numpy()
    for dataset in dict.fromkeys(datasets):
        here = datasets == dataset
        for name in names:
            if name.startswith("dataset.") and len(set(texts[name][here])) == 1:
                texts[name][here] = ""
    return pd.DataFrame(texts, index=runs.index)


def _number(columns: Sequence[Any], rows: int) -> Codes:
    """The number of each run's arm, in the order in which they come."""
    codes = np.zeros(rows, dtype=np.int64)
    for column in columns:
        values, _ = pd.factorize(np.asarray(column, dtype=object), use_na_sentinel=False)
        codes, _ = pd.factorize(codes * (values.max(initial=0) + 1) + values)
    return codes


def _rank(key: str) -> tuple[Any, ...]:
    """What people speak of before details, and the layers of a network last."""
    known = FIRST.index(key) if key in FIRST else len(FIRST)
    detail = key.endswith(("._convert_", "._partial_"))
    return key.startswith("model.network."), detail, known, key.count("."), "_target_" not in key, key


def _usable_choices(runs: pd.DataFrame, choices: pd.DataFrame, codes: Codes, varying: Sequence[str]) -> pd.DataFrame:
    """Choices of config groups that say how arms differ: known of every arm, and with values that differ with them."""
    own = runs["origin"].isna().to_numpy()  # they speak of how the weights came about
    columns = {}
    for group in choices.columns:
        prefix = f"{group.replace('/', '.')}."
        if group in NO_CHOICE or not any(f"{key}.".startswith(prefix) for key in varying):
            continue
        told = {code: _told(choices[group].to_numpy(), codes == code, own) for code in np.unique(codes)}
        if None not in told.values() and len(set(told.values())) > 1:
            columns[str(group)] = objects((told[code] for code in codes), runs.index)
    return pd.DataFrame({key: columns[key] for key in sorted(columns, key=_rank)}, index=runs.index)


def _told(values: NDArray[Any], here: NDArray[np.bool_], own: NDArray[np.bool_]) -> str | None:
    """The choice of one arm, None where its runs do not agree or do not say."""
    said = set(values[here & own] if (here & own).any() else values[here])
    return said.pop() if len(said) == 1 else None


def _choose_keys(arms: pd.DataFrame) -> list[str]:
    """As few columns as tell all arms apart, the earlier ones first, none that follows from others."""
    texts = {key: [canonical(value) for value in arms[key]] for key in arms.columns}
    chosen: list[str] = []
    parts = min(len(arms), 1)
    for key in arms.columns:
        if parts == len(arms):
            break
        refined = _parts(texts, [*chosen, key], len(arms))
        if refined > parts:
            chosen, parts = [*chosen, key], refined
    for key in reversed(chosen):
        rest = [k for k in chosen if k != key]
        if _parts(texts, rest, len(arms)) == parts:
            chosen = rest
    return chosen


def _parts(texts: dict[str, list[str]], keys: list[str], rows: int) -> int:
    return len(set(zip(*(texts[key] for key in keys), strict=True))) if keys else min(rows, 1)


def _label(arms: pd.DataFrame, by: Sequence[str], model: str, bare: bool) -> dict[Any, str]:
    """A label per arm, `bare` of its key; classes with their modules where two of one name would be confused."""
    labels = {code: _text(arms.loc[code], by, model, bare, short=True) for code in arms.index}
    if len(set(labels.values())) < len(arms):
        labels = {code: _text(arms.loc[code], by, model, bare, short=False) for code in arms.index}
    return labels


def _text(arm: pd.Series, by: Sequence[str], model: str, bare: bool, short: bool) -> str:
    if bare:
        return show(arm[by[0]], short)
    return " ".join(f"{key}={show(arm[key], short)}" for key in by) or model


def _find_fixed(runs: pd.DataFrame, params: pd.DataFrame, choices: pd.DataFrame, varying: set[str]) -> pd.Series:
    """Choices, then flat keys; what is constant in each of several datasets is said of each."""
    found: dict[str, str] = {}
    for group in choices.columns:
        chosen = set(choices[group])
        if group not in NO_CHOICE and len(chosen) == 1 and None not in chosen:
            found[group] = str(chosen.pop())
    for key in params.columns:
        values = {canonical(value): value for value in params[key]}
        if len(values) == 1:
            found[key] = show(next(iter(values.values())), short=False)
        elif key.startswith("dataset.") and key not in (*AVERAGED, *varying):
            for dataset, part in params[key].groupby(runs["dataset"], sort=False):
                found[f"{key} [{dataset}]"] = show(part.iloc[0], short=False)
    return pd.Series(found, dtype=object, name="value")
