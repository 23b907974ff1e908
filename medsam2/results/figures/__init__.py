"""Figures of a comparison: matplotlib's objects alone, without pyplot, so that nothing is global and nothing needs a
display. Each function takes frames of `medsam2.results.compare` and gives a Figure, or a ValueError where there is
nothing to draw. `assign_looks` gives every arm a colour and a shape: hand the same looks to every figure. A figure's
label, `figure.get_label()`, says in a sentence what is to be seen.
"""

from medsam2.results.figures.boxes import box_plot, dot_plot
from medsam2.results.figures.cost import cost
from medsam2.results.figures.forest import forest
from medsam2.results.figures.lines import curves, rejection
from medsam2.results.figures.matrix import matrix
from medsam2.results.figures.ranks import critical_difference
from medsam2.results.figures.raters import rater_lines
from medsam2.results.figures.reliability import reliability
from medsam2.results.figures.save import save, to_png, to_svg
from medsam2.results.figures.side_by_side import Picture, side_by_side
from medsam2.results.figures.style import Look, Looks, assign_looks

__all__ = [
    "Look", "Looks", "Picture", "assign_looks", "box_plot", "cost", "critical_difference", "curves", "dot_plot",
    "forest", "matrix", "rater_lines", "rejection", "reliability", "save", "side_by_side", "to_png", "to_svg",
]  # fmt: skip
