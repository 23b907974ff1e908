"""Secrets stay out of what a run writes: passwords inside addresses, and the values of variables that hold keys."""

from __future__ import annotations

import logging
import os
import re

USERINFO = re.compile(r"(?<=://)([^/\s:@]*):[^/\s@]+@")  # user:password@ of an address
SECRET = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|PRIVATE|API_?KEY|ACCESS_?KEY", re.IGNORECASE)
SHORTEST = 6  # a shorter value would be found inside ordinary words


def redact(text: str) -> str:
    """The text with `***` for passwords in addresses and for the values of variables that are named like secrets."""
    for value in _secrets():
        text = text.replace(value, "***")
    return USERINFO.sub(r"\1:***@", text)


def _secrets() -> list[str]:
    """Longest first: one may be a part of another."""
    values = {v for k, v in os.environ.items() if SECRET.search(k) and len(v) >= SHORTEST and not os.path.exists(v)}
    return sorted(values, key=len, reverse=True)


class RedactingFormatter(logging.Formatter):
    """What another formatter makes of a record, tracebacks included, without secrets."""

    def __init__(self, inner: logging.Formatter | None) -> None:
        super().__init__()
        self.inner = inner or logging.Formatter()

    def format(self, record: logging.LogRecord) -> str:
        return redact(self.inner.format(record))


def protect_logging() -> None:
    """From here on no handler of the root logger writes a secret."""
    for handler in logging.getLogger().handlers:
        if not isinstance(handler.formatter, RedactingFormatter):
            handler.setFormatter(RedactingFormatter(handler.formatter))
