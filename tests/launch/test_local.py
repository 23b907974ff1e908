"""The local launcher with jobs that do nothing but say where they are, and die in every way."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing import forkserver
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra import version
from hydra._internal.callbacks import Callbacks
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_automatic_config_search_path
from hydra.core.plugins import Plugins
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig

from hydra_plugins.medsam2_launchers import LocalLauncher
from medsam2.config import PROJECT
from medsam2.launch import local
from medsam2.launch.local import LocalJob, LocalPool
from medsam2.launch.places import Place, build_places, find_places
from medsam2.launch.worker import Lines, _settle

CONFIG = """
folder: ???
name: job
do: nothing
seconds: 0.0
device: cpu
tracking: {_target_: medsam2.tracking.base.Offline}
"""
Start = Callable[..., list[LocalJob]]


def task(cfg: DictConfig) -> float:
    """Notes what a job sees, then does what `do` says."""
    seen = {
        "pid": os.getpid(),
        "session": os.getsid(0),
        "gpu": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "mark": os.environ.get("MARK"),
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "interrupt": signal.getsignal(signal.SIGINT) is signal.default_int_handler,
        "terminal": sys.stdout.isatty(),
        "method": multiprocessing.get_start_method(),
        "server_threads": len(os.listdir(f"/proc/{os.getppid()}/task")),
        "begin": time.time(),
    }
    note = Path(cfg.folder) / f"{cfg.name}.json"
    note.write_text(json.dumps(seen))
    print("hello from", cfg.name)
    try:
        time.sleep(cfg.seconds)
        return float(DEEDS[cfg.do]() or 0.0)
    finally:
        note.write_text(json.dumps(seen | {"end": time.time()}))


def _raise() -> None:
    raise ValueError("wrong")


def _deaf() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(60)


DEEDS: dict[str, Callable[[], Any]] = {
    "nothing": lambda: None,
    "raise": _raise,
    "exit": lambda: sys.exit(3),
    "hard": lambda: os._exit(4),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "memory": lambda: bytearray(1 << 60),
    "nan": lambda: math.nan,
    "deaf": _deaf,
}


def build_launcher(folder: Path, **settings: Any) -> LocalLauncher:
    """A launcher as Hydra sets it up, for a config of this module's own."""
    (folder / "config.yaml").write_text(CONFIG)
    version.setbase("1.3")
    Plugins.instance()
    loader = ConfigLoaderImpl(create_automatic_config_search_path(None, None, str(folder)))
    overrides = [f"folder={folder}", f"hydra.sweep.dir={folder}", "hydra.output_subdir=null"]
    config = loader.load_configuration("config", overrides, RunMode.MULTIRUN)
    config.hydra.overrides.hydra = overrides
    config.hydra.job.config_name = "config"
    launcher = LocalLauncher(**settings)
    context = HydraContext(config_loader=loader, callbacks=Callbacks())
    launcher.setup(hydra_context=context, task_function=task, config=config)
    return launcher


@pytest.fixture(scope="module", autouse=True)
def light_server() -> Iterator[None]:
    """A fork server that has imported what these jobs need and no more."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "PRELOAD", ["medsam2.launch.worker"])
        patch.delenv("OMP_NUM_THREADS", raising=False)
        yield


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """`start(places, ["name=a"], …)` starts jobs; what still runs is killed at the end."""
    pools: list[LocalPool] = []

    def build(places: list[Place], *jobs: list[str], grace: float = 30.0) -> list[LocalJob]:
        program = build_launcher(tmp_path).program.pickled()
        pools.append(LocalPool(places, grace=grace))
        return pools[-1].start(program, jobs, first=0)

    yield build
    for pool in pools:
        for job in pool.jobs:
            job.asked = 1
            job.cancel()
        pool.wait()


def seen(folder: Path, name: str) -> dict[str, Any]:
    return dict(json.loads((folder / f"{name}.json").read_text()))


def wait_for(holds: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "did not happen"
        time.sleep(0.02)


def wait_ended(*jobs: LocalJob) -> list[str | None]:
    wait_for(lambda: all(job.ended() for job in jobs))
    return [job.ended() for job in jobs]


def test_a_job_may_die_in_any_way_and_the_others_go_on(start: Start, tmp_path: Path) -> None:
    kinds = ["raise", "exit", "hard", "kill", "memory", "nan", "nothing"]
    jobs = start([Place(), Place()], *([f"name={kind}", f"do={kind}"] for kind in kinds))
    expected = ["exit 1", "exit 3", "exit 4", "signal 9", "exit 1", "exit 1", "exit 0"]
    assert wait_ended(*jobs) == expected
    assert all(seen(tmp_path, kind) for kind in kinds)
    assert {job.label for job in jobs} == {f"process {seen(tmp_path, kind)['pid']}" for kind in kinds}


def test_as_many_at_a_time_as_places_in_order_each_a_process_of_its_own(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = "abcde"
    jobs = start([Place(None, 3), Place(None, 3)], *([f"name={name}", "seconds=0.3"] for name in names))
    monkeypatch.setenv("MARK", "set after the server started")
    assert jobs[4].label == "waiting"
    assert wait_ended(*jobs) == ["exit 0"] * 5
    notes = [seen(tmp_path, name) for name in names]
    begins = [note["begin"] for note in notes]
    running = [sum(n["begin"] <= t < n["end"] for n in notes) for t in begins]
    assert max(running) == 2
    assert begins[:2] < begins[2:4] < begins[4:]
    for note in notes:
        assert note["session"] == note["pid"]
        assert note["threads"] == "3"
        assert note["interrupt"]
        assert note["method"] == "fork"
        assert note["server_threads"] == 1
    assert notes[4]["mark"] == "set after the server started"


def test_jobs_get_gpus_of_their_own_and_free_ones_first(start: Start, tmp_path: Path) -> None:
    places = build_places(["2", "MIG-7"], cpus=8, jobs_per_gpu=2)
    jobs = start(places, ["name=a", "seconds=0.6"], ["name=b", "seconds=0.6"])
    wait_ended(*jobs)
    assert {seen(tmp_path, name)["gpu"] for name in "ab"} == {"2", "MIG-7"}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"gpus": [], "cpus": 2}, [Place()]),
        ({"gpus": [], "cpus": 16}, [Place(None, 4)] * 4),
        ({"gpus": [], "cpus": 4, "jobs": 3}, [Place(None, 1)] * 3),
        ({"gpus": [], "cpus": 4, "jobs": 1}, [Place()]),
        ({"gpus": [], "cpus": 4, "jobs": 2, "threads": 7}, [Place(None, 7)] * 2),
        ({"gpus": ["0"], "cpus": 8}, [Place("0")]),
        ({"gpus": ["0", "3"], "cpus": 8}, [Place("0", 4), Place("3", 4)]),
        ({"gpus": ["0", "3"], "cpus": 8, "jobs": 1}, [Place("0")]),
        ({"gpus": ["0", "3"], "cpus": 8, "jobs_per_gpu": 2}, [Place("0", 2), Place("3", 2)] * 2),
    ],
)
def test_places(settings: dict[str, Any], expected: list[Place]) -> None:
    assert build_places(**settings) == expected


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"jobs": 0}, r"hydra\.launcher\.jobs=0: must be a whole number >= 1"),
        ({"jobs": 2.5}, r"hydra\.launcher\.jobs=2\.5: must be a whole number"),
        ({"jobs_per_gpu": 0}, r"hydra\.launcher\.jobs_per_gpu=0"),
        ({"jobs": 5}, r"jobs=5: 2 GPUs have room for 2; hydra\.launcher\.jobs_per_gpu=3 lets more share one"),
    ],
)
def test_places_that_cannot_be(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        build_places(["0", "1"], cpus=8, **settings)


def test_a_warm_torch_is_told_its_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(set_num_threads=calls.append))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # put back afterwards
    door, gate = multiprocessing.Pipe(duplex=False)
    for place in (Place(None, 3), Place()):
        gate.send(place)
        _settle(door)
    assert calls == [3]
    assert os.environ["OMP_NUM_THREADS"] == "3"


def test_places_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=SimpleNamespace(device_count=lambda: 2)))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5, 3,9")  # torch sees two of them
    assert [place.gpu for place in find_places("auto")] == ["5", "3"]
    assert [place.gpu for place in find_places("auto", devices=2)] == ["5,3"]
    assert [place.gpu for place in find_places("cpu", jobs=2)] == [None, None]
    monkeypatch.setenv("OMP_NUM_THREADS", "6")
    assert find_places("cuda", jobs=2) == [Place("5", 6), Place("3", 6)]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert [place.gpu for place in find_places("cuda:0")] == ["0", "1"]
    with pytest.raises(ValueError, match=r"device=cuda:1: .*use device=cuda"):
        find_places("cuda:1")


def test_cancelled_jobs_end_in_order_and_waiting_ones_never_start(start: Start, tmp_path: Path) -> None:
    saved, waiting = start([Place()], ["name=saved", "seconds=60"], ["name=waiting"])
    wait_for((tmp_path / "saved.json").exists)
    saved.cancel()
    waiting.cancel()
    assert waiting.ended() == "not started"
    assert wait_ended(saved) == ["exit 143"]
    assert seen(tmp_path, "saved")["end"]
    time.sleep(0.3)
    assert not (tmp_path / "waiting.json").exists()
    saved.cancel()  # does nothing to one that has ended
    assert saved.ended() == "exit 143"


@pytest.mark.parametrize("grace", [0.3, 60.0])
def test_a_job_that_does_not_end_is_killed_after_its_grace_or_when_asked_again(
    start: Start, tmp_path: Path, grace: float
) -> None:
    (job,) = start([Place()], ["name=deaf", "do=deaf", "seconds=0"], grace=grace)
    wait_for((tmp_path / "deaf.json").exists)
    time.sleep(0.2)
    job.cancel()
    if grace > 1:
        time.sleep(0.5)
        assert job.ended() is None
        job.cancel()
    assert wait_ended(job) == ["signal 9"]


def test_launch_waits_and_its_values_tell_failures_only(tmp_path: Path) -> None:
    launcher = build_launcher(tmp_path, jobs=2)
    assert (launcher.stays, launcher.here, launcher.places) == (False, True, 2)
    assert not launcher.alive("17_3")
    values = launcher.launch([["name=a"], ["name=b", "do=raise"]], initial_job_idx=0)
    assert values[0] == 0.0
    assert math.isnan(values[1])


def test_settings_that_cannot_be_end_the_sweep(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(SystemExit):
        build_launcher(tmp_path, jobs=0)
    assert "hydra.launcher.jobs=0" in caplog.text


def test_jobs_outlive_a_server_that_dies_and_the_next_ones_get_another(start: Start, tmp_path: Path) -> None:
    first, second, third = start([Place()], ["name=first", "seconds=1"], ["name=second"], ["name=third"])
    wait_for((tmp_path / "first.json").exists)
    server = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
    os.kill(server, signal.SIGKILL)
    time.sleep(0.3)
    assert first.ended() is None
    ended = wait_ended(first, second, third)
    assert ended[0] == "gone"
    assert ended[2] == "exit 0"  # the second was getting ready, and nobody can tell how it ended
    ends = [seen(tmp_path, name)["end"] for name in ("first", "second", "third")]
    assert ends == sorted(ends)


HEAD = """
import sys
sys.path.insert(0, {here!r})
import test_local
from pathlib import Path
test_local.local.PRELOAD = ["medsam2.launch.worker"]
launcher = test_local.build_launcher(Path({folder!r}), jobs={places})
launcher.launch([["name=a", "seconds={seconds}"], ["name=b"]], initial_job_idx=0)
"""


def head(folder: Path, seconds: float, places: int) -> subprocess.Popen[str]:
    """A process that launches job a, which takes some seconds, and job b."""
    code = HEAD.format(here=str(Path(__file__).parent), folder=str(folder), seconds=seconds, places=places)
    command = [sys.executable, "-c", code]
    return subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_a_killed_head_leaves_what_runs_and_starts_nothing_more(tmp_path: Path) -> None:
    process = head(tmp_path, seconds=1.5, places=1)
    wait_for((tmp_path / "a.json").exists)
    process.kill()
    process.wait()
    assert process.stdout
    process.stdout.close()  # whoever read the output is gone too
    wait_for(lambda: "end" in (tmp_path / "a.json").read_text())
    time.sleep(0.3)
    assert not (tmp_path / "b.json").exists()


def test_ctrl_c_ends_jobs_in_order_and_lines_tell_the_job(tmp_path: Path) -> None:
    process = head(tmp_path, seconds=60, places=2)
    wait_for(lambda: (tmp_path / "a.json").exists() and "end" in seen_or_nothing(tmp_path, "b"))
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=30)
    assert seen(tmp_path, "a")["end"]
    assert {"[0] hello from a", "[1] hello from b"} <= set(output.splitlines())


def seen_or_nothing(folder: Path, name: str) -> str:
    file = folder / f"{name}.json"
    return file.read_text() if file.exists() else ""


def test_lines_are_written_whole_and_a_reader_that_is_gone_does_no_harm() -> None:
    reader, writer = os.pipe()
    lines = Lines(writer, "[7] ")
    lines.write("one\ntw")
    assert os.read(reader, 100) == b"[7] one\n"
    lines.write("o\n\n")
    assert os.read(reader, 100) == b"[7] two\n[7] \n"
    lines.write("rest")
    lines.end()
    assert os.read(reader, 100) == b"[7] rest\n"
    Lines(writer).write("plain ")
    assert os.read(reader, 100) == b"plain "
    os.close(reader)
    assert lines.write("nobody reads\n") == 13
    os.close(writer)
