"""Score a model along a budget of clicks, slices and careless boxes, without training."""

from __future__ import annotations

import logging
from dataclasses import replace

from medsam2.data.budget_prompt import ClickBudget
from medsam2.evaluation.budget import PHASE, BudgetRecorder, describe_budget, summarise_budget
from medsam2.evaluation.rows import save_rows
from medsam2.methods.interactive import Interactive
from medsam2.tasks.parts import Outcome, Parts

log = logging.getLogger(__name__)


def evaluate_budget(parts: Parts, budget: ClickBudget) -> Outcome:
    """Scores the test cases at every point of a budget (rows `budget`) and at its first one (rows `test`).

    The value is the mean of the first metric over structures, at the first point.

    Raises:
        ValueError: the method cannot be asked so.
    """
    recorder = BudgetRecorder(parts.evaluator, parts.method.protocol)
    method = Interactive(parts.method, budget, recorder)
    log.info("asked along %s: %d answers about each object", ", ".join(method.axes), len(method.points))
    parts = replace(parts, method=method)
    parts.prepare("test")
    cases = parts.cases("test")
    rows, summary = parts.score(parts.loader(cases), "test", 0)
    found = recorder.rows()
    save_rows(found, parts.directory.rows, PHASE)
    measured = summarise_budget(found, budget.targets)
    parts.logger.log_metrics(measured, 0)
    for line in describe_budget(found, budget.targets):
        log.info(line)
    if parts.evaluator.overlays:
        method.listener = None
        parts.draw(cases, rows, "test")
    return Outcome(summary[f"test/{parts.evaluator.names[0]}/mean"], summary | measured)
