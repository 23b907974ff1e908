"""Which file belongs to which."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers_releases import fails

from medsam2.data.releases.base import Problem, join
from medsam2.data.releases.image_pairs import Files, pair


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def test_what_counts(tmp_path: Path) -> None:
    touch(
        tmp_path, "b.png", "a.b.JPG", "c_mask.png", "._b.png", "__x.png", "notes.txt", ".png", "deep/d.png", "e.ppm.gz"
    )
    assert list(Files(tmp_path).find()) == ["a.b", "b", "c_mask", "e"]
    assert Files(tmp_path, "_mask").find() == {"c": tmp_path / "c_mask.png"}
    assert list(Files(tmp_path, "_MASK", (".png",)).find()) == ["c"]
    assert list(Files(tmp_path, suffixes=(".jpg",)).find()) == ["a.b"]


def test_series_are_folders(tmp_path: Path) -> None:
    touch(tmp_path, "one/1.dcm", "two/1.png", "three.nii.gz", ".four/1.dcm")
    for folder in ("one", ".four"):
        (tmp_path / folder / "1.dcm").write_bytes(bytes(128) + b"DICM")
    assert list(Files(tmp_path, "", (".nii", ".nii.gz"), series=True).find()) == ["one", "three"]


def test_two_files_of_one_name(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "a.jpg")
    fails(Files(tmp_path).find, "duplicate id", "a.png and a.jpg are both named a")


def test_a_link_to_nothing_is_no_file(tmp_path: Path) -> None:
    """As git-annex leaves them where a file was not fetched."""
    touch(tmp_path, "images/a.png", "images/b.png", "masks/a.png")
    (tmp_path / "masks/b.png").symlink_to(tmp_path / "annex/b.png")
    listing = pair(tmp_path, Files(tmp_path / "images"), {"x": [Files(tmp_path / "masks")]})
    assert [record.case_id for record in listing.records] == ["a"]
    assert listing.problems == [Problem("missing mask", "images/b.png: no mask b.* in masks")]
    (tmp_path / "masks/a.png").unlink()
    (tmp_path / "masks/a.png").symlink_to(tmp_path / "annex/a.png")
    message = "masks/a.png is a link to a file that is not there, and so is 1 more: fetch the files (git annex get"
    fails(Files(tmp_path / "masks").find, "missing", message)


def test_a_folder_that_may_not_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "iterdir", refuse)
    fails(Files(tmp_path / "masks").find, "unreadable", "masks cannot be listed (no permission)", "ask its owner")


@pytest.mark.parametrize("raters", [1, 2])
def test_pairs_and_problems(tmp_path: Path, raters: int) -> None:
    touch(tmp_path, *(f"images/{c}.png" for c in "abc"), *(f"{r}/{c}_m.png" for c in "abd" for r in range(raters)))
    (tmp_path / "0/b_m.png").unlink()
    masks = [Files(tmp_path / str(r), "_m", (".png",)) for r in range(raters)]
    listing = pair(tmp_path, Files(tmp_path / "images"), {"x": masks, "y": masks[:1]}, "val", lambda case: case + "!")
    record = listing.records[0]
    assert [r.case_id for r in listing.records] == ["a"]
    assert (record.patient_id, record.split, record.image) == ("a!", "val", "images/a.png")
    assert record.labels == (("x", tuple(f"{r}/a_m.png" for r in range(raters))), ("y", ("0/a_m.png",)))
    kind = ("missing mask", "missing rater")[raters - 1]
    expected = [Problem(kind, "images/b.png: no mask b_m.png in 0")]
    expected += [Problem(kind, f"images/c.png: no mask c_m.png in {r}") for r in range(raters)]
    expected += [Problem("missing image", f"{r}/d_m.png: no image d.* in images") for r in range(raters)]
    assert listing.problems == expected


def test_join(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "b.png", "b_m.png")
    part = pair(tmp_path, Files(tmp_path, suffixes=("b.png",)), {"x": [Files(tmp_path, "b_m")]})
    both = join([part, part])
    assert (len(both.records), len(both.problems)) == (2 * len(part.records), 2 * len(part.problems))
