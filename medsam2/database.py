"""Addresses of databases, and what their drivers say when something is wrong: shared by tracking and search."""

from __future__ import annotations

from importlib.util import find_spec

from medsam2.redact import redact


def with_driver(uri: str) -> str:
    """`postgresql://` for the driver that is installed: SQLAlchemy 2.1 means psycopg by it, 2.0 meant psycopg2.

    Raises:
        ModuleNotFoundError: neither is.
    """
    scheme, _, rest = uri.partition("://")
    if scheme not in ("postgresql", "postgres"):
        return uri
    if find_spec("psycopg"):
        return f"postgresql+psycopg://{rest}"
    if find_spec("psycopg2"):
        return f"postgresql+psycopg2://{rest}"
    raise ModuleNotFoundError("no driver for PostgreSQL; install one: pip install psycopg2-binary")


def root_cause(error: BaseException) -> str:
    """What went wrong at the bottom of a chain of errors, on one line and without secrets."""
    while (deeper := error.__cause__ or (None if error.__suppress_context__ else error.__context__)) is not None:
        error = deeper
    return redact((str(error).strip() or repr(error)).splitlines()[0])
