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
    known = {entry.run_id: entry for entry in sorted(everything, key=lambda entry: entry.begun)} | dict(entries)
    params: dict[str, dict[str, Any]] = {}
    lost = []
    for run_id, entry in entries.items():
        params[run_id] = dict(entry.params)
        if entry.origin is None:
            continue
        if made := known.get(entry.origin):
            params[run_id] = {k: v for k, v in entry.params.items() if not _of_weights(k)}
            params[run_id] |= {k: v for k, v in made.params.items() if _of_weights(k)}
        else:
            params[run_id]["model.checkpoint"] = entry.about["origin"].get("checkpoint")
            lost.append(entry.name)
    if not lost:
        return params, []
    whose = f"the weights of {count(len(lost), 'run')} were made by runs that are not here: {enumerate_some(lost)}"
    return params, [f"{whose}; how they were trained is known in part"]


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


def _of_weights(key: str) -> bool:
    """Whether a key says how weights came about, not how they are asked."""
    return key.startswith(MADE) and not key.startswith(ASKED)
