"""task=compare as it is called: what it prints and writes, what it refuses, and the sweep that gets its report."""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pandas as pd
import pytest
from omegaconf import DictConfig

from medsam2.experiment import run
from medsam2.results.report import attach as attach_report
from medsam2.results.report.attach import find_sweep
from medsam2.tasks.compare import build_command, compare, name_report
from tests.results.report.pages import PageReader
from tests.studies import FakeRun, write_run, write_study

Compose = Callable[..., DictConfig]
SAVE = import_module("medsam2.results.figures.save")
MODULE = import_module("medsam2.results.report.attach")
ARMS = {"sam2_s": 0.9, "sam2_nano": 0.7}


@pytest.fixture(autouse=True)
def _no_fonts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SAVE, "_to_pdf", lambda figure: b"%PDF-1.4")


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models, two seeds, eight cases, in one sweep."""
    folder = tmp_path_factory.mktemp("outputs")
    paths = write_study(folder, ARMS, seeds=(0, 1), cases=8)
    write_sweep(folder, "a1b2c3d4e5", paths)
    return folder


def write_sweep(folder: Path, name: str, paths: list[Path], submitted: float = 1.0) -> None:
    jobs = [
        {"run_id": json.loads((p / "run.json").read_text())["run_id"], "run_dir": str(p), "overrides": []}
        for p in paths
    ]
    manifest = {"sweep_id": name, "name": "models", "axes": ["model", "seed"], "submitted": submitted, "jobs": jobs}
    path = folder / "sweeps" / name / "manifest.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(manifest))


def test_one_command_gives_the_report(
    config: Compose, outputs: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert run(config("task=compare", "sweep=a1b2", "task.resamples=200", f"paths.output_dir={outputs}")) == 0.0
    page = outputs / "reports" / "sweep-a1b2" / "report.html"
    said = capsys.readouterr().out
    assert "sam2_s has the highest dice" in said
    assert "sam2_nano" in said
    assert str(page) in caplog.text
    read = PageReader(page.read_text(encoding="utf-8"))
    assert read.problems == []
    rows = pd.concat(
        pd.read_csv(file).assign(arm=file.parts[-3].partition("-")[0], run=file.parts[-3])
        for file in outputs.glob("runs/*/*/rows/test.csv")
    )
    by_run = rows.groupby(["arm", "run", "structure"])["dice"].mean().groupby(["arm", "run"]).mean()
    for row in read.tables["scores-0"]:
        arm = row.about["arm"]
        assert row.value("mean") == pytest.approx(by_run[arm].mean(), abs=1e-6)
        assert row.value("sd") == pytest.approx(by_run[arm].std(ddof=1), abs=1e-6)
        assert [row.value(key) for key in ("runs", "seeds", "patients", "cases")] == [2, 2, 8, 8]
    assert "task=compare sweep=a1b2 task.resamples=200" in page.read_text(encoding="utf-8")


def test_nothing_finished_is_said_with_what_there_is(tmp_path: Path) -> None:
    write_run(tmp_path, FakeRun({("case0", "cup"): 0.5}, state="failed"))
    with pytest.raises(ValueError, match=r"(?s)no finished run.*1 failed"):
        compare(tmp_path)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"dataset": "papila"}, r"dataset=papila.*phantom"),
        ({"sweep": "ffff"}, r"sweep=ffff.*a1b2c3d4e5"),
        ({"metric": "dcie"}, r"metric=dcie.*dice"),
        ({"baseline": "sam2_x"}, r"baseline=sam2_x.*sam2_s"),
        ({"resamples": 7}, r"resamples=7: must be at least 100"),
        ({"seed": -1}, r"task\.seed=-1: must be at least 0"),
        ({"name": "../elsewhere"}, r"name=\.\./elsewhere: must be the name of a folder"),
    ],
)
def test_a_wrong_argument_is_refused_with_what_there_is(outputs: Path, settings: dict[str, str], said: str) -> None:
    with pytest.raises(ValueError, match=f"(?s){said}"):
        compare(outputs, **settings)  # type: ignore[arg-type]


def test_a_folder_that_cannot_be_written_is_found_first(tmp_path: Path) -> None:
    (tmp_path / "reports").write_text("a file")
    with pytest.raises(OSError, match=r"reports/all: a report cannot be written there: .*paths\.output_dir"):
        compare(tmp_path)


@pytest.mark.parametrize(
    ("filters", "metric", "baseline", "name"),
    [
        ({}, "dice", None, "all"),
        ({"dataset": "refuge"}, "dice", None, "refuge"),
        ({"dataset": ["refuge", "papila"], "sweep": "a1b2"}, "iou", None, "refuge-papila_sweep-a1b2_iou"),
        ({"tag": "a=b/c", "since": None}, "dice", "sam2_s", "tag-a-b-c_against-sam2_s"),
    ],
)
def test_a_report_is_named_by_what_was_asked(
    filters: dict[str, str], metric: str, baseline: str | None, name: str
) -> None:
    assert name_report(filters, metric, baseline) == name


def test_the_command_makes_the_same_report(config: Compose, tmp_path: Path) -> None:
    settings = {"dataset": ["refuge", "a b"], "sweep": "a1b2", "metric": "iou", "resamples": 2000, "baseline": None}
    command = build_command(tmp_path, settings | {"source": "http://me:secret@host:5000"})
    assert "secret" not in command
    words = shlex.split(build_command(tmp_path, settings))
    assert words[:3] == ["python", "run.py", "task=compare"]
    assert words[3:6] == ["task.dataset=[refuge,'a b']", "sweep=a1b2", "task.metric=iou"]
    cfg = config(*words[2:])
    assert (list(cfg.task.dataset), cfg.task.sweep, cfg.task.metric) == (["refuge", "a b"], "a1b2", "iou")
    assert Path(cfg.task.output_dir) == tmp_path


# ---------------------------------------------------------------------------------------- the sweep's parent run


class FakeClient:
    def __init__(self) -> None:
        self.sent: list[tuple[str, str, str]] = []

    def log_artifact(self, run_id: str, path: str, folder: str) -> None:
        self.sent.append((run_id, Path(path).name, folder))

    log_artifacts = log_artifact


RUNS = pd.DataFrame({"sweeps": ["a1b2c3d4e5", "a1b2c3d4e5 ffff000000"], "study": ["medsam2", "medsam2"]})


@pytest.fixture
def page(tmp_path: Path) -> Path:
    for name in ("tables", "figures"):
        (tmp_path / "reports" / name).mkdir(parents=True)
    (tmp_path / "mlflow.db").touch()
    path = tmp_path / "reports" / "report.html"
    path.touch()
    return path


def test_a_report_goes_to_the_parent_run_of_its_sweep(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, asked = FakeClient(), []

    class Parent:
        class info:
            run_id = "parent"

    monkeypatch.setattr(MODULE.Store, "client", client)
    monkeypatch.setattr(MODULE, "open_parent", lambda store, *rest: asked.append(rest) or Parent)
    assert attach_report(page, RUNS, tmp_path)
    assert asked[0][:2] == ("a1b2c3d4e5", "medsam2")
    assert client.sent == [
        ("parent", "report.html", "report"),
        ("parent", "tables", "report/tables"),
        ("parent", "figures", "report/figures"),
    ]


@pytest.mark.parametrize("missing", [True, False])
def test_a_store_that_is_down_or_missing_is_one_warning(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, missing: bool
) -> None:
    def fail(*_: object) -> None:
        raise ConnectionError("refused")

    monkeypatch.setattr(MODULE, "open_parent", fail)
    if missing:
        (tmp_path / "mlflow.db").unlink()
    assert not attach_report(page, RUNS, tmp_path)
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert ("no MLflow store" if missing else "refused") in record.message


def test_the_sweep_is_the_one_of_all_runs(tmp_path: Path) -> None:
    def found(sweeps: list[str], wanted: str | None = None) -> str | None:
        sweep = find_sweep(pd.DataFrame({"sweeps": sweeps}), tmp_path, wanted)
        return sweep.id if sweep else None

    write_sweep(tmp_path, "aaaa", [], submitted=2.0)
    write_sweep(tmp_path, "bbbb", [], submitted=1.0)
    assert found(["aaaa bbbb", "bbbb aaaa"]) == "aaaa"  # given last
    assert found(["aaaa bbbb", "bbbb aaaa"], "bb") == "bbbb"
    assert found(["aaaa", "bbbb"]) is None
    assert found(["aaaa", ""]) is None
    assert found(["cccc", "cccc"]) == "cccc"  # only a store knows it


def test_a_report_that_cannot_be_made_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no finished run"):
        compare(tmp_path)
    assert not (tmp_path / "reports").exists()
    (tmp_path / "reports").write_text("a file")
    with pytest.raises(OSError, match=r"reports is a file; choose another task\.name or paths\.output_dir"):
        compare(tmp_path)
