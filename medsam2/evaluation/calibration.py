"""Expected calibration error: how far what is expected lies from what happens, over bins of what is expected.

Guo et al. 2017 (arXiv 1706.04599, section 2), with 15 bins of equal width, (0, 1/15], …, (14/15, 1].
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medsam2.distributed import gather

if TYPE_CHECKING:
    from medsam2.evaluation.answers import Answer

NUM_BINS = 15


def count_bins(expected: NDArray[Any], actual: NDArray[Any]) -> NDArray[np.float64]:
    """3×15: how many there are in each bin, the sum of what was expected, 0..1, and of what happened, 0..1.

    Those of several images add up.
    """
    above = expected > 1 / NUM_BINS  # most pixels are background: the first bin is what the others leave
    higher, found = expected[above], actual[above]
    bins = np.clip(np.ceil(higher * NUM_BINS).astype(np.int64) - 1, 0, NUM_BINS - 1)
    rows = [np.bincount(bins, weights=weights, minlength=NUM_BINS) for weights in (None, higher, found)]
    counts = np.stack(rows).astype(np.float64)
    totals = np.array([expected.size, expected.sum(dtype=np.float64), actual.sum(dtype=np.float64)])
    counts[:, 0] += totals - counts.sum(axis=1)
    return counts


def compute_ece(bins: NDArray[np.float64]) -> float:
    """The mean over all that was counted of | expected - actual | of its bin, 0..1."""
    number, expected, actual = bins
    return float(np.abs(expected - actual).sum() / number.sum())


class BinTally:
    """Adds up the bins of an evaluation's answers by structure: what a reliability diagram is drawn from.

    Every pixel that was answered counts once, so a large case weighs more here than in the mean of the cases' errors.
    """

    def __init__(self) -> None:
        self.sums: dict[str, NDArray[np.float64]] = {}

    def see(self, answer: Answer, batch: Any) -> None:
        if answer.bins.size:
            structure = answer.info.structure
            self.sums[structure] = self.sums.get(structure, 0) + answer.bins

    def rows(self, phase: str) -> list[dict[str, Any]]:
        """A row per structure and bin, of all ranks together: phase, structure, bin (0..14), number, expected, actual.

        The last two are sums over the bin's pixels: of the probabilities, and of the pixels that were foreground.
        """
        total: dict[str, NDArray[np.float64]] = {}
        for sums in gather(self.sums):
            total |= {structure: total.get(structure, 0) + bins for structure, bins in sums.items()}
        return [
            {"phase": phase, "structure": structure, "bin": i, "number": number, "expected": expected, "actual": actual}
            for structure, bins in sorted(total.items())
            for i, (number, expected, actual) in enumerate(bins.T.tolist())
        ]
