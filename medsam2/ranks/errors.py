"""How a rank's failure reaches who started it, and which of several failures was the first."""

from __future__ import annotations

import pickle
import traceback

from medsam2.distributed import RankLost
from medsam2.training.stop import Preempted


class RankKilled(RuntimeError):
    """A rank's process ended without a word: the system or somebody killed it."""


class RankTraceback(Exception):
    """Where in its own process a rank failed; the cause of what is raised in another."""


def pack_error(error: BaseException) -> bytes:
    """An exception for another process: of its own class with all its attributes, where they can travel."""
    cause = error.__cause__
    if type(error).__name__ == "InstantiationException" and cause is not None:  # Hydra's, around what went wrong
        error = cause
    text = "".join(traceback.format_exception(error))
    try:
        state = error if isinstance(error, OSError) else (type(error), error.args, error.__dict__)
        packed = pickle.dumps((state, text))
        unpack_error(packed)
    except Exception:
        packed = pickle.dumps((RuntimeError(f"{type(error).__name__}: {error}"), text))
    return packed


def unpack_error(packed: bytes) -> BaseException:
    """What pack_error packed; the traceback is its cause."""
    state, text = pickle.loads(packed)
    if isinstance(state, tuple):
        kind, args, attributes = state
        error = kind.__new__(kind, *args)  # not called: what it makes of its arguments is in its attributes
        error.args = args
        error.__dict__.update(attributes)
    else:
        error = state
    error.__cause__ = RankTraceback(text)
    return error


def consequence(error: BaseException) -> int:
    """How likely an error is the consequence of another rank's: one that leaves takes its connections with it."""
    order = (Preempted, RankKilled, RankLost)
    return next((i for i, kind in enumerate(order, start=1) if isinstance(error, kind)), 0)
