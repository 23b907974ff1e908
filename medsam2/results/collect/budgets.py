"""What prompts cost, compared row by row: two runs agree where each case and structure that both have cost the same."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medsam2.evaluation.rows import CUP_TO_DISC
from medsam2.results.collect.texts import count, enumerate_some

ON_SLICES = re.compile(r"(.+) on (\d+) slices?")
NONE = -1  # the run has no such row


@dataclass
class _Group:
    runs: list[str]
    pattern: NDArray[np.int32]  # the budget of each case and structure that any of its runs has
    arms: set[Any]

    def agrees(self, pattern: NDArray[np.int32]) -> bool:
        shared = (self.pattern != NONE) & (pattern != NONE)
        return bool((self.pattern[shared] == pattern[shared]).all())

    def nearness(self, pattern: NDArray[np.int32], arms: set[Any]) -> int:
        """How much speaks for a pattern's belonging here, if it agrees; 0: nothing does."""
        if ((self.pattern != NONE) & (pattern != NONE)).any():
            return 3
        if self.arms & arms:
            return 2
        return int(set(np.unique(self.pattern)) - {NONE} == set(np.unique(pattern)) - {NONE})

    def take(self, runs: list[str], pattern: NDArray[np.int32], arms: set[Any]) -> None:
        self.runs += runs
        self.pattern = np.where(self.pattern == NONE, pattern, self.pattern)
        self.arms |= arms


class Budgets:
    """The budgets of some runs' rows, as a matrix of codes: run × (case, structure)."""

    def __init__(self, cases: pd.DataFrame, run_ids: list[str]):
        self._row = {run_id: i for i, run_id in enumerate(run_ids)}
        place = pd.Series(self._row).reindex(cases["run_id"].cat.categories).fillna(NONE).to_numpy(np.int64)
        rows = place[cases["run_id"].cat.codes.to_numpy()]
        structures = cases["structure"].cat
        kept = (rows != NONE) & (cases["structure"] != CUP_TO_DISC).to_numpy()
        keys = cases["case_id"].cat.codes.to_numpy().astype(np.int64) * len(structures.categories)
        keys = (keys + structures.codes.to_numpy())[kept]
        self._keys, columns = np.unique(keys, return_inverse=True)
        self._names = cases["case_id"].cat.categories, structures.categories
        self._texts = cases["budget"].cat.categories
        self.matrix = np.full((len(run_ids), len(self._keys)), NONE, dtype=np.int32)
        unknown = len(self._texts)  # a row that does not say what its prompt cost
        budgets = cases["budget"].cat.codes.to_numpy()[kept]
        self.matrix[rows[kept], columns] = np.where(budgets == NONE, unknown, budgets)

    def split(self, run_ids: list[str], arms: pd.Series) -> list[list[str]]:
        """Groups of runs that agree; runs without a row in common are together if they are of one arm."""
        patterns: dict[bytes, list[str]] = {}
        for run_id in run_ids:
            patterns.setdefault(self.matrix[self._row[run_id]].tobytes(), []).append(run_id)
        by_size = sorted(patterns.values(), key=lambda ids: -int((self._pattern(ids[0]) != NONE).sum()))
        groups: list[_Group] = []
        for ids in by_size:
            pattern, own = self._pattern(ids[0]), set(arms[ids])
            near = [(group.nearness(pattern, own), group) for group in groups if group.agrees(pattern)]
            nearness, group = max(near, key=lambda one: one[0], default=(0, None))
            if nearness and group is not None:
                group.take(ids, pattern, own)
            else:
                groups.append(_Group(list(ids), pattern, own))
        order = {run_id: i for i, run_id in enumerate(run_ids)}
        return [sorted(group.runs, key=order.__getitem__) for group in groups]

    def _pattern(self, run_id: str) -> NDArray[np.int32]:
        return self.matrix[self._row[run_id]]

    def describe(self, run_ids: list[str]) -> str:
        """What the prompts of these runs cost, the most frequent first: `box`, or `box (12 rows), none (3 rows)`."""
        counts = self._count(run_ids)
        if len(counts) == 1:
            return next(iter(counts))
        return enumerate_some([f"{text} ({count(number, 'row')})" for text, number in counts.items()])

    def abridge(self, run_ids: list[str]) -> str:
        """The same for a title: `box on 5–12 slices` where only the number of slices differs from row to row."""
        texts = list(self._count(run_ids))
        parts = [ON_SLICES.fullmatch(text) for text in texts]
        prompts = {part[1] for part in parts if part}
        if len(texts) == 1 or None in parts or len(prompts) > 1:
            return enumerate_some(texts, 2)
        numbers = [int(part[2]) for part in parts if part]
        return f"{prompts.pop()} on {min(numbers)}–{max(numbers)} slices"

    def _count(self, run_ids: list[str]) -> dict[str, int]:
        """How many cases and structures cost what, the most frequent first."""
        codes = self.matrix[[self._row[run_id] for run_id in run_ids]].max(axis=0)
        found, counts = np.unique(codes[codes != NONE], return_counts=True)
        return {self._text(found[i]): int(counts[i]) for i in np.argsort(-counts, kind="stable")}

    def _text(self, code: int) -> str:
        return str(self._texts[code]) if code < len(self._texts) else "unknown"

    def odd(self, run_ids: list[str]) -> dict[str, str]:
        """Of runs that have not the rows which most of them have, how many they lack or have beside and the first.

        Where as many runs have other rows, none may lack what any has.
        """
        rows = self.matrix[[self._row[run_id] for run_id in run_ids]] != NONE
        common = Counter(row.tobytes() for row in rows).most_common(2)
        tie = len(common) > 1 and common[0][1] == common[1][1]
        wanted = rows.any(axis=0) if tie else np.frombuffer(common[0][0], dtype=np.bool_)
        found = {}
        for run_id, own in zip(run_ids, rows, strict=True):
            lacking, further = wanted & ~own, own & ~wanted
            if lacking.any():
                said = f"lacks {lacking.sum()} of {wanted.sum()} rows that other runs of this split have"
                found[run_id] = f"{said}: {self._list(lacking)}"
            elif further.any():
                said = f"has {count(int(further.sum()), 'row')} that most runs of this split do not have"
                found[run_id] = f"{said}: {self._list(further)}"
        return found

    def _list(self, chosen: NDArray[np.bool_]) -> str:
        return enumerate_some([self._name(key) for key in self._keys[chosen]])

    def _name(self, key: int) -> str:
        case, structure = divmod(int(key), len(self._names[1]))
        return f"{self._names[0][case]} {self._names[1][structure]}"
