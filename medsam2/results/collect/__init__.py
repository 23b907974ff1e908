"""From runs to a study: what was found, which of it counts, what is compared, and what may stand in one column."""

from medsam2.results.collect.arms import Arms, name_arms
from medsam2.results.collect.collecting import collect
from medsam2.results.collect.settings import Setting, split_settings
from medsam2.results.collect.study import Study

__all__ = ["Arms", "Setting", "Study", "collect", "name_arms", "split_settings"]
