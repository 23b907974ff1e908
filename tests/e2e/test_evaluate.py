"""Trained runs evaluated elsewhere, and masks of others, through the whole of a run: the rows are what they must be."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf
from PIL import Image

from medsam2.adopt import adopt
from medsam2.config import PROJECT
from medsam2.data.chest_ct import ChestCT
from medsam2.data.phantom_volumes import PhantomVolumes
from medsam2.data.records import of_split
from medsam2.experiment import run
from medsam2.manifest import Manifest
from medsam2.runs import RunDirectory
from tests.conftest import Compose

MACHINE = ("device=cpu", "cache=none", "num_workers=0")
QUICK = ("image_size=64", "trainer.max_epochs=1", "trainer.max_batches=2", "metrics.overlays=false", "loss=bce")
VOLUMES = "dataset.volumes={train: 2, val: 1, test: 1}"
METHODS = {  # all that could be lost on the way from a training to an evaluation
    "clicks": ["method=image_correct", "method.rounds=3", "prompt=click", "trainer.ema=0.9"],
    "learned": ["prompt=learned"],
    "lora": ["model/tuning=lora", "trainer.accumulate=2"],
    "stream": ["method=memory_stream", "method.min_iou=0"],
    "volume": ["method=volume", "method.frames=2", "dataset.slices=all"],
}


def execute(config: Compose, *overrides: str) -> RunDirectory:
    cfg = config(*MACHINE, *overrides)
    adopt(cfg, overrides)
    run(cfg)
    return RunDirectory(Path(cfg.run_dir))


def rows(directory: RunDirectory) -> pd.DataFrame:
    return pd.read_parquet(directory.rows / "test.parquet")


def test_an_evaluation_gives_the_numbers_of_the_training_and_those_of_elsewhere(config: Compose) -> None:
    trained = execute(config, *QUICK)
    trained_id = trained.status()["run_id"]
    same = execute(config, "task=evaluate", f"run={trained_id}")
    pd.testing.assert_frame_equal(rows(same), rows(trained))
    assert same.path != trained.path

    there = execute(config, "task=evaluate", f"run={trained_id}", "dataset=phantom", VOLUMES, "dataset.depth=8")
    about, status = there.description(), there.status()
    assert there.path.parent.name == "phantom"
    assert set(rows(there)["structure"]) == {"lobe", "kidney", "vessel"}
    assert about["name"] == f"sam2_nano chest_ct → phantom seed 0 ({status['run_id']})"
    assert about["tags"]["evaluates"] == trained_id
    ours = trained.description()
    expected = {"run_id": trained_id, "dataset": "chest_ct", "split_hash": ours["split_hash"], "checkpoint": None}
    assert about["origin"] == expected
    assert about["split_hash"] != ours["split_hash"]
    assert status["cost"]["trained_parameters"] == 0
    assert not list(there.checkpoints.iterdir())


def test_a_dataset_of_test_cases_alone_will_do_where_nothing_is_trained(
    config: Compose, caplog: pytest.LogCaptureFixture
) -> None:
    only_test = ("dataset=phantom", "dataset.depth=8", "dataset.volumes={train: 0, val: 0, test: 1}")
    directory = execute(config, "task=evaluate", *QUICK, *only_test)
    assert len(rows(directory)) == 3
    with pytest.raises(SystemExit):
        execute(config, *QUICK, *only_test)
    assert "each of the three needs some" in caplog.text
    caplog.clear()
    stream = ("method=memory_stream", "method.min_iou=0")
    with pytest.raises(SystemExit):
        execute(config, "task=evaluate", *QUICK, *only_test, *stream)
    assert "choose method.evaluation=stream or no_memory" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_every_method_gives_the_rows_of_its_training(
    name: str, config: Compose, caplog: pytest.LogCaptureFixture
) -> None:
    trained = execute(config, *QUICK, "dataset=phantom", VOLUMES, "dataset.depth=8", *METHODS[name])
    again = execute(config, "task=evaluate", f"run={trained.path}")
    pd.testing.assert_frame_equal(rows(again), rows(trained))
    elsewhere = ("task=evaluate", f"run={trained.path}", "dataset=chest_ct")
    if name == "learned":
        with pytest.raises(SystemExit):
            execute(config, *elsewhere)
        assert "has no learned prompts for left_lung, right_lung" in caplog.text
    else:
        assert set(rows(execute(config, *elsewhere))["structure"]) == {"left_lung", "right_lung"}


# ---------------------------------------------------------------------------------------------- predictions


def save_ct(folder: Path, rolled: int = 0) -> None:
    """The labels of the test slices as files; so many rows too low."""
    dataset = ChestCT()
    folder.mkdir(exist_ok=True)
    for record in of_split(dataset.records(), "test"):
        case = dataset.load(record)
        values = sum((i * case.labels[s].astype(np.uint8) for i, s in enumerate(dataset.structures, 1)), np.uint8(0))
        Image.fromarray(np.roll(values, rolled, axis=0)).save(folder / f"{record.case_id}.png")  # type: ignore[arg-type]


def test_masks_of_others_are_a_run_with_rows_like_any_other(config: Compose, tmp_path: Path) -> None:
    save_ct(tmp_path / "right")
    save_ct(tmp_path / "low", 4)
    directory = execute(config, "task=evaluate", f"predictions={tmp_path / 'right'}", "name=nnunet")
    assert (rows(directory)["dice"] == 1).all()
    assert directory.path.name.startswith("nnunet-")
    assert directory.description()["params"]["model.name"] == "nnunet"
    assert set(rows(directory)["budget"]) == {"none"}
    assert (directory.pictures / "test").is_dir()  # the cases are shown as those of any run

    low = rows(execute(config, "task=evaluate", f"predictions={tmp_path / 'low'}", "name=nnunet"))
    dataset = ChestCT()
    for record in of_split(dataset.records(), "test"):
        for structure, label in dataset.load(record).labels.items():
            found = low[(low["case_id"] == record.case_id) & (low["structure"] == structure)]
            shifted = np.roll(label, 4, axis=0)
            assert found["dice"].item() == pytest.approx(2 * (label & shifted).sum() / (2 * label.sum()), abs=1e-6)


def test_masks_of_volumes_have_raters_and_millimetres(config: Compose, tmp_path: Path) -> None:
    dataset = PhantomVolumes(volumes={"train": 2, "val": 1, "test": 1}, depth=8)
    for record in of_split(dataset.records(), "test"):
        for structure, label in dataset.load(record).labels.items():
            (tmp_path / "masks" / structure).mkdir(exist_ok=True, parents=True)
            np.save(tmp_path / "masks" / structure / f"{record.case_id}.npy", label)
    typed = ("task=evaluate", f"predictions={tmp_path / 'masks'}", "name=mine", "dataset=phantom", VOLUMES)
    found = rows(execute(config, *typed, "dataset.depth=8", "metrics.names=[dice, hd95]", "metrics.overlays=false"))
    assert set(found["case_id"]) == {"test00"}
    assert (found["dice"] == 1).all()
    assert (found["hd95"] == 0).all()
    assert (found["size_unit"] == "mm3").all()
    assert found["rater_ceiling"].between(0.5, 1, inclusive="left").all()


def test_masks_that_are_not_all_there_score_nothing(
    config: Compose, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_ct(tmp_path)
    (tmp_path / "ctchest4_z15.png").unlink()
    with pytest.raises(SystemExit):
        execute(config, "task=evaluate", f"predictions={tmp_path}", "name=mine")
    assert "1 of 6 cases have no mask" in caplog.text
    assert caplog.text.count(": ctchest4_z15") == 1


# -------------------------------------------------------------------------------------------------- sweeps


@pytest.mark.slow
def test_a_sweep_over_runs_and_datasets(config: Compose, tmp_path: Path) -> None:
    ids = [execute(config, *QUICK, f"seed={seed}").status()["run_id"] for seed in (0, 1)]
    command = [sys.executable, str(PROJECT / "run.py"), "-m", "task=evaluate", f"run={','.join(ids)}", *MACHINE]
    command += [f"paths.output_dir={tmp_path / 'outputs'}", "tracking=offline", "dataset=phantom", "prompt=click"]
    command += ["dataset.size=64", "dataset.depth=8", "dataset.volumes={train: 1, val: 1, test: 1}"]
    environ = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, "hydra/launcher=local"], capture_output=True, text=True, env=environ)
    assert done.returncode == 0, done.stdout + done.stderr
    (manifest,) = Manifest.every(tmp_path / "outputs")
    jobs = [RunDirectory(Path(job["run_dir"])) for job in manifest.read()["jobs"]]
    assert [job.description()["origin"]["run_id"] for job in jobs] == ids
    for job in jobs:
        cfg = OmegaConf.load(job.path / "config.yaml")
        assert job.status()["state"] == "finished"
        assert (cfg.image_size, cfg.dataset.size, cfg.seed) == (64, 64, ids.index(cfg.run))
        assert job.description()["choices"]["prompt"] == "click"
    again = subprocess.run(command, capture_output=True, text=True, env=environ)
    assert "2 jobs, 2 finished before" in again.stdout
