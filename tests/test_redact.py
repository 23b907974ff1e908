"""No secret reaches a log, a config or a message."""

from __future__ import annotations

import io
import logging

import pytest

from medsam2.redact import RedactingFormatter, redact


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://ada:s3cret@db:5432/mlflow", "postgresql://ada:***@db:5432/mlflow"),
        ("http://ada@db/x and http://db:5000/x", "http://ada@db/x and http://db:5000/x"),
        ("two: http://a:b@c http://d:e@f", "two: http://a:***@c http://d:***@f"),
        ("sqlite:////outputs/mlflow.db", "sqlite:////outputs/mlflow.db"),
        ("token=abc123xyz.", "token=***."),
        ("the user is nobody", "the user is nobody"),
    ],
)
def test_passwords_and_secret_variables_are_masked(text: str, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "abc123xyz")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "no")  # too short to be looked for in words
    monkeypatch.setenv("MEDSAM2_OUTPUT_DIR", "the user")  # not named like a secret
    assert redact(text) == shown


def test_the_longer_of_two_secrets_is_masked_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_TOKEN", "abcdef")
    monkeypatch.setenv("B_TOKEN", "abcdefghi")
    assert redact("abcdefghi abcdef") == "*** ***"


def test_logs_are_masked_with_their_tracebacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_PASSWORD", "hunter22")
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(RedactingFormatter(logging.Formatter("%(levelname)s %(message)s")))
    logger = logging.Logger("x")
    logger.addHandler(handler)
    try:
        raise ValueError("could not log in with hunter22")
    except ValueError:
        logger.exception("at %s", "http://u:hunter22@db")
    written = stream.getvalue()
    assert "hunter22" not in written
    assert "ERROR at http://u:***@db" in written
    assert "ValueError: could not log in with ***" in written
