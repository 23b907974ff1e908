"""One full report for many tests. Its PDFs are empty: embedding their fonts takes longer than all the rest."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import pytest

from medsam2.results.compare.comparison import Comparison
from medsam2.results.report import Asked, write_report
from tests.results.report.made_up import make_comparison

SAVE = import_module("medsam2.results.figures.save")


@contextmanager
def without_fonts() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SAVE, "_to_pdf", lambda figure: b"%PDF-1.4")
        yield


@pytest.fixture(autouse=True)
def _empty_pdfs() -> Iterator[None]:
    with without_fonts():
        yield


@pytest.fixture(scope="session")
def comparison() -> Comparison:
    return make_comparison()


@pytest.fixture(scope="session")
def page(comparison: Comparison, tmp_path_factory: pytest.TempPathFactory) -> Path:
    asked = Asked({"dataset": "refuge, papila"}, "python run.py task=compare", "2026-11-23 15:00 UTC")
    with without_fonts():
        return write_report(comparison, tmp_path_factory.mktemp("report"), asked)
