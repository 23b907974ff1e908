"""Hydra finds plugins in the package `hydra_plugins`; what the sweeper does stands in medsam2/sweep.py."""

from __future__ import annotations

from typing import Any

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import flag_override


class GridSweeper(BasicSweeper):
    """Every combination of the swept values, as Hydra's own sweeper, with a head that minds the whole.

    Hydra's callbacks swallow exceptions and are not called after a failed job, so what matters happens here: all jobs
    are composed and checked before the first starts, one identity runs once, the table is printed in any case.
    """

    def sweep(self, arguments: list[str]) -> Any:
        from medsam2.sweep import Job, run_sweep

        assert self.hydra_context
        assert self.config
        assert self.launcher
        loader = self.hydra_context.config_loader
        parsed = OverridesParser.create(config_loader=loader).parse_overrides(self._parse_config() + arguments)
        axes = [o.get_key_element().lstrip("+") for o in parsed if o.is_sweep_override()]
        jobs = []
        for batch in self.split_arguments(parsed, None):
            for overrides in batch:
                cfg = loader.load_sweep_config(self.config, list(overrides))
                with flag_override(cfg, ["readonly", "struct"], False):
                    del cfg["hydra"]  # as a job's own function gets it
                jobs.append(Job(overrides=tuple(overrides), cfg=cfg))
        here = isinstance(self.launcher, BasicLauncher)
        return run_sweep(jobs, axes, self.launcher.launch, batch_size=self.max_batch_size, here=here)
