"""The cache: never stale, never half, limited, and shared by processes."""

from __future__ import annotations

import logging
import multiprocessing
import os
import time
from pathlib import Path

import numpy as np
import pytest
from helpers_data import square
from PIL import Image

from medsam2.data import cache as cache_module
from medsam2.data.cache import DiskCache, NoCache, pack_entry, unpack_entry
from medsam2.data.prepared import Prepared, pack

EXAMPLE = Prepared(
    np.arange(48, dtype=np.uint8).reshape(3, 4, 4),
    (20, 30),
    {"cup": pack(np.stack([square(2, 3, 4, 5), square(2, 3, 5, 5)])), "disc": pack(square(0, 0, 20, 30)[None])},
    (0.5, 0.25),
)


def same(one: Prepared, other: Prepared) -> bool:
    return (
        np.array_equal(one.image, other.image)
        and one.image.dtype == other.image.dtype
        and (one.shape, one.spacing, one.thickness) == (other.shape, other.spacing, other.thickness)
        and list(one.raters) == list(other.raters)
        and all(np.array_equal(one.raters[s].native(), other.raters[s].native()) for s in one.raters)
    )


@pytest.mark.parametrize(("spacing", "thickness"), [(None, None), ((0.5, 0.25), None), ((0.5, 0.25), 3.5)])
def test_an_entry_comes_back_as_it_was(
    tmp_path: Path, spacing: tuple[float, float] | None, thickness: float | None
) -> None:
    cache = DiskCache(tmp_path)
    stored = EXAMPLE._replace(spacing=spacing, thickness=thickness)
    assert cache.load("k") is None
    assert not cache.has("k")
    cache.store("k", stored)
    assert cache.has("k")
    found = cache.load("k")
    assert found is not None
    assert same(found, stored)
    assert cache.load("other") is None


@pytest.mark.parametrize("position", [0, 4, 20, -1])
def test_a_changed_byte_is_found(tmp_path: Path, position: int, caplog: pytest.LogCaptureFixture) -> None:
    cache = DiskCache(tmp_path)
    cache.store("k", EXAMPLE)
    (file,) = tmp_path.rglob("*.case")
    content = bytearray(file.read_bytes())
    content[position] ^= 1
    file.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert cache.load("k") is None
    assert "is damaged" in caplog.text
    assert not file.exists()  # so that it is made again


@pytest.mark.parametrize("length", [0, 3, 4, 100])
def test_a_truncated_entry_is_found(tmp_path: Path, length: int) -> None:
    cache = DiskCache(tmp_path)
    cache.store("k", EXAMPLE)
    (file,) = tmp_path.rglob("*.case")
    file.write_bytes(file.read_bytes()[:length])
    assert cache.load("k") is None


def test_an_entry_is_never_seen_half_written(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path)
    cache.store("k", EXAMPLE)
    assert [path.suffix for path in tmp_path.rglob("*") if path.is_file() and "locks" not in path.parts] == [".case"]


def test_the_least_recently_used_entries_go_first(tmp_path: Path) -> None:
    size = len(pack_entry(EXAMPLE))
    cache = DiskCache(tmp_path, max_gb=5.5 * size / 1e9)
    for i in range(5):
        cache.store(f"k{i}", EXAMPLE)
        os.utime(next(tmp_path.rglob(f"k{i}.case")), (1000 + i, 1000 + i))
    cache.load("k0")  # used: no longer the oldest
    cache.store("k5", EXAMPLE)
    cache.shrink()
    assert sorted(path.stem for path in tmp_path.rglob("*.case")) == ["k0", "k3", "k4", "k5"]  # 90 % of 5.5 entries


def test_storing_keeps_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "CHECK_EVERY", 4)
    size = len(pack_entry(EXAMPLE))
    cache = DiskCache(tmp_path, max_gb=6.5 * size / 1e9)
    for i in range(40):
        cache.store(f"k{i}", EXAMPLE)
    assert len(list(tmp_path.rglob("*.case"))) <= 6 + 4


def test_too_small_a_cache_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache = DiskCache(tmp_path, max_gb=1.5 * len(pack_entry(EXAMPLE)) / 1e9)
    for i in range(3):
        cache.store(f"k{i}", EXAMPLE)
    cache.shrink()
    assert "raise cache.max_gb" in caplog.text


def test_a_disk_that_cannot_be_written_is_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("in the way")
    cache = DiskCache(tmp_path / "file" / "cache")
    cache.store("k", EXAMPLE)
    cache.store("k", EXAMPLE)
    assert caplog.text.count("cannot be written") == 1
    assert "paths.cache_dir=DIR" in caplog.text
    assert cache.load("k") is None


@pytest.mark.parametrize("size", [0, -1])
def test_a_limit_without_room_is_refused(tmp_path: Path, size: float) -> None:
    with pytest.raises(ValueError, match=r"cache\.max_gb=.*cache=none"):
        DiskCache(tmp_path, size)


def test_no_cache_keeps_nothing() -> None:
    cache = NoCache()
    cache.store("k", EXAMPLE)
    assert cache.load("k") is None
    assert not cache.has("k")


def test_unpacking_refuses_what_it_did_not_pack() -> None:
    assert same(unpack_entry(bytearray(pack_entry(EXAMPLE))), EXAMPLE)
    with pytest.raises(ValueError, match="checksum"):
        unpack_entry(bytearray())


def _hammer(folder: str, seed: int, failures: multiprocessing.Queue[str]) -> None:
    cache = DiskCache(folder, max_gb=8 * len(pack_entry(EXAMPLE)) / 1e9)
    for i in range(150):
        key = f"k{(i * seed) % 10}"
        found = cache.load(key)
        if found is None:
            cache.store(key, EXAMPLE)
        elif not same(found, EXAMPLE):
            failures.put(key)
        if i % 25 == 0:
            cache.shrink()


def test_many_processes_read_write_and_delete_at_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    context = multiprocessing.get_context("fork")
    failures: multiprocessing.Queue[str] = context.Queue()
    workers = [context.Process(target=_hammer, args=(str(tmp_path), seed, failures)) for seed in (1, 3, 7)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert failures.empty()


def test_what_killed_writers_left_is_swept(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path)
    cache.store("k", EXAMPLE)
    (file,) = tmp_path.rglob("*.case")
    old, new = file.with_name(".k.case.1.1"), file.with_name(".k.case.2.2")
    for left in (old, new):
        left.write_bytes(b"half")
    os.utime(old, (1000, 1000))
    cache.shrink()
    assert sorted(file.parent.iterdir()) == [new, file]


def test_locks_are_held_by_one_at_a_time(tmp_path: Path) -> None:
    one, other = DiskCache(tmp_path), DiskCache(tmp_path)
    with one.lock("volume") as mine:
        assert mine
        with other.lock("volume", wait=False) as theirs:
            assert not theirs
        with other.lock("another", wait=False) as free:
            assert free
    with other.lock("volume", wait=False) as theirs:
        assert theirs


def test_use_is_remembered(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path)
    cache.store("k", EXAMPLE)
    (file,) = tmp_path.rglob("*.case")
    os.utime(file, (1000, 1000))
    cache.load("k")
    assert time.time() - file.stat().st_mtime < 60


def test_pillow_is_not_needed_to_read_an_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = DiskCache(tmp_path)
    cache.store("k", EXAMPLE)
    monkeypatch.setattr(Image, "open", lambda *_: pytest.fail("decoded"))
    assert cache.load("k") is not None
