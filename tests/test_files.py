"""Files are written all or not at all."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from medsam2.files import hash_file, write_atomic


@pytest.mark.parametrize("contents", [("old", "new"), (b"old", b"new")])
def test_write_atomic_leaves_one_file(tmp_path: Path, contents: tuple[str | bytes, ...]) -> None:
    for content in contents:
        write_atomic(tmp_path / "folder" / "file.txt", content)
    assert [p.name for p in (tmp_path / "folder").iterdir()] == ["file.txt"]
    assert (tmp_path / "folder" / "file.txt").read_text() == "new"


def test_a_kill_in_between_leaves_the_old_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_atomic(tmp_path / "file", "old")

    def killed(source: object, target: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(tmp_path / "file", "new")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "old"


def test_the_usual_permissions_hold(tmp_path: Path) -> None:
    write_atomic(tmp_path / "ours", "")
    (tmp_path / "usual").write_text("")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_a_file_is_named_by_its_content(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert hash_file(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()
