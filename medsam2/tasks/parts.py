"""What experiment.py builds and a task works with."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader

from medsam2.data.cache import Cache
from medsam2.data.loader import Batch, PromptedCases, Sample, build_loader
from medsam2.data.prompts import Prompter
from medsam2.data.records import Dataset, of_split
from medsam2.data.source import CaseSource, prepare_groups
from medsam2.distributed import barrier, on_first_rank, world_size
from medsam2.evaluation.answers import Witness
from medsam2.evaluation.calibration import BinTally
from medsam2.evaluation.evaluator import Evaluator
from medsam2.evaluation.gallery import Thumbnails, save_gallery
from medsam2.evaluation.pictures import draw_cases, save_picture
from medsam2.evaluation.rows import Row, save_bins, save_rows, summarise
from medsam2.methods.base import Method
from medsam2.runs import RunDirectory
from medsam2.training.checkpoint import Checkpoints
from medsam2.training.memory import Usage, explain_oom, explained, survey
from medsam2.training.precision import Runtime
from medsam2.training.progress import progress_bar
from medsam2.training.stop import Stop
from medsam2.training.trainer import Trainer

if TYPE_CHECKING:
    from medsam2.tracking.base import Tracker

log = logging.getLogger(__name__)


class Outcome(NamedTuple):
    """`value` is what a search may maximise: of a training run a val score; `metrics` are `phase/metric/structure`."""

    value: float
    metrics: dict[str, float]


@dataclass
class RunLogger:
    """Metrics into the run directory, of which the tracker is told."""

    directory: RunDirectory
    tracker: Tracker

    def log_metrics(self, metrics: Mapping[str, float], epoch: int) -> None:
        self.directory.log_metrics(metrics, epoch)
        self.tracker.update()

    def forget_after(self, epoch: int) -> None:
        self.directory.forget_after(epoch)


def unjudged(epoch: int, value: float) -> None:
    """A run outside of a search is trained to its end."""


class Training(NamedTuple):
    """What only a training needs."""

    loader: DataLoader[Sample]
    optimizer: Optimizer
    scheduler: LRScheduler


@dataclass
class Parts:
    """The built objects of one run. `training` is None where nothing is trained."""

    dataset: Dataset
    prompt: Prompter
    cache: Cache
    method: Method
    trainer: Trainer
    training: Training | None
    evaluator: Evaluator
    runtime: Runtime
    directory: RunDirectory
    logger: RunLogger
    run_id: str
    image_size: int
    batch_size: int
    num_workers: int
    seed: int
    stop: Stop = field(default_factory=Stop)
    judge: Callable[[int, float], None] = unjudged  # told each validation; a search's raises Pruned

    @cached_property
    def checkpoints(self) -> Checkpoints:
        params, tracker_id = self.directory.description().get("params"), self.directory.status().get("mlflow_run_id")
        return Checkpoints(self.directory.checkpoints, self.run_id, params, tracker_id)

    def cases(self, split: str) -> PromptedCases:
        """The cases of a split as they are evaluated: fixed prompts, no transforms."""
        records = of_split(self.dataset.records(), split)
        return self.method.build_cases(
            dataset=self.dataset,
            records=records,
            prompt=self.prompt,
            image_size=self.image_size,
            seed=self.seed,
            cache=self.cache,
        )

    def prepare(self, *splits: str) -> None:
        """Decodes the cases of these splits into the cache: no step waits for it, and a damaged file is found now.

        Raises DatasetError naming the first file that cannot be used.
        """
        self._prepare(splits)
        barrier()

    @on_first_rank
    def _prepare(self, splits: Sequence[str]) -> None:
        records = [record for record in self.dataset.records() if record.split in splits]
        source = CaseSource(self.dataset, self.image_size, self.cache)
        groups, start = source.lacking(records), time.time()
        if not groups:
            return
        count = sum(map(len, groups))
        log.info("preparing %d of %d cases for %d px into %s", count, len(records), self.image_size, self.cache.folder)
        with progress_bar("preparing", len(groups)) as advance:
            for _ in prepare_groups(source, groups, self.num_workers):
                self.stop.check()
                advance()
        log.info("prepared in %.0f s", time.time() - start)

    def loader(self, cases: PromptedCases) -> DataLoader[Sample]:
        return build_loader(cases, self.batch_size, self.num_workers, shuffle=False, seed=self.seed)

    def support(self) -> Iterable[Batch]:
        """Training cases as they are evaluated, evenly spaced: what a method may remember before it is asked."""
        cases = self.cases("train")
        records = cases.records
        count = min(len(records), self.method.support_cases or len(records))
        cases.records = [records[i * len(records) // count] for i in range(count)]
        return self.loader(cases)

    def rows(self, loader: DataLoader[Sample], phase: str, witnesses: Sequence[Witness] = ()) -> list[Row]:
        """The rows of a phase with the method as it is now. Raises OutOfMemory naming the settings to lower."""
        device, autocast = self.runtime.device, self.runtime.autocast
        with explained(lambda reason: explain_oom(self._survey(), phase, reason)):
            batches = self._until_stopped(loader)
            return self.evaluator.evaluate(self.method, batches, phase, device, autocast, self.support, witnesses)

    def _until_stopped(self, loader: DataLoader[Sample]) -> Iterator[Any]:
        """An evaluation leaves between two batches: what it has computed is computed again."""
        for batch in loader:
            self.stop.check()
            yield batch

    def _survey(self) -> Usage:
        return survey(
            self.method.model,
            self.training and self.training.optimizer,
            batch_size=self.batch_size,
            accumulate=1,
            frames=getattr(self.method, "frames", None),
            dtype=self.runtime.dtype,
            device=self.runtime.device,
            training=False,
            chunk=getattr(self.method, "chunk", None),
            devices=world_size(),
        )

    def score(self, loader: DataLoader[Sample], phase: str, epoch: int) -> tuple[list[Row], dict[str, float]]:
        """Evaluates, saves the rows under the name of the phase, logs their summary; returns both.

        Saves the calibration bins too, and of the phase `test` a gallery where pictures are wanted.
        """
        bins, thumbnails = BinTally(), Thumbnails(self.evaluator.scorer.whole_volumes)
        pictures = self.evaluator.overlays and phase == "test"
        rows = self.rows(loader, phase, (bins, thumbnails) if pictures else (bins,))
        save_rows(rows, self.directory.rows, phase)
        save_bins(bins.rows(phase), self.directory.rows, phase)
        if pictures:
            save_gallery(thumbnails, self.directory.pictures / phase / "gallery.npz")
        summary = summarise(rows, phase)
        self.logger.log_metrics(summary, epoch)
        return rows, summary

    @on_first_rank
    def draw(self, cases: PromptedCases, rows: list[Row], phase: str) -> None:
        """Pictures of the worst, median and best case per structure, predicted once more."""
        cases.pictures = True
        loader, runtime = self.loader(cases), self.runtime
        method, evaluator, folder = self.method, self.evaluator, self.directory.pictures / phase
        drawn = draw_cases(evaluator, method, cases, loader, rows, runtime.device, runtime.autocast, self.support)
        for name, picture in drawn:
            save_picture(picture, folder / name)
