"""Several processes (ranks) that compute each step together, one device each. In a single process all of it is idle.

What ranks tell each other goes through gloo on the host; sums of CUDA tensors go through NCCL. Importing this is cheap:
torch is imported where ranks are.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec

if TYPE_CHECKING:
    from torch import Tensor

BUCKET = 1 << 24  # numbers that are summed at once: 64 MiB beside the gradients, not all of them twice
FOREVER = timedelta(days=30)  # ranks wait for one another; that one is gone is found by who started them

P = ParamSpec("P")


class RankLost(RuntimeError):
    """Another process of the run does not answer: it has ended, or the connection to it has."""


@dataclass
class _Place:
    rank: int = 0
    world: int = 1


_here = _Place()


def rank() -> int:
    """The number of this process among those of the run, from 0."""
    return _here.rank


def world_size() -> int:
    """How many processes compute the run."""
    return _here.world


def serve(host: str) -> Any:
    """A store for ranks to meet at, on a free port (its attribute `port`); it lasts as long as the object.

    Args:
        host: the address it listens on; of this machine alone, 127.0.0.1, nobody else can reach it.
    """
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    listening = socket.create_server((host, 0))
    port, descriptor = listening.getsockname()[1], listening.detach()
    wait = timedelta(minutes=10)
    return TCPStore(
        host, port, is_master=True, wait_for_workers=False, timeout=wait, master_listen_fd=descriptor
    )  # by itself it would listen on every interface


@contextmanager
def joined(rank: int, world: int, host: str, port: int) -> Iterator[None]:
    """Inside, this process is one of `world` ranks; the store they meet at is served at host:port by who started them.

    Raises:
        RankLost: nobody serves it, or not all of them came.
    """
    import torch
    import torch.distributed as dist

    nccl = dist.is_nccl_available() and torch.cuda.is_available()
    with _talking():
        store = dist.TCPStore(  # type: ignore[attr-defined]
            host, port, is_master=False, timeout=timedelta(minutes=10)
        )
        backend = "cpu:gloo,cuda:nccl" if nccl else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=FOREVER)
    _here.rank, _here.world = rank, world
    try:
        yield
    finally:
        _here.rank, _here.world = 0, 1
        dist.destroy_process_group()


def on_first_rank(function: Callable[P, None]) -> Callable[P, None]:
    """A function that writes: called by every rank, it runs on the first alone."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> None:
        if rank() == 0:
            function(*args, **kwargs)

    return call


# --------------------------------------------------------- every rank has to call these, as often and in the same order


def gather(value: Any) -> list[Any]:
    """What each rank has, in their order. It travels as a pickle."""
    if world_size() == 1:
        return [value]
    from torch.distributed import all_gather_object

    values = [None] * world_size()
    with _talking():
        all_gather_object(values, value)
    return values


def all_max(number: int) -> int:
    """The largest number that a rank has."""
    return max(gather(number))


def barrier() -> None:
    """Goes on when all ranks have come here: what the first one wrote before is there."""
    gather(None)


def all_sum(tensor: Tensor) -> Tensor:
    """The tensor, in which the sum over all ranks now stands, bit for bit the same on each."""
    if world_size() > 1:
        from torch.distributed import all_reduce

        with _talking():
            all_reduce(tensor)
    return tensor


def sum_gradients(parameters: Sequence[Tensor]) -> None:
    """Makes every gradient its sum over all ranks; one that no rank has stays None."""
    if world_size() == 1:
        return
    import torch

    known = all_sum(torch.tensor([p.grad is not None for p in parameters], dtype=torch.int32)).tolist()
    gradients: list[Tensor] = []
    for parameter, count in zip(parameters, known, strict=True):
        if count:
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            gradients.append(parameter.grad)
    for bucket in _buckets(gradients):
        summed = all_sum(torch.cat([gradient.flatten() for gradient in bucket]))
        parts = summed.split([gradient.numel() for gradient in bucket])
        for gradient, part in zip(bucket, parts, strict=True):
            gradient.copy_(part.view_as(gradient))


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Neighbours of together at most BUCKET numbers, or one larger than that, all of one dtype."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        full = sum(t.numel() for t in bucket) + tensor.numel() > BUCKET
        if bucket and (full or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket


@contextmanager
def _talking() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # gloo's and NCCL's are, and say what the network saw
        raise RankLost(f"another process of this run is gone ({str(error).splitlines()[0]})") from error
