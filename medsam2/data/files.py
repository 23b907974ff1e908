"""Facts about files that take long to find out, remembered as long as the file stays what it was.

A file counts as unchanged while its size and modification time (in nanoseconds) are the same. Any number of processes
may share a folder of facts: each is a small file of its own, written beside and renamed.
"""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from medsam2.files import hash_file, write_atomic

REMEMBERED = 4096  # facts kept in memory


class FileFacts:
    """What was found out about files; kept in ``folder``, or in this process alone with None."""

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = None if folder is None else Path(folder).expanduser() / "facts"
        self._known: dict[str, Any] = {}

    def digest(self, *paths: Path) -> str:
        """One sha256, as hex, of the content of files; of a folder that of the files in it, with their names."""
        return str(self.find(paths, "sha256", lambda: _digest(paths)))

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
    """Size and modification time; of a folder those of its files."""
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        return " ".join(f"{p.name} {_state(p)}" for p in sorted(path.rglob("*")) if p.is_file())
    return f"{status.st_size} {status.st_mtime_ns}"


def _digest(paths: Sequence[Path]) -> str:
    if len(paths) == 1 and not paths[0].is_dir():
        return hash_file(paths[0])
    parts = []
    for path in paths:
        inside = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        parts += [f"{file.name} {hash_file(file)}" for file in inside]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
