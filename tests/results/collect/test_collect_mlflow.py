"""Runs of an MLflow store are what their directories are; what was fetched is not fetched again."""

from __future__ import annotations

import json
import shutil
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from medsam2.results.collect import Study, collect, name_arms, split_settings
from medsam2.results.collect import mlflow as module
from medsam2.results.collect.entries import Entry
from medsam2.runs import RunDirectory
from medsam2.tasks.sync import sync
from medsam2.tracking.store import Store
from tests.studies import FakeRun, write_run
from tests.tracking.helpers_servers import mlflow_server

SCORES = {("a", "cup"): 0.5, ("a", "disc"): 0.75, ("b", "cup"): 0.25, ("b", "disc"): 1.0}
RUNS = [FakeRun(SCORES, model=model, seed=seed, begun=1.79e9 + 10 * seed) for seed in (0, 1) for model in ("m", "n")]
FAILED = FakeRun(SCORES, seed=7, state="failed", begun=1.79e9)


def fill(folder: Path) -> None:
    """Four runs of a sweep, one of them again elsewhere, one that failed."""
    paths = {run.run_id: write_run(folder, run) for run in [*RUNS, FAILED]}
    gallery = paths[RUNS[0].run_id] / "pictures" / "test" / "gallery.npz"
    gallery.parent.mkdir(parents=True)
    gallery.write_bytes(b"pictures")
    elsewhere = FakeRun(SCORES, model="m", dataset="other", begun=1.79e9 + 50, study="abroad")
    origin = {"run_id": RUNS[0].run_id, "dataset": "phantom", "split_hash": "5b1d", "checkpoint": None}
    RunDirectory(write_run(folder, elsewhere)).describe(origin=origin)
    jobs = [{"run_id": run.run_id, "run_dir": str(paths[run.run_id]), "overrides": []} for run in RUNS]
    (folder / "sweeps" / "5a5a").mkdir(parents=True)
    manifest = {"sweep_id": "5a5a", "axes": ["seed"], "submitted": 1.79e9, "jobs": jobs, "state": "finished"}
    (folder / "sweeps" / "5a5a" / "manifest.json").write_text(json.dumps(manifest))


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output folder and its store, which the tests of this file only read."""
    folder = tmp_path_factory.mktemp("filled")
    fill(folder)
    sync(folder)
    return folder


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are fetched."""
    seen: list[str] = []
    download = module._download

    def note(client: Any, known: str, folder: Path, digest: str) -> list[str]:
        seen.append(known)
        return download(client, known, folder, digest)

    monkeypatch.setattr(module, "_download", note)
    return seen


def equal(one: Study, other: Study, *but: str) -> None:
    """Whether two studies say the same, less these columns of runs."""
    left = one.runs.sort_index().drop(columns=list(but))
    pd.testing.assert_frame_equal(left, other.runs.sort_index().drop(columns=list(but)))
    for name in ("cases", "zero_shot"):
        frames = [getattr(study, name).astype({"run_id": str}) for study in (one, other)]
        columns = ["run_id", "case_id", "structure", "dice", "iou", "budget"]
        first, second = (f[columns].astype(str).sort_values(columns).reset_index(drop=True) for f in frames)
        pd.testing.assert_frame_equal(first, second)
    assert one.params.sort_index().equals(other.params.sort_index())
    assert name_arms(one).by == name_arms(other).by
    assert [s.key for s in split_settings(one)] == [s.key for s in split_settings(other)]


@pytest.mark.slow  # making a store takes seconds
def test_a_store_tells_what_the_directories_tell(filled: Path, tmp_path: Path, fetched: list[str]) -> None:
    from_store, from_folder = collect(tmp_path, source=f"sqlite:///{filled}/mlflow.db"), collect(filled)
    assert len(from_store.runs) == 5
    equal(from_store, from_folder, "folder")
    assert from_store.left_out[["run_id", "state"]].values.tolist() == [[FAILED.run_id, "failed"]]
    assert from_store.source == f"MLflow store sqlite:///{filled}/mlflow.db"
    assert set(from_store.runs["sweeps"]) == {"5a5a", ""}
    first = Path(from_store.runs.at[RUNS[0].run_id, "folder"])
    assert (first / "pictures" / "test" / "gallery.npz").read_bytes() == b"pictures"
    assert first.parent == tmp_path / "cache" / "mlflow"
    assert not list(first.glob("rows/*.csv"))
    assert len(fetched) == 5
    again = collect(tmp_path, source=f"sqlite:///{filled}/mlflow.db")
    assert len(fetched) == 5
    equal(again, from_store)


@pytest.mark.slow  # making a store takes seconds
def test_the_store_of_the_folder_and_its_filters(filled: Path, fetched: list[str]) -> None:
    shutil.rmtree(filled / "cache", ignore_errors=True)
    of_n = {run.run_id for run in RUNS if run.model == "n"}
    assert set(collect(filled, source="mlflow", runs=sorted(of_n)).runs.index) == of_n
    assert len(fetched) == 2
    for filters, count in (
        ({"dataset": "other"}, 1),
        ({"study": "abroad"}, 1),
        ({"sweep": "5a"}, 4),
        ({"since": datetime.fromtimestamp(1.79e9 + 5).isoformat()}, 3),
        ({"tag": "data_fingerprint=f00d"}, 5),
        ({"tag": f"run_dir={filled}/runs/phantom/m-{RUNS[0].run_id}"}, 1),
    ):
        assert len(collect(filled, source="mlflow", **filters).runs) == count, filters  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="dataset=refuge: there is none; there is other, phantom"):
        collect(filled, source="mlflow", dataset="refuge")


@pytest.mark.slow  # making a store takes seconds
def test_the_arm_of_what_was_trained_is_found_behind_a_filter(filled: Path, tmp_path: Path) -> None:
    study = collect(tmp_path, source=f"sqlite:///{filled}/mlflow.db", study="abroad")
    assert study.notes == ()
    assert study.runs["origin"].to_list() == [RUNS[0].run_id]


@pytest.mark.slow  # making a store takes seconds
def test_what_changed_is_fetched_again(tmp_path: Path, filled: Path, fetched: list[str]) -> None:
    (tmp_path / "mlflow.db").write_bytes((filled / "mlflow.db").read_bytes())
    store = Store(tmp_path)
    path = write_run(tmp_path, FakeRun(SCORES, dataset="mine", study="mine"))
    sync(tmp_path)
    assert sorted(collect(tmp_path, source="mlflow", study="mine").cases["dice"]) == [0.25, 0.5, 0.75, 1.0]
    rows = pd.read_parquet(path / "rows" / "test.parquet")
    rows.assign(dice=0.125).to_parquet(path / "rows" / "test.parquet", index=False)
    sync(tmp_path)
    assert set(collect(tmp_path, source="mlflow", study="mine").cases["dice"]) == {0.125}
    assert len(fetched) == 2
    (run,) = store.search("mine", "tags.run_id != ''")
    store.client.set_tag(run.info.run_id, "paper", "yes")  # in MLflow's own pages
    assert len(collect(tmp_path, source="mlflow", tag="paper=yes").runs) == 1
    store.client.delete_run(run.info.run_id)
    with pytest.raises(ValueError, match="study=mine: there is none"):
        collect(tmp_path, source="mlflow", study="mine")


@pytest.mark.slow  # making a store takes seconds
def test_files_that_the_store_lacks_are_said(tmp_path: Path, filled: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes((filled / "mlflow.db").read_bytes())
    write_run(tmp_path, FakeRun(SCORES, dataset="mine", study="bare"))
    sync(tmp_path, artifacts=False)
    study = collect(tmp_path, source="mlflow", study="bare")
    assert study.runs.empty
    assert study.left_out["state"].to_list() == ["unreadable"]
    assert study.left_out["reason"][0] == "the store has no run.json, status.json of it: task=sync brings them"


def test_a_store_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    for source in ("mlflow", f"sqlite:///{tmp_path}/typo.db"):
        with pytest.raises(FileNotFoundError, match="task=sync makes the one of paths"):
            collect(tmp_path, source=source)
    assert not list(tmp_path.glob("*.db"))
    with pytest.raises(
        ConnectionError, match=r"task\.source=http://127.*; task\.source=null reads the run directories"
    ):
        collect(tmp_path, source="http://127.0.0.1:1")


@pytest.mark.parametrize("source", ["runs", "/somewhere/mlruns", "ftp://host/x", "sqlite://typo.db"])
def test_what_is_no_address_of_a_store_is_said(tmp_path: Path, source: str) -> None:
    with pytest.raises(ValueError, match=f"task.source={source}: no MLflow URI; use sqlite:///"):
        collect(tmp_path, source=source)
    assert not list(tmp_path.iterdir())


class Shelf:
    """What a client answers about artifacts, from a run directory."""

    def __init__(self, folder: Path):
        self.folder = folder

    def list_artifacts(self, known: str, path: str | None) -> list[SimpleNamespace]:
        inside = sorted((self.folder / (path or ".")).glob("*"))
        return [SimpleNamespace(path=file.relative_to(self.folder).as_posix()) for file in inside]

    def download_artifacts(self, known: str, path: str, to: str) -> None:
        shutil.copy(self.folder / path, to)


def test_files_are_fetched_once_and_again_when_they_change(tmp_path: Path, fetched: list[str]) -> None:
    path = write_run(tmp_path, RUNS[0])
    store = SimpleNamespace(client=Shelf(path))
    shown = {"run_id": RUNS[0].run_id, "tags": {"paper": "yes"}}
    for digest, times in (("1", 1), ("1", 1), ("2", 2), ("", 3), ("", 4)):
        entry = Entry(tmp_path / "cache" / "77", shown, {}, ("5a5a",), store=("77", digest))
        (found,) = module.fetch(store, [entry], tmp_path / "cache")  # type: ignore[arg-type]
        assert len(fetched) == times
    assert (found.run_id, found.state, found.sweeps) == (RUNS[0].run_id, "finished", ("5a5a",))
    assert (found.about["tags"]["paper"], found.about["tags"]["data_fingerprint"]) == ("yes", "f00d")
    files = sorted(file.relative_to(entry.folder).as_posix() for file in entry.folder.rglob("*.*") if file.is_file())
    wanted = [".mirrored", "provenance.json", "rows/test.parquet", "rows/zero_shot.parquet", "run.json", "status.json"]
    assert files == wanted
    assert [one.name for one in (tmp_path / "cache").iterdir() if one.is_dir()] == ["77"]
    (path / "run.json").unlink()
    (lost,) = module.fetch(store, [entry], tmp_path / "cache")  # type: ignore[arg-type]
    assert lost.reason == "the store has no run.json of it: task=sync brings them"


@pytest.mark.slow
def test_a_server_tells_what_the_directories_tell(tmp_path: Path) -> None:
    (tmp_path / "server").mkdir()
    fill(tmp_path / "here")
    with mlflow_server(tmp_path / "server") as server:
        sync(tmp_path / "here", uri=server.uri)
        study = collect(tmp_path / "there", source=server.uri)
        equal(study, collect(tmp_path / "here"), "folder")
        assert len(collect(tmp_path / "there", source=server.uri, sweep="5a5a").runs) == 4
        folder = Path(study.runs.at[RUNS[0].run_id, "folder"])
        assert (folder / "pictures" / "test" / "gallery.npz").read_bytes() == b"pictures"
