"""Label values from a config."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers_releases import fails

from medsam2.data.releases.labels import declare, read_labels, select


def test_values_and_unions() -> None:
    labels = read_labels({"cup": 2, "disc": [2, 1]})
    assert labels == {"cup": (2,), "disc": (1, 2)}
    assert declare(labels) == ({0, 1, 2},)
    stored = np.array([[0, 1], [2, 3]])
    assert select(labels, stored, "disc").tolist() == [[False, True], [True, False]]
    assert select(labels, stored, "cup").tolist() == [[False, False], [True, False]]


@pytest.mark.parametrize("value", [0, -1, 65536, 1.0, "1", True, None, [], [0, 1], [1, "2"]])
def test_what_is_no_value(value: Any) -> None:
    fails(lambda: read_labels({"cup": value}), "unreadable", f"dataset.release.labels={{cup: {value}}}", "1 to 65535")


def test_no_labels() -> None:
    fails(lambda: read_labels({}), "unreadable", "dataset.release.labels={} names no structure")
