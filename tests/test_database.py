"""PostgreSQL's driver is named where SQLAlchemy would take the other one; errors end in one line."""

from __future__ import annotations

import pytest

from medsam2 import database
from medsam2.database import root_cause, with_driver


@pytest.mark.parametrize(
    ("installed", "uri", "taken"),
    [
        ("psycopg", "postgresql://u@h/d", "postgresql+psycopg://u@h/d"),
        ("psycopg2", "postgresql://u@h/d", "postgresql+psycopg2://u@h/d"),
        ("psycopg2", "postgres://u@h/d", "postgresql+psycopg2://u@h/d"),
        ("psycopg2", "postgresql+psycopg://u@h/d", "postgresql+psycopg://u@h/d"),
        ("", "sqlite:////a/b.db", "sqlite:////a/b.db"),
        ("", "http://h:5000", "http://h:5000"),
    ],
)
def test_the_driver_that_is_installed_is_named(
    installed: str, uri: str, taken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "find_spec", lambda name: True if name == installed else None)
    assert with_driver(uri) == taken


def test_without_a_driver_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="pip install psycopg2-binary"):
        with_driver("postgresql://u@h/d")


def test_the_root_of_an_error_on_one_line_without_secrets() -> None:
    inner, outer = OSError("refused by http://u:hunter22@db\nand more"), RuntimeError("outer")
    outer.__cause__ = inner
    assert root_cause(outer) == "refused by http://u:***@db"
    assert root_cause(ValueError()) == "ValueError()"
