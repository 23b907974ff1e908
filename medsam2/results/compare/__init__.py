"""From a study to a comparison: scores with intervals, pairs with tests, and what they allow to be said."""

from medsam2.results.compare.assemble import compare
from medsam2.results.compare.comparison import Across, Board, Comparison

__all__ = ["Across", "Board", "Comparison", "compare"]
