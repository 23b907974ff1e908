"""The numbers of a dataset, against those its trees were written with."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers_planted import affine, organs, rated, remove, save_volume, scan, volumes, write_rated, write_volumes

from medsam2.data.dataset import ImageDataset
from medsam2.data.records import Dataset, DatasetError
from medsam2.data.releases.folder import Folder
from medsam2.data.splits import save_split
from medsam2.doctor.survey import survey


def test_images(tmp_path: Path) -> None:
    found = survey(rated(write_rated(tmp_path)), pictures=0).summary.as_dict()
    assert found["splits"]["train"] == {"cases": 5, "volumes": 0, "unreadable": 0, "patients": 5}
    assert found["splits"]["test"]["patients"] == 2
    assert found["sizes"] == [{"height": 20, "width": 30, "cases": 9}]
    assert found["spacings"] == [{"mm": None, "cases": 9}]
    assert found["slices"] is None
    assert found["structures"]["disc"] == {
        "shown": {"train": 5, "val": 2, "test": 2},
        "empty": 0,
        "pixels": (80, 90, 100),  # heights of 8, 9 or 10 rows
        "mm2": None,
        "raters": {"2": 9},
    }
    assert sum(found["grey"]) == 9 * 20 * 30 * 3
    assert found["intensities"][1] == pytest.approx(159 / 255)


def test_volumes(tmp_path: Path) -> None:
    found = survey(volumes(write_volumes(tmp_path)), pictures=0).summary.as_dict()
    assert found["splits"]["val"] == {
        "cases": 8,
        "volumes": 2,
        "unreadable": 0,
        "patients": 2,
    }  # 4 slices show a liver
    assert found["sizes"] == [{"height": 12, "width": 14, "cases": 36}]
    assert found["spacings"] == [{"mm": (0.75, 0.5), "cases": 36}]
    assert found["slices"] == (6, 6, 6)
    assert found["axes"] == {"RAS": 9}
    assert found["structures"]["kidney"] == {
        "shown": {"train": 5, "val": 2, "test": 2},
        "empty": 27,
        "pixels": (12, 12, 12),
        "mm2": (4.5, 4.5, 4.5),
        "raters": {},
    }


def test_the_cases_are_those_that_training_gets(tmp_path: Path) -> None:
    root = write_volumes(tmp_path)
    for settings in ({"slices": "all"}, {"plane": "sagittal"}, {"min_pixels": 17}, {"structures": ["kidney"]}):
        dataset = volumes(root, **settings)
        counts = survey(dataset, pictures=0).summary.cases
        assert counts == {s: sum(r.split == s for r in dataset.records()) for s in ("train", "val", "test")}


def check_split_file(dataset: Dataset, expected: dict[str, int]) -> None:
    seen = survey(dataset, pictures=2)
    assert dict(seen.summary.cases) == expected
    assert seen.findings == []
    assert all(seen.panels[split] for split in expected)


def test_a_saved_split_of_slices(tmp_path: Path) -> None:
    """It may leave slices out, and names them, where a listing has volumes."""
    root, file = write_volumes(tmp_path / "tree"), tmp_path / "split.csv"
    records = volumes(root).records()
    save_split(records, file)
    check_split_file(volumes(root, split_file=str(file)), {"train": 20, "val": 8, "test": 8})
    save_split([record for record in records if record.case_id != "train_v00_z002"], file)
    check_split_file(volumes(root, split_file=str(file)), {"train": 19, "val": 8, "test": 8})


def test_a_split_file_that_does_not_fit(tmp_path: Path) -> None:
    root, file = write_volumes(tmp_path / "tree"), tmp_path / "split.csv"
    file.write_text("case_id,split\nv00,train\n")
    seen = survey(volumes(root, split_file=str(file)), pictures=1)
    assert [(f.severity, f.kind, f.where) for f in seen.findings] == [("error", "split file", "volumes")]
    assert "v00" in seen.findings[0].text
    assert seen.summary.cases == {"train": 20, "val": 8, "test": 8}  # shown all the same


def test_what_follows_from_a_split_that_fails_is_not_said(tmp_path: Path) -> None:
    root = write_rated(tmp_path) / "train"  # a folder without splits of its own
    seen = survey(ImageDataset(root, Folder(), name="one", split_file=str(tmp_path / "nope.csv")), pictures=0)
    assert [(f.severity, f.kind) for f in seen.findings] == [("error", "split file")]
    assert "nope.csv" in seen.findings[0].text


def test_what_an_eye_must_judge_is_drawn(tmp_path: Path) -> None:
    root = write_volumes(tmp_path)
    for name, array in (("images", scan(8)), ("masks", organs(8))):
        save_volume(root / "val" / name / "v08.nii", array, affine(-1, 1, 1))
    panels = survey(volumes(root), pictures=1).panels
    assert [panel.caption for panel in panels["with warnings"]] == ["val_v08_z003  14x12"]
    assert [len(panels[split]) for split in ("train", "val", "test")] == [1, 1, 1]


def test_nothing_to_list(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="nothing of rated is there"):
        survey(rated(tmp_path / "nowhere"))


def test_every_image_is_missing(tmp_path: Path) -> None:
    root = write_rated(tmp_path)
    for path in root.glob("*/images/*"):
        remove(str(path.relative_to(root)))(root)
    seen = survey(rated(root))
    assert {f.kind for f in seen.findings} == {"missing image", "too few cases"}
    assert not any(seen.panels.values())
