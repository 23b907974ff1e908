"""How the jobs of a sweep stand, as a table: once for `task=status`, again and again while a sweep is watched."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from medsam2.manifest import Manifest, short_name
from medsam2.runs import RunDirectory

log = logging.getLogger("medsam2.sweep")

COLOURS = {"finished": "green", "failed": "red", "running": "cyan", "preempted": "yellow", "interrupted": "yellow"}


def survey(manifest: Manifest) -> list[tuple[str, dict[str, Any]]]:
    """Each job's name in its sweep and its status as it really is, with `epoch` and where it was given to as `job`."""
    found, content = [], manifest.read()
    for entry in content.get("jobs", []):
        directory = RunDirectory(Path(entry["run_dir"]))
        status = directory.look()
        if status.get("run_id") not in (None, entry["run_id"]):
            status = {"state": "failed", "reason": "config", "error": "its folder belongs to another run"}
        epochs = [line["epoch"] for line in directory.metrics()]  # the last line is of the best epoch
        here = {"epoch": max(epochs)} if epochs else {}
        found.append(
            (
                short_name(entry["overrides"], content["axes"]),
                here | {"job": entry.get("job"), "run_dir": entry["run_dir"]} | status,
            )
        )
    return found


def count_states(states: Sequence[tuple[str, dict[str, Any]]]) -> str:
    """`2 finished, 1 running, 3 queued`."""
    counts = Counter(status["state"] for _, status in states)
    return ", ".join(f"{count} {state}" for state, count in counts.most_common())


def build_board(states: Sequence[tuple[str, dict[str, Any]]], title: str) -> Table:
    """The table, a row per job; the reason of a failure stands where others have their score."""
    table = Table(title=title, title_justify="left")
    for heading in ("job", "state", "epoch", "minutes", "where", "val, or reason"):
        table.add_column(heading)
    for name, status in states:
        state = status["state"]
        colour = COLOURS.get(state, "default")
        table.add_row(
            escape(name),
            f"[{colour}]{state}[/]",
            str(status.get("epoch", "")),
            _minutes(status),
            "" if state == "finished" else escape(str(status.get("job") or "")),
            _outcome(status),
        )
    return table


def _minutes(status: dict[str, Any]) -> str:
    if status["state"] == "running" and "started" in status:
        return f"{(time.time() - status['started']) / 60:.1f}"
    return f"{status['seconds'] / 60:.1f}" if "seconds" in status else ""


def _outcome(status: dict[str, Any]) -> str:
    if status["state"] == "failed":
        return escape(shorten(f"{status.get('reason') or 'error'}: {status.get('error')}", 100, placeholder=" …"))
    trained = any(key.startswith("best/") for key in status.get("metrics", {}))
    return f"{'val' if trained else 'test'} {status['value']:.4f}" if isinstance(status.get("value"), float) else ""


class Board:
    """Follows a sweep: a table that is drawn anew in a terminal, a line for each job that ends elsewhere.

    Args:
        live: whether the table may be drawn: jobs that write to the same terminal would tear it.
    """

    def __init__(self, manifest: Manifest, live: bool):
        self.manifest = manifest
        console = Console()
        self._live = Live(console=console, auto_refresh=False) if live and console.is_terminal else None
        self._drawn = 0.0

    def __enter__(self) -> Board:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def show(self, ended: Sequence[tuple[str, dict[str, Any]]]) -> None:
        """Says what has ended, and draws the table if two seconds have passed since the last time."""
        for name, status in ended:
            log.info("%s: %s%s", name, status["state"], f" ({_outcome(status)})" if _outcome(status) else "")
        if self._live and time.monotonic() - self._drawn > 2:
            states = survey(self.manifest)
            title = f"sweep {self.manifest.folder.name}: {count_states(states)}"
            self._live.update(build_board(states, title), refresh=True)
            self._drawn = time.monotonic()
