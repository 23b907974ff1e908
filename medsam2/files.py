"""Writing files so that nobody ever sees half of one, and naming them by their content."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write beside, then rename: a reader sees the old file or the new one. Makes the folder if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        error.filename = error.filename or str(path)  # a full disk is not told by the name of what is written
        raise
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def hash_file(path: Path) -> str:
    """The sha256 of a file's content, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_contents(files: Iterable[Path], root: Path) -> str:
    """One sha256 of several files below ``root``, with their names, in whatever order they come."""
    digest = hashlib.sha256()
    for name, file in sorted((file.relative_to(root).as_posix(), file) for file in files):
        digest.update(f"{name}\0{file.stat().st_size}\0".encode() + file.read_bytes())
    return digest.hexdigest()


def fsync_folder(folder: Path) -> None:
    """Makes the names in a folder outlive a power cut; the files' contents need an fsync of their own."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def show_differences(there: Mapping[str, Any], here: Mapping[str, Any], most: int = 8) -> str:
    """The keys in which two flat configs differ: `optim.lr (0.001 there, 0.0001 here), seed (…)`."""
    absent = "absent"
    keys = [key for key in sorted({*there, *here}) if there.get(key, absent) != here.get(key, absent)]
    shown = [f"{key} ({there.get(key, absent)} there, {here.get(key, absent)} here)" for key in keys[:most]]
    return ", ".join(shown) + (f" and {len(keys) - most} more" if len(keys) > most else "")
