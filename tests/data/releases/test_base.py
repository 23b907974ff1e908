"""Files found by their names."""

from __future__ import annotations

from pathlib import Path

from helpers_releases import fails

from medsam2.data.releases.base import files_by_stem


def test_links_to_nothing_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("a.png", "sub/b.png"):
        (tmp_path / name).symlink_to(tmp_path / "annex" / name)
    fails(
        lambda: files_by_stem(tmp_path, [".png"]),
        "missing",
        "a.png is a link to a file that is not there, and so is 1 more: fetch the files",
    )
    (tmp_path / "c.png").touch()
    (tmp_path / "d.png").symlink_to(tmp_path / "c.png")
    assert list(files_by_stem(tmp_path, [".png"])) == ["c", "d"]
