"""A study becomes a comparison: settings are told apart, each gets a board, and what spans them stands beside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pandas as pd

from medsam2.evaluation.metrics import NAMES
from medsam2.results.collect import Study, name_arms, split_settings
from medsam2.results.compare.across import compare_across, why_not_across
from medsam2.results.compare.boards import Question, build_board
from medsam2.results.compare.calibration import calibrate, reject
from medsam2.results.compare.comparison import FREE, Board, Comparison, is_higher_better
from medsam2.results.compare.cost import measure_cost, note_devices
from medsam2.results.compare.curves import count_clicks, draw_curves
from medsam2.results.compare.matrix import build_matrix
from medsam2.results.compare.raters import compare_raters
from medsam2.results.compare.view import View, make_view

PROMPT = "prompt_dice"  # how good prompts are, not answers
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
    names = list(dict.fromkeys([*arms.varied.index, *arms.arm]))
    _check_baseline(baseline, names)
    settings = split_settings(study)
    views = [make_view(study, one, arms.arm, one.title) for one in settings]
    _check_metric(metric, views)
    boards = [build_board(view, Question(metric, baseline, resamples, seed)) for view in views]
    across, cost = compare_across(boards, metric), measure_cost(views)
    missing = why_not_across(boards, metric) if across is None and len(names) > 1 else []
    return Comparison(
        study=study,
        metric=metric,
        higher_is_better=is_higher_better(metric),
        arms=names,
        by=arms.by,
        varied=_fill(arms.varied, names),
        fixed=arms.fixed,
        boards=boards,
        across=across,
        matrix=build_matrix(boards, metric, study.runs),
        curves=draw_curves(views, study.budgets, metric, resamples, seed),
        clicks_needed=count_clicks(views, study.budgets, resamples, seed),
        calibration=calibrate(views, study.bins),
        rejection=reject(views, metric),
        raters=compare_raters(views),
        cost=cost,
        notes=[*study.notes, *_note(names, boards), *missing, *note_devices(cost)],
        left_out=study.left_out,
    )


def _fill(varied: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """With a line for each arm of masks of others, of which no key is known."""
    theirs = pd.Index([name for name in names if name not in varied.index], name="arm")
    return pd.concat([varied, pd.DataFrame("unknown", index=theirs, columns=varied.columns)])


def _note(names: Sequence[str], boards: Sequence[Board]) -> list[str]:
    notes = []
    if len(names) == 1:
        notes.append(f"one arm, {names[0]}: there is nothing to compare it with")
    if len(boards) > 1:
        notes.append(f"{len(boards)} settings: each has its own table, and no number is a mean over them")
    return notes


def _check_runs(study: Study) -> None:
    if len(study.runs):
        return
    found = study.left_out
    states = ", ".join(f"{count} {state}" for state, count in Counter(found["state"]).most_common()) or "nothing"
    shown = found.head(SOME).itertuples(index=False)
    reasons = [f"{name if run_id in name else f'{name} ({run_id})'}: {why}" for name, run_id, _, why in shown]
    more = [f"and {len(found) - SOME} more"] if len(found) > SOME else []
    listed = "".join(f"\n  {line}" for line in reasons + more)
    nothing = f"no finished run to compare in {study.source}: found {states}"
    if found.empty:
        raise ValueError(f"{nothing}; train one first: python run.py dataset=chest_ct model=sam2_nano")
    raise ValueError(
        f"{nothing}{listed}\n"
        "issue the command of the runs again (it goes on with what is not finished), or choose others with "
        "task.dataset=, task.study=, sweep=, task.tag=, task.since="
    )


def _check_baseline(baseline: str | None, names: Sequence[str]) -> None:
    if baseline is not None and baseline not in names:
        raise ValueError(f"task.baseline={baseline}: there is no such arm; choose one of {', '.join(names)}")


def _check_metric(metric: str, views: Sequence[View]) -> None:
    if any(view.part_of(metric) is not None for view in views):
        return
    there = [part.prefix + name for view in views for part in view.parts.values() for name in part.metrics]
    known = [name for name in dict.fromkeys(there) if not name.endswith(PROMPT)]
    plain = metric.removeprefix(FREE)
    group = "fundus" if plain == "ece" else "surface"
    remedy = f"; it is computed with metrics={group}, or with metrics.names=[dice,iou,{plain}]"
    said = f"task.metric={metric}: no row has it; rows have {', '.join(known) or 'none'}"
    raise ValueError(said + remedy * (plain in NAMES and plain not in known))
