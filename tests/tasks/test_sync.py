"""task=sync as it is called: the address of the store, what it says, and its exit status."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import DictConfig

from medsam2.experiment import run
from medsam2.runs import RunDirectory
from medsam2.tasks import sync as module
from medsam2.tracking.base import RunInfo
from medsam2.tracking.store import Store
from medsam2.tracking.sync import Report

Compose = Callable[..., DictConfig]


@pytest.mark.parametrize("tracking", ["tracking=mlflow", "tracking=offline"])
@pytest.mark.parametrize(
    ("override", "variable", "expected"),
    [
        ((), None, None),
        ((), "http://somewhere:1", "http://somewhere:1"),
        (("++tracking.uri=http://here:2",), "http://somewhere:1", "http://here:2"),
    ],
)
def test_the_store_is_the_one_that_tracking_mlflow_uses(
    config: Compose,
    monkeypatch: pytest.MonkeyPatch,
    tracking: str,
    override: tuple[str, ...],
    variable: str | None,
    expected: str | None,
) -> None:
    if variable:
        cfg = config("task=sync", tracking, *override)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", variable)
    else:
        cfg = config("task=sync", tracking, *override)
    asked = {}
    monkeypatch.setattr(module, "Sync", lambda store, folder, *rest: asked.update(uri=store.uri) or Report)
    instantiate(cfg.task)
    assert asked["uri"] == (expected or f"sqlite:///{cfg.paths.output_dir}/mlflow.db")


def test_a_store_that_does_not_answer_ends_with_status_1(config: Compose, caplog: pytest.LogCaptureFixture) -> None:
    cfg = config("task=sync", "tracking=mlflow", "tracking.uri=http://me:secret@127.0.0.1:9")
    with pytest.raises(SystemExit) as end:
        run(cfg)
    assert end.value.code == 1
    assert "MLflow store http://me:***@127.0.0.1:9: [Errno 111] Connection refused; 0 runs are left" in caplog.text
    assert "secret" not in caplog.text


def test_a_run_that_fails_is_named_and_ends_with_status_1(
    config: Compose, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = config("task=sync", "tracking=mlflow")
    folder = Path(cfg.paths.output_dir)
    directory = RunDirectory(folder / "runs" / "blobs" / "one")
    directory.update(state="finished", run_id="one")
    info = RunInfo("one", "one", "a study", {}, {}, "blobs", "0123", begun=1.0)
    directory.describe(**asdict(info))
    report = Report(current=[Path("x")], failed={directory.path: "no space"}, skipped={Path("y"): "early"})
    monkeypatch.setattr(module, "Sync", lambda store, *rest: lambda: report)
    with pytest.raises(SystemExit) as end, caplog.at_level(logging.INFO):
        run(cfg)
    assert end.value.code == 1
    assert f"failed: {directory.path}: no space" in caplog.text
    assert "skipped: y: early" in caplog.text
    assert "0 runs brought up to date, 1 were so already, 1 skipped, 1 failed" in caplog.text
    assert str(Store(folder)) in caplog.text
