"""The command: what it prints, what it saves, with which status it ends; and what a run looks at before it starts."""

from __future__ import annotations

import csv
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medsam2 import experiment
from medsam2.config import PROJECT
from medsam2.config_check import find_problems
from medsam2.data.records import DatasetError
from medsam2.doctor.contact_sheet import GAP, SIDE
from medsam2.doctor.survey import quick_check
from medsam2.experiment import run
from medsam2.sweep import Job, run_sweep
from medsam2.tasks.check_tables import draw_bars, show_common
from tests.conftest import Compose
from tests.doctor.helpers_planted import cut, rated, remove, write_rated, write_volumes

VOLUMES = [
    "dataset=folder_volumes",
    "dataset.release.modality=ct",
    "dataset.release.labels={liver: 1, spleen: 2, kidney: 3}",
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_rated(tmp_path / "folder")


def checked(config: Compose, tmp_path: Path, *overrides: str) -> Any:
    settings = ["task=check", "dataset=folder", "num_workers=0", "task.pictures=1"]
    return config(*settings, f"paths.data_root={tmp_path}", *overrides)


def saved(cfg: Any) -> Path:
    return Path(cfg.paths.output_dir) / "checks" / cfg.dataset.name


def test_the_embedded_ct(config: Compose, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    cfg = config("task=check", "num_workers=0")
    assert run(cfg) == 0.0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["train", "14", "1"] in lines
    assert ["width×height", "128×128"] in lines
    assert ["right_lung", "13/4/6", "1", "1", "2", "1,545", "2,001", "19", "14,343", "18,576"] in lines
    assert caplog.messages[-1] == "chest_ct: training may start, nothing is wrong"
    assert (saved(cfg) / "findings.csv").read_text() == "severity,kind,where,text,remedy\n"
    summary = json.loads((saved(cfg) / "summary.json").read_text())
    assert summary["structures"]["left_lung"]["shown"] == {"train": 14, "val": 4, "test": 6}
    assert Image.open(saved(cfg) / "cases.png").width == 4 * (SIDE + GAP) + GAP


def test_errors_end_it_with_one(
    root: Path, config: Compose, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(5):
        cut(f"train/images/e0{number}.png", 100)(root)
    remove("val/masks/cup/bob/e08.png")(root)
    (root / "test/images/e11.png").write_bytes((root / "test/images/e10.png").read_bytes())
    cfg = checked(config, tmp_path)
    with pytest.raises(SystemExit) as caught:
        run(cfg)
    assert caught.value.code == 1
    assert caplog.messages[-1] == "folder: 6 errors and 1 warning; training must not start until that is corrected"
    with (saved(cfg) / "findings.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["kind"], row["where"]) for row in rows] == [
        ("missing rater", "val/images/e08.png"),
        *(("unreadable", f"train/images/e0{number}.png") for number in range(5)),
        ("duplicate image", "test/images/e10.png"),
    ]
    text = capsys.readouterr().out
    table = text[text.index("what to do") :]
    assert table.index("unreadable") < table.index("missing rater") < table.index("duplicate image")
    assert "train/images/e02.png" in table
    assert "train/images/e03.png" not in table
    assert "… 2 more" in table
    assert "→ unpack or download it again" in table


def test_warnings_alone_let_training_start(
    root: Path, config: Compose, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    (root / "test/images/e11.png").write_bytes((root / "test/images/e10.png").read_bytes())
    assert run(checked(config, tmp_path)) == 0.0
    assert caplog.messages[-1] == "folder: training may start, 1 warning"


def test_no_dataset_is_one_error_and_leaves_nothing_of_an_earlier_check(
    root: Path, config: Compose, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cfg = checked(config, tmp_path)
    run(cfg)
    assert len(list(saved(cfg).iterdir())) == 3
    root.rename(tmp_path / "elsewhere")
    caplog.clear()
    with pytest.raises(SystemExit) as caught:
        run(cfg)
    assert caught.value.code == 1
    (message,) = caplog.messages
    assert "nothing of folder is there" in message
    assert not list(saved(cfg).iterdir())


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("+dataset.structurs=[cup]", "dataset.structurs: unknown key; did you mean dataset.structures?"),
        ("+dataset.release.labls=1", "dataset.release.labls: unknown key; did you mean dataset.release.labels?"),
        ("+task.picture=1", "task.picture: unknown key; did you mean task.pictures?"),
        ("task.pictures=many", "task.pictures=many: is not of type int"),
        ("dataset.fold=one", "dataset.fold=one: is not of type int | None"),
    ],
)
def test_a_misspelt_key_is_one_error(override: str, said: str, config: Compose, tmp_path: Path) -> None:
    assert find_problems(checked(config, tmp_path, override)) == [said]


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("task.pictures=-1", "task.pictures=-1 must be 0 or more"),
        ("dataset.fold=7", "dataset.fold=7 of dataset.folds=5"),
    ],
)
def test_settings_that_do_not_fit(
    override: str, said: str, root: Path, config: Compose, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(SystemExit):
        run(checked(config, tmp_path, override))
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith(said)


def test_a_sweep_checks_every_dataset_and_names_the_bad_ones(
    root: Path, config: Compose, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut("train/images/e01.png", 100)(write_rated(tmp_path / "bad"))
    monkeypatch.setattr(experiment, "_in_sweep", lambda: True)
    names = ["bad", "folder", "absent", "good"]
    write_rated(tmp_path / "good")
    cfgs = [checked(config, tmp_path, f"dataset.name={n}", f"dataset.root={tmp_path / n}") for n in names]
    jobs = [Job((f"dataset.name={n}",), cfg) for n, cfg in zip(names, cfgs, strict=True)]

    def launch(batch: Sequence[Sequence[str]], initial_job_idx: int) -> list[float]:
        return [run(job.cfg) for job in jobs]

    with pytest.raises(SystemExit) as caught:
        run_sweep(jobs, ["dataset"], SimpleNamespace(launch=launch, here=True))
    assert caught.value.code == 1
    assert caplog.messages[-2:] == ["failed: dataset.name=bad", "failed: dataset.name=absent"]
    assert [(saved(cfg) / "summary.json").exists() for cfg in cfgs] == [True, True, False, True]


@pytest.mark.parametrize(
    ("counts", "bars"),
    [([0, 4, 1], " █▄"), ([1, 10_000], "▁█"), ([5, 5], "██")],
)
def test_bars(counts: list[int], bars: str) -> None:
    assert draw_bars(np.array(counts)) == bars


def test_common_values() -> None:
    assert show_common({"RAS": 9}) == "RAS"
    assert show_common({"RAS": 9, "LAS": 1}) == "RAS (9), LAS (1)"
    assert show_common({str(i): i for i in range(1, 7)}) == "1 to 6, 6 different, most often 6 (6)"
    assert show_common(dict.fromkeys("abcde", 1), ordered=False) == "5 different, most often a (1)"


# ------------------------------------------------------------------------------------------------- before a run


def test_a_run_stops_before_the_model_is_built(
    root: Path,
    config: Compose,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def build(cfg: Any) -> None:
        raise AssertionError("built")

    monkeypatch.setattr(experiment, "build_method", build)
    cut("val/masks/cup/ann/e07.png", 30)(root)
    with pytest.raises(SystemExit):
        run(config("dataset=folder", f"paths.data_root={tmp_path}"))
    assert "val/masks/cup/ann/e07.png cannot be decoded" in caplog.text


def test_what_was_decoded_before_a_run_is_remembered(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []

    def dataset() -> Any:
        made = rated(root, cache_dir=str(tmp_path / "cache"))
        load = made.load
        monkeypatch.setattr(made, "load", lambda record: (loaded.append(record.case_id), load(record))[1])
        return made

    quick_check(dataset())
    quick_check(dataset())
    assert loaded == ["train_e00", "val_e07", "test_e10"]
    cut("val/images/e07.png", 50)(root)
    with pytest.raises(DatasetError, match=r"e07\.png cannot be decoded"):
        quick_check(dataset())


# -------------------------------------------------------------------------------------------------- whole process


@pytest.mark.slow
def test_it_can_be_interrupted(tmp_path: Path) -> None:
    root = write_volumes(tmp_path / "folder_volumes")
    for number in range(2000):  # seconds of reading
        for kind in ("images", "masks"):
            (root / "train" / kind / f"x{number:03d}.nii").hardlink_to(root / "train" / kind / "v00.nii")
    command = [sys.executable, str(PROJECT / "run.py"), "task=check", *VOLUMES, f"paths.data_root={tmp_path}"]
    command += [f"paths.output_dir={tmp_path / 'out'}", "num_workers=2"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", start_new_session=True
    )
    while not (tmp_path / "out" / "checks").exists():  # made just before the processes start
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)
    time.sleep(1)
    assert process.poll() is None, process.communicate()[0]
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)  # ends when the last process has let go of it
    assert process.returncode == 130
    assert "Traceback" not in output


@pytest.mark.slow
def test_the_status_of_a_sweep(tmp_path: Path) -> None:
    command = [sys.executable, str(PROJECT / "run.py"), "-m", "task=check", "dataset=chest_ct,refuge"]
    command += [f"paths.data_root={tmp_path}", f"paths.output_dir={tmp_path / 'out'}", "num_workers=0"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=120)
    assert done.returncode == 1
    assert "chest_ct: training may start" in done.stdout
    assert "failed: task=check dataset=refuge" in done.stdout.splitlines()[-1]
