"""Hydra finds plugins in the package `hydra_plugins`; what the sweeper does stands in medsam2/sweep/."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import flag_override

if TYPE_CHECKING:
    from medsam2.sweep import Job

log = logging.getLogger("medsam2.sweep")


class GridSweeper(BasicSweeper):
    """Every combination of the swept values, as Hydra's own sweeper, with a head that minds the whole.

    Hydra's callbacks swallow exceptions and are not called after a failed job, so what matters happens here: all jobs
    are composed and checked before the first starts, one identity runs once, the table is printed in any case.
    """

    def sweep(self, arguments: list[str]) -> Any:
        from medsam2.sweep import run_sweep

        assert self.launcher
        parsed = self.parse(arguments)
        if intervals := [str(o.input_line) for o in parsed if o.is_interval_sweep()]:
            remedy = "a grid has no intervals; give values, or search with hydra/sweeper=optuna"
            log.error("%s: %s", ", ".join(intervals), remedy)
            raise SystemExit(1)
        axes = [o.get_key_element().lstrip("+") for o in parsed if o.is_sweep_override()]
        jobs = [self.compose(overrides) for batch in self.split_arguments(parsed, None) for overrides in batch]
        return run_sweep(jobs, axes, self.launcher, batch_size=self.max_batch_size)

    def parse(self, arguments: Sequence[str]) -> list[Override]:
        """`hydra.sweeper.params` and the command line."""
        assert self.hydra_context
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        return parser.parse_overrides([*self._parse_config(), *arguments])

    def compose(self, overrides: Sequence[str]) -> Job:
        """The job of one list of overrides, with its config as its own function gets it."""
        from medsam2.sweep import Job

        assert self.hydra_context
        assert self.config
        cfg = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
        with flag_override(cfg, ["readonly", "struct"], False):
            del cfg["hydra"]
        return Job(tuple(overrides), cfg)
