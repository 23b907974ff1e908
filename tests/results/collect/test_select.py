"""Choosing runs by what they are: what answers, and what is said where nothing does."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from medsam2.results.collect import collect
from medsam2.results.collect.entries import Entry, select
from tests.studies import FakeRun, write_run


def entry(run_id: str, dataset: str, study: str, day: int, sweeps: str = "", **tags: str) -> Entry:
    begun = datetime(2026, 11, day, 12).timestamp()
    about = {"run_id": run_id, "dataset": dataset, "study": study, "begun": begun, "tags": tags}
    return Entry(Path(run_id), about, {"state": "finished"}, tuple(sweeps.split()))


ENTRIES = [
    entry("aa11", "refuge", "eyes", 1, "5a5a"),
    entry("aa22", "papila", "eyes", 2, "5a5a 77bb", by="ann"),
    entry("bb33", "btcv", "organs", 3, by="bob"),
    Entry(Path("broken"), {}, {}, unreadable="status.json cannot be read"),
]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, ["aa11", "aa22", "bb33", ""]),
        ({"dataset": ["refuge"]}, ["aa11"]),
        ({"dataset": ["refuge", "btcv"]}, ["aa11", "bb33"]),
        ({"study": ["eyes"]}, ["aa11", "aa22"]),
        ({"sweep": "5a5a"}, ["aa11", "aa22"]),
        ({"sweep": "77"}, ["aa22"]),
        ({"tag": "by=bob"}, ["bb33"]),
        ({"since": "2026-11-02"}, ["aa22", "bb33"]),
        ({"since": "2026-11-02T12:30"}, ["bb33"]),
        ({"runs": ["aa"]}, ["aa11", "aa22"]),
        ({"runs": ["aa11", "bb"]}, ["aa11", "bb33"]),
        ({"study": ["eyes"], "since": "2026-11-02"}, ["aa22"]),
    ],
)
def test_entries_are_chosen(filters: dict[str, Any], expected: list[str]) -> None:
    assert [found.run_id for found in select(ENTRIES, **filters)] == expected


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"dataset": ["refuge", "refug"]}, "task.dataset=refug: there is none; there is btcv, papila, refuge"),
        ({"study": ["x"]}, "task.study=x: there is none; there is eyes, organs"),
        ({"sweep": "9"}, "sweep=9: there is none; there is 5a5a, 77bb"),
        ({"runs": ["cc"]}, "task.runs=cc: there is none; there is aa11, aa22, bb33"),
        ({"tag": "by=eve"}, "task.tag=by=eve: there is none; there is ann, bob"),
        ({"tag": "to=ann"}, "task.tag=to: there is none; there is by"),
        ({"tag": "by"}, "task.tag=by: a tag is given as key=value"),
        ({"since": "yesterday"}, "task.since=yesterday: no date; write it as 2026-11-23"),
        ({"since": "2027-01-01"}, "task.since=2027-01-01: no run answers all of it, of 4 that there are"),
        ({"dataset": ["btcv"], "study": ["eyes"]}, "task.dataset=btcv, task.study=eyes: no run answers all of it"),
    ],
)
def test_what_matches_nothing_is_said(filters: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        select(ENTRIES, **filters)


def test_long_lists_are_cut() -> None:
    many = [entry(f"r{i:03d}", f"d{i:03d}", "s", 1) for i in range(40)]
    with pytest.raises(ValueError, match=r"d028, d029 and 10 more$"):
        select(many, dataset=["x"])


def test_collect_takes_one_name_or_several(tmp_path: Path) -> None:
    for dataset in ("x", "y", "z"):
        write_run(tmp_path, FakeRun({("a", "cup"): 0.5}, dataset=dataset))
    for given, expected in (("x", "x"), ("x,y", "xy"), (["z"], "z"), (None, "xyz"), ((), "xyz")):
        assert sorted(collect(tmp_path, dataset=given).runs["dataset"]) == list(expected)
    with pytest.raises(ValueError, match="dataset=w: there is none; there is x, y, z"):
        collect(tmp_path, dataset="w")
    with pytest.raises(ValueError, match="dataset=w: there is none; there is nothing"):
        collect(tmp_path / "elsewhere", dataset="w")
