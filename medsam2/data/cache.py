"""Prepared cases on disk, for all jobs of a sweep and all sweeps to come.

An entry is named by the content of the case's files, by everything that decides how they are decoded, and by the code
that does it: a changed file, setting or line of code makes another name, so nothing stale can be read. Entries are
written beside and renamed, and carry a checksum: a damaged one is made again.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from safetensors.numpy import save

from medsam2.data.prepared import PackedMasks, Prepared
from medsam2.files import write_atomic

log = logging.getLogger(__name__)

CHECK_EVERY = 128  # entries written by a process between two looks at the size of the whole
# by their names in safetensors
KINDS: dict[str, np.dtype[Any]] = {"U8": np.dtype(np.uint8), "U16": np.dtype(np.uint16)}
DAY = 24 * 3600  # seconds
USED = 3600  # seconds; an entry's time of last use is not kept more precisely


class Cache(Protocol):
    """Where prepared cases are kept."""

    folder: Path | None

    def load(self, key: str) -> Prepared | None: ...

    def store(self, key: str, prepared: Prepared) -> None: ...

    def has(self, key: str) -> bool: ...


class NoCache:
    """Keeps nothing: every case is decoded every time."""

    folder: Path | None = None

    def load(self, key: str) -> Prepared | None:
        return None

    def store(self, key: str, prepared: Prepared) -> None:
        pass

    def has(self, key: str) -> bool:
        return False


class DiskCache:
    """A folder of prepared cases that any number of processes may share.

    Args:
        folder: made when the first entry is written.
        max_gb: above this the entries unused for longest are deleted; they are made again when needed.
    """

    def __init__(self, folder: str | Path, max_gb: float = 50.0) -> None:
        if not max_gb > 0:
            raise ValueError(f"cache.max_gb={max_gb} must be above 0; cache=none keeps nothing")
        self.folder: Path | None = Path(folder).expanduser().absolute()
        self.max_gb = max_gb
        self._cases = self.folder / "cases"
        self._written = 0
        self._full = False

    def has(self, key: str) -> bool:
        return os.path.isfile(self._path(key))

    def load(self, key: str) -> Prepared | None:
        """The entry, or None if there is none or it is damaged; that one is deleted."""
        path = self._path(key)
        try:
            with open(path, "rb", buffering=0) as file:
                status = os.fstat(file.fileno())
                content = bytearray(status.st_size)
                file.readinto(content)
        except OSError:
            return None
        try:
            prepared = unpack_entry(content)
        except ValueError as error:
            log.warning("%s is damaged (%s) and is made again", path, error)
            with suppress(OSError):
                os.unlink(path)
            return None
        if time.time() - status.st_mtime > USED:
            with suppress(OSError):
                os.utime(path)
        return prepared

    def store(self, key: str, prepared: Prepared) -> None:
        """Keeps an entry; a disk that is full or read-only is named once, and nothing more is written."""
        if self._full:
            return
        try:
            write_atomic(Path(self._path(key)), pack_entry(prepared))
        except OSError as error:
            self._give_up(error)
            return
        if self._written % CHECK_EVERY == 0:
            self.shrink()
        self._written += 1

    def can_store(self) -> bool:
        """Whether entries can be written; says so once where they cannot."""
        if not self._full:
            try:
                self._cases.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryFile(dir=self._cases):
                    pass
            except OSError as error:
                self._give_up(error)
        return not self._full

    def _give_up(self, error: OSError) -> None:
        self._full = True
        log.warning(
            "the cache %s cannot be written (%s): cases are decoded every time; choose another folder with "
            "paths.cache_dir=DIR, or cache=none",
            self.folder,
            error.strerror,
        )

    def shrink(self) -> None:
        """Deletes what was unused for longest until 90 % of ``max_gb`` are left; one process at a time does it."""
        with self.lock("shrink", wait=False) as mine:
            if not mine:
                return
            _sweep(self._cases)
            entries = sorted(_entries(self._cases))
            total, limit = sum(size for _, size, _ in entries), self.max_gb * 1e9
            if total <= limit:
                return
            young = 0
            for used, size, path in entries:
                if total <= 0.9 * limit:
                    break
                with suppress(OSError):
                    os.unlink(path)
                total -= size
                young += time.time() - used < USED
            if young:
                log.warning(
                    "the cache %s holds less than this work needs: %d cases of the last hour were dropped; raise "
                    "cache.max_gb=%g",
                    self.folder,
                    young,
                    self.max_gb,
                )

    @contextmanager
    def lock(self, name: str, wait: bool = True) -> Iterator[bool]:
        """Whether this process alone has ``name``; where a file system has no locks everyone has it."""
        assert self.folder is not None
        lock = None
        try:
            (self.folder / "locks").mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.folder / "locks" / f"{name}.lock")
            lock.acquire(timeout=-1 if wait else 0)
        except Timeout:
            yield False
            return
        except (OSError, NotImplementedError):  # what filelock raises for a file system that cannot lock
            lock = None  # then work may be done twice, but no entry is ever half written
        try:
            yield True
        finally:
            if lock is not None:
                lock.release()

    def _path(self, key: str) -> str:
        return f"{self._cases}/{key[:2]}/{key}.case"  # as text: a loader asks for thousands a second


def _sweep(folder: Path) -> None:
    """Deletes what writers left behind that were killed: nobody writes for a day."""
    for path in folder.glob("*/.*.case.*"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > DAY:
                path.unlink()


def _entries(folder: Path) -> Iterator[tuple[float, int, str]]:
    """(last use, bytes, path) of every entry; those that vanish meanwhile are left out."""
    for path in folder.glob("*/*.case"):
        with suppress(OSError):
            status = path.stat()
            yield status.st_mtime, status.st_size, str(path)


# ----------------------------------------------------------------------------------------------------- entries


def pack_entry(prepared: Prepared) -> bytes:
    """CRC-32 (4 bytes), then a safetensors file: the image, the bits of each structure, and the rest as JSON."""
    rest = {
        "shape": prepared.shape,
        "spacing": prepared.spacing,
        "thickness": prepared.thickness,
        "raters": {structure: [masks.shape, masks.box] for structure, masks in prepared.raters.items()},
    }
    arrays = {"image": prepared.image, "rest": np.frombuffer(json.dumps(rest).encode(), dtype=np.uint8)}
    arrays |= {f"bits {structure}": masks.bits for structure, masks in prepared.raters.items()}
    content = save(arrays)
    return zlib.crc32(content).to_bytes(4, "little") + content


def unpack_entry(content: bytearray) -> Prepared:
    """The inverse of ``pack_entry``; arrays lie in ``content``. Raises ValueError if a byte is missing or changed."""
    if zlib.crc32(memoryview(content)[4:]).to_bytes(4, "little") != content[:4]:
        raise ValueError("its checksum is another")
    arrays = _find_arrays(content, 4)
    rest: dict[str, Any] = json.loads(arrays["rest"].tobytes())
    raters = {
        structure: PackedMasks(tuple(shape), tuple(box), arrays[f"bits {structure}"])
        for structure, (shape, box) in rest["raters"].items()
    }
    spacing = rest["spacing"]
    return Prepared(arrays["image"], tuple(rest["shape"]), raters, spacing and tuple(spacing), rest["thickness"])


def _find_arrays(content: bytearray, start: int) -> dict[str, NDArray[Any]]:
    """The arrays of a safetensors file that begins at ``start``, in place: the library's reader copies them twice."""
    data = start + 8 + int.from_bytes(content[start : start + 8], "little")
    header = json.loads(content[start + 8 : data])
    arrays = {}
    for name, entry in header.items():
        kind, (first, last) = KINDS[entry["dtype"]], entry["data_offsets"]
        flat = np.frombuffer(content, kind, (last - first) // kind.itemsize, data + first)
        arrays[name] = flat.reshape(entry["shape"])
    return arrays
