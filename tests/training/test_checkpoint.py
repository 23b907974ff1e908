"""Training state on disk: whole or not there, of this run, and never code."""

from __future__ import annotations

import errno
import os
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from medsam2.training.checkpoint import SPARE, CheckpointError, Checkpoints, DiskFull, Progress

PROGRESS = Progress(epoch=3, batch=2, best=0.75, best_epoch=2, sums={"loss": [1.5, 8.0], "grad_norm": [0.25, 2.0]})


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path, "aaa")


def state(value: float = 1.0) -> dict[str, object]:
    return {"model": {"weight": torch.full((300, 300), value)}, "optimizer": {"step": 7}}


def test_nothing_to_resume(checkpoints: Checkpoints) -> None:
    assert checkpoints.load_last() is None
    with pytest.raises(CheckpointError, match=r"best\.pt: cannot be read"):
        checkpoints.load_best()


def test_round_trip_with_the_random_state(checkpoints: Checkpoints) -> None:
    torch.manual_seed(5)
    checkpoints.save_last(state(), PROGRESS)
    expected = torch.rand(3)
    torch.manual_seed(99)
    stored = checkpoints.load_last()
    assert stored is not None
    assert stored[1] == PROGRESS
    assert stored[0]["optimizer"] == {"step": 7}
    assert torch.equal(stored[0]["model"]["weight"], torch.ones(300, 300))
    assert torch.equal(torch.rand(3), expected)


def test_every_global_generator_goes_on_where_it_was(checkpoints: Checkpoints) -> None:
    random.seed(3)
    np.random.seed(4)
    np.random.standard_normal()  # leaves the second of a pair behind
    checkpoints.save_last(state(), PROGRESS)
    expected = random.random(), np.random.standard_normal(), float(np.random.rand())
    random.seed(0)
    np.random.seed(0)
    checkpoints.load_last()
    assert (random.random(), np.random.standard_normal(), float(np.random.rand())) == expected


def test_the_one_before_is_kept(checkpoints: Checkpoints, tmp_path: Path) -> None:
    assert not checkpoints.exist()
    for value in (1.0, 2.0, 3.0):
        checkpoints.save_last(state(value), Progress(epoch=int(value)))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["last.pt", "previous.pt"]
    for name, value in (("last.pt", 3.0), ("previous.pt", 2.0)):
        assert torch.load(tmp_path / name, weights_only=True)["model"]["weight"][0, 0] == value


def cut_off(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1000])


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1  # inside the weights
    file.write_bytes(content)


def empty(file: Path) -> None:
    file.write_bytes(b"")


def remove(file: Path) -> None:
    file.unlink()


@pytest.mark.parametrize("damage", [cut_off, flip_a_bit, empty, remove])
def test_a_damaged_file_is_passed_over_for_the_one_before(
    checkpoints: Checkpoints, tmp_path: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints.save_last(state(1.0), Progress(epoch=1))
    checkpoints.save_last(state(2.0), Progress(epoch=2))
    damage(tmp_path / "last.pt")
    stored = checkpoints.load_last()
    assert stored is not None
    assert (stored[1].epoch, float(stored[0]["model"]["weight"][7, 7])) == (1, 1.0)
    assert ("last.pt: cannot be read" in caplog.text) is (damage is not remove)


def test_a_flipped_bit_is_found_although_torch_would_load_it(checkpoints: Checkpoints, tmp_path: Path) -> None:
    checkpoints.save_last(state(), PROGRESS)
    flip_a_bit(tmp_path / "last.pt")
    torch.load(tmp_path / "last.pt", weights_only=True)  # says nothing
    with pytest.raises(CheckpointError, match=r"last\.pt: cannot be read \(checksum of .*data/0 is"):
        checkpoints.load_last()


def test_a_file_of_another_config_names_the_keys_that_differ(tmp_path: Path) -> None:
    Checkpoints(tmp_path, "aaa", {"optim.lr": 0.1, "seed": 0}).save_last(state(), PROGRESS)
    with pytest.raises(CheckpointError, match=r"another configuration: optim\.lr \(0\.1 there, 0\.2 here\); start"):
        Checkpoints(tmp_path, "bbb", {"optim.lr": 0.2, "seed": 0}).load_last()


def test_it_holds_what_leads_back_to_the_run(tmp_path: Path) -> None:
    Checkpoints(tmp_path, "aaa", {"seed": 0}, tracker_id="m1").save_last(state(), PROGRESS)
    stored = torch.load(tmp_path / "last.pt", weights_only=True)
    assert (stored["run_id"], stored["params"], stored["tracker_id"]) == ("aaa", {"seed": "0"}, "m1")


def test_space_is_looked_at_before_anything_is_written(
    checkpoints: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints.save_last(state(1.0), Progress(epoch=1))
    before = (tmp_path / "last.pt").read_bytes()
    free = SPARE + len(before) - 1
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=free))
    with pytest.raises(
        DiskFull, match="no room for a checkpoint: 32 MiB are free, 32 MiB are wanted; make room"
    ) as full:
        checkpoints.save_last(state(2.0), Progress(epoch=2))
    assert full.value.errno == errno.ENOSPC
    assert [file.name for file in tmp_path.iterdir()] == ["last.pt"]
    assert (tmp_path / "last.pt").read_bytes() == before
    free += 1
    checkpoints.save_last(state(2.0), Progress(epoch=2))


def test_means_are_over_what_had_the_value_and_end_with_the_epoch() -> None:
    progress = Progress(epoch=3, batch=7)
    progress.count({"loss": 2.0, "iou": 1.0}, 3)
    progress.count({"loss": 6.0}, 1)  # a batch without that term
    assert progress.means() == {"loss": 3.0, "iou": 1.0}
    progress.finish_epoch()
    assert progress == Progress(epoch=4)


def test_best_holds_the_weights(checkpoints: Checkpoints) -> None:
    checkpoints.save_best({"weight": torch.tensor([1.0, 2.0])}, 4)
    assert checkpoints.load_best()["weight"].tolist() == [1.0, 2.0]


@pytest.mark.parametrize("name", ["last.pt", "best.pt"])
def test_another_runs_file_is_refused(checkpoints: Checkpoints, tmp_path: Path, name: str) -> None:
    checkpoints.save_last(state(), PROGRESS)
    checkpoints.save_best({}, 0)
    other = Checkpoints(tmp_path, "bbb")
    with pytest.raises(CheckpointError, match=rf"{name}: belongs to another configuration.*force=true"):
        other.load_last() if name == "last.pt" else other.load_best()


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99, 0.999])
def test_a_truncated_file_is_an_error_not_a_start_from_nothing(
    checkpoints: Checkpoints, tmp_path: Path, share: float
) -> None:
    checkpoints.save_last(state(), PROGRESS)
    content = (tmp_path / "last.pt").read_bytes()
    (tmp_path / "last.pt").write_bytes(content[: int(len(content) * share)])
    with pytest.raises(CheckpointError, match=r"last\.pt: cannot be read \(.*force=true"):
        checkpoints.load_last()


@pytest.mark.parametrize("content", [b"garbage", b"\x80\x02garbage", b"PK\x03\x04", b"\x80\x04N.", b"\0" * 1000])
def test_a_file_of_something_else_is_an_error(checkpoints: Checkpoints, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "last.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"last\.pt: "):
        checkpoints.load_last()


def test_a_flipped_byte_raises_nothing_but_the_error_that_explains(checkpoints: Checkpoints, tmp_path: Path) -> None:
    checkpoints.save_last(state(), PROGRESS)
    content = (tmp_path / "last.pt").read_bytes()
    start, refused = content.index(b"optimizer"), 0
    for position in range(start - 100, start + 100):
        damaged = bytearray(content)
        damaged[position] ^= 0xFF
        (tmp_path / "last.pt").write_bytes(damaged)
        try:
            checkpoints.load_last()
        except CheckpointError:
            refused += 1
    assert refused > 50


class Malicious:
    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.target),)


def test_code_in_a_file_never_runs(checkpoints: Checkpoints, tmp_path: Path) -> None:
    torch.save({"run_id": "aaa", "model": Malicious(tmp_path / "owned")}, tmp_path / "last.pt")
    with pytest.raises(CheckpointError, match="cannot be read"):
        checkpoints.load_last()
    (tmp_path / "last.pt").write_bytes(pickle.dumps(Malicious(tmp_path / "owned")))
    with pytest.raises(CheckpointError, match="cannot be read"):
        checkpoints.load_last()
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("broken", ["replace", "fsync"])
def test_a_kill_while_saving_leaves_the_old_file(
    checkpoints: Checkpoints, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    checkpoints.save_last(state(1.0), PROGRESS)
    before = (tmp_path / "last.pt").read_bytes()

    def killed(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, broken, killed)
        with pytest.raises(KeyboardInterrupt):
            checkpoints.save_last(state(2.0), PROGRESS)
    assert (tmp_path / "last.pt").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]
    checkpoints.save_last(state(2.0), PROGRESS)
    stored = checkpoints.load_last()
    assert stored is not None
    assert stored[0]["model"]["weight"][0, 0] == 2.0
