"""The head of a sweep: check every job, run each identity once, watch, print the table, and fail only at the end."""

from medsam2.sweep.head import open_sweep, run_sweep
from medsam2.sweep.jobs import Job, check_all, unique
from medsam2.sweep.report import report
from medsam2.sweep.watch import Watch

__all__ = ["Job", "Watch", "check_all", "open_sweep", "report", "run_sweep", "unique"]
