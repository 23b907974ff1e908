"""Generators that depend on names, not on the order of calls: same key, same numbers, in every process."""

from __future__ import annotations

import hashlib

import numpy as np


def stable_rng(*key: object) -> np.random.Generator:
    """A generator seeded from the sha256 of ``key``: parts that are str, int or None."""
    # repr keeps ("a", "bc") and ("ab", "c"), 1 and "1" apart
    digest = hashlib.sha256(repr(key).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))
