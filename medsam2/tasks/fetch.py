"""Get a model's released checkpoint: in its place only when whole, checked where size or SHA-256 are configured."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from medsam2.modeling.identity import hash_file
from medsam2.tasks.download import Part, check_url, describe, download

log = logging.getLogger(__name__)


def fetch(
    path: str | None,
    url: str | None,
    size: int | None = None,
    sha256: str | None = None,
    force: bool = False,
    timeout: float = 30.0,
    attempts: int = 5,
) -> None:
    """Download a file to `path`; one that is there and right stays. Processes that fetch the same file take turns.

    Args:
        path: where the model's checkpoint is looked for; None for a model that has none.
        url: the folder, http or https, in which a server has the file under the same name; None if there is none.
        size, sha256: bytes and SHA-256 of the file, where they are known.
        force: replace a file that is there and is another one.
        timeout, attempts: as download.

    Raises:
        ValueError: nothing to fetch, no such file, or not the one that was expected.
        ConnectionError: no network, or a server in trouble; what came is kept.
        OSError: the disk is full, or the folder cannot be written.
    """
    if path is None:
        raise ValueError("nothing to fetch: this model has no released weights (model.checkpoint=null)")
    target = Path(path).expanduser().absolute()
    if url is None:
        from medsam2.modeling.weights import missing_checkpoint_message

        raise ValueError(f"nothing to fetch: there is no model.release.url. {missing_checkpoint_message(target)}")
    check_url(url)
    url = f"{url}/{target.name}"
    with _held(target):
        if target.exists() and _is_right(target, url, size, sha256, force, timeout):
            log.info("%s is there already", target)
            return
        start = time.time()
        part = Part(target)
        download(url, part, size, timeout, attempts)
        digest = hash_file(part.path)
        if sha256 not in (None, digest):
            part.remove()
            raise ValueError(f"{url}: its SHA-256 is {digest}, expected {sha256}; what came was removed")
        os.replace(part.path, target)
        part.remove()
        _sync(target.parent)
    megabytes, seconds = target.stat().st_size / 1e6, time.time() - start
    log.info("fetched %s: %.1f MB in %.0f s, SHA-256 %s", target, megabytes, seconds, digest)


@contextmanager
def _held(target: Path) -> Iterator[None]:
    """Keeps other processes from the file meanwhile; the operating system lets go when this one ends."""
    lock = FileLock(target.with_name(f".{target.name}.lock"))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        log.info("another process fetches %s: waiting for it", target)
        lock.acquire()
    except OSError as error:
        remedy = "choose a folder you may write to with paths.checkpoint_dir=DIR"
        raise OSError(f"{target.parent}: cannot be written ({error.strerror}); {remedy}") from error
    try:
        yield
    finally:
        lock.release()


def _is_right(target: Path, url: str, size: int | None, sha256: str | None, force: bool, timeout: float) -> bool:
    """Whether the file in place is the one to fetch: by its hash, else by its size, if need be the server's.

    Raises:
        ValueError: it is another one, and may be somebody's own work; not with `force`.
    """
    if sha256 is not None:
        right, wanted = hash_file(target) == sha256, f"SHA-256 {sha256}"
    else:
        try:
            size = size or describe(url, timeout).size
        except ConnectionError as error:
            log.warning("%s is there, but was not compared with the released one: %s", target, error)
            return True
        right, wanted = size in (None, target.stat().st_size), f"{size} bytes"
    if not right and not force:
        raise ValueError(
            f"{target} ({target.stat().st_size} bytes) is not the released file ({wanted}): "
            "force=true replaces it, paths.checkpoint_dir=DIR fetches to another folder"
        )
    return right


def _sync(folder: Path) -> None:
    """The renaming itself onto the disk, where a folder can be opened for it: on Windows it cannot."""
    with suppress(PermissionError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
