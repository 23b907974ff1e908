"""The objects that train together: one epoch, one batch, one optimiser step, and the state that outlives a kill."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader

from medsam2.data.loader import Batch
from medsam2.data.seeding import stable_rng
from medsam2.distributed import barrier, gather, rank, sum_gradients, world_size
from medsam2.methods.base import Method
from medsam2.modeling.lora import merged_state_dict
from medsam2.training.checkpoint import Checkpoints, Progress
from medsam2.training.ema import EMA
from medsam2.training.memory import explain_oom, explained, survey
from medsam2.training.precision import Runtime
from medsam2.training.progress import progress_bar
from medsam2.training.shares import judge
from medsam2.training.stop import Stop
from medsam2.training.watch import Watch

if TYPE_CHECKING:
    from medsam2.training.trainer import Trainer

log = logging.getLogger(__name__)


class Logger(Protocol):
    def log_metrics(self, metrics: Mapping[str, float], epoch: int) -> None: ...

    def forget_after(self, epoch: int) -> None:
        """Drops what an earlier attempt logged after `epoch`: it is computed again."""


class Fit:
    """One call of `Trainer.fit`; on several ranks each has all of this, and it stays the same on all of them."""

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
        stop: Stop,
    ):
        self.trainer, self.method, self.optimizer, self.scheduler = trainer, method, optimizer, scheduler
        self.loader, self.runtime, self.checkpoints, self.logger = loader, runtime, checkpoints, logger
        self.stop = stop
        if trainer.legacy_bf16_weights:
            log.warning("trainer.legacy_bf16_weights: a step of less than 0.2 to 0.4 % of a weight is lost")
            round_to_bf16(method.model.parameters())
        self.scaler = torch.amp.GradScaler(  # fp16 alone has too small a range for gradients
            torch.device(runtime.device).type, enabled=runtime.dtype is torch.float16
        )
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.ema = None if trainer.ema is None else EMA(method.model, trainer.ema)
        self.watch = Watch(method.model, optimizer)
        self.saved = time.monotonic()

    # ----------------------------------------------------------------------------------------------- state

    def resume(self) -> Progress:
        stored = self.checkpoints.load_last()
        if stored is None:
            return Progress()
        state, progress = stored
        self.method.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.scaler.load_state_dict(state["scaler"])
        self.method.load_state_dict(state["method"])
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])
        self.logger.forget_after(progress.epoch)
        log.info("resuming after epoch %d and %d batches", progress.epoch, progress.batch)
        return progress

    def save(self, progress: Progress) -> None:
        state = {
            "model": self.method.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "scaler": self.scaler.state_dict(),
            "method": self.method.state_dict(),
        }
        if self.ema is not None:
            state["ema"] = self.ema.state_dict()
        self.checkpoints.save_last(state, progress)
        self.saved = time.monotonic()

    def check_alike(self, progress: Progress) -> None:
        """Raises RuntimeError where ranks have come apart, in what they learned or in what they have seen."""
        if world_size() > 1:
            sums = torch.stack([p.detach().double().sum() for p in self.parameters]).tolist()
            if len({repr(one) for one in gather((sums, progress))}) > 1:
                raise RuntimeError(f"epoch {progress.epoch}: the devices do not have the same weights any more")

    def save_best(self, epoch: int) -> None:
        """The weights as they are now, under the network's own names."""
        self.checkpoints.save_best(merged_state_dict(self.method.model), epoch)

    def averaged(self) -> AbstractContextManager[None]:
        """Inside, the model has the weights that are judged and kept."""
        return nullcontext() if self.ema is None else self.ema.averaged()

    def explained(self, place: str, training: bool) -> AbstractContextManager[None]:
        """Inside, an error for want of memory names the settings to lower."""

        frames = getattr(self.method, "frames", None)

        def explain(reason: str) -> str:
            usage = survey(
                self.method.model,
                self.optimizer,
                batch_size=(self.loader.batch_size or 1) * world_size() * (frames or 1),
                accumulate=self.trainer.accumulate,
                frames=frames,
                dtype=self.runtime.dtype,
                device=self.runtime.device,
                training=training,
                chunk=getattr(self.method, "chunk", None),
                devices=world_size(),
            )
            return explain_oom(usage, place, reason)

        return explained(explain)

    # -------------------------------------------------------------------------------------------- training

    def train_epoch(self, progress: Progress) -> None:
        """From the position in `progress` to the end of the epoch, which is then counted as complete."""
        epoch, total = progress.epoch + 1, self.trainer.batches_per_epoch(self.loader)
        self.method.model.train()
        self.method.start_epoch(epoch)
        size = (self.loader.batch_size or 1) * world_size()
        self.loader.sampler.set_epoch(epoch, start=progress.batch * size)  # type: ignore[attr-defined]
        if progress.batch == 0:
            self.optimizer.zero_grad(set_to_none=True)
        with progress_bar(f"epoch {epoch}", total, progress.batch) as advance:
            batches = iter(self.loader)
            while progress.batch < total:
                with self.explained(f"training, epoch {epoch}", training=True):
                    self._batch(next(batches, None), progress, total)  # None: too small for all ranks
                advance()
        means = {f"train/{name}": mean for name, mean in progress.means().items()}
        self.logger.log_metrics({"train/loss": 0.0} | means | {"train/lr": self.optimizer.param_groups[0]["lr"]}, epoch)
        if epoch == 1:
            self.watch.report_idle()
        progress.finish_epoch()

    def _batch(self, batch: Batch | None, progress: Progress, total: int) -> None:
        progress.batch += 1
        place, loss = f"epoch {progress.epoch + 1}, batch {progress.batch}", None
        if batch is not None and batch.objects:
            self._reseed(progress)
            batch = batch.to(self.runtime.device, non_blocking=True)
            with self.runtime.autocast():
                loss = self.method.loss(batch)
        judged = judge(loss, batch)
        if judged.terms:
            self.watch.check_loss(judged.cases, judged.terms, place)
            progress.count(judged.terms, judged.objects)
        if judged.total is not None:
            self.scaler.scale(judged.total / self._group_size(progress.batch, total)).backward()
        if progress.batch % self.trainer.accumulate == 0 or progress.batch == total:
            self._step(progress, place)
            # only here: gradients that are still being accumulated are in no checkpoint
            asked = self.stop.agreed
            if asked or time.monotonic() - self.saved > 60 * self.trainer.checkpoint_minutes:
                self.save(progress)
            if asked:
                barrier()  # the first rank has saved
                self.stop.leave()

    def _reseed(self, progress: Progress) -> None:
        """Dropout differs between ranks. The first one goes on as a single process would, and is saved."""
        if rank() > 0:
            rng = stable_rng("rank", self.method.seed, progress.epoch, progress.batch, rank())
            torch.manual_seed(int(rng.integers(2**62)))

    def _group_size(self, batch: int, total: int) -> int:
        """How many batches share the optimiser step that batch number `batch` (from 1) belongs to."""
        size = self.trainer.accumulate
        first = (batch - 1) // size * size
        return min(size, total - first)

    def _step(self, progress: Progress, place: str) -> None:
        sum_gradients(self.parameters)
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        if gradients:  # none where every batch of the step was without objects
            self.scaler.unscale_(self.optimizer)
            total = get_total_norm(gradients)
            norm = float(total)
            self.watch.check_gradient(norm, place, tolerant=self.scaler.is_enabled())
            if math.isfinite(norm):
                progress.count({"grad_norm": norm}, 1)
            if self.trainer.clip_norm is not None:
                clip_grads_with_norm_(self.parameters, self.trainer.clip_norm, total)
            self.scaler.step(self.optimizer)
            self.scaler.update()
            if self.trainer.legacy_bf16_weights:
                round_to_bf16(self.parameters)
            if self.ema is not None and math.isfinite(norm):  # else fp16 overflowed, and no step was made
                self.ema.update()
        self.scheduler.step()
        self.optimizer.zero_grad(set_to_none=True)


@torch.no_grad()
def round_to_bf16(parameters: Iterable[Tensor]) -> None:
    """Rounds values in place to what bfloat16 can hold; their type stays."""
    for parameter in parameters:
        parameter.copy_(parameter.bfloat16())
