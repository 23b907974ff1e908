"""The headline names no winner that there is not, and says whose training noise is not known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from medsam2.results.report.answer import headline
from tests.results.report.made_up import make_comparison

ARMS = ("a", "b", "c")
TIED = {"a": 0.8, "b": 0.8, "c": 0.5}
CASES = {
    "a winner": (
        {"a": 0.8, "b": 0.7, "c": 0.5},
        {("a", "b"): ("better", ""), ("a", "c"): ("undecided", "")},
        "a has the highest dice: 0.800 (…). It is better than b. It is not told apart from c.",
    ),
    "one seed": (
        {"a": 0.8, "b": 0.7, "c": 0.5},
        {("a", "b"): ("better", "one seed of b: its training noise is not known"), ("c", "a"): ("worse", "")},
        "a has the highest dice: 0.800 (…). It is better than b (one seed of b: its training noise is not known), "
        "and than c.",
    ),
    "one seed each": (
        {"a": 0.8, "b": 0.7, "c": 0.5},
        {("a", c): ("better", "one seed each: training noise is not known") for c in ("b", "c")},
        "a has the highest dice: 0.800 (…). It is better than b, c (one seed each: training noise is not known).",
    ),
    "a tie": (
        TIED,
        {("a", "b"): ("undecided", ""), ("a", "c"): ("better", ""), ("c", "b"): ("worse", "")},
        "a and b share the highest dice: 0.800 (…). They are better than c.",
    ),
    "one of a tie is told apart": (
        TIED,
        {("a", "b"): ("undecided", ""), ("a", "c"): ("better", ""), ("b", "c"): ("undecided", "")},
        "a and b share the highest dice: 0.800 (…). They are not all told apart from c.",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_headlines(name: str) -> None:
    means, verdicts, said = CASES[name]
    made = make_comparison(ARMS, datasets=("x",))
    board = made.boards[0]
    lines = pd.DataFrame({"arm": list(means), "mean": list(means.values()), "structure": "mean", "metric": "dice"})
    lines = lines.assign(low=np.nan, high=np.nan, seeds=3, patients=12, cases=12)
    pairs = pd.DataFrame(
        [(a, b, verdict, caution, "mean") for (a, b), (verdict, caution) in verdicts.items()],
        columns=["a", "b", "verdict", "caution", "structure"],
    )
    text = headline(made, replace(board, scores=lines, pairs=pairs))
    assert text.replace("3 seeds, 12 patients, 12 cases", "…") == said
