"""A comparison as one page to read, and as files: CSV, Markdown, LaTeX, SVG, PDF."""

from medsam2.results.report.answer import Asked
from medsam2.results.report.attach import attach
from medsam2.results.report.bundle import write_report
from medsam2.results.report.terminal import print_answer

__all__ = ["Asked", "attach", "print_answer", "write_report"]
