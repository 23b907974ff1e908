"""Two processes compute what one computes; one of them that dies takes nothing with it but the run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from medsam2 import distributed
from medsam2.distributed import on_first_rank, sum_gradients
from medsam2.ranks.errors import RankKilled, RankLost
from medsam2.ranks.tasks import run_ranks
from medsam2.training.stop import Stop
from tests.helpers_ranks import Trained, do_all, train, work

Results = dict[str, Any]


FAST, SLOW = ("pixels", "image"), ("image_correct", "volume")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


def on_two(folder: Path, names: Sequence[str]) -> Results:
    """What the ranks saw; then one of them was killed."""
    with pytest.raises(RankKilled, match="device 1 was killed by signal 9"):
        run_ranks(folder / "run", work, (folder, names), 2, Stop(), lambda: None)
    (folder / "seconds").write_text(str(time.time() - float((folder / "killed").read_text())))
    results: Results = torch.load(folder / "results.pt", weights_only=False)
    return results


@pytest.fixture(scope="module")
def two(folder: Path) -> Results:
    return on_two(folder, FAST)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return do_all(tmp_path_factory.mktemp("one"), FAST)


def close(a: dict[str, Tensor], b: dict[str, Tensor], tolerance: float) -> bool:
    return list(a) == list(b) and all(torch.allclose(a[k], b[k], rtol=tolerance, atol=tolerance) for k in a)


def check_same(shared: Trained, alone: Trained, other: Trained) -> None:
    """Two ranks trained as one process did, and the other rank saw what the first saw."""
    assert [cases for _, cases in shared.losses] == [cases for _, cases in alone.losses]
    losses = [loss for loss, _ in alone.losses]
    assert len(losses) >= 4
    assert [loss for loss, _ in shared.losses] == pytest.approx(losses, rel=1e-6)
    assert close(shared.weights, alone.weights, 1e-5)
    assert close(shared.average, alone.average, 1e-5)
    assert all(torch.equal(shared.weights[k], other.weights[k]) for k in alone.weights)
    assert [epoch for epoch, _ in shared.metrics] == [epoch for epoch, _ in alone.metrics]
    for (_, here), (_, there) in zip(shared.metrics, alone.metrics, strict=True):
        assert here == pytest.approx(there, rel=1e-4)


@pytest.mark.parametrize("name", FAST)
def test_two_ranks_train_as_one_process_does(one: Results, two: Results, name: str) -> None:
    check_same(two[name], one[name], two["other"][name])


@pytest.mark.slow
def test_two_ranks_correct_and_follow_as_one_process_does(tmp_path: Path) -> None:
    one, two = do_all(tmp_path / "one", SLOW), on_two(tmp_path, SLOW)
    for name in SLOW:
        check_same(two[name], one[name], two["other"][name])


@pytest.mark.parametrize("name", ["rows", "rows of volumes"])
def test_two_ranks_have_the_rows_of_one_process_in_its_order(one: Results, two: Results, name: str) -> None:
    assert len(one[name]) >= 5
    assert [row.keys() for row in two[name]] == [row.keys() for row in one[name]]
    for shared, alone in zip(two[name], one[name], strict=True):
        for key, value in alone.items():
            assert shared[key] == (pytest.approx(value, rel=1e-5) if isinstance(value, float) else value)
    assert two["other"][name] == two[name]


def test_two_ranks_make_the_gallery_of_one_process(one: Results, two: Results) -> None:
    assert one["gallery"] == two["gallery"]
    assert len(one["gallery"]) > 1000


def test_all_ranks_leave_at_the_step_at_which_one_was_asked_to_and_go_on_there(two: Results) -> None:
    stopped, others, gone_on, whole = two["stopped"], two["other"]["stopped"], two["gone on"], two["pixels"]
    assert stopped.stopped == others.stopped == 12
    assert len(stopped.losses) == len(others.losses) == 6
    assert stopped.losses + gone_on.losses == whole.losses
    assert all(torch.equal(gone_on.weights[k], whole.weights[k]) for k in whole.weights)
    assert gone_on.metrics == whole.metrics


def test_one_process_goes_on_where_two_left(two: Results, folder: Path) -> None:
    alone = train("pixels", folder / "left")
    whole = two["pixels"]
    assert [cases for _, cases in two["left for one"].losses + alone.losses] == [cases for _, cases in whole.losses]
    assert close(alone.weights, whole.weights, 1e-5)


def test_the_first_rank_alone_writes(two: Results, folder: Path) -> None:
    assert two["pixels"].metrics == two["other"]["pixels"].metrics
    assert [epoch for epoch, metrics in two["pixels"].metrics if "train/loss" in metrics] == [1, 2, 3]
    assert {file.name for file in (folder / "pixels" / "checkpoints").iterdir()} == {
        "last.pt",
        "previous.pt",
        "best.pt",
    }


def test_a_killed_rank_ends_the_others_in_bounded_time(two: Results, folder: Path) -> None:
    assert float((folder / "seconds").read_text()) < 15


# ------------------------------------------------------------------------------------------ in a single process


def test_in_a_single_process_nothing_is_shared() -> None:
    parameter = torch.ones(2, requires_grad=True)
    sum_gradients([parameter])
    assert parameter.grad is None
    assert (distributed.rank(), distributed.world_size()) == (0, 1)
    assert distributed.gather("a") == ["a"]
    assert distributed.all_max(3) == 3
    distributed.barrier()


def test_what_writes_runs_on_the_first_rank_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []
    write = on_first_rank(written.append)
    for number in range(3):
        monkeypatch.setattr(distributed._here, "rank", number)
        write(number)
    assert written == [0]


def test_gradients_travel_in_buckets_of_one_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "BUCKET", 10)
    sizes = [4, 6, 1, 20, 3]
    tensors = [torch.zeros(size) for size in sizes] + [torch.zeros(2, dtype=torch.float64)]
    buckets = list(distributed._buckets(tensors))
    assert [[len(t) for t in bucket] for bucket in buckets] == [[4, 6], [1], [20], [3], [2]]


def test_a_lost_connection_is_said_so() -> None:
    with pytest.raises(RankLost, match="another process of this run is gone"), distributed._talking():
        raise RuntimeError("Connection closed by peer\nmore")
