"""Prepared cases are decoded once, and again when a file, a setting or the code changes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_data import SHAPE, MemoryDataset, save_photo, square

from medsam2.data import code
from medsam2.data import source as source_module
from medsam2.data.cache import DiskCache
from medsam2.data.files import FileFacts, find_parts, measure
from medsam2.data.records import Case, DatasetError, Record
from medsam2.data.source import CaseSource, group_records, prepare_groups


class Files(MemoryDataset):
    """Images on disk; counts what it decodes."""

    def __init__(self, root: Path, count: int = 4, gain: float = 1.0, volumes: bool = False) -> None:
        super().__init__(count)
        self.root, self.gain, self.volumes, self.decoded = root, gain, volumes, 0
        self.labels = ("x.png", "y.png")
        for i, name in enumerate([*map(str, range(count)), "x", "y"]):
            if not (root / f"{name}.png").exists():
                save_photo(root / f"{name}.png", colour=(i, 100, 50))

    def records(self) -> list[Record]:
        volume = (lambda i: f"v{i // 2}") if self.volumes else (lambda i: "")
        return [
            Record(
                f"case{i}",
                f"p{i}",
                "train",
                f"{i}.png",
                tuple(zip("ab", zip(self.labels, strict=True), strict=True)),
                i,
                volume(i),
            )
            for i in range(self.count)
        ]

    def load(self, record: Record) -> Case:
        self.decoded += 1
        case = super().load(record)
        case.image = case.image * np.float32(self.gain)
        return case

    def decoding(self) -> dict[str, object]:
        return {"gain": self.gain}


def read_all(dataset: Files, cache: DiskCache, size: int = 32) -> int:
    """How many cases had to be decoded."""
    before, source = dataset.decoded, CaseSource(dataset, size, cache)
    for record in dataset.records():
        source.get(record)
    return dataset.decoded - before


def swap(dataset: Files, root: Path) -> None:
    dataset.labels = ("y.png", "x.png")


def replace_image(root: Path) -> None:
    stat = (root / "0.png").stat()
    save_photo(root / "0.png", colour=(0, 100, 51))  # another content of probably the same size
    os.utime(root / "0.png", ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))


@pytest.mark.parametrize(
    ("change", "decoded"),
    [
        pytest.param(lambda d, r: None, 0, id="nothing"),
        pytest.param(lambda d, r: replace_image(r), 1, id="a file's content"),
        pytest.param(lambda d, r: os.utime(r / "0.png", (1, 1)), 0, id="a file's time alone"),
        pytest.param(lambda d, r: setattr(d, "gain", 0.5), 4, id="a setting"),
        pytest.param(swap, 4, id="which file is which structure"),
    ],
)
def test_what_changes_is_decoded_again(tmp_path: Path, change: Callable[[Files, Path], None], decoded: int) -> None:
    dataset, cache = Files(tmp_path / "data"), DiskCache(tmp_path / "cache")
    assert read_all(dataset, cache) == 4
    assert read_all(dataset, cache) == 0
    change(dataset, tmp_path / "data")
    assert read_all(dataset, cache) == decoded
    assert read_all(dataset, cache) == 0


def test_another_size_or_other_code_is_another_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset, cache = Files(tmp_path / "data"), DiskCache(tmp_path / "cache")
    assert [read_all(dataset, cache, size) for size in (32, 16, 32)] == [4, 4, 0]
    monkeypatch.setattr(source_module, "hash_code", lambda: "edited")
    assert read_all(dataset, cache) == 4


def test_another_library_is_another_code(monkeypatch: pytest.MonkeyPatch) -> None:
    before = code.hash_code()
    code.hash_code.cache_clear()
    assert code.hash_code() == before
    code.hash_code.cache_clear()
    monkeypatch.setattr("medsam2.data.code.metadata.version", lambda name: "9.9")
    assert code.hash_code() != before
    monkeypatch.undo()
    code.hash_code.cache_clear()


def test_what_changed_while_it_was_decoded_is_not_kept(tmp_path: Path) -> None:
    class Racing(Files):
        def load(self, record: Record) -> Case:
            case = super().load(record)
            if self.decoded == 1:
                replace_image(self.root)
            return case

    dataset, cache = Racing(tmp_path / "data"), DiskCache(tmp_path / "cache")
    CaseSource(dataset, 32, cache).get(dataset.records()[0])
    assert list((tmp_path / "cache").rglob("*.case")) == []
    assert read_all(dataset, cache) == 4


def test_preparing_leaves_the_global_generator_alone(tmp_path: Path) -> None:
    dataset = Files(tmp_path / "data")
    source = CaseSource(dataset, 32, DiskCache(tmp_path / "cache"))
    torch.manual_seed(1)
    before = torch.get_rng_state()
    list(prepare_groups(source, source.lacking(dataset.records()), 0))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_cache_that_cannot_be_written_is_not_prepared(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    dataset = Files(tmp_path / "data")
    (tmp_path / "file").write_text("in the way")
    source = CaseSource(dataset, 32, DiskCache(tmp_path / "file" / "cache"))
    assert source.lacking(dataset.records()) == []
    source.get(dataset.records()[0])
    assert caplog.text.count("cannot be written") == 1


@pytest.mark.parametrize("header", ["ElementDataFile = v.raw", "data file: v.raw", "ElementDataFile = LIST\nv.raw"])
def test_a_header_stands_for_its_voxels_too(tmp_path: Path, header: str) -> None:
    file = tmp_path / ("v.nhdr" if header.startswith("data") else "v.mhd")
    file.write_text(f"NDims = 3\n{header}\n")
    (tmp_path / "v.raw").write_bytes(b"abc")
    facts = FileFacts()
    before = facts.digest(file)
    assert measure(file) == file.stat().st_size + 3
    (tmp_path / "v.raw").write_bytes(b"abd")
    assert facts.digest(file) != before
    local = tmp_path / "w.mha"
    local.write_text("ElementDataFile = LOCAL\n")
    assert find_parts(local) == [local]


def test_files_that_changed_places_are_seen(tmp_path: Path) -> None:
    for name, content in (("a", b"1"), ("b", b"2")):
        (tmp_path / name).write_bytes(content)
        os.utime(tmp_path / name, (1000, 1000))  # as an archive leaves them: of one size and one time
    facts = FileFacts(tmp_path / "facts")
    a, b = facts.digest(tmp_path / "a"), facts.digest(tmp_path / "b")
    (tmp_path / "a").rename(tmp_path / "c")
    (tmp_path / "b").rename(tmp_path / "a")
    (tmp_path / "c").rename(tmp_path / "b")
    assert (facts.digest(tmp_path / "a"), facts.digest(tmp_path / "b")) == (b, a)


def test_a_damaged_entry_is_made_again(tmp_path: Path) -> None:
    dataset, cache = Files(tmp_path / "data"), DiskCache(tmp_path / "cache")
    read_all(dataset, cache)
    file = sorted((tmp_path / "cache").rglob("*.case"))[0]
    file.write_bytes(b"damaged")
    assert read_all(dataset, cache) == 1
    assert read_all(dataset, cache) == 0


@pytest.mark.parametrize("workers", [0, 2])
def test_preparing_decodes_what_is_lacking(tmp_path: Path, workers: int) -> None:
    dataset, cache = Files(tmp_path / "data"), DiskCache(tmp_path / "cache")
    source = CaseSource(dataset, 32, cache)
    source.get(dataset.records()[1])
    groups = source.lacking(dataset.records())
    assert sorted(record.case_id for (record,) in groups) == ["case0", "case2", "case3"]
    assert sorted(prepare_groups(source, groups, workers)) == [1, 1, 1]
    assert source.lacking(dataset.records()) == []
    assert read_all(dataset, cache) == 0


def test_the_slices_of_a_volume_are_one_group(tmp_path: Path) -> None:
    records = Files(tmp_path, volumes=True).records()
    assert [[r.case_id for r in group] for group in group_records(records[::-1])] == [
        ["case0", "case1"],
        ["case2", "case3"],
    ]
    assert [len(group) for group in group_records(Files(tmp_path).records())] == [1, 1, 1, 1]


def test_without_a_cache_nothing_is_lacking(tmp_path: Path) -> None:
    dataset = Files(tmp_path)
    source = CaseSource(dataset, 32)
    assert source.lacking(dataset.records()) == []
    source.get(dataset.records()[0])
    source.get(dataset.records()[0])
    assert dataset.decoded == 2


def test_a_case_that_cannot_be_decoded_is_named_from_a_worker(tmp_path: Path) -> None:
    class Broken(Files):
        def load(self, record: Record) -> Case:
            if record.index == 2:
                raise DatasetError(f"{record.image} is damaged")
            return super().load(record)

    dataset = Broken(tmp_path / "data")
    source = CaseSource(dataset, 32, DiskCache(tmp_path / "cache"))
    with pytest.raises(DatasetError) as error:
        list(prepare_groups(source, source.lacking(dataset.records()), 1))
    assert str(error.value) == "2.png is damaged"  # and no traceback of the worker


def test_facts_are_kept_between_processes(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"x")
    calls: list[int] = []

    def find() -> int:
        return int(
            FileFacts(tmp_path / "facts").find([file], "length", lambda: calls.append(1) or len(file.read_bytes()))
        )

    assert [find(), find(), len(calls)] == [1, 1, 1]
    file.write_bytes(b"xy")
    assert [find(), len(calls)] == [2, 2]
    for stored in (tmp_path / "facts").rglob("*.json"):
        stored.write_text("{")  # damaged: found out once more
    assert [find(), len(calls)] == [2, 3]


def test_digests_name_contents_not_files(tmp_path: Path) -> None:
    for name, content in {"a": b"1", "b": b"1", "c": b"2", "d/e": b"1"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    facts = FileFacts()
    a, b, c = (facts.digest(tmp_path / name) for name in "abc")
    assert a == b != c
    assert facts.digest(tmp_path / "d") not in (a, c)
    assert facts.digest(tmp_path / "a", tmp_path / "c") != facts.digest(tmp_path / "a", tmp_path / "b")


def test_masks_survive_the_cache(tmp_path: Path) -> None:
    dataset, cache = Files(tmp_path / "data"), DiskCache(tmp_path / "cache")
    read_all(dataset, cache)
    prepared = CaseSource(dataset, 32, cache).get(dataset.records()[0])
    assert np.array_equal(prepared.raters["one"].native()[0], square(2, 20, 5, 8, SHAPE))
