"""`hydra/sweeper=optuna`; what the search does stands in medsam2/search/."""

from __future__ import annotations

from typing import Any

from omegaconf import OmegaConf

from hydra_plugins.medsam2_sweeper import GridSweeper


class OptunaSweeper(GridSweeper):
    """A sweep whose combinations Optuna chooses one by one, by the results of those before.

    Args:
        n_trials: trials that shall be finished, with those of earlier commands.
        parallel: trials at a time; None: as many as the launcher has places.
        sampler, seed, pruner, prune_after: how the next trial is chosen, and when one is given up.
        storage: where the study is; None for a file in the search's folder.
        params: the searched keys with their spaces, as on the command line.
    """

    def __init__(
        self,
        n_trials: int,
        parallel: int | None = None,
        sampler: str = "tpe",
        seed: int = 0,
        pruner: str | None = None,
        prune_after: int = 3,
        storage: str | None = None,
        params: dict[str, str] | None = None,
    ):
        super().__init__(None, params)
        self.how: dict[str, Any] = {"n_trials": n_trials, "parallel": parallel, "sampler": sampler, "seed": seed}
        self.how |= {"pruner": pruner, "prune_after": prune_after}

    def sweep(self, arguments: list[str]) -> Any:
        from medsam2.search.run import run_search
        from medsam2.search.search import Settings

        assert self.config
        parallel = getattr(self.launcher, "places", 1) if self.how["parallel"] is None else self.how["parallel"]
        # as it is written: what `${oc.env:…}` stands for may hold a password
        written: Any = OmegaConf.to_container(self.config.hydra.sweeper, resolve=False)
        settings = Settings(**self.how | {"parallel": parallel})
        run_search(self.parse(arguments), self.compose, self.launcher, settings, written["storage"])
