"""Facts about files that take long to find out, remembered as long as the file stays what it was.

A file counts as unchanged while its size, its inode and its times of change (in nanoseconds) are the same. Any number
of processes may share a folder of facts: each is a small file of its own, written beside and renamed.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from medsam2.files import hash_file, write_atomic

REMEMBERED = 4096  # facts kept in memory
HEADERS = (".mhd", ".nhdr")  # MetaImage and NRRD, whose voxels are in a file beside
VOXELS = re.compile(rb"^(?:ElementDataFile|data ?file)[ \t]*[:=][ \t]*([^\r\n]+?)[ \t]*$", re.MULTILINE | re.IGNORECASE)


class FileFacts:
    """What was found out about files; kept in ``folder``, or in this process alone with None."""

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = None if folder is None else Path(folder).expanduser() / "facts"
        self._known: dict[str, Any] = {}

    def digest(self, *paths: Path) -> str:
        """One sha256, as hex, of the content of files; of a folder that of the files in it, with their names."""
        each = [str(self.find([path], "sha256", partial(_digest, path))) for path in paths]
        return each[0] if len(each) == 1 else hashlib.sha256(" ".join(each).encode()).hexdigest()

    def find(self, paths: Sequence[Path], name: str, compute: Callable[[], Any]) -> Any:
        """The fact ``name`` about some files: remembered, or computed (a JSON value) and kept."""
        states = "\n".join(f"{path.absolute()} {_state(path)}" for path in paths)
        key = hashlib.sha256(f"{name}\n{states}".encode()).hexdigest()[:32]
        if key not in self._known:
            if len(self._known) >= REMEMBERED:  # memory must not grow with the number of cases
                self._known.clear()
            stored = self._load(key)
            self._known[key] = self._store(key, compute()) if stored is None else stored["value"]
        return self._known[key]

    def _load(self, key: str) -> dict[str, Any] | None:
        if self.folder is None:
            return None
        try:
            stored = json.loads((self.folder / key[:2] / f"{key}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):  # not there, or damaged: found out once more
            return None
        return stored if isinstance(stored, dict) and "value" in stored else None

    def _store(self, key: str, value: Any) -> Any:
        if self.folder is not None:
            with suppress(OSError):  # a full or read-only disk: known to this process all the same
                write_atomic(self.folder / key[:2] / f"{key}.json", json.dumps({"value": value}))
        return value


def _state(path: Path) -> str:
    """What changes with a file's content: size, times, inode; of all its parts."""
    found = []
    for part in find_parts(path):
        status = part.stat()
        found.append(f"{part.name} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}")
    return "\n".join(found)


def _digest(path: Path) -> str:
    parts = find_parts(path)
    if parts == [path]:
        return hash_file(path)
    return hashlib.sha256("\n".join(f"{part.name} {hash_file(part)}" for part in parts).encode()).hexdigest()


def measure(path: Path) -> int:
    """The bytes of a file with all its parts, or of all files in a folder."""
    return sum(part.stat().st_size for part in find_parts(path))


def find_parts(path: Path) -> list[Path]:
    """The files that are read for one: those in a folder; a header and the file of its voxels; else itself alone."""
    if path.is_dir():
        return [file for file in sorted(path.rglob("*")) if file.is_file()]
    if path.suffix.lower() not in HEADERS:
        return [path]
    names = [name.decode(errors="replace") for name in VOXELS.findall(path.read_bytes())]
    if names == ["LOCAL"] or not names:
        return [path]
    beside = [path.parent / name for name in names]
    if not all(file.is_file() for file in beside):  # a list or a pattern of names: whatever lies there may be meant
        beside = [file for file in sorted(path.parent.iterdir()) if file.is_file() and file != path]
    return [path, *beside]
