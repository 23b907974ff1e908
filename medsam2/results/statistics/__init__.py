"""Intervals, tests and effect sizes for arms that are compared on the same patients; NumPy and SciPy alone."""

from medsam2.results.statistics.bootstrap import Draws
from medsam2.results.statistics.clusters import Clusters
from medsam2.results.statistics.effects import cohen_dz, rank_biserial, share_better
from medsam2.results.statistics.letters import compact_letters
from medsam2.results.statistics.paired import holm, permute, rank_sums, wilcoxon
from medsam2.results.statistics.power import needed_patients, needed_seeds
from medsam2.results.statistics.ranks import cliques, critical_difference, friedman, mean_ranks
from medsam2.results.statistics.spread import Spread
from medsam2.results.statistics.verdict import decide

__all__ = [
    "Clusters",
    "Draws",
    "Spread",
    "cliques",
    "cohen_dz",
    "compact_letters",
    "critical_difference",
    "decide",
    "friedman",
    "holm",
    "mean_ranks",
    "needed_patients",
    "needed_seeds",
    "permute",
    "rank_biserial",
    "rank_sums",
    "share_better",
    "wilcoxon",
]
