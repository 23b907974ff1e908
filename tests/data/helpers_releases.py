"""What tests of releases ask for again and again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medsam2.data.dataset import ImageDataset
from medsam2.data.records import Case, DatasetError
from medsam2.data.releases.base import ImageRelease


def dataset(release: ImageRelease, root: Path, **settings: Any) -> ImageDataset:
    return ImageDataset(root, release, **settings)


def case_of(data: Any, case_id: str) -> Case:
    return data.load(next(record for record in data.records() if record.case_id == case_id))


def splits_of(data: Any) -> dict[str, list[str]]:
    """split -> its case ids."""
    found: dict[str, list[str]] = {}
    for record in data.records():
        found.setdefault(record.split, []).append(record.case_id)
    return found


def same(masks: Any, *expected: Any) -> bool:
    """Whether R×H×W masks are the ones expected, one for each rater."""
    return np.array_equal(masks, np.stack(expected))


def fails(act: Callable[[], Any], kind: str, *parts: str) -> None:
    """``act`` raises a DatasetError of a kind, with a message that names ``parts``."""
    with pytest.raises(DatasetError) as error:
        act()
    assert error.value.kind == kind, error.value
    for part in parts:
        assert part in str(error.value)
