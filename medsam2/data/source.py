"""Where prepared cases come from: the cache, or the dataset's files, decoded once and kept."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import signal
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from medsam2.data.cache import Cache, DiskCache, NoCache
from medsam2.data.code import hash_code
from medsam2.data.files import REMEMBERED, FileFacts
from medsam2.data.prepared import Prepared, prepare
from medsam2.data.records import Case, Dataset, DatasetError, Record


class CaseSource:
    """The prepared cases of a dataset for models of ``image_size`` pixels. Picklable: workers have a copy each."""

    def __init__(self, dataset: Dataset, image_size: int, cache: Cache | None = None) -> None:
        self.dataset = dataset
        self.image_size = image_size
        self.cache: Cache = cache or NoCache()
        self.facts = FileFacts(self.cache.folder)
        self._digests: dict[tuple[str, ...], str] = {}
        settings = {"code": hash_code(), "size": image_size, "decoding": dataset.decoding()} if cache else {}
        self._settings = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()

    def get(self, record: Record) -> Prepared:
        """Raises DatasetError as the dataset's ``load``, and for an image with NaN or infinite values."""
        if isinstance(self.cache, NoCache):
            return self._decode(record)
        key = self.key(record)
        found = self.cache.load(key)
        return self._decode_and_store(record, key) if found is None else found

    def key(self, record: Record) -> str:
        """The name of a case's entry: its files' content and their roles, its place in them, settings and code."""
        content, at = self._digest(record.files), {name: i for i, name in enumerate(record.files)}
        images = [at[name] for name in (record.image, *record.others) if name]
        labels = [(structure, [at[name] for name in names]) for structure, names in record.labels]
        place = f"{record.case_id}\t{record.index}\t{record.modality}\t{images}\t{labels}"
        return hashlib.sha256(f"{self._settings}\t{content}\t{place}".encode()).hexdigest()[:40]

    def _digest(self, files: tuple[str, ...]) -> str:
        """Of the files' content when they were first asked for: a run goes on with the data it began with."""
        if files not in self._digests:
            if len(self._digests) >= REMEMBERED:
                self._digests.clear()
            self._digests[files] = self._digest_now(files)
        return self._digests[files]

    def _digest_now(self, files: tuple[str, ...]) -> str:
        return self.facts.digest(*(Path(self.dataset.root) / name for name in files))

    def prepare_all(self, records: Sequence[Record]) -> int:
        """Decodes the cases of one group (a volume, or one image) that the cache lacks; returns how many.

        Processes that meet at one group take turns, so that a volume is decoded once.
        """
        assert isinstance(self.cache, DiskCache)
        done = 0
        with self.cache.lock(self.key(records[0])[:2]):  # some share a lock: it need not be one file for each
            for record in records:
                if not self.cache.has(self.key(record)):
                    self._decode_and_store(record, self.key(record))
                    done += 1
        return done

    def lacking(self, records: Iterable[Record]) -> list[list[Record]]:
        """The groups of ``group_records`` of which the cache lacks a case; none where nothing is kept."""
        if not isinstance(self.cache, DiskCache) or not self.cache.can_store():
            return []
        return [group for group in group_records(records) if not all(self.cache.has(self.key(r)) for r in group)]

    def _decode_and_store(self, record: Record, key: str) -> Prepared:
        prepared = self._decode(record)
        if self._digest_now(record.files) == self._digest(record.files):  # else they changed meanwhile
            self.cache.store(key, prepared)
        return prepared

    def _decode(self, record: Record) -> Prepared:
        case = self.dataset.load(record)
        self._check_finite(case)
        return prepare(case, self.image_size)

    def _check_finite(self, case: Case) -> None:
        if not np.isfinite(case.image).all():
            file = f" ({case.record.image})" if case.record.image else ""
            raise DatasetError(
                f"dataset={self.dataset.name}, case {case.record.case_id}: its image{file} holds NaN or infinite "
                "values; correct it, or take the case out of the dataset",
                kind="not finite",
            )


def prepare_groups(source: CaseSource, groups: list[list[Record]], num_workers: int) -> Iterator[int]:
    """Decodes groups into the cache in ``num_workers`` processes; yields how many cases each needed.

    Every process starts at another place, so that jobs started together share the work. Raises DatasetError for the
    first case that cannot be decoded.
    """
    start = os.getpid() * 7919 % max(1, len(groups))
    work = _Groups(source, groups[start:] + groups[:start])
    yield from DataLoader(
        work,
        batch_size=None,
        num_workers=num_workers,
        worker_init_fn=start_worker,
        generator=torch.Generator(),  # else it would draw from the global one, in a run with a cold cache alone
    )


def group_records(records: Iterable[Record]) -> list[list[Record]]:
    """The slices of a volume together, images alone, in order."""
    ordered = sorted(records, key=lambda record: (record.volume, record.case_id))
    runs = itertools.groupby(ordered, key=lambda record: record.volume or f"\0{record.case_id}")
    return [list(run) for _, run in runs]


class _Groups(TorchDataset[int]):
    def __init__(self, source: CaseSource, groups: list[list[Record]]) -> None:
        self.source = source
        self.groups = groups

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, index: int) -> int:
        return self.source.prepare_all(self.groups[index])


def start_worker(worker_id: int) -> None:
    """What every worker process does first."""
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2, signal.SIGHUP):
        # a terminal and SLURM signal the whole group: the run decides, and its workers end with it
        signal.signal(signum, signal.SIG_IGN)
    torch.set_num_threads(1)  # a forked OpenMP pool can deadlock, and workers are the parallelism already
