"""What a store or a folder knows of a run before its rows are read, and how runs are chosen by it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from textwrap import shorten
from typing import Any

FINISHED = "finished"


@dataclass(frozen=True)
class Entry:
    """A run that was found.

    Args:
        about, status: the content of run.json and of status.json; of a store, what it shows of them.
        sweeps: ids of the sweeps it is part of.
        store: MLflow's id of it, where that is where it was found, and `mirrored`, which changes when its files do.
    """

    folder: Path
    about: Mapping[str, Any]
    status: Mapping[str, Any]
    sweeps: tuple[str, ...] = ()
    unreadable: str = ""
    store: tuple[str, str] | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def run_id(self) -> str:
        return str(self.about.get("run_id") or self.status.get("run_id") or "")

    @property
    def name(self) -> str:
        return str(self.about.get("name") or self.folder.name)

    @property
    def params(self) -> Mapping[str, Any]:
        return self.about.get("params") or {}

    @property
    def dataset(self) -> str:
        return str(self.about.get("dataset") or self.params.get("dataset.name") or "")

    @property
    def begun(self) -> float:
        return float(self.about.get("begun") or self.status.get("started") or 0.0)

    @property
    def state(self) -> str:
        return "unreadable" if self.unreadable else str(self.status.get("state", "new"))

    @property
    def origin(self) -> str | None:
        """The run_id of the run whose weights this one scores."""
        return (self.about.get("origin") or {}).get("run_id")

    @property
    def reason(self) -> str:
        """Why it is not finished, in a line."""
        if self.unreadable:
            return self.unreadable
        said = [str(self.status[key]) for key in ("reason", "error") if self.status.get(key)]
        return shorten(": ".join([self.state, *said]), 300, placeholder=" …")


def select(
    entries: Sequence[Entry],
    dataset: Sequence[str] = (),
    study: Sequence[str] = (),
    sweep: str | None = None,
    tag: str | None = None,
    since: str | None = None,
    runs: Sequence[str] = (),
) -> list[Entry]:
    """The entries that answer all of these.

    Args:
        dataset, study: names, any of which will do.
        sweep: the id of a sweep, or the beginning of it.
        tag: `key=value`.
        since: a date, or a date and time, as ISO 8601 writes them; of this machine's time zone where none is said.
        runs: run_ids, or beginnings of them.

    Raises:
        ValueError: one of them matches nothing at all; the message lists what there is.
    """
    tests: list[Callable[[Entry], bool]] = []
    if dataset:
        _check("dataset", dataset, {e.dataset for e in entries}, str.__eq__)
        tests.append(lambda e: e.dataset in dataset)
    if study:
        _check("study", study, {str(e.about.get("study", "")) for e in entries}, str.__eq__)
        tests.append(lambda e: e.about.get("study") in study)
    if sweep:
        _check("sweep", [sweep], {known for e in entries for known in e.sweeps}, str.startswith)
        tests.append(lambda e: any(known.startswith(sweep) for known in e.sweeps))
    if tag:
        tests.append(_test_tag(tag, entries))
    if since:
        start = _parse_date(since)
        tests.append(lambda e: e.begun >= start)
    if runs:
        _check("runs", runs, {e.run_id for e in entries}, str.startswith)
        tests.append(lambda e: e.run_id.startswith(tuple(runs)))
    found = [entry for entry in entries if all(test(entry) for test in tests)]
    if tests and not found:
        given = {"dataset": dataset, "study": study, "sweep": sweep, "tag": tag, "since": since, "runs": runs}
        text = ", ".join(f"{_typed(k)}={v if isinstance(v, str) else ','.join(v)}" for k, v in given.items() if v)
        raise ValueError(f"{text}: no run answers all of it, of {len(entries)} that there are; leave some of it out")
    return found


def _check(key: str, names: Sequence[str], known: set[str], matches: Callable[[str, str], bool]) -> None:
    there = sorted(known - {""})
    for name in names:
        if not any(matches(one, name) for one in there):
            raise ValueError(f"{_typed(key)}={name}: there is none; there is {_list(there)}")


def _typed(key: str) -> str:
    """As it is given on the command line."""
    return key if key == "sweep" else f"task.{key}"


def _list(names: Iterable[str], most: int = 30) -> str:
    found = list(names)
    return (", ".join(found[:most]) or "nothing") + (f" and {len(found) - most} more" if len(found) > most else "")


def _test_tag(tag: str, entries: Sequence[Entry]) -> Callable[[Entry], bool]:
    key, equals, value = tag.partition("=")
    if not equals:
        raise ValueError(f"task.tag={tag}: a tag is given as key=value, as in 'task.tag=\"evaluates=5a4c4c150c\"'")
    tags = [entry.about.get("tags") or {} for entry in entries]
    if keys := sorted({name for known in tags for name in known} - {""}):
        _check("tag", [key], set(keys), str.__eq__)
    _check(f"tag={key}", [value], {str(known[key]) for known in tags if key in known}, str.__eq__)
    return lambda entry: str((entry.about.get("tags") or {}).get(key)) == value


def _parse_date(text: str) -> float:
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        raise ValueError(f"task.since={text}: no date; write it as 2026-11-23 or 2026-11-23T14:30") from None
