"""The training loop in plain PyTorch: validate, keep the best, survive being stopped at any batch.

Everything random in an epoch is derived from (seed, epoch, case), and checkpoints hold the position inside the epoch,
so a run that was killed and goes on computes what it would have computed.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader

from medsam2.data.loader import Batch
from medsam2.methods.base import Method
from medsam2.training.checkpoint import Checkpoints, Progress
from medsam2.training.precision import Precision, Runtime
from medsam2.training.progress import progress_bar

log = logging.getLogger(__name__)


class NonFiniteLoss(RuntimeError):
    """The loss or its gradient became NaN or infinite. The weights are those of the last optimiser step."""


class Logger(Protocol):
    def log_metrics(self, metrics: Mapping[str, float], epoch: int) -> None: ...

    def forget_after(self, epoch: int) -> None:
        """Drops what an earlier attempt logged after `epoch`: it is computed again."""


class Trainer:
    """Minimises a method's loss and keeps the epoch with the largest `monitor`.

    Args:
        max_epochs: epochs in all; epoch 0 is the model as it came.
        val_every: epochs between validations; the last epoch is validated in any case.
        monitor: the metric that chooses the epoch, larger is better.
        accumulate: batches per optimiser step.
        clip_norm: largest L2 norm of all gradients, None for no limit.
        precision: auto, fp32, bf16 or fp16; weights stay float32.
        tf32: TensorFloat-32 for float32 products where the GPU has it.
        checkpoint_minutes: minutes between checkpoints; one is written after every validation as well.
        max_batches: batches per epoch, None for all.
        detect_anomaly: autograd names the operation that made a NaN gradient (slow).
    """

    def __init__(
        self,
        max_epochs: int,
        val_every: int = 1,
        monitor: str = "val/dice/mean",
        accumulate: int = 1,
        clip_norm: float | None = None,
        precision: Precision = "auto",
        tf32: bool = True,
        checkpoint_minutes: float = 5.0,
        max_batches: int | None = None,
        detect_anomaly: bool = False,
    ):
        self.max_epochs = max_epochs
        self.val_every = val_every
        self.monitor = monitor
        self.accumulate = accumulate
        self.clip_norm = clip_norm
        self.precision: Precision = precision
        self.tf32 = tf32
        self.checkpoint_minutes = checkpoint_minutes
        self.max_batches = max_batches
        self.detect_anomaly = detect_anomaly

    def batches_per_epoch(self, loader: DataLoader[Any]) -> int:
        samples, size = len(loader.dataset), loader.batch_size or 1  # type: ignore[arg-type]
        whole = math.ceil(samples / size)
        return min(whole, self.max_batches or whole)

    def steps_per_epoch(self, loader: DataLoader[Any]) -> int:
        """Optimiser steps in one epoch; a last incomplete accumulation is a step too."""
        return math.ceil(self.batches_per_epoch(loader) / self.accumulate)

    def fit(
        self,
        method: Method,
        optimizer: Optimizer,
        scheduler: LRScheduler,
        loader: DataLoader[Any],
        validate: Callable[[int], Mapping[str, float]],
        runtime: Runtime,
        checkpoints: Checkpoints,
        logger: Logger,
    ) -> Progress:
        """Trains from where the checkpoints are to `max_epochs`.

        Args:
            validate: computes and logs the metrics of an epoch, `monitor` among them.

        Returns:
            How far it came, with the best value and its epoch.

        Raises:
            NonFiniteLoss: names the epoch, the batch's case ids and the loss terms.
            CheckpointError: there is a `last.pt` that cannot be read.
        """
        fit = _Fit(self, method, optimizer, scheduler, loader, runtime, checkpoints, logger)
        progress = fit.resume()
        if progress.epoch < 0:
            progress.epoch = 0
            self._validate(fit, validate, progress)
        with torch.autograd.set_detect_anomaly(self.detect_anomaly, check_nan=True):
            while progress.epoch < self.max_epochs:
                fit.train_epoch(progress)
                last = progress.epoch == self.max_epochs
                if last or progress.epoch % self.val_every == 0:
                    self._validate(fit, validate, progress)
        return progress

    def _validate(self, fit: _Fit, validate: Callable[[int], Mapping[str, float]], progress: Progress) -> None:
        metrics = validate(progress.epoch)
        if self.monitor not in metrics:
            raise ValueError(f"trainer.monitor={self.monitor}: no such metric; there are {', '.join(sorted(metrics))}")
        value = metrics[self.monitor]
        if value > progress.best or progress.epoch == 0:  # a first value that is NaN still leaves a best epoch
            progress.best, progress.best_epoch = (value if math.isfinite(value) else -math.inf), progress.epoch
            fit.checkpoints.save_best(fit.method.model.state_dict(), progress.epoch)
        fit.save(progress)


class _Fit:
    """One call of `Trainer.fit`: the objects that train together."""

    def __init__(
        self,
        trainer: Trainer,
        method: Method,
        optimizer: Optimizer,
        scheduler: LRScheduler,
        loader: DataLoader[Any],
        runtime: Runtime,
        checkpoints: Checkpoints,
        logger: Logger,
    ):
        self.trainer, self.method, self.optimizer, self.scheduler = trainer, method, optimizer, scheduler
        self.loader, self.runtime, self.checkpoints, self.logger = loader, runtime, checkpoints, logger
        self.scaler = torch.amp.GradScaler(  # fp16 alone has too small a range for gradients
            torch.device(runtime.device).type, enabled=runtime.dtype is torch.float16
        )
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.saved = time.monotonic()

    def resume(self) -> Progress:
        stored = self.checkpoints.load_last()
        if stored is None:
            return Progress()
        state, progress = stored
        self.method.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.scaler.load_state_dict(state["scaler"])
        self.logger.forget_after(progress.epoch)
        log.info("resuming after epoch %d and %d batches", progress.epoch, progress.batch)
        return progress

    def save(self, progress: Progress) -> None:
        state = {
            "model": self.method.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": self.scaler.state_dict(),
        }
        self.checkpoints.save_last(state, progress)
        self.saved = time.monotonic()

    def train_epoch(self, progress: Progress) -> None:
        """From the position in `progress` to the end of the epoch, which is then counted as complete."""
        epoch, total = progress.epoch + 1, self.trainer.batches_per_epoch(self.loader)
        self.method.model.train()
        self.loader.sampler.set_epoch(epoch, start=progress.batch * (self.loader.batch_size or 1))  # type: ignore[attr-defined]
        if progress.batch == 0:
            self.optimizer.zero_grad(set_to_none=True)
        with progress_bar(f"epoch {epoch}", total, progress.batch) as advance:
            batches = iter(self.loader)
            while progress.batch < total:
                self._batch(next(batches), progress, total)
                advance()
        mean = progress.epoch_loss / max(1, progress.epoch_objects)
        self.logger.log_metrics({"train/loss": mean, "train/lr": self.optimizer.param_groups[0]["lr"]}, epoch)
        if epoch == 1:
            self._report_idle()
        progress.epoch, progress.batch, progress.epoch_loss, progress.epoch_objects = epoch, 0, 0.0, 0

    def _batch(self, batch: Batch, progress: Progress, total: int) -> None:
        progress.batch += 1
        steps = progress.batch % self.trainer.accumulate == 0 or progress.batch == total
        if batch.objects:
            batch = batch.to(self.runtime.device, non_blocking=True)
            with self.runtime.autocast():
                loss = self.method.loss(batch)
            value = float(loss.total.detach())
            if not math.isfinite(value):
                terms = ", ".join(f"{k}={float(v):g}" for k, v in loss.terms.items())
                raise NonFiniteLoss(
                    f"loss is {value} in epoch {progress.epoch + 1}, batch {progress.batch} "
                    f"({terms}; cases {', '.join(batch.case_ids)}); lower optim.lr, set trainer.clip_norm=1.0 "
                    "or use trainer.precision=fp32"
                )
            self.scaler.scale(loss.total / self._group_size(progress.batch, total)).backward()
            progress.epoch_loss += value * len(batch.objects)
            progress.epoch_objects += len(batch.objects)
        if steps:
            self._step(batch, progress)
            # only here: gradients that are still being accumulated are in no checkpoint
            if time.monotonic() - self.saved > 60 * self.trainer.checkpoint_minutes:
                self.save(progress)

    def _group_size(self, batch: int, total: int) -> int:
        """How many batches share the optimiser step that batch number `batch` (from 1) belongs to."""
        size = self.trainer.accumulate
        first = (batch - 1) // size * size
        return min(size, total - first)

    def _step(self, batch: Batch, progress: Progress) -> None:
        if any(p.grad is not None for p in self.parameters):  # none where every batch of the step was without objects
            self.scaler.unscale_(self.optimizer)
            norm = float(clip_grad_norm_(self.parameters, self.trainer.clip_norm or math.inf))
            if not math.isfinite(norm) and not self.scaler.is_enabled():  # the scaler skips such a step by itself
                raise NonFiniteLoss(
                    f"the gradient's norm is {norm} in epoch {progress.epoch + 1}, batch {progress.batch} "
                    f"(last cases {', '.join(batch.case_ids)}); lower optim.lr or use trainer.precision=fp32"
                )
            self.scaler.step(self.optimizer)
            self.scaler.update()
        self.scheduler.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _report_idle(self) -> None:
        """Says which trainable parameters this loss never reaches: they keep their values."""
        seen = {id(p) for p, state in self.optimizer.state.items() if state}
        trained = {n: p for n, p in self.method.model.named_parameters() if p.requires_grad}
        idle = [n for n, p in trained.items() if id(p) not in seen]
        busy = {n.split(".")[0] for n in trained.keys() - idle}
        if idle:
            parts = sorted({".".join(n.split(".")[: 2 if n.split(".")[0] in busy else 1]) for n in idle})
            log.info("%d parameter tensors get no gradient from this loss: %s", len(idle), ", ".join(parts))
