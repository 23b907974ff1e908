"""Score a model as its checkpoint is, without training."""

from __future__ import annotations

from medsam2.data.budget_prompt import ClickBudget
from medsam2.tasks.budget import evaluate_budget
from medsam2.tasks.parts import Outcome, Parts


def evaluate(parts: Parts) -> Outcome:
    """Scores the test cases (phase `test`); the value is the mean of the first metric over structures.

    With prompt=click_budget at every point of the budget, as evaluate_budget.

    Raises:
        ValueError: the checkpoint holds no learned prompts for a structure that is asked for by them.
    """
    prompts = getattr(parts.method.model, "learned_prompts", None)
    if prompts is not None and prompts.untrained:
        names = ", ".join(name.rpartition(".")[2] for name in prompts.untrained)
        raise ValueError(
            f"model.checkpoint has no learned prompts for {names}: evaluate a checkpoint that was trained with "
            "prompt=learned on them, or choose other dataset.structures"
        )
    if isinstance(parts.prompt, ClickBudget):
        return evaluate_budget(parts, parts.prompt)
    parts.prepare("test")
    cases = parts.cases("test")
    rows, summary = parts.score(parts.loader(cases), "test", 0)
    if parts.evaluator.overlays:
        parts.draw(cases, rows, "test")
    return Outcome(summary[f"test/{parts.evaluator.names[0]}/mean"], summary)
