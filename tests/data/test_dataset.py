"""What all datasets of files share, on a release of a few lines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from helpers_data import save_grey, save_photo, square

from medsam2.data.dataset import ImageDataset, describe
from medsam2.data.files import measure
from medsam2.data.images import read_image, read_mask
from medsam2.data.intensity import Window
from medsam2.data.records import DatasetError, Record
from medsam2.data.releases.base import Decoded, Listing, Problem, files_by_stem, missing, show_folder


class Pairs:
    """<id>.jpg beside <id>.png."""

    tree = "<id>.jpg\n<id>.png"
    remedy = "Draw some."

    def __init__(self, flip: bool = False) -> None:
        self.flip = flip

    def find_structures(self, root: Path) -> tuple[str, ...]:
        return ("spot", "dot")

    def list_cases(self, root: Path, structures: Sequence[str]) -> Listing:
        images, masks = files_by_stem(root, [".jpg"]), files_by_stem(root, [".png"])
        records = [
            Record(case, case[0], "", f"{case}.jpg", tuple((s, (f"{case}.png",)) for s in structures))
            for case in images
            if case in masks
        ]
        return Listing(records, [Problem("missing mask", f"{case}.png is missing") for case in images.keys() - masks])

    def read(self, root: Path, record: Record) -> Decoded:
        mask = read_mask(root / record.labels[0][1][0]) > 0
        return Decoded(read_image(root / record.image), {s: mask[None] for s, _ in record.labels})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Six patients, a to f, with two cases each."""
    for i, case in enumerate(f"{patient}{eye}" for patient in "abcdef" for eye in (1, 2)):
        save_photo(tmp_path / "d" / f"{case}.jpg", colour=(10 * i, 100, 50))
        save_grey(tmp_path / "d" / f"{case}.png", square(2, 3, 4, 5) * 255)
    return tmp_path / "d"


def test_cases_are_split_by_patient_and_sorted(root: Path) -> None:
    records = ImageDataset(root, Pairs()).records()
    assert [record.case_id for record in records] == sorted(f"{p}{e}" for p in "abcdef" for e in (1, 2))
    splits = {record.patient_id: set() for record in records}  # type: ignore[var-annotated]
    for record in records:
        splits[record.patient_id].add(record.split)
    assert all(len(found) == 1 for found in splits.values())
    assert sorted(next(iter(found)) for found in splits.values()) == ["test", *["train"] * 4, "val"]


def test_structures_are_all_unless_some_are_chosen(root: Path) -> None:
    assert ImageDataset(root, Pairs()).structures == ("spot", "dot")
    chosen = ImageDataset(root, Pairs(), structures="dot")
    assert tuple(chosen.load(chosen.records()[0]).labels) == ("dot",)
    with pytest.raises(DatasetError, match=r"dataset\.structures=\['cup'\] does not fit pairs.*spot, dot"):
        ImageDataset(root, Pairs(), structures="cup", name="pairs").records()


def test_a_missing_root_names_tree_key_and_remedy(tmp_path: Path) -> None:
    with pytest.raises(DatasetError) as error:
        ImageDataset(tmp_path / "no", Pairs(), name="pairs").records()
    text = str(error.value)
    for part in (f"{tmp_path / 'no'}: nothing of pairs", "no such folder", "  <id>.jpg\n  <id>.png",
                 "Draw some.", "dataset.root", "paths.data_root"):  # fmt: skip
        assert part in text
    assert error.value.kind == "missing"


def test_a_root_one_level_too_high_is_seen(tmp_path: Path) -> None:
    class Folders(Pairs):
        tree = "images/<id>.jpg\n<other>/<id>.png\nlist.csv"

    (tmp_path / "unpacked" / "images").mkdir(parents=True)
    (tmp_path / "papers").mkdir()
    assert f"Did you mean dataset.root={tmp_path / 'unpacked'}?" in str(missing(Folders(), tmp_path, "nothing"))
    (tmp_path / "papers" / "images").mkdir()
    assert "Did you mean" not in str(missing(Folders(), tmp_path, "nothing"))  # which of the two nobody knows


def test_an_empty_root_is_said_to_be_empty(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no cases of pairs\. Found there: an empty folder"):
        ImageDataset(tmp_path, Pairs(), name="pairs").records()


def test_half_a_case_is_an_error_for_training_and_a_problem_for_the_listing(root: Path) -> None:
    (root / "a1.png").unlink()
    dataset = ImageDataset(root, Pairs())
    assert dataset.listing().problems == [Problem("missing mask", "a1.png is missing")]
    with pytest.raises(DatasetError, match=r"half unpacked, 1 problem:\n  a1\.png is missing\nUnpack") as error:
        dataset.records()
    assert error.value.kind == "missing mask"
    for part in ("expected below it\n  <id>.jpg\n  <id>.png\nDraw some.\n", "dataset.root", "paths.data_root"):
        assert part in str(error.value)


def test_many_problems_are_counted_and_five_shown(root: Path) -> None:
    for mask in sorted(root.glob("*.png"))[:7]:
        mask.unlink()
    with pytest.raises(DatasetError, match=r"half unpacked, 7 problems:(\n  \w\d\.png is missing){5}\n  … and 2 more"):
        ImageDataset(root, Pairs()).records()


def test_a_mask_of_another_size_names_both_files(root: Path) -> None:
    save_grey(root / "a1.png", np.zeros((10, 10)))
    dataset = ImageDataset(root, Pairs())
    with pytest.raises(DatasetError, match=r"a1\.jpg is 30×20, .*a1\.png is 10×10") as error:
        dataset.load(dataset.records()[0])
    assert error.value.kind == "size mismatch"


@pytest.mark.parametrize("same_split", [True, False])
def test_the_same_image_in_two_splits_is_an_error(root: Path, same_split: bool) -> None:
    splits = {r.case_id: r.split for r in ImageDataset(root, Pairs()).records()}
    train = [case for case, split in splits.items() if split == "train"]
    other = train[1] if same_split else next(case for case, split in splits.items() if split == "test")
    (root / f"{other}.jpg").write_bytes((root / f"{train[0]}.jpg").read_bytes())
    if same_split:
        assert len(ImageDataset(root, Pairs()).records()) == 12
        return
    with pytest.raises(DatasetError, match=rf"1 images are in more than one split.*{other}\.jpg") as error:
        ImageDataset(root, Pairs()).records()
    assert error.value.kind == "duplicate image"


def test_the_fingerprint_follows_cases_split_structures_and_sizes(root: Path) -> None:
    prints = [
        ImageDataset(root, Pairs()).fingerprint(),
        ImageDataset(root, Pairs(), split_seed=1).fingerprint(),
        ImageDataset(root, Pairs(), structures="dot").fingerprint(),
    ]
    with (root / "a1.jpg").open("ab") as file:
        file.write(b"more")
    prints.append(ImageDataset(root, Pairs()).fingerprint())
    content = bytearray((root / "a1.png").read_bytes())
    content[-20] ^= 1
    (root / "a1.png").write_bytes(content)  # corrected in place: as long as before
    prints.append(ImageDataset(root, Pairs()).fingerprint())
    assert len(set(prints)) == 5
    assert prints[4] == ImageDataset(str(root), Pairs()).fingerprint()


def test_decoding_names_the_settings_of_the_release_and_its_code(root: Path) -> None:
    one, other = (ImageDataset(root, Pairs(flip)).decoding() for flip in (False, True))
    assert one != other
    assert one == ImageDataset(root, Pairs(), split_seed=3).decoding()
    assert one["structures"] == ("spot", "dot")
    assert len(one["release"]["source"]) == 16


def test_what_decides_the_list_alone_does_not_name_decoded_cases(root: Path) -> None:
    class Named(Pairs):
        LISTING = ("pattern",)

        def __init__(self, pattern: str) -> None:
            super().__init__()
            self.pattern = pattern

    assert ImageDataset(root, Named("a")).decoding() == ImageDataset(root, Named("b")).decoding()


def test_describing_objects() -> None:
    described = describe({"ct": Window(40, 400), "n": (1, None, "a")})
    assert described["ct"] | {"source": ""} == {
        "class": "medsam2.data.intensity.Window",
        "source": "",
        "level": 40,
        "width": 400,
    }
    assert described["n"] == [1, None, "a"]


def test_a_folder_on_one_line(tmp_path: Path) -> None:
    for i in range(12):
        (tmp_path / f"f{i:02d}").write_text("")
    (tmp_path / "f00").unlink()
    (tmp_path / "f00").mkdir()
    assert show_folder(tmp_path) == "f00/, " + ", ".join(f"f{i:02d}" for i in range(1, 10)) + ", … 12 entries"
    assert show_folder(tmp_path / "f01") == "a file, not a folder"
    assert "paths.data_root" in str(missing(Pairs(), tmp_path, "nothing"))


def test_hidden_files_are_left_out(tmp_path: Path) -> None:
    for name in ("a_mask.PNG", "._a_mask.png", ".hidden_mask.png", "sub/b_mask.png", "c.png", "__MACOSX_mask.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    found = files_by_stem(tmp_path, [".png"], "_mask")
    assert {stem: path.name for stem, path in found.items()} == {"a": "a_mask.PNG", "b": "b_mask.png"}


def test_two_files_with_one_id_are_refused(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.png").write_text("")
    with pytest.raises(DatasetError, match=r"two/a\.png and .*one/a\.png are both named a") as error:
        files_by_stem(tmp_path, [".png"])
    assert error.value.kind == "duplicate id"


def test_a_folder_counts_by_the_files_in_it(tmp_path: Path) -> None:
    (tmp_path / "series" / "deep").mkdir(parents=True)
    (tmp_path / "series" / "1").write_text("abc")
    (tmp_path / "series" / "deep" / "2").write_text("de")
    assert measure(tmp_path / "series") == 5
    assert measure(tmp_path / "series" / "1") == 3


def test_every_file_that_is_read_belongs_to_a_case() -> None:
    record = Record("a", "a", image="i", labels=(("s", ("m1", "m2")), ("t", ("m1",))), others=("i2",))
    assert record.files == ("i", "i2", "m1", "m2")
