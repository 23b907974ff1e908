"""One MLflow database for all tests of the mirror: making its tables takes seconds."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers_tracking import fork_jobs

from medsam2.tracking import mlflow


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine is no store that hangs."""
    monkeypatch.setattr(mlflow, "START", 60.0)


@pytest.fixture(scope="session")
def opened_at_once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[int]]:
    """A fresh store that four processes opened at the same moment, and how they ended."""
    folder = tmp_path_factory.mktemp("opened")
    return folder, fork_jobs(folder, 4)


@pytest.fixture(scope="session")
def database(opened_at_once: tuple[Path, list[int]]) -> bytes:
    """With an experiment of their own, `many`, that no other test looks at."""
    return (opened_at_once[0] / "mlflow.db").read_bytes()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, database: bytes) -> Path:
    """An output folder that the tests of a file share."""
    folder = tmp_path_factory.mktemp("store")
    (folder / "mlflow.db").write_bytes(database)
    return folder


@pytest.fixture
def fresh(tmp_path: Path, database: bytes) -> Path:
    """An output folder with a store of its own."""
    (tmp_path / "mlflow.db").write_bytes(database)
    return tmp_path
