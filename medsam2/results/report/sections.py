"""The sections of the page in their order: the question and the answer first, how to make it again last."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medsam2.redact import redact
from medsam2.results.compare.comparison import Comparison
from medsam2.results.report.answer import Asked, describe, find
from medsam2.results.report.blocks import (
    Block,
    Code,
    Drawing,
    Facts,
    Fold,
    Items,
    Method,
    Part,
    Section,
    Table,
    Words,
    keep,
)
from medsam2.results.report.board_tables import SHARED
from medsam2.results.report.sheet import Sheet
from medsam2.results.report.words import count, count_states

Drawings = Mapping[str, Sequence[Drawing]]  # by place: board-0, cases-0, raters, calibration …
MOST_COMMANDS = 40
FEW = 8  # settings that are shown without being asked for


class Page:
    """Makes sections of a comparison.

    Args:
        sheets: its tables by name; drawings: its figures by the place where they stand.
    """

    def __init__(self, comparison: Comparison, asked: Asked, sheets: Mapping[str, Sheet], drawings: Drawings):
        self.comparison = comparison
        self.asked = asked
        self.sheets = sheets
        self.drawings = drawings

    def sections(self) -> list[Section]:
        """Those that have something to show."""
        made: list[tuple[str, Sequence[Block | None]]] = [
            ("What was asked", self._asked()),
            ("The answer", self._answer()),
            *((title, self._board(number)) for number, title in enumerate(self._titles())),
            ("Raters", self._with_drawings("raters", "raters")),
            ("Calibration", self._with_drawings("calibration", "calibration", "rejection")),
            ("Across datasets", self._across()),
            ("Trained here, tested there", self._with_drawings("matrix", "matrix")),
            ("Interactive use", self._interactive()),
            ("Worst, median and best cases", self._cases()),
            ("Held fixed", self._settings()),
            ("Cost", self._with_drawings("cost", "cost")),
            ("Left out", self._left_out()),
            ("Provenance", self._provenance()),
            ("Make it again", self._again()),
            ("How the numbers are computed", [Method()]),
        ]
        kept = [Section(title, keep(blocks)) for title, blocks in made]
        return [section for section in kept if section.blocks]

    # ------------------------------------------------------------------------------------------------- parts

    def _table(self, name: str) -> Table | None:
        return Table.of(self.sheets[name]) if name in self.sheets else None

    def _fold(self, summary: str, *names: str) -> Fold:
        return Fold(summary, keep(self._table(name) for name in names))

    def _drawn(self, place: str) -> list[Drawing]:
        return list(self.drawings.get(place, ()))

    def _with_drawings(self, place: str, *tables: str) -> list[Block | None]:
        return [*(self._table(name) for name in tables), *self._drawn(place)]

    def _titles(self) -> list[str]:
        return [f"Results: {board.setting.title}" for board in self.comparison.boards]

    # ------------------------------------------------------------------------------------------------ boards

    def _asked(self) -> list[Block | None]:
        return [Facts(describe(self.comparison, self.asked)), self._table("arms") if self._few else None]

    @property
    def _few(self) -> bool:
        """Whether what varies is shown at once."""
        return len(self.comparison.varied.columns) <= FEW

    def _settings(self) -> list[Block | None]:
        varied = None if self._few else self._fold("The settings in which arms differ", "arms")
        return [self._table("settings"), varied, self._fold("The settings that all runs share", "fixed")]

    def _answer(self) -> list[Block | None]:
        blocks: list[Block | None] = []
        several = len(self.comparison.boards) > 1
        for board in self.comparison.boards:
            found = find(self.comparison, board)
            more = [f"{count(found.more, 'more pair')} in the table of paired differences."] if found.more else []
            inner: list[Block | None] = [Words(found.headline, "lead"), Items([*found.sentences, *more])]
            inner.append(Items(found.notes, "notes"))
            blocks += [Part(found.title, keep(inner))] if several else inner
        said = Items(list(dict.fromkeys([*self.comparison.study.notes, *self.comparison.notes])), "notes")
        return [*blocks, Part("All of them", keep([said])) if several else said]

    def _board(self, number: int) -> list[Block | None]:
        board = self.comparison.boards[number]
        return [
            self._table(f"scores-{number}"),
            Words(SHARED, "note") if len(set(board.letters)) > 1 else None,
            self._table(f"metrics-{number}"),
            self._fold("Per structure", f"structures-{number}"),
            self._fold("All metrics and structures, with intervals and counts", f"all-{number}"),
            *self._drawn(f"board-{number}"),
            self._table(f"pairs-{number}"),
            self._fold("Paired differences per structure", f"structure-pairs-{number}"),
            self._fold("All pairs: counts, and p values before adjustment", f"pairs-all-{number}"),
            self._fold("Would the ranking be the same on other patients?", f"stability-{number}"),
        ]

    def _cases(self) -> list[Block | None]:
        blocks: list[Block | None] = []
        for number, board in enumerate(self.comparison.boards):
            drawn = self._drawn(f"cases-{number}")
            blocks += [Part(board.setting.title, drawn)] if len(self.comparison.boards) > 1 else drawn
        return blocks

    # ----------------------------------------------------------------------------------------------- studies

    def _across(self) -> list[Block | None]:
        across = self.comparison.across
        if across is None:
            return []
        notes = Items(across.notes, "notes")
        return [self._table("ranks"), self._table("friedman"), *self._drawn("across"), notes]

    def _interactive(self) -> list[Block | None]:
        levels = self._fold("The values of the curves", "curves")
        return [*self._drawn("curves"), self._table("clicks"), levels]

    def _left_out(self) -> list[Block | None]:
        left = self.comparison.left_out
        if left.empty:
            return []
        return [Words(f"Found, and in no number of this page: {count_states(left)}."), self._table("left-out")]

    def _provenance(self) -> list[Block | None]:
        told = _told([Path(str(folder)) for folder in self.comparison.study.runs["folder"]])
        revisions = Counter(str(r)[:12] for r in self.comparison.study.runs["revision"].dropna() if str(r))
        facts = {
            "Revision": ", ".join(f"{r} ({count(n, 'run')})" for r, n in revisions.most_common()),
            "Packages": ", ".join(told.get("packages", ())),
            "Python": ", ".join(told.get("python", ())),
            "Platform": ", ".join(told.get("platform", ())),
        }
        return [Facts({key: words for key, words in facts.items() if words}), self._table("runs")]

    def _again(self) -> list[Block | None]:
        commands = list(dict.fromkeys(_typed(c) for c in self.comparison.study.runs["command"].dropna() if str(c)))
        more = len(commands) - MOST_COMMANDS
        blocks: list[Block | None] = []
        if commands:
            blocks += [Words("The runs (what is finished is not computed again):"), Code(commands[:MOST_COMMANDS])]
        if more > 0:
            blocks.append(Words(f"{more} more commands are in tables/runs.csv.", "note"))
        if self.asked.command:
            blocks += [Words("This report:"), Code([self.asked.command])]
        return blocks


def _typed(command: Any) -> str:
    """A command as it is typed: what Python was given begins with `run.py`."""
    words = str(command)
    return redact(f"python {words}" if words.startswith(("run.py", "/")) else words)


def _told(folders: Sequence[Path]) -> dict[str, list[str]]:
    """Packages, Python and platform as the runs recorded them; with a count where runs differ."""
    told: dict[str, Counter[str]] = {"packages": Counter(), "python": Counter(), "platform": Counter()}
    known = [about for folder in folders if (about := _read(folder / "provenance.json"))]
    for about in known:
        told["packages"].update(f"{name} {version}" for name, version in about.get("packages", {}).items())
        told["python"].update([str(about.get("python", ""))])
        told["platform"].update([str(about.get("platform", ""))])
    alike = len(known)
    return {
        key: [value if n == alike else f"{value} ({count(n, 'run')})" for value, n in sorted(found.items()) if value]
        for key, found in told.items()
    }


def _read(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text()))
    except (OSError, ValueError):
        return {}
