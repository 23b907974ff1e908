"""The processes that serve one study: each says by a claim beside the study that it lives.

A trial belongs to the head that asked for it. A head that ends hands its unfinished trials back; the trials of one that
was killed are free as soon as its claim is dead.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path

from medsam2.claims import Claim


class Head:
    """This process. `name` is what its trials are marked with.

    Args:
        folder: the search's folder, which all heads share that may take over each other's trials.
    """

    def __init__(self, folder: Path):
        self._claim = Claim(folder / f".head-{platform.node()}-{os.getpid()}.claim")
        self.name = f"{platform.node()}:{self._claim.path}"

    def __enter__(self) -> Head:
        self._claim.take()
        return self

    def __exit__(self, *error: object) -> None:
        self._claim.release()
        self._claim.path.with_suffix(".lock").unlink(missing_ok=True)


def lives(name: str) -> bool:
    """Whether the head of this name is known to be at work."""
    path = Path(name.partition(":")[2])
    return bool(name) and Claim(path).holder() is not None


def is_gone(name: str) -> bool:
    """Whether a head's trials may be taken: it handed them back, or was killed.

    One on another machine whose claim cannot be seen from here may be at work; its trials are its own.
    """
    host, _, path = name.partition(":")
    return not name or (not lives(name) and (host == platform.node() or Path(path).exists()))
