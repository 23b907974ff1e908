"""In a job of a search: reports each validation to the study and gives up a trial that is behind.

A job must not depend on its study: where the study cannot be reached, training goes on and is not judged.
"""

from __future__ import annotations

import logging

from medsam2.database import root_cause
from medsam2.search.study import build_pruner, open_storage
from medsam2.training.stop import Pruned

log = logging.getLogger(__name__)


class Judge:
    """Judges one trial; called with the epoch and the monitored value after each validation.

    Args:
        storage: where the study is: a path, an address, or `env:NAME` for an address in an environment variable.
        study: its name.
        number: the trial's, from 0.
        pruner: median or halving; prune_after: epochs before which no trial is given up.
    """

    def __init__(self, storage: str, study: str, number: int, pruner: str, prune_after: int):
        self.storage = storage
        self.study = study
        self.number = number
        self.pruner = pruner
        self.prune_after = prune_after
        self._warned = False

    def __call__(self, epoch: int, value: float) -> None:
        """Raises Pruned where the trial is behind the others."""
        if self._is_behind(epoch, value):
            raise Pruned(f"trial {self.number} of search {self.study} is behind the others at epoch {epoch}")

    def _is_behind(self, epoch: int, value: float) -> bool:
        try:
            return self._ask(epoch, value)
        except Exception as error:  # whatever a file system, a database or its driver may say
            if not self._warned:
                log.warning("not judged, the study cannot be reached: %s", root_cause(error))
            self._warned = True
            return False

    def _ask(self, epoch: int, value: float) -> bool:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        storage = open_storage(self.storage)
        pruner = build_pruner(self.pruner, self.prune_after)
        study = optuna.load_study(study_name=self.study, storage=storage, pruner=pruner)
        trial = study.get_trials(deepcopy=False)[self.number]
        if epoch not in trial.intermediate_values:  # a requeued run validates an epoch again
            storage.set_trial_intermediate_value(trial._trial_id, epoch, value)
        return pruner.prune(study, storage.get_trial(trial._trial_id))
