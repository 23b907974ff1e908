"""A study becomes a comparison: settings are told apart, each gets a board, and what spans them stands beside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from medsam2.results.collect import Arms, Setting, Study, name_arms, split_settings
from medsam2.results.compare.across import compare_across
from medsam2.results.compare.boards import Question, build_board
from medsam2.results.compare.calibration import calibrate, reject
from medsam2.results.compare.comparison import Comparison, is_higher_better
from medsam2.results.compare.cost import measure_cost, note_devices
from medsam2.results.compare.curves import count_clicks, draw_curves
from medsam2.results.compare.matrix import build_matrix
from medsam2.results.compare.raters import compare_raters
from medsam2.results.compare.view import View, make_view

SOME = 5  # of what was left out, that a message lists


def compare(
    study: Study, metric: str = "dice", baseline: str | None = None, resamples: int = 2000, seed: int = 0
) -> Comparison:
    """Every number that a report shows. Nothing is averaged over settings.

    Args:
        metric: the main one, of which arms are compared in pairs.
        baseline: an arm; all others are compared with it, and with nothing else.
        resamples: of the bootstrap, from which intervals come. seed: of all that is drawn.

    Raises:
        ValueError: no finished run, a metric that no row has, an arm that there is not.
    """
    _check_runs(study)
    arms = name_arms(study)
    names = list(arms.varied.index.unique()) if len(arms.varied) else list(arms.arm.unique())
    _check_baseline(baseline, names)
    settings = split_settings(study)
    titles = _name_boards(settings)
    views = [make_view(study, one, arms.arm, name) for one, name in zip(settings, titles, strict=True)]
    _check_metric(metric, views)
    boards = [build_board(view, Question(metric, baseline, resamples, seed)) for view in views]
    cost = measure_cost(views)
    return Comparison(
        study=study,
        metric=metric,
        higher_is_better=is_higher_better(metric),
        arms=names,
        by=arms.by,
        varied=arms.varied,
        fixed=arms.fixed,
        boards=boards,
        across=compare_across(boards, metric),
        matrix=build_matrix(boards, metric),
        curves=draw_curves(views, study.budgets, metric, resamples, seed),
        clicks_needed=count_clicks(views, study.budgets, resamples, seed),
        calibration=calibrate(views, study.bins),
        rejection=reject(views, metric),
        raters=compare_raters(views),
        cost=cost,
        notes=[*study.notes, *_note(arms, names, boards_of=views), *note_devices(cost)],
        left_out=study.left_out,
    )


def _note(arms: Arms, names: Sequence[str], boards_of: Sequence[View]) -> list[str]:
    notes = []
    if len(names) == 1:
        notes.append(f"one arm, {names[0]}: there is nothing to compare it with")
    if len(boards_of) > 1:
        notes.append(f"{len(boards_of)} settings: each has its own table, and no number is a mean over them")
    return notes


def _name_boards(settings: Sequence[Setting]) -> list[str]:
    """The dataset of each setting, or its title where the dataset has several."""
    datasets = Counter(setting.key["dataset"] for setting in settings)
    return [s.key["dataset"] if datasets[s.key["dataset"]] == 1 else s.title for s in settings]


def _check_runs(study: Study) -> None:
    if len(study.runs):
        return
    found = study.left_out
    states = ", ".join(f"{count} {state}" for state, count in Counter(found["state"]).most_common()) or "nothing"
    shown = found.head(SOME).itertuples(index=False)
    reasons = [f"{name if run_id in name else f'{name} ({run_id})'}: {why}" for name, run_id, _, why in shown]
    more = [f"and {len(found) - SOME} more"] if len(found) > SOME else []
    listed = "".join(f"\n  {line}" for line in reasons + more)
    raise ValueError(
        f"no finished run to compare in {study.source}: found {states}{listed}\n"
        "issue the command of the runs again (it goes on with what is not finished), or choose others with "
        "task.dataset=, task.study=, sweep=, task.tag=, task.since="
    )


def _check_baseline(baseline: str | None, names: Sequence[str]) -> None:
    if baseline is not None and baseline not in names:
        raise ValueError(f"task.baseline={baseline}: there is no such arm; choose one of {', '.join(names)}")


def _check_metric(metric: str, views: Sequence[View]) -> None:
    if any(view.part_of(metric) is not None for view in views):
        return
    known = dict.fromkeys(part.prefix + name for view in views for part in view.parts.values() for name in part.metrics)
    raise ValueError(f"task.metric={metric}: no row has it; rows have {', '.join(known) or 'none'}")
