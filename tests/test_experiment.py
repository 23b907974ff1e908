"""The edges of a job: finished, failed, interrupted, refused. What it computes is tested elsewhere."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from medsam2.config import register_resolvers
from medsam2.experiment import finished_value, run, summary_line
from medsam2.runs import RunDirectory, RunDirectoryError
from medsam2.tasks.parts import Outcome, Parts
from tests.conftest import Compose
from tests.fakes import CONF

SMALL = ("image_size=64", "num_workers=0", "loss=bce", "device=cpu", "metrics.overlays=false")
CALLS: list[Parts] = []


def task(parts: Parts, **settings: Any) -> Outcome:
    CALLS.append(parts)
    return Outcome(0.5, {"test/dice/mean": 0.75, "zero_shot/dice/mean": 0.25})


def failing(parts: Parts, **settings: Any) -> Outcome:
    raise ValueError("no luck")


def interrupted(parts: Parts, **settings: Any) -> Outcome:
    raise KeyboardInterrupt


@pytest.fixture(autouse=True)
def _no_calls() -> None:
    CALLS.clear()


@pytest.fixture
def in_sweep() -> Iterator[None]:
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", overrides=["hydra.mode=MULTIRUN"], return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    yield
    HydraConfig.instance().cfg = None


def job(config: Compose, target: str, *overrides: str) -> tuple[DictConfig, RunDirectory]:
    cfg = config(*SMALL, f"task._target_={__name__}.{target}", *overrides)
    return cfg, RunDirectory(Path(cfg.run_dir))


def test_a_run_ends_finished_with_its_value(config: Compose, caplog: pytest.LogCaptureFixture) -> None:
    cfg, directory = job(config, "task")
    with caplog.at_level(logging.INFO):
        assert run(cfg) == 0.5
    status = directory.status()
    assert (status["state"], status["value"], status["run_id"]) == ("finished", 0.5, cfg.run_id)
    assert status["metrics"]["test/dice/mean"] == 0.75
    assert status["seconds"] > 0
    assert status["error"] is None
    assert OmegaConf.load(directory.path / "config.yaml").image_size == 64
    assert (directory.path / "split.csv").exists()
    assert "finished in" in (directory.path / "run.log").read_text()
    assert f"test dice 0.750 (zero-shot 0.250); {directory.path}" in caplog.text
    (parts,) = CALLS
    assert parts.image_size == 64
    assert parts.run_id == cfg.run_id
    assert parts.training is not None
    assert sum(p.numel() for g in parts.training.optimizer.param_groups for p in g["params"]) == sum(
        p.numel() for p in parts.method.model.parameters()
    )


def test_a_finished_run_is_not_run_again_unless_forced(config: Compose) -> None:
    cfg, directory = job(config, "task")
    run(cfg)
    directory.update(value=0.625)
    assert run(cfg) == 0.625
    assert len(CALLS) == 1
    assert run(job(config, "task", "force=true")[0]) == 0.5
    assert len(CALLS) == 2
    assert directory.status()["attempts"] == 1


def test_the_same_config_builds_the_same_weights(config: Compose) -> None:
    for _ in range(2):
        run(job(config, "task", "force=true")[0])
    run(job(config, "task", "seed=1")[0])
    sums = [sum(float(p.double().sum()) for p in parts.method.model.parameters()) for parts in CALLS]
    assert sums[0] == sums[1] != sums[2]


@pytest.mark.parametrize("multirun", [False, True])
def test_a_failure_is_recorded(
    config: Compose, caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest, multirun: bool
) -> None:
    cfg, directory = job(config, "failing")
    if multirun:
        request.getfixturevalue("in_sweep")
        assert math.isnan(run(cfg))
    else:
        with pytest.raises(SystemExit) as caught:
            run(cfg)
        assert caught.value.code == 1
    status = directory.status()
    assert (status["state"], "value" in status) == ("failed", False)
    assert "no luck" in status["error"]
    text = (directory.path / "error.txt").read_text()
    assert "Traceback" in text
    assert 'raise ValueError("no luck")' in text
    assert "no luck" in caplog.text


def test_a_run_that_failed_can_be_run_again(config: Compose) -> None:
    cfg, directory = job(config, "failing")
    with pytest.raises(SystemExit):
        run(cfg)
    with pytest.raises(SystemExit):
        run(cfg)
    assert directory.status()["attempts"] == 2


def test_an_interrupt_is_recorded_and_ends_with_130(config: Compose) -> None:
    cfg, directory = job(config, "interrupted")
    with pytest.raises(SystemExit) as caught:
        run(cfg)
    assert caught.value.code == 130
    assert directory.status()["state"] == "interrupted"


@pytest.mark.usefixtures("in_sweep")
def test_an_interrupt_ends_the_whole_sweep(config: Compose) -> None:
    cfg, directory = job(config, "interrupted")
    with pytest.raises(KeyboardInterrupt):
        run(cfg)
    assert directory.status()["state"] == "interrupted"


def test_a_wrong_config_leaves_no_run(config: Compose, caplog: pytest.LogCaptureFixture) -> None:
    cfg, directory = job(config, "task", "optim.lr=-1")
    with pytest.raises(SystemExit) as caught:
        run(cfg)
    assert caught.value.code == 1
    assert "optim.lr=-1: must be a number > 0" in caplog.text
    assert "Traceback" not in caplog.text
    assert not directory.path.exists()
    assert CALLS == []


@pytest.mark.usefixtures("in_sweep")
def test_a_wrong_config_in_a_sweep_does_not_stop_the_others(config: Compose) -> None:
    cfg, directory = job(config, "task", "optim.lr=-1")
    assert math.isnan(run(cfg))
    status = directory.status()
    assert (status["state"], status["run_id"]) == ("failed", cfg.run_id)
    assert "optim.lr=-1: must be a number > 0" in status["error"]
    assert math.isnan(run(job(config, "task", "optim.lr=-1")[0]))  # and may be tried again


def finished(config: Compose, *overrides: str, **entries: Any) -> DictConfig:
    cfg = config(*overrides)
    directory = RunDirectory(Path(cfg.run_dir))
    directory.open(cfg.run_id, "", fresh=False)
    directory.update(**({"state": "finished", "value": 0.5} | entries))
    return cfg


def test_finished_value(config: Compose) -> None:
    assert finished_value(config("seed=9")) is None
    assert finished_value(finished(config)) == 0.5
    assert finished_value(finished(config, "force=true")) is None
    assert finished_value(finished(config, "seed=1", state="running")) is None
    assert finished_value(finished(config, "seed=2", state="failed")) is None
    assert finished_value(finished(config, "seed=3", run_id="other")) is None


def test_a_finished_run_of_other_data_is_an_error(config: Compose) -> None:
    with pytest.raises(RunDirectoryError, match="was made from other data"):
        finished_value(finished(config, data="0000"))


def test_a_result_outlives_its_data(config: Compose) -> None:
    cfg = finished(config, "dataset=refuge", "paths.data_root=/nowhere", data="0000")
    assert finished_value(cfg) == 0.5


def test_summary_line_of_a_run_without_zero_shot(config: Compose) -> None:
    cfg = finished(config, metrics={"test/dice/mean": 0.9})
    directory = RunDirectory(Path(cfg.run_dir))
    assert summary_line(directory) == f"test dice 0.900; {directory.path}"
