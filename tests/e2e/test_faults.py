"""What goes wrong with data, folders and stores while a run is on: one clear error, and nothing computed is lost."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from PIL import Image

from medsam2.data.phantom import write_refuge
from medsam2.experiment import run

QUICK = ("trainer.max_epochs=1", "num_workers=0", "image_size=64", "batch_size=4", "metrics=dice")


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantom")
    write_refuge(folder, train=4, test=2, size=128)
    return folder


@pytest.fixture
def data(clean: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(clean, tmp_path / "data"))


def first(data: Path, pattern: str) -> Path:
    return sorted((data / "REFUGE" / "Test-400").glob(f"*/{pattern}"))[0]


def truncate(data: Path) -> Path:
    file = next(f for f in sorted((data / "REFUGE" / "Test-400").glob("*/*.jpg")) if f.stem == f.parent.name)
    file.write_bytes(file.read_bytes()[:400])
    return file


def undeclared(data: Path) -> Path:
    file = first(data, "*_seg_cup_3.png")
    mask = np.array(Image.open(file))
    mask[:5, :5] = 77
    Image.fromarray(mask).save(file)
    return file


def other_size(data: Path) -> Path:
    file = first(data, "*_seg_disc_2.png")
    Image.open(file).resize((100, 100), Image.Resampling.NEAREST).save(file)
    return file


@pytest.mark.parametrize(
    ("spoil", "said"),
    [(truncate, "cannot be decoded"), (undeclared, "77"), (other_size, "100")],
    ids=["corrupt JPEG", "undeclared label value", "image and mask of different size"],
)
def test_bad_data_stops_the_run_with_the_file_and_the_reason(
    config: Callable[..., DictConfig],
    data: Path,
    spoil: Callable[[Path], Path],
    said: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    file = spoil(data)
    cfg = config("dataset=refuge", f"paths.data_root={data}", *QUICK)
    with pytest.raises(SystemExit) as stopped:
        run(cfg)
    assert stopped.value.code == 1
    assert file.name in caplog.text
    assert said in caplog.text
    status = json.loads((Path(cfg.run_dir) / "status.json").read_text())
    assert status["state"] == "failed"
    assert file.name in status["error"]
    assert "Traceback" in (Path(cfg.run_dir) / "error.txt").read_text()


def test_a_run_directory_of_another_config_is_left_alone(
    config: Callable[..., DictConfig], data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mine = f"run_dir={tmp_path / 'mine'}"
    run(config("dataset=refuge", f"paths.data_root={data}", *QUICK, mine))
    rows = (tmp_path / "mine" / "rows" / "test.csv").read_text()
    with pytest.raises(SystemExit):
        run(config("dataset=refuge", f"paths.data_root={data}", *QUICK, mine, "seed=1"))
    assert "belongs to another configuration" in caplog.text
    assert "choose another run_dir" in caplog.text
    assert (tmp_path / "mine" / "rows" / "test.csv").read_text() == rows


def test_a_finished_run_does_not_answer_for_other_data(
    config: Callable[..., DictConfig], data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(config("dataset=refuge", f"paths.data_root={data}", *QUICK))
    write_refuge(tmp_path / "other", train=5, test=2, size=128, seed=1)
    with pytest.raises(SystemExit):
        run(config("dataset=refuge", f"paths.data_root={tmp_path / 'other'}", *QUICK))
    assert "was made from other data" in caplog.text


BAD = {  # what is typed -> what must be said
    "misspelt key in a partial": (["+optim.beta=[0.9,0.9]"], ["optim.beta: unknown key", "did you mean optim.betas?"]),
    "image size": (["image_size=200"], ["image_size=200: must be a multiple of 32: use 192 or 224"]),
    "several at once": (
        ["optim.lr=-1", "optim.betas=[0.9,1.0]", "model.mask_selection.thresh=2", "trainer.accumulate=0"],
        ["4 problems", "optim.lr=-1", "optim.betas=[0.9, 1.0]", "mask_selection.thresh=2", "trainer.accumulate=0"],
    ),
    "no such device": (["device=cuda"], ["device=cuda", "sees no CUDA GPU", "device=auto"]),
    "no checkpoint": (
        ["model=sam2_t", "paths.checkpoint_dir=/nowhere"],
        [
            "/nowhere/sam2.1_hiera_tiny.pt does not exist",
            "`python run.py task=fetch model=sam2_t` gets it",
            "model.checkpoint=null",
        ],
    ),
    "a folder as checkpoint": (
        ["model=sam2_t", "model.checkpoint=/"],
        ["model.checkpoint=/ is a folder, not a file", "add the name of the checkpoint file"],
    ),
    "no dataset": (
        ["dataset=refuge", "paths.data_root=/nowhere"],
        ["/nowhere/REFUGE", "Training-400", "paths.data_root", "python -m medsam2.data.phantom refuge"],
    ),
}


@pytest.mark.parametrize(("overrides", "said"), BAD.values(), ids=BAD.keys())
def test_a_mistake_is_explained_before_any_work(
    config: Callable[..., DictConfig],
    overrides: list[str],
    said: list[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)  # also where the tests find a GPU
    cfg = config(*overrides)
    with pytest.raises(SystemExit) as stopped:
        run(cfg)
    assert stopped.value.code == 1
    for words in said:
        assert words in caplog.text
    assert not Path(cfg.run_dir).exists()


def test_an_output_folder_that_cannot_be_written_is_named(
    config: Callable[..., DictConfig], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit):
        run(config(f"paths.output_dir={tmp_path / 'file' / 'outputs'}"))
    assert f"paths.output_dir={tmp_path / 'file' / 'outputs'}: cannot be written" in caplog.text


@pytest.mark.parametrize(
    "uri", ["http://127.0.0.1:9", "sqlite:////proc/nowhere/mlflow.db"], ids=["absent", "read-only"]
)
def test_training_goes_on_without_its_mlflow_store(
    config: Callable[..., DictConfig],
    data: Path,
    uri: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    cfg = config("dataset=refuge", f"paths.data_root={data}", *QUICK, "tracking=mlflow", f"tracking.uri={uri}")
    with caplog.at_level(logging.WARNING):
        run(cfg)
    assert json.loads((Path(cfg.run_dir) / "status.json").read_text())["state"] == "finished"
    warnings = [r.message for r in caplog.records if r.name == "medsam2.tracking.mlflow"]
    assert len(warnings) == 1
    assert "The run goes on without it" in warnings[0]
