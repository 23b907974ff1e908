"""What a search found: the table of its trials, the best on a line, and what did not go well."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from medsam2.runs import RunDirectory
from medsam2.search.search import Ended
from medsam2.search.space import Space

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from medsam2.results.table import SweepRun

log = logging.getLogger("medsam2.search")

STATES = {"COMPLETE": "finished", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "not finished"}


def print_trials(trials: Sequence[FrozenTrial], space: Space, cfg: DictConfig, folder: Path) -> list[Path]:
    """Prints and stores the table, the best trial first, and says which that is; returns the table's files."""
    from medsam2.results.table import build_table, print_table, save_table

    ranked = sorted(trials, key=_rank)
    metrics = {trial.number: _metrics(trial) for trial in ranked}
    runs = [_row(trial, space, cfg, metrics[trial.number]) for trial in ranked]
    frame = build_table(runs)
    files = save_table(frame, folder)
    print_table(frame, title=f"search {folder.name}")
    counts = Counter(STATES[trial.state.name] for trial in trials)
    log.info("%d trials: %s", len(trials), ", ".join(f"{counts[s]} {s}" for s in STATES.values() if counts[s]))
    if ranked and ranked[0].state.name == "COMPLETE":
        log.info("%s", best_line(ranked[0], space, metrics[ranked[0].number]))
    log.info("table: %s", folder / "table.csv")
    return files


def best_line(trial: FrozenTrial, space: Space, metrics: Mapping[str, float]) -> str:
    """Such as `best: optim.lr=0.00031 val 0.873, test 0.861 (trial 7)`."""
    values = " ".join(f"{key}={text}" for key, text in space.texts(trial.params).items())
    test = metrics.get("test/dice/mean", math.nan)
    return f"best: {values} val {trial.value:.3f}, test {test:.3f} (trial {trial.number})"


def name_failures(failed: Sequence[Ended], left: Sequence[Ended]) -> None:
    """Names the trials that did not finish, and why."""
    for trial in failed:
        error = trial.status.get("error") or "its value is not a number"
        reason = trial.status.get("reason") or "error"
        log.error("failed (%s): trial %d: %s: %s (%s)", reason, trial.number, trial.values, error, trial.folder)
    for trial in left:
        reason = trial.status.get("reason") or trial.status["state"]
        log.warning("%s: trial %d: %s (the same command goes on with it)", reason, trial.number, trial.values)


def _rank(trial: FrozenTrial) -> tuple[int, float, int]:
    state = trial.state.name
    return list(STATES).index(state), -trial.value if state == "COMPLETE" and trial.value else 0.0, trial.number


def _row(trial: FrozenTrial, space: Space, cfg: DictConfig, metrics: Mapping[str, float]) -> SweepRun:
    """A row per trial: what was searched, then the value that chose it, then the scores that did not."""
    from medsam2.results.table import SweepRun

    state = STATES[trial.state.name]
    value = f"{trial.value:.4f}" if state == "finished" else state
    swept = {**space.texts(trial.params), "trial": str(trial.number), "val": value}
    return SweepRun(swept, cfg.dataset.name, cfg.seed, state, metrics)


def _metrics(trial: FrozenTrial) -> dict[str, Any]:
    """The stored metrics of a trial's run; none where its directory is on another machine."""
    where = trial.user_attrs.get("run_dir")
    return dict(RunDirectory(Path(where)).status().get("metrics", {})) if where else {}
