"""Runs of one identity count once, and what scores the weights of another run is filed under how they came about."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from medsam2.results.collect import rows
from medsam2.results.collect.entries import FINISHED, Entry
from medsam2.results.collect.texts import count, enumerate_some

MADE = ("model.", "optim.", "scheduler.", "loss.", "transforms.", "target.", "trainer.", "task.")
ASKED = ("model.mask_selection.", "trainer.precision", "trainer.tf32")
PROMPT = ("prompt.",)
LeftOut = tuple[str, str, str, str]  # name, run_id, state, reason


def latest(entries: Sequence[Entry]) -> tuple[list[Entry], list[LeftOut], list[str]]:
    """Of every identity the run that began last, the others with the reason, and what a reader must know of them."""
    copies: dict[str, list[Entry]] = defaultdict(list)
    for entry in sorted(entries, key=lambda entry: entry.begun):
        copies[entry.run_id].append(entry)
    older, notes = [], []
    for run_id, (*others, last) in copies.items():
        if others:
            said = "their rows are equal" if _same_rows([*others, last]) else "their rows differ"
            times = count(1 + len(others), "time")
            notes.append(f"{last.name} was found {times}; the one that began last counts; {said}")
        why = f"another run of this identity began later: {last.folder}"
        older += [(entry.name, run_id, FINISHED, why) for entry in others]
    return [found[-1] for found in copies.values()], older, notes


def _same_rows(entries: Sequence[Entry]) -> bool:
    tables, without = rows.read_files({str(i): entry.folder for i, entry in enumerate(entries)}, "test")
    return not without and all(table.equals(tables["0"]) for table in tables.values())


def find_params(
    entries: Mapping[str, Entry], everything: Sequence[Entry]
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """The parameters of each run, those that say how weights came about from the run that made them; and notes.

    `everything` is where the runs are looked up whose weights others score.
    """
    known = _by_id(entries, everything)
    params: dict[str, dict[str, Any]] = {}
    lost = []
    for run_id, entry in entries.items():
        params[run_id] = dict(entry.params)
        if entry.origin is None:
            continue
        if made := known.get(entry.origin):
            theirs = MADE + PROMPT * _budgets(entry)
            params[run_id] = {k: v for k, v in entry.params.items() if not _is_of(k, theirs)}
            params[run_id] |= {k: v for k, v in made.params.items() if _is_of(k, theirs)}
        else:
            params[run_id]["model.checkpoint"] = entry.about["origin"].get("checkpoint")
            lost.append(entry.name)
    if not lost:
        return params, []
    whose = f"the weights of {count(len(lost), 'run')} were made by runs that are not here: {enumerate_some(lost)}"
    return params, [f"{whose}; how they were trained is known in part"]


def find_choices(entries: Mapping[str, Entry], everything: Sequence[Entry]) -> dict[str, dict[str, Any]]:
    """The choices of each run; as with its parameters, the prompt of one that tries many is that of its training."""
    known = _by_id(entries, everything)
    choices = {run_id: dict(entry.about.get("choices") or {}) for run_id, entry in entries.items()}
    for run_id, entry in entries.items():
        if _budgets(entry) and (made := known.get(entry.origin or "")):
            choices[run_id]["prompt"] = (made.about.get("choices") or {}).get("prompt")
    return choices


def _by_id(entries: Mapping[str, Entry], everything: Sequence[Entry]) -> dict[str, Entry]:
    return {entry.run_id: entry for entry in sorted(everything, key=lambda entry: entry.begun)} | dict(entries)


def _budgets(entry: Entry) -> bool:
    """Whether it tries one prompt after another: which ones is told by its rows, and makes it no other arm."""
    return str(entry.params.get("prompt._target_")).endswith("ClickBudget")


def leaking(entries: Mapping[str, Entry]) -> dict[str, str]:
    """Of runs that score weights on cases which these may have been trained on, why."""
    found = {}
    for run_id, entry in entries.items():
        origin = entry.about.get("origin") or {}
        if origin.get("dataset") == entry.dataset and origin.get("split_hash") != entry.about.get("split_hash"):
            found[run_id] = (
                f"its weights ({origin.get('run_id')}) were trained on another split of {entry.dataset}: "
                "they may have seen these test cases"
            )
    return found


def _is_of(key: str, theirs: tuple[str, ...]) -> bool:
    """Whether a key is one of the run that made the weights; MADE: how they came about, not how they are asked."""
    return key.startswith(theirs) and not key.startswith(ASKED)
