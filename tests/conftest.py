"""Shared by all tests: configs composed as the command line composes them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import DictConfig

from tests.fakes import compose_config

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "1"

Compose = Callable[..., DictConfig]


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compose:
    """`config("seed=1")` is the config of `run.py seed=1`, with every output below tmp_path and without tracking."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def build(*overrides: str) -> DictConfig:
        return compose_config("tracking=offline", f"paths.output_dir={tmp_path / 'outputs'}", *overrides)

    return build
