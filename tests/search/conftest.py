"""Searches in tests do not wait."""

from __future__ import annotations

import os

import pytest
from omegaconf import DictConfig

from medsam2.config_check import ConfigError
from medsam2.search import search as module


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether a config can be computed is tested elsewhere, and takes longer than all else here."""

    def check(cfg: DictConfig, here: bool) -> None:
        if cfg.optim.lr <= 0:
            raise ConfigError([f"optim.lr={cfg.optim.lr}: must be a number > 0"])

    monkeypatch.setattr(module, "PAUSE", 0.01)
    monkeypatch.setattr(module, "IDLE", 0.02)
    monkeypatch.setattr(module, "check", check)
    monkeypatch.setattr(os, "fsync", lambda file: None)
