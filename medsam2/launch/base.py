"""What the head of a sweep knows of a launcher. A job's result is in its run directory, never in how it ended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Handle(Protocol):
    """One job that was given to a launcher."""

    @property
    def label(self) -> str:
        """Where it runs, for people: `process 1234`, `slurm 17_3`; `waiting` while no slot is free."""

    def ended(self) -> str | None:
        """None while it may still run or come back; else how it ended, such as `exit 1`, `signal 9`."""

    def cancel(self) -> None:
        """Asks the job to end; it saves what it has. Does nothing to one that has ended."""


class Starter(Protocol):
    """A launcher that starts jobs without waiting for them."""

    stays: bool  # the jobs outlive this process, as on a cluster; else Ctrl-C here ends them
    here: bool  # the jobs run on this machine

    def start(self, jobs: Sequence[Sequence[str]], first: int) -> list[Handle]:
        """Starts one job per list of overrides, numbered from `first`, and returns at once."""

    def alive(self, job: str) -> bool:
        """Whether a job of an earlier command (its label in the manifest, `17_3`) may still run or come back."""

    def close(self) -> None:
        """Called after the last job has ended."""
