"""The head of a sweep, with a launcher that fills in results instead of training."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from mlflow import MlflowClient

from medsam2.code import code_hash
from medsam2.runs import RunDirectory
from medsam2.sweep import Job, run_sweep
from tests.conftest import Compose

SWEEP_KEYS = ("++job.", "force=false")


@dataclass
class Launcher:
    """Stands where Hydra's launcher stands: it is given overrides and leaves run directories behind."""

    jobs: Sequence[Job]
    ends: dict[str, str] = field(default_factory=dict)  # override -> state, where not finished
    raises: BaseException | None = None
    here: bool = True
    calls: list[list[str]] = field(default_factory=list)
    indices: list[int] = field(default_factory=list)

    def launch(self, batch: Sequence[Sequence[str]], initial_job_idx: int) -> list[float]:
        self.indices.append(initial_job_idx)
        results = []
        for overrides in batch:
            self.calls.append(list(overrides))
            (job,) = [j for j in self.jobs if set(j.overrides) <= set(overrides)][:1]
            state = next((s for o, s in self.ends.items() if o in overrides), "finished")
            if state != "lost":
                finish(job, 0.8 + job.cfg.seed / 100, state)
            if self.raises is not None:
                raise self.raises
            results.append(0.8)
        return results


def finish(job: Job, dice: float, state: str = "finished") -> None:
    job.directory.open(job.cfg.run_id, "", fresh=False)
    job.directory.update(
        state=state,
        value=dice,
        metrics={"test/dice/mean": dice} if state == "finished" else {},
        error="ValueError: no luck" if state == "failed" else None,
    )


@pytest.fixture
def jobs(config: Compose) -> Callable[..., list[Job]]:
    return lambda *combinations: [Job(tuple(c.split()), config(*c.split())) for c in combinations]


def plain(calls: list[list[str]]) -> list[str]:
    return [" ".join(o for o in call if not o.startswith(SWEEP_KEYS)) for call in calls]


def table(tmp_path: Path) -> list[str]:
    (file,) = (tmp_path / "outputs" / "sweeps").glob("*/table.md")
    return file.read_text().splitlines()


def test_every_job_runs_and_the_table_follows(
    jobs: Callable[..., list[Job]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    some = jobs(*(f"optim.lr={lr} seed={seed}" for lr in ("1e-3", "1e-4") for seed in (0, 1)))
    launch = Launcher(some)
    assert run_sweep(some, ["optim.lr", "seed"], launch) == [0.8, 0.81, 0.8, 0.81]
    assert plain(launch.calls) == [" ".join(j.overrides) for j in some]
    assert launch.indices == [0]
    assert table(tmp_path) == [
        "| optim.lr | runs | chest_ct dice (n) |",
        "| --- | --- | --- |",
        "| 1e-3 | 2/2 | 0.805 ± 0.007 (2) |",
        "| 1e-4 | 2/2 | 0.805 ± 0.007 (2) |",
    ]
    assert "0.805 ± 0.007 (2)" in capsys.readouterr().out
    (folder,) = (tmp_path / "outputs" / "sweeps").iterdir()
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["axes"] == ["optim.lr", "seed"]
    assert [j["run_id"] for j in manifest["jobs"]] == [j.cfg.run_id for j in some]
    extra = {f"++job.sweep={folder.name}", f"++job.code={code_hash()}", "force=false"}
    assert {o for call in launch.calls for o in call if o.startswith(SWEEP_KEYS)} == extra
    assert (manifest["code"], manifest["state"], manifest["study"]) == (code_hash(), "finished", "medsam2")


def test_combinations_that_are_the_same_run_run_once(jobs: Callable[..., list[Job]], tmp_path: Path) -> None:
    some = jobs("optim.lr=1e-3 seed=0", "optim.lr=0.001 seed=0", "seed=0 num_workers=1", "optim.lr=1e-3 seed=1")
    launch = Launcher(some)
    run_sweep(some, ["optim.lr", "seed"], launch)
    assert plain(launch.calls) == ["optim.lr=1e-3 seed=0", "optim.lr=1e-3 seed=1"]
    assert table(tmp_path)[2] == "| 1e-3 | 2/2 | 0.805 ± 0.007 (2) |"


def test_finished_runs_are_not_launched_but_stand_in_the_table(jobs: Callable[..., list[Job]], tmp_path: Path) -> None:
    some = jobs("seed=0", "seed=1", "seed=2")
    finish(some[1], 0.5)
    launch = Launcher(some)
    run_sweep(some, ["seed"], launch)
    assert plain(launch.calls) == ["seed=0", "seed=2"]
    assert table(tmp_path)[2].startswith("| sam2_nano | 3/3 | 0.707 ± ")  # 0.80, 0.50, 0.82


def test_the_same_sweep_again_launches_nothing(jobs: Callable[..., list[Job]], tmp_path: Path) -> None:
    run_sweep(jobs("seed=0", "seed=1"), ["seed"], Launcher(jobs("seed=0", "seed=1")))
    before = table(tmp_path)
    launch = Launcher([], raises=AssertionError("launched"))
    assert run_sweep(jobs("seed=0", "seed=1"), ["seed"], launch) == [0.8, 0.81]
    assert launch.calls == []
    assert table(tmp_path) == before


def test_force_runs_finished_ones_again(jobs: Callable[..., list[Job]]) -> None:
    some = jobs("seed=0 force=true")
    finish(some[0], 0.5)
    launch = Launcher(some)
    run_sweep(some, ["seed"], launch)
    assert plain(launch.calls) == ["seed=0 force=true"]


@pytest.mark.parametrize(("size", "indices"), [(1, [0, 1, 2]), (2, [0, 2])])
def test_batches_of_the_launcher(jobs: Callable[..., list[Job]], size: int | None, indices: list[int]) -> None:
    some = jobs("seed=0", "seed=1", "seed=2")
    launch = Launcher(some)
    assert len(run_sweep(some, ["seed"], launch, batch_size=size)) == 3
    assert launch.indices == indices
    assert plain(launch.calls) == ["seed=0", "seed=1", "seed=2"]


def test_a_wrong_config_stops_everything_and_names_its_jobs(
    jobs: Callable[..., list[Job]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    some = jobs("seed=0 optim.lr=1e-3", "seed=0 optim.lr=-1", "seed=1 optim.lr=-1", "seed=0 image_size=100")
    launch = Launcher(some)
    with pytest.raises(SystemExit) as caught:
        run_sweep(some, ["optim.lr"], launch)
    assert caught.value.code == 1
    assert launch.calls == []
    (message,) = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
    assert "2 problems" in message
    assert "optim.lr=-1: must be a number > 0 [seed=0 optim.lr=-1; seed=1 optim.lr=-1]" in message
    assert "image_size=100: must be a multiple of 32: use 96 or 128 [seed=0 image_size=100]" in message
    assert not (tmp_path / "outputs" / "sweeps").exists()
    assert not (tmp_path / "outputs" / "runs").exists()


def test_a_mistake_in_every_job_is_named_once_without_a_list(
    jobs: Callable[..., list[Job]], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(SystemExit):
        run_sweep(jobs("seed=0 image_size=100", "seed=1 image_size=100"), ["seed"], Launcher([]))
    (message,) = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
    assert message.endswith("- image_size=100: must be a multiple of 32: use 96 or 128")


def test_a_finished_run_of_other_data_stops_the_sweep(
    jobs: Callable[..., list[Job]], caplog: pytest.LogCaptureFixture
) -> None:
    some = jobs("seed=0", "seed=1")
    finish(some[0], 0.5)
    some[0].directory.update(data="other data")
    launch = Launcher(some)
    with pytest.raises(SystemExit):
        run_sweep(some, ["seed"], launch)
    assert launch.calls == []
    assert "was made from other data (fingerprint other data, now" in caplog.text
    assert "[seed=0]" in caplog.text


def test_a_failed_job_is_named_after_the_table(
    jobs: Callable[..., list[Job]],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    some = jobs("seed=0", "seed=1", "seed=2")
    launch = Launcher(some, ends={"seed=1": "failed"})
    with pytest.raises(SystemExit) as caught:
        run_sweep(some, ["seed"], launch)
    assert caught.value.code == 1
    assert len(launch.calls) == 3
    assert table(tmp_path)[2] == "| sam2_nano | 2/3 | 0.810 ± 0.014 (2) |"
    assert "0.810 ± 0.014 (2)" in capsys.readouterr().out
    (message,) = [r.getMessage() for r in caplog.records if r.levelno == logging.ERROR]
    assert message == f"failed (error): seed=1: ValueError: no luck ({some[1].directory.path})"


@pytest.mark.parametrize("state", ["running", "interrupted", "lost"])
def test_a_job_that_was_killed_makes_the_sweep_fail_too(
    jobs: Callable[..., list[Job]], tmp_path: Path, caplog: pytest.LogCaptureFixture, state: str
) -> None:
    some = jobs("seed=0", "seed=1")
    with pytest.raises(SystemExit) as caught:
        run_sweep(some, ["seed"], Launcher(some, ends={"seed=1": state}))
    assert caught.value.code == 1
    assert "seed=1" in caplog.text
    assert "the same command goes on" in caplog.text
    assert table(tmp_path)[2] == "| sam2_nano | 1/2 | 0.800 (1) |"


def test_an_interrupt_prints_the_table_and_ends_with_130(jobs: Callable[..., list[Job]], tmp_path: Path) -> None:
    some = jobs("seed=0", "seed=1")
    with pytest.raises(SystemExit) as caught:
        run_sweep(some, ["seed"], Launcher(some, raises=KeyboardInterrupt()), batch_size=1)
    assert caught.value.code == 130
    assert table(tmp_path)[2] == "| sam2_nano | 1/2 | 0.800 (1) |"


def test_an_error_of_the_launcher_is_not_hidden_and_the_table_is_there(
    jobs: Callable[..., list[Job]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    some = jobs("seed=0", "seed=1")
    with pytest.raises(SystemExit):
        run_sweep(some, ["seed"], Launcher(some, raises=OSError("sbatch not found")))
    assert "OSError: sbatch not found" in caplog.text
    assert table(tmp_path)[2] == "| sam2_nano | 1/2 | 0.800 (1) |"


def test_swept_groups_and_added_or_removed_keys_find_their_column(
    jobs: Callable[..., list[Job]], config: Compose, tmp_path: Path
) -> None:
    removed = Job(("prompt=click", "~debug"), config("prompt=click"))
    added = Job(("prompt=box", "+dataset.root=/x=y"), config("prompt=box"))
    run_sweep([removed, added], ["prompt"], Launcher([removed, added]))
    assert [line.split(" | ")[0] for line in table(tmp_path)] == ["| prompt", "| ---", "| click", "| box"]


def test_the_sweeps_name_depends_on_its_runs_alone(jobs: Callable[..., list[Job]], tmp_path: Path) -> None:
    for combinations in (["seed=0", "seed=1"], ["seed=1", "seed=0"], ["seed=0", "seed=1", "seed=2"]):
        run_sweep(jobs(*combinations), ["seed"], Launcher(jobs(*combinations)))
    assert len(list((tmp_path / "outputs" / "sweeps").iterdir())) == 2


def test_jobs_are_children_of_one_parent_run_that_gets_the_table(
    jobs: Callable[..., list[Job]], tmp_path: Path
) -> None:
    some = jobs("seed=0 tracking=mlflow", "seed=1 tracking=mlflow")
    launch = Launcher(some, ends={"seed=1": "failed"})
    for ends, status in (({"seed=1": "failed"}, "FAILED"), ({}, "FINISHED")):
        launch.ends = ends
        if ends:
            with pytest.raises(SystemExit):
                run_sweep(some, ["seed"], launch)
        else:
            run_sweep(some, ["seed"], launch)
        parents = {o.split("=")[1] for call in launch.calls for o in call if o.startswith("++job.parent_run_id")}
        (parent,) = parents  # the second attempt goes under the first one's parent
        client = MlflowClient(f"sqlite:///{tmp_path}/outputs/mlflow.db")
        stored = client.get_run(parent)
        assert stored.info.status == status
        assert sorted(a.path for a in client.list_artifacts(parent)) == ["table.csv", "table.md"]
        assert stored.data.tags["axes"] == "seed"


def test_a_disk_without_room_for_the_table_hides_neither_table_nor_failures(
    jobs: Callable[..., list[Job]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device", "table.csv")

    monkeypatch.setattr("medsam2.results.table.save_table", full)
    some = jobs("seed=0", "seed=1")
    with pytest.raises(SystemExit):
        run_sweep(some, ["seed"], Launcher(some, ends={"seed=1": "failed"}))
    assert "1/2" in capsys.readouterr().out
    assert "failed (error): seed=1: ValueError: no luck" in caplog.text
    assert "the table could not be stored: [Errno 28] No space left on device: 'table.csv'" in caplog.text


def test_the_manifest_keeps_no_password(jobs: Callable[..., list[Job]], tmp_path: Path) -> None:
    some = jobs("seed=0 study='http://me:hunter22@db'")
    run_sweep(some, ["seed"], Launcher(some))
    (file,) = (tmp_path / "outputs" / "sweeps").glob("*/manifest.json")
    assert "http://me:***@db" in str(json.loads(file.read_text())["jobs"])
    assert "hunter22" not in str(json.loads(file.read_text())["jobs"])


def test_a_job_knows_its_directory(jobs: Callable[..., list[Job]]) -> None:
    (job,) = jobs("seed=0")
    assert isinstance(job.directory, RunDirectory)
    assert job.directory.path == Path(str(job.cfg.run_dir))
    assert job.directory.path.is_absolute()


def test_another_runs_result_is_never_reported_as_ones_own(
    jobs: Callable[..., list[Job]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (mine,) = jobs(f"seed=0 run_dir={tmp_path / 'mine'}")
    finish(mine, 0.9)
    (other,) = jobs(f"seed=7 run_dir={tmp_path / 'mine'}")
    with pytest.raises(SystemExit):
        run_sweep([other], ["seed"], Launcher([other], ends={"seed=7": "lost"}))
    assert "belongs to another run" in caplog.text
    assert table(tmp_path)[2] == "| sam2_nano | 0/1 |"


def test_runs_that_would_share_a_folder_are_refused(
    jobs: Callable[..., list[Job]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    both = jobs(*(f"seed={seed} run_dir={tmp_path / 'mine'}" for seed in (0, 1)))
    launch = Launcher(both)
    with pytest.raises(SystemExit):
        run_sweep(both, ["seed"], launch)
    assert launch.calls == []
    assert "leave run_dir out" in caplog.text


def test_a_forced_job_that_did_not_start_does_not_show_its_old_result(
    jobs: Callable[..., list[Job]], tmp_path: Path
) -> None:
    (old,) = jobs("seed=0")
    finish(old, 0.9)
    (forced,) = jobs("seed=0 force=true")
    with pytest.raises(SystemExit):
        run_sweep([forced], ["seed"], Launcher([forced], ends={"seed=0": "lost"}))
    assert table(tmp_path)[2] == "| sam2_nano | 0/1 | - |"


def test_the_device_is_looked_for_where_the_jobs_run(jobs: Callable[..., list[Job]]) -> None:
    gpu = jobs("seed=0 device=cuda:7")
    with pytest.raises(SystemExit):
        run_sweep(gpu, ["seed"], Launcher(gpu))
    launch = Launcher(gpu, here=False)
    run_sweep(gpu, ["seed"], launch)
    assert len(launch.calls) == 1
