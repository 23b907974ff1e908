"""The training loop in plain PyTorch: validate, keep the best, survive being stopped at any batch.

Everything random in an epoch is derived from (seed, epoch, case), and checkpoints hold the position inside the epoch,
so a run that was killed and goes on computes what it would have computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader

from medsam2.distributed import barrier, world_size
from medsam2.methods.base import Method
from medsam2.training.checkpoint import Checkpoints, Progress
from medsam2.training.fit import Fit, Logger
from medsam2.training.precision import Precision, Runtime
from medsam2.training.stop import Stop

Validate = Callable[[int], Mapping[str, float]]


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
        ema: the average of the weights over the steps keeps this share of itself at each step, such as 0.999; it is
            what is validated and kept as the best. None: the weights of the last step are.
        checkpoint_minutes: minutes between checkpoints; one is written after every validation as well.
        max_batches: batches per epoch, None for all.
        detect_anomaly: autograd names the operation that made a NaN gradient (slow).
        devices: how many share the batches; they are processes of their own, started before there is a trainer.
        legacy_bf16_weights: the weights are rounded to bfloat16 after every step, as in Medical-SAM2's 3-D training,
            where steps that are small beside a weight are lost; what the optimiser remembers stays float32.
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
        ema: float | None = None,
        checkpoint_minutes: float = 5.0,
        max_batches: int | None = None,
        detect_anomaly: bool = False,
        devices: int = 1,
        legacy_bf16_weights: bool = False,
    ):
        self.max_epochs = max_epochs
        self.val_every = val_every
        self.monitor = monitor
        self.accumulate = accumulate
        self.clip_norm = clip_norm
        self.precision: Precision = precision
        self.tf32 = tf32
        self.ema = ema
        self.checkpoint_minutes = checkpoint_minutes
        self.max_batches = max_batches
        self.detect_anomaly = detect_anomaly
        self.devices = devices
        self.legacy_bf16_weights = legacy_bf16_weights

    def batches_per_epoch(self, loader: DataLoader[Any]) -> int:
        samples, size = len(loader.dataset), (loader.batch_size or 1) * world_size()  # type: ignore[arg-type]
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
        validate: Validate,
        runtime: Runtime,
        checkpoints: Checkpoints,
        logger: Logger,
        stop: Stop | None = None,
    ) -> Progress:
        """Trains from where the checkpoints are to `max_epochs`.

        Args:
            validate: computes and logs the metrics of an epoch, `monitor` among them.
            stop: asked after every optimiser step; where a signal came, the state is saved first.

        Returns:
            How far it came, with the best value and its epoch.

        Raises:
            NonFiniteLoss: names the epoch, the batch's case ids, the loss terms and the gradient norms.
            OutOfMemory: names the settings to lower and what each would save.
            Preempted: `stop` was asked to leave, and everything is saved.
            DiskFull: no room for a checkpoint; the ones before are whole.
            CheckpointError: there are checkpoints, and none that can be read.
            ValueError: a monitor that is no metric, an ema outside 0..1.
        """
        fit = Fit(self, method, optimizer, scheduler, loader, runtime, checkpoints, logger, stop or Stop())
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
        barrier()  # the first rank has written the best weights
        return progress

    def _validate(self, fit: Fit, validate: Validate, progress: Progress) -> None:
        fit.check_alike(progress)
        with fit.averaged():
            with fit.explained(f"validation, epoch {progress.epoch}", training=False):
                metrics = validate(progress.epoch)
            if self.monitor not in metrics:
                choices = ", ".join(sorted(metrics))
                raise ValueError(f"trainer.monitor={self.monitor}: no such metric; there are {choices}")
            value = metrics[self.monitor]
            if value > progress.best or progress.epoch == 0:  # a first value that is NaN still leaves a best epoch
                progress.best, progress.best_epoch = (value if math.isfinite(value) else -math.inf), progress.epoch
                fit.save_best(progress.epoch)
        fit.save(progress)
