"""Score a model as its checkpoint is, without training."""

from __future__ import annotations

from medsam2.tasks.parts import Outcome, Parts


def evaluate(parts: Parts) -> Outcome:
    """Scores the test cases (phase `test`); the value is the mean of the first metric over structures."""
    parts.prepare("test")
    cases = parts.cases("test")
    rows, summary = parts.score(parts.loader(cases), "test", 0)
    if parts.evaluator.overlays:
        parts.draw(cases, rows, "test")
    return Outcome(summary[f"test/{parts.evaluator.names[0]}/mean"], summary)
