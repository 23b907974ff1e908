"""Made-up runs are made fast: nobody here reads their summaries, or which packages made them."""

from __future__ import annotations

import pytest

from medsam2 import runs
from tests import studies


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "provenance", lambda: {"revision": "83141e2", "command": ["run.py"]})
    monkeypatch.setattr(studies, "summarise", lambda rows, phase: {})
