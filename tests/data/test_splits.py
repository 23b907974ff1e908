"""Splits: by patient, seeded, checked, saved whole."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medsam2.data.files import FileFacts
from medsam2.data.records import DatasetError, Record, compute_consensus, of_split
from medsam2.data.split_file import read_splits
from medsam2.data.splits import (
    Split,
    carve,
    carve_fold,
    check_contents,
    check_disjoint,
    contiguous_blocks,
    save_split,
    split_hash,
    split_table,
)

EYES = [Record(f"p{i}_{eye}", f"p{i}", "train") for i in range(10) for eye in ("left", "right")]
TEST = [Record("t0", "t0", "test")]
OTHERS = [Record("v0", "v0", "val"), *TEST]
THIRDS = [("train", 1 / 3), ("val", 1 / 3), ("test", 1 / 3)]


def patients_of(records: list[Record], split: str) -> set[str]:
    return {record.patient_id for record in of_split(records, split)}


@given(st.floats(0.01, 0.9), st.integers(0, 1000), st.sampled_from(["val", "test"]))
def test_carving_keeps_patients_together(fraction: float, seed: int, split: str) -> None:
    carved = carve(EYES + OTHERS, split, fraction, seed)
    check_disjoint(carved)
    assert carved == carve(EYES + OTHERS, split, fraction, seed)
    assert len(of_split(carved, split)) == 2 * max(1, round(fraction * 10)) + 1
    assert len(of_split(carved, "train")) == 20 - 2 * max(1, round(fraction * 10))
    assert carved[-2:] == OTHERS
    assert [r.case_id for r in carved] == [r.case_id for r in EYES + OTHERS]


def test_carving_does_not_depend_on_the_order_of_records() -> None:
    assert set(carve(EYES, "val", 0.3, 4)) == set(carve(EYES[::-1], "val", 0.3, 4))


@pytest.mark.parametrize(
    ("seed", "patients"), [(0, {"p4", "p6", "p2"}), (1, {"p8", "p4", "p7"}), (2, {"p2", "p0", "p7"})]
)
def test_the_val_of_a_seed_is_what_it_always_was(seed: int, patients: set[str]) -> None:
    assert patients_of(carve(EYES, "val", 0.3, seed), "val") == patients
    assert patients_of(Split(val_fraction=0.3, split_seed=seed).assign([*EYES, *TEST]), "val") == patients


def test_test_and_val_of_one_seed_are_drawn_apart() -> None:
    drawn = [(patients_of(carve(EYES, s, 0.5, seed), s)) for seed in range(5) for s in ("val", "test")]
    assert all(val != test for val, test in zip(drawn[::2], drawn[1::2], strict=True))


@pytest.mark.parametrize("fraction", [0.95, 0.999])
def test_carving_must_leave_someone_to_train(fraction: float) -> None:
    with pytest.raises(DatasetError, match=rf"dataset\.test_fraction={fraction} of 10 training patients") as error:
        carve(EYES, "test", fraction, 0)
    assert error.value.kind == "too few cases"


@given(st.integers(2, 10), st.integers(0, 1000))
def test_folds_are_disjoint_complete_and_even(folds: int, seed: int) -> None:
    parts = [patients_of(carve_fold(EYES, "test", fold, folds, seed), "test") for fold in range(folds)]
    assert sorted(patient for part in parts for patient in part) == sorted({r.patient_id for r in EYES})
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    check_disjoint(carve_fold(EYES, "test", 0, folds, seed))
    assert parts[1] == patients_of(carve_fold(EYES[::-1], "test", 1, folds, seed), "test")


def test_folds_change_with_the_seed_of_the_split() -> None:
    drawn = [patients_of(Split(split_seed=seed, fold=0).assign(UNSPLIT), "test") for seed in range(6)]
    assert len({frozenset(part) for part in drawn}) > 3
    assert drawn[0] == patients_of(Split(split_seed=0, fold=0).assign(UNSPLIT), "test")


def test_a_dataset_that_is_all_test_stays_so() -> None:
    found = Split().assign(TEST)
    assert [record.case_id for record in found] == sorted(record.case_id for record in TEST)
    assert {record.split for record in found} == {"test"}


def test_more_folds_than_patients() -> None:
    with pytest.raises(DatasetError, match=r"dataset\.folds=11 of 10 training patients") as error:
        carve_fold(EYES, "val", 0, 11, 0)
    assert error.value.kind == "too few cases"


def count(records: list[Record]) -> tuple[int, ...]:
    return tuple(len(of_split(records, split)) for split in ("train", "val", "test"))


UNSPLIT = [replace(record, split="") for record in EYES]
RELEASED = [replace(r, split=("train", "train", "train", "val", "test")[int(r.patient_id[1:]) % 5]) for r in EYES]
NO_VAL = [replace(record, split="train" if record.split == "val" else record.split) for record in RELEASED]


@pytest.mark.parametrize(
    ("records", "settings", "counts"),
    [
        (UNSPLIT, {}, (14, 2, 4)),  # 2 of 10 patients test, 1 of the 8 left val, two eyes each
        (UNSPLIT, {"test_fraction": 0.3, "val_fraction": 0.5}, (6, 8, 6)),
        (UNSPLIT, {"fold": 0}, (14, 2, 4)),
        (UNSPLIT, {"fold": 1, "folds": 10}, (16, 2, 2)),
        (NO_VAL, {}, (14, 2, 4)),
        (NO_VAL, {"fold": 3, "folds": 4}, (12, 4, 4)),
        (RELEASED, {}, (12, 4, 4)),
        (RELEASED, {"val_fraction": 0.5, "test_fraction": 0.5, "split_seed": 3}, (12, 4, 4)),
        (RELEASED, {"fold": 2, "folds": 8}, (14, 2, 4)),  # the released val trains again
    ],
)
def test_what_a_release_lacks_is_carved(
    records: list[Record], settings: dict[str, Any], counts: tuple[int, ...]
) -> None:
    assigned = Split(**settings).assign(records)
    assert count(assigned) == counts
    assert [r.case_id for r in assigned] == sorted(r.case_id for r in records)
    check_disjoint(assigned)
    assert assigned == Split(**settings).assign(records[::-1])
    for before in records:
        if before.split == "test":
            assert replace(before, split="test") in assigned
    if records is RELEASED and "fold" not in settings:
        assert set(assigned) == set(RELEASED)


@pytest.mark.parametrize(("records", "split"), [(UNSPLIT, "test"), (NO_VAL, "val"), (RELEASED, "val")])
def test_folds_of_a_dataset_take_turns(records: list[Record], split: str) -> None:
    parts = [patients_of(Split(fold=fold, folds=4).assign(records), split) for fold in range(4)]
    released_test = patients_of(records, "test")
    assert sorted(p for part in parts for p in part) == sorted({r.patient_id for r in records} - released_test)
    assert all(patients_of(Split(fold=fold, folds=4).assign(records), "test") >= released_test for fold in range(4))


def test_test_does_not_change_with_the_fraction_of_val() -> None:
    small, large = (Split(val_fraction=fraction).assign(UNSPLIT) for fraction in (0.1, 0.5))
    assert of_split(small, "test") == of_split(large, "test")
    assert patients_of(small, "val") < patients_of(large, "val")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"val_fraction": 0}, r"dataset\.val_fraction=0 must lie between 0 and 1"),
        ({"val_fraction": 1.0}, r"dataset\.val_fraction=1\.0"),
        ({"test_fraction": -0.1}, r"dataset\.test_fraction=-0\.1"),
        ({"fold": 5}, r"dataset\.fold=5 of dataset\.folds=5: name one of 0 to folds - 1"),
        ({"fold": -1}, r"dataset\.fold=-1"),
        ({"folds": 1}, r"dataset\.folds=1"),
    ],
)
def test_bad_settings_are_refused_at_once(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        Split(**settings)


def test_too_few_patients_for_val_after_test() -> None:
    with pytest.raises(DatasetError, match=r"dataset\.val_fraction=0\.1 of 1 training patients") as error:
        Split().assign(UNSPLIT[:4])
    assert error.value.kind == "too few cases"


# Splits from a file: a run's own CSV, or nnU-Net's JSON.


def test_the_saved_split_of_a_run_comes_back(tmp_path: Path) -> None:
    assigned = Split(split_seed=7).assign(UNSPLIT)
    path = save_split(assigned, tmp_path / "split.csv")
    assert Split(split_file=str(path), split_seed=1, fold=3).assign(RELEASED) == assigned


def test_cases_that_a_file_does_not_name_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "split.csv"
    path.write_text("\ufeffsplit,note,case_id\ntest,x,p3_left\ntrain,,p1_left\nval,,p2_right\n", encoding="utf-8")
    assigned = Split(split_file=str(path)).assign(EYES)
    assert [(r.case_id, r.split) for r in assigned] == [("p1_left", "train"), ("p2_right", "val"), ("p3_left", "test")]


def test_nnunet_entries_are_chosen_by_fold(tmp_path: Path) -> None:
    path = tmp_path / "splits_final.json"
    entries = [
        {"train": ["p1_left"], "val": ["p2_left"]},
        {"train": ["p2_left"], "val": ["p1_left"], "test": ["p0_left"]},  # names a test, so it decides alone
    ]
    path.write_text(json.dumps(entries))
    assert read_splits(path) == {"p1_left": "train", "p2_left": "val"}
    assigned = Split(split_file=str(path), fold=1).assign(EYES)
    assert [(r.case_id, r.split) for r in assigned] == [("p0_left", "test"), ("p1_left", "val"), ("p2_left", "train")]


def test_a_file_may_name_volumes_instead_of_slices(tmp_path: Path) -> None:
    splits = {"ct0": "train", "ct2": "val", "ct3": "test"}
    slices = [
        Record(f"ct{v}_{i}", f"ct{v}", "test" if v == 3 else "", volume=f"ct{v}", index=i)
        for v in range(4)
        for i in range(2)
    ]
    path = tmp_path / "splits_final.json"
    path.write_text(json.dumps([{"train": ["ct0"], "val": ["ct2"]}]))
    assigned = Split(split_file=str(path)).assign(slices)
    assert [(r.case_id, r.split) for r in assigned] == [(f"{v}_{i}", s) for v, s in splits.items() for i in range(2)]


def write_fold(folder: Path, **entry: list[int]) -> str:
    """nnU-Net's file, with both eyes of patients by their numbers."""
    path = folder / "splits_final.json"
    path.write_text(
        json.dumps([{s: [r.case_id for n in p for r in EYES[2 * n : 2 * n + 2]] for s, p in entry.items()}])
    )
    return str(path)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_val_of_nnunet_is_the_test_where_there_is_none(tmp_path: Path, seed: int) -> None:
    file = write_fold(tmp_path, train=[0, 1, 2, 3, 4, 5], val=[6, 7])
    assigned = Split(split_file=file, val_fraction=0.3, split_seed=seed).assign(UNSPLIT)
    check_disjoint(assigned)
    assert count(assigned) == (8, 4, 4)
    assert patients_of(assigned, "test") == {"p6", "p7"}
    assert patients_of(assigned, "train") | patients_of(assigned, "val") == {f"p{n}" for n in range(6)}
    trained = [replace(r, split="train") for r in UNSPLIT[:12]]
    assert patients_of(assigned, "val") == patients_of(carve(trained, "val", 0.3, seed), "val")


def test_a_released_test_stays_beside_the_splits_of_nnunet(tmp_path: Path) -> None:
    file = write_fold(tmp_path, train=[0, 1, 2], val=[5, 6])  # RELEASED: test is 4 and 9; 3, 7 and 8 are in no split
    assigned = Split(split_file=file).assign(RELEASED)
    found = {split: patients_of(assigned, split) for split in ("train", "val", "test")}
    assert found == {"train": {"p0", "p1", "p2"}, "val": {"p5", "p6"}, "test": {"p4", "p9"}}


def test_a_released_test_that_nnunet_trains_on(tmp_path: Path) -> None:
    assigned = Split(split_file=write_fold(tmp_path, train=[0, 1, 4], val=[9])).assign(RELEASED)
    assert patients_of(assigned, "test") == {"p9"}  # the file decides over what it names
    assert count(assigned) == (4, 2, 2)


def test_too_few_patients_in_the_train_of_nnunet(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"dataset\.val_fraction=0\.1 of 1 training patients") as error:
        Split(split_file=write_fold(tmp_path, train=[0], val=[1])).assign(UNSPLIT)
    assert error.value.kind == "too few cases"


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("split.csv", "case_id,split\np1_left,train\np2_left,val\np1_left,test\n", "train and test"),
        ("splits_final.json", '[{"train": ["p1_left", "p2_left"], "val": ["p1_left"]}]', "train and val"),
    ],
)
def test_a_case_named_in_two_splits(tmp_path: Path, name: str, text: str, found: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(DatasetError) as error:
        Split(split_file=str(path)).assign(EYES)
    assert error.value.kind == "split file"
    assert f"dataset.split_file={path}: case p1_left is in two splits, {found}. Leave" in str(error.value)


def test_a_case_named_twice_in_one_split_is_no_mistake(tmp_path: Path) -> None:
    path = tmp_path / "split.csv"
    path.write_text("case_id,split\np1_left,train\np1_left,train\n")
    assert read_splits(path) == {"p1_left": "train"}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("split.csv", None, "FileNotFoundError"),
        ("split.csv", "case,split\na,train\n", "KeyError: 'case_id'"),
        ("split.csv", "case_id,part\na,train\n", "KeyError: 'split'"),
        ("split.csv", b"\xff\xfe\x00", "UnicodeDecodeError"),
        ("splits.json", "{not json", "JSONDecodeError"),
        ("splits.json", "[]", "IndexError"),
        ("splits.json", '[{"train": 3}]', "TypeError"),
        ("splits.json", '["train"]', "AttributeError"),
    ],
)
def test_a_file_that_cannot_be_used(tmp_path: Path, name: str, text: str | bytes | None, message: str) -> None:
    path = tmp_path / name
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DatasetError) as error:
        Split(split_file=str(path)).assign(EYES)
    assert error.value.kind == "split file"
    for part in (f"dataset.split_file={path} cannot be used", message, "case_id and split", "splits_final.json"):
        assert part in str(error.value)


def test_a_fold_that_nnunet_does_not_have(tmp_path: Path) -> None:
    path = tmp_path / "splits_final.json"
    path.write_text(json.dumps([{"train": ["p1_left"], "val": ["p2_left"]}]))
    with pytest.raises(DatasetError, match=r"at least 4 entries for dataset\.fold=3"):
        Split(split_file=str(path), fold=3).assign(EYES)


def test_a_file_for_another_dataset(tmp_path: Path) -> None:
    path = tmp_path / "split.csv"
    path.write_text("case_id,split\np1_left,train\nq1,test\nq0,val\n")
    with pytest.raises(DatasetError, match=r"2 cases are not in this dataset, as q0; its cases .* p0_left") as error:
        Split(split_file=str(path)).assign(EYES)
    assert error.value.kind == "split file"


# The same image in two splits, whatever its name.


def write_images(root: Path, *contents: bytes) -> list[Record]:
    for number, content in enumerate(contents):
        (root / f"{number}.png").write_bytes(content)
    splits = ("train", "test", "val", "train")
    return [Record(f"c{n}", f"p{n}", splits[n], f"{n}.png") for n in range(len(contents))]


def test_copies_across_splits_are_found(tmp_path: Path) -> None:
    records = write_images(tmp_path, b"one", b"two", b"one", b"two")
    with pytest.raises(DatasetError) as error:
        check_contents(records, tmp_path, FileFacts())
    assert error.value.kind == "duplicate image"
    for part in ("2 images", "0.png (train) = 2.png (val)", "1.png (test) = 3.png (train)", "Delete the copies"):
        assert part in str(error.value)


def write_series(root: Path, *scans: tuple[bytes, ...]) -> list[Record]:
    """Folders of numbered files, the first of train, the second of test, as slices of volumes."""
    for number, scan in enumerate(scans):
        (root / f"scan{number}").mkdir()
        for i, content in enumerate(scan):
            (root / f"scan{number}" / f"{i}.dcm").write_bytes(content)
    return [
        Record(f"s{n}_z{i}", f"s{n}", ("train", "test")[n], f"scan{n}", index=i, volume=f"s{n}")
        for n in range(len(scans))
        for i in range(2)
    ]


def test_copies_of_folders_across_splits_are_found(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"1 images .* scan0 \(train\) = scan1 \(test\)\. Delete") as error:
        check_contents(write_series(tmp_path, (b"one", b"two"), (b"one", b"two")), tmp_path, FileFacts())
    assert error.value.kind == "duplicate image"


def test_folders_of_one_size_are_no_copies(tmp_path: Path) -> None:
    check_contents(write_series(tmp_path, (b"one", b"two"), (b"two", b"one")), tmp_path, FileFacts())


def test_one_image_in_two_splits(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"one")
    records = [Record("a1", "p1", "train", "a.png"), Record("a2", "p2", "test", "a.png")]
    with pytest.raises(DatasetError, match=r"1 images are in more than one split.* a\.png \(test, train\)") as error:
        check_contents(records, tmp_path, FileFacts())
    assert error.value.kind == "duplicate image"
    check_contents([replace(record, split="train") for record in records], tmp_path, FileFacts())


@pytest.mark.parametrize("contents", [(b"one", b"two", b"six", b"one"), (b"one", b"four", b"fiver")])
def test_what_is_no_copy_across_splits(tmp_path: Path, contents: tuple[bytes, ...]) -> None:
    check_contents(write_images(tmp_path, *contents), tmp_path, FileFacts())


def test_only_files_of_one_size_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    monkeypatch.setattr(FileFacts, "digest", lambda self, path: read.append(path.name) or path.read_text())
    check_contents(write_images(tmp_path, b"one", b"two", b"three"), tmp_path, FileFacts())
    assert read == ["0.png", "1.png"]


def test_slices_of_one_volume_are_one_file(tmp_path: Path) -> None:
    (tmp_path / "ct.nii").write_bytes(b"volume")
    records = [Record(f"ct_{i}", "ct", split, "ct.nii", index=i) for i, split in enumerate(("train", "test"))]
    check_contents(records, tmp_path, FileFacts())


@given(st.integers(12, 60), st.integers(0, 3))
def test_blocks_are_in_order_with_gaps(count: int, gap: int) -> None:
    blocks = contiguous_blocks(range(count), THIRDS, gap)
    assert sum(map(len, blocks.values())) == count - 2 * gap
    assert blocks["train"][0] == 0
    assert blocks["test"][-1] == count - 1
    assert blocks["val"][0] - blocks["train"][-1] == blocks["test"][0] - blocks["val"][-1] == gap + 1
    for block in blocks.values():
        assert block == list(range(block[0], block[-1] + 1))


def test_a_split_may_have_several_blocks() -> None:
    order = [("train", 0.2), ("test", 0.2), ("train", 0.4), ("val", 0.2)]
    blocks = contiguous_blocks("abcdefghijklm", order, 1)
    assert blocks == {"train": ["a", "b", "g", "h", "i", "j"], "test": ["d", "e"], "val": ["l", "m"]}


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([Record("a", "p", "train"), Record("b", "p", "test")], r"1 patients.*p \(test, train\)"),
        ([Record("a", "p", "train"), Record("a", "q", "train")], "a is listed twice"),
        ([Record("a", "p", "dev")], "split='dev'"),
    ],
)
def test_check_disjoint(records: list[Record], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        check_disjoint(records)


def test_one_patient_may_be_shared_where_declared() -> None:
    check_disjoint([Record("a", "p", "train"), Record("b", "p", "test")], allow_shared_patient=True)


def test_split_file_and_hash(tmp_path: Path) -> None:
    records = [Record("b", "p2", "test"), Record("a", "p1", "train")]
    path = save_split(records, tmp_path / "deep" / "split.csv")
    assert path.read_text() == "case_id,patient_id,split\na,p1,train\nb,p2,test\n"
    assert [p.name for p in path.parent.iterdir()] == ["split.csv"]
    assert split_table(records) == [("a", "p1", "train"), ("b", "p2", "test")]
    assert (
        split_hash(records) == split_hash(records[::-1]) != split_hash([replace(records[0], split="val"), records[1]])
    )


def test_a_failed_save_keeps_the_old_file(tmp_path: Path) -> None:
    path = save_split(TEST, tmp_path / "split.csv")
    with pytest.raises(AttributeError):
        save_split([None], path)  # type: ignore[list-item]
    assert "t0" in path.read_text()
    assert len(list(tmp_path.iterdir())) == 1


def test_of_split_refuses_other_names() -> None:
    with pytest.raises(DatasetError, match="train, val, test"):
        of_split(EYES, "valid")


def test_consensus_counts_ties_as_foreground() -> None:
    import numpy as np

    raters = np.array([[[1, 1, 0, 0]], [[1, 0, 1, 0]]], dtype=bool)
    assert compute_consensus(raters).tolist() == [[True, True, True, False]]
    assert compute_consensus(np.concatenate([raters, raters[:1] * False])).tolist() == [[True, False, False, False]]
