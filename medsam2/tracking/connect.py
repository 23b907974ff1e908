"""Opening an MLflow store: its address, its drivers, and how long and how often anything is tried."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",  # seconds; its own 120 are a long time to hold a job's end
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # a request sent twice may make two runs; who retries looks first
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "PGCONNECT_TIMEOUT": "10",
}
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
PATIENCE = 20.0  # seconds for another process that mirrors the same directory


def is_database(uri: str) -> bool:
    """Whether this process talks to a database itself, rather than to a server."""
    return uri.startswith(DATABASES)


def open_client(uri: str, output_dir: Path) -> MlflowClient:
    """A client that has reached the store. Raises whatever the store does if it cannot be."""
    for key, value in SETTINGS.items():
        os.environ.setdefault(key, value)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # tracebacks of what it also raises
    from mlflow import MlflowClient

    with _taking_turns(uri, output_dir):
        client = MlflowClient(tracking_uri=uri)
        client.search_experiments(max_results=1)
    return client


@contextmanager
def _taking_turns(uri: str, output_dir: Path) -> Iterator[None]:
    """MLflow's first migration of a fresh database is not safe against other processes."""
    if not is_database(uri):
        yield
        return
    import mlflow.store.tracking.sqlalchemy_store  # noqa: F401  # a second, which the others need not wait for

    path = Path(uri.partition("///")[2].partition("?")[0])
    lock = path.with_name(f"{path.name}.lock") if uri.startswith("sqlite") else output_dir / "mlflow.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock, timeout=120):
        _connect(uri)
        yield


def _connect(uri: str) -> None:
    """Fails at once where there is no database; MLflow by itself would try ten times."""
    import sqlalchemy

    engine = sqlalchemy.create_engine(uri, poolclass=sqlalchemy.pool.NullPool)
    engine.connect().close()


@contextmanager
def alone(folder: Path, seconds: float) -> Iterator[None]:
    """Nobody else brings this folder to a store meanwhile: two who look for its run at once would make two.

    Raises:
        Timeout: another process did not finish within `seconds`.
    """
    lock = FileLock(folder / ".mirror.lock")
    try:
        lock.acquire(timeout=seconds)
    except Timeout:
        raise
    except (OSError, NotImplementedError) as error:  # a file system without locks, or one that cannot be written
        log.debug("mirror without lock: %s", error)
    try:
        yield
    finally:
        lock.release()
