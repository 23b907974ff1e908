"""Download over HTTP: a transfer that breaks off is resumed, in this process or in a later one.

Beside the file grow NAME.part, the bytes that came, and NAME.part.json, which file of the server they are of.
"""

from __future__ import annotations

import errno
import http.client
import json
import logging
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from medsam2.training.progress import progress_bar

log = logging.getLogger(__name__)

CHUNK = 1 << 18  # bytes
BROKEN = (http.client.HTTPException, ConnectionError, TimeoutError)  # what a server can do to a request under way


class Broken(Exception):
    """A transfer that ended early; what came is kept."""


class Changed(Broken):
    """The bytes that came before are of another file than the server has now."""


@dataclass(frozen=True)
class Source:
    """A server's file. validator: a strong ETag or a date, empty where it names neither; size in bytes, if named."""

    url: str
    validator: str
    size: int | None


class Part:
    """An unfinished file and the note of what it is a part of."""

    def __init__(self, target: Path):
        self.path = target.with_name(target.name + ".part")
        self.note = target.with_name(target.name + ".part.json")

    @property
    def length(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def source(self, url: str) -> Source | None:
        """What was begun from `url`; None if nothing was, or nothing that can be gone on with."""
        try:
            known = Source(**json.loads(self.note.read_text()))
        except (OSError, ValueError, TypeError):  # none, or one that a crash cut off
            return None
        usable = known.url == url and known.size is not None and self.length <= known.size
        return known if usable and self.length else None

    def begin(self, source: Source) -> None:
        self.path.unlink(missing_ok=True)  # first: bytes without a note are not gone on with
        self.note.write_text(json.dumps(asdict(source)))

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)


def check_url(url: str) -> None:
    """Raises ValueError for anything that is no http or https address."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ValueError(f"url={url}: only http and https addresses are fetched; look at model.release.url")


def describe(url: str, timeout: float) -> Source:
    """What the server says about a file, of which nothing is read.

    Raises:
        ValueError, ConnectionError: as download.
    """
    try:
        with _open(url, timeout, {}) as response:
            return _source(url, response)
    except Broken as error:
        raise ConnectionError(f"{url}: {error}") from error


def download(url: str, part: Part, size: int | None, timeout: float, attempts: int) -> None:
    """Complete the part.

    Args:
        size: bytes the file must have; None if unknown.
        timeout: seconds without a byte after which a transfer counts as broken.
        attempts: broken transfers in a row, none of which brought a byte, before giving up.

    Raises:
        ValueError: the server has no such file, or one of another size.
        ConnectionError: no such server, no network, or too many broken transfers.
        OSError: the disk is full.
    """
    left = attempts
    while True:
        before = part.length
        try:
            return _transfer(url, part, size, timeout)
        except Broken as error:
            left = attempts if part.length > before else left - 1
            if isinstance(error, Changed):
                part.remove()
            if left == 0:
                kept = f"; {part.length} bytes are kept, the same command goes on from there" if part.length else ""
                raise ConnectionError(f"{url}: broken off {attempts} times, last by: {error}{kept}") from error
            log.info("%s: broken off (%s) after %d bytes; going on", url, error, part.length)
            time.sleep(min(1.0, timeout / 30))


def _transfer(url: str, part: Part, size: int | None, timeout: float) -> None:
    """One request: appends to the part, or begins it again where there is none of the file that the server has."""
    known = part.source(url)
    if known is not None and size not in (None, known.size):
        known = None  # begun when another size was expected
    if known is not None and known.size == part.length:
        return  # killed after the last byte
    headers = {}
    if known is not None:
        headers = {"Range": f"bytes={part.length}-"} | ({"If-Range": known.validator} if known.validator else {})
    with _open(url, timeout, headers) as response:
        if response.headers.get_content_type() == "text/html":
            raise ValueError(f"{url}: the server answers with a web page, perhaps to ask for a login; not fetched")
        source = _source(url, response)
        if size is not None and source.size not in (None, size):
            raise _other_size(url, source.size, size)
        source = replace(source, size=source.size or size)
        if response.status == HTTPStatus.PARTIAL_CONTENT:
            if source != known or not response.headers["Content-Range"].startswith(f"bytes {part.length}-"):
                raise Changed("the server has another file now")
            log.info("%s: going on after %d of %d bytes", url, part.length, known.size)
        else:
            part.begin(source)
        _check_space(part, (source.size or 0) - part.length)
        _append(part, response, source.size)
    if size is not None and part.length > size:
        came = part.length
        part.remove()
        raise _other_size(url, came, size)
    if source.size is not None and part.length != source.size:
        raise Broken(f"{part.length} of {source.size} bytes came")


def _other_size(url: str, found: int | None, size: int) -> ValueError:
    return ValueError(f"{url} has {found} bytes, model.release.size says {size}: another file by now")


def _append(part: Part, response: Any, size: int | None) -> None:
    """The rest of the response to the end of the part, safely on the disk."""
    title, chunks = part.path.name.removesuffix(".part"), -(-(size or 1) // CHUNK)
    try:
        with part.path.open("ab") as file, progress_bar(title, chunks, done=part.length // CHUNK) as advance:
            while chunk := response.read(CHUNK):
                file.write(chunk)
                advance()
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _disk_full(part, (size or 0) - part.length) from error
        raise Broken(str(error)) from error
    except http.client.HTTPException as error:
        raise Broken(repr(error)) from error


def _check_space(part: Part, needed: int) -> None:
    if shutil.disk_usage(part.path.parent).free < needed:
        raise _disk_full(part, needed)


def _disk_full(part: Part, needed: int) -> OSError:
    remedy = "make room and repeat the command, it goes on; or choose another paths.checkpoint_dir"
    return OSError(f"{part.path.parent}: the disk is full, {max(0, needed)} bytes more are needed; {remedy}")


def _open(url: str, timeout: float, headers: Mapping[str, str]) -> Any:
    """The response to a GET request; see download for what is raised, and Broken where trying again may help."""
    opener = urllib.request.OpenerDirector()  # build_opener would also read local files and FTP addresses
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPErrorProcessor,
        urllib.request.UnknownHandler,
    ):
        opener.add_handler(handler())
    try:
        return opener.open(urllib.request.Request(url, headers=dict(headers)), timeout=timeout)
    except urllib.error.HTTPError as error:
        text = f"HTTP {error.code} {error.reason}"
        error.close()
        if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise Changed(text) from error
        if error.code >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise Broken(text) from error
        raise ValueError(f"{url}: {text}; the server gives no such file, look at model.release.url") from error
    except urllib.error.URLError as error:
        raise ConnectionError(f"{url}: the server cannot be reached ({error.reason}); is there a network?") from error
    except BROKEN as error:
        raise Broken(repr(error)) from error


def _source(url: str, response: Any) -> Source:
    tag = response.headers.get("ETag", "")
    validator = tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified", "")
    whole = re.fullmatch(r"bytes \d+-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    length = whole[1] if whole else response.headers.get("Content-Length")
    return Source(url, validator, int(length) if length not in (None, "*") else None)
