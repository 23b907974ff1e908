"""The loop: what it computes, where it stops, and that being stopped changes nothing."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medsam2.data.batch import Batch
from medsam2.methods.base import Loss
from medsam2.modeling.lora import add_lora, merge_lora
from medsam2.optim import cosine
from medsam2.runs import RunDirectory
from medsam2.tasks.parts import RunLogger
from medsam2.tracking.base import Offline
from medsam2.training.checkpoint import CheckpointError, Checkpoints, Progress
from medsam2.training.memory import OutOfMemory
from medsam2.training.precision import Runtime
from medsam2.training.trainer import Trainer
from medsam2.training.watch import NonFiniteLoss
from tests.fakes import Blobs, PixelMethod, Stopped, StoppedMethod

MONITOR = "val/dice/mean"
Validate = Callable[[int], Mapping[str, float]]


@dataclass
class Fit:
    """One training run in a folder; calling it again goes on from its checkpoint."""

    folder: Path
    method: PixelMethod
    dataset: Blobs
    batch_size: int = 2
    dtype: torch.dtype = torch.float32
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam
    lr: float = 0.02
    run_id: str = "aaa"
    scores: Validate | None = None

    def __call__(self, max_epochs: int = 3, **settings: Any) -> Progress:
        loader = self.dataset.loader(self.batch_size)
        trainer = Trainer(max_epochs=max_epochs, **settings)
        self.directory = RunDirectory(self.folder)
        self.directory.open("aaa", "", fresh=False)
        self.logger = RunLogger(self.directory, Offline())
        self.used = self.optimizer(self.method.model.parameters(), lr=self.lr)
        scheduler = cosine(self.used, trainer.steps_per_epoch(loader), max_epochs, warmup_epochs=1)
        checkpoints = Checkpoints(self.directory.checkpoints, self.run_id)
        runtime = Runtime("cpu", self.dtype)
        return trainer.fit(self.method, self.used, scheduler, loader, self._validate, runtime, checkpoints, self.logger)

    def _validate(self, epoch: int) -> Mapping[str, float]:
        metrics = self.scores(epoch) if self.scores else {MONITOR: self.dice()}
        self.logger.log_metrics(metrics, epoch)
        return metrics

    @torch.no_grad()
    def dice(self) -> float:
        self.method.model.eval()
        (batch,) = list(self.dataset.loader(99, "val"))
        predicted, target = self.method.predict(batch).mask_logits > 0, batch.targets > 0
        return float(2 * (predicted & target).sum() / (predicted.sum() + target.sum()))

    @property
    def metrics(self) -> list[tuple[int, dict[str, float]]]:
        return [(e["epoch"], e["metrics"]) for e in self.directory.metrics()]

    def stored(self, name: str = "last.pt") -> dict[str, Any]:
        state: dict[str, Any] = torch.load(self.folder / "checkpoints" / name, weights_only=True)
        return state


@pytest.fixture
def fit(tmp_path: Path) -> Callable[..., Fit]:
    def build(name: str = "run", method: PixelMethod | None = None, **settings: Any) -> Fit:
        return Fit(**{"folder": tmp_path / name, "method": method or PixelMethod(), "dataset": Blobs()} | settings)

    return build


def equal(a: Any, b: Any) -> bool:
    """Bit for bit, through nested containers."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, Mapping):
        return isinstance(b, Mapping) and list(a) == list(b) and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return bool(a == b)


def weights(method: PixelMethod) -> dict[str, Tensor]:
    return {k: v.detach().clone() for k, v in method.model.state_dict().items()}


# ---------------------------------------------------------------------------------------------- the loop


def test_training_learns(fit: Callable[..., Fit]) -> None:
    run = fit(lr=0.05, batch_size=1)
    before = run.dice()
    progress = run(max_epochs=10)
    losses = [m["train/loss"] for _, m in run.metrics if "train/loss" in m]
    assert len(losses) == 10
    assert losses[-1] < 0.5 * losses[0]
    assert run.dice() > max(0.9, before + 0.2)
    assert progress.best >= run.dice()


def test_the_logged_loss_is_the_mean_over_objects_and_lr_the_schedules(fit: Callable[..., Fit]) -> None:
    run = fit(batch_size=3, lr=0.0)  # 8 cases: batches of 3, 3, 2; weights stay as they are
    run(max_epochs=1)
    per_case = []
    for batch in Blobs().loader(1):
        per_case.append(float(PixelMethod().loss(batch.to("cpu")).total.detach()))
    assert dict(run.metrics[1][1])["train/loss"] == pytest.approx(sum(per_case) / 8, rel=1e-5)
    run = fit("second")
    run(max_epochs=2)
    rates = [m["train/lr"] for _, m in run.metrics if "train/lr" in m]
    assert rates == pytest.approx([0.02, 0.02 * 0.1])  # after the warm-up's epoch; at the cosine's end


def test_every_term_is_logged_as_a_mean_over_objects_and_the_gradients_norm_over_steps(
    fit: Callable[..., Fit],
) -> None:
    class TwoTerms(PixelMethod):
        seen: list[tuple[int, float]] = []  # noqa: RUF012

        def loss(self, batch: Batch) -> Loss:
            total = super().loss(batch).total
            TwoTerms.seen.append((len(batch.objects), float(total.detach())))
            terms = {"mask": 2 * total.detach(), "loss": total.detach()}
            if len(batch.objects) < 3:  # some terms are in some batches only
                terms["presence"] = torch.tensor(0.5)
            return Loss(total, terms)

    run = fit(method=TwoTerms(), batch_size=3, optimizer=torch.optim.SGD, lr=0.0)  # 8 cases: batches of 3, 3, 2
    before = weights(run.method)
    run(max_epochs=1)
    (logged,) = [m for _, m in run.metrics if "train/loss" in m]
    mean = sum(count * value for count, value in TwoTerms.seen) / 8
    assert logged.pop("train/loss") == pytest.approx(mean)
    assert logged.pop("train/mask") == pytest.approx(2 * mean)
    norms = []
    for batch in order_of_epoch_1(3):
        run.method.model.zero_grad()
        PixelMethod.loss(run.method, batch).total.backward()
        norms.append(float(torch.cat([p.grad.flatten() for p in run.method.model.parameters()]).norm()))  # type: ignore[union-attr]
    assert logged.pop("train/grad_norm") == pytest.approx(sum(norms) / 3, rel=1e-5)
    assert set(logged) == {"train/presence", "train/lr"}
    assert logged["train/presence"] == 0.5
    assert equal(weights(run.method), before)


def order_of_epoch_1(batch_size: int) -> list[Batch]:
    loader = Blobs().loader(batch_size)
    loader.sampler.set_epoch(1)
    return [batch.to("cpu") for batch in loader]


def test_epoch_0_is_the_model_as_it_came(fit: Callable[..., Fit]) -> None:
    run = fit()
    came, seen = weights(run.method), {}

    def scores(epoch: int) -> dict[str, float]:
        seen[epoch] = weights(run.method)
        return {MONITOR: 0.5}

    run.scores = scores
    run(max_epochs=1)
    assert list(seen) == [0, 1]
    assert equal(seen[0], came)
    assert not equal(seen[1], came)


@pytest.mark.parametrize(
    ("max_epochs", "val_every", "expected"), [(3, 1, [0, 1, 2, 3]), (5, 2, [0, 2, 4, 5]), (4, 9, [0, 4])]
)
def test_validation_comes_every_so_often_and_at_the_end(
    fit: Callable[..., Fit], max_epochs: int, val_every: int, expected: list[int]
) -> None:
    seen: list[int] = []
    run = fit(scores=lambda epoch: seen.append(epoch) or {MONITOR: 0.0})  # type: ignore[func-returns-value]
    progress = run(max_epochs=max_epochs, val_every=val_every)
    assert seen == expected
    assert (progress.epoch, progress.batch) == (max_epochs, 0)


@pytest.mark.parametrize(
    ("scores", "best_epoch"),
    [([0.1, 0.9, 0.3, 0.2], 1), ([0.9, 0.1, 0.2, 0.3], 0), ([0.1, 0.5, 0.5, 0.5], 1), ([0.1, math.nan, 0.4, 0.2], 2)],
)
def test_the_best_epoch_on_val_is_kept_not_the_last(
    fit: Callable[..., Fit], scores: list[float], best_epoch: int
) -> None:
    seen = {}
    run = fit()

    def validate(epoch: int) -> dict[str, float]:
        seen[epoch] = weights(run.method)
        return {MONITOR: scores[epoch], "val/iou/mean": -scores[epoch]}

    run.scores = validate
    progress = run(max_epochs=3)
    assert (progress.best_epoch, progress.best) == (best_epoch, scores[best_epoch])
    stored = run.stored("best.pt")
    assert stored["epoch"] == best_epoch
    assert equal(stored["model"], seen[best_epoch])
    assert equal(run.stored("last.pt")["model"], seen[3])


def test_another_monitor_chooses_another_epoch(fit: Callable[..., Fit]) -> None:
    run = fit(scores=lambda epoch: {MONITOR: float(epoch), "val/iou/mean": -float(epoch)})
    assert run(max_epochs=2, monitor="val/iou/mean").best_epoch == 0


def test_a_monitor_that_is_no_metric_is_an_error_with_the_choices(fit: Callable[..., Fit]) -> None:
    run = fit(scores=lambda epoch: {"val/dice/mean": 0.5, "val/dice/cup": 0.5})
    with pytest.raises(ValueError, match=r"trainer\.monitor=val/dise: .*val/dice/cup, val/dice/mean"):
        run(monitor="val/dise")


@pytest.mark.parametrize(
    ("cases", "batch_size", "accumulate", "max_batches", "batches", "steps"),
    [(8, 2, 1, None, 4, 4), (8, 3, 1, None, 3, 3), (8, 3, 2, None, 3, 2), (8, 2, 1, 3, 3, 3), (8, 2, 4, 99, 4, 1)],
)
def test_batches_and_steps_of_an_epoch(
    fit: Callable[..., Fit],
    cases: int,
    batch_size: int,
    accumulate: int,
    max_batches: int | None,
    batches: int,
    steps: int,
) -> None:
    trainer = Trainer(max_epochs=1, accumulate=accumulate, max_batches=max_batches)
    loader = Blobs(train=cases).loader(batch_size)
    assert (trainer.batches_per_epoch(loader), trainer.steps_per_epoch(loader)) == (batches, steps)
    run = fit(dataset=Blobs(train=cases), batch_size=batch_size)
    run(max_epochs=2, accumulate=accumulate, max_batches=max_batches)
    assert {int(s["step"]) for s in run.used.state.values()} == {2 * steps}


def test_accumulating_two_batches_of_2_is_a_batch_of_4(fit: Callable[..., Fit]) -> None:
    # 10 cases: the last step of the epoch has one batch of 2 in both ways
    for optimizer in (torch.optim.SGD, torch.optim.AdamW):
        runs = [
            fit(f"{optimizer.__name__}{size}", dataset=Blobs(train=10), batch_size=size, optimizer=optimizer)
            for size in (2, 4)
        ]
        runs[0](max_epochs=2, accumulate=2)
        runs[1](max_epochs=2, accumulate=1)
        for name, value in runs[0].method.model.state_dict().items():
            torch.testing.assert_close(value, runs[1].method.model.state_dict()[name], rtol=1e-4, atol=1e-6)
        assert not equal(weights(runs[0].method), weights(PixelMethod()))


def test_clip_norm_bounds_the_step(fit: Callable[..., Fit]) -> None:
    moved = {}
    for clip in (None, 1e-3):
        run = fit(str(clip), optimizer=torch.optim.SGD, lr=1.0)
        before = weights(run.method)
        run(max_epochs=1, max_batches=1, clip_norm=clip)
        change = [(run.method.model.state_dict()[k] - v).flatten() for k, v in before.items()]
        moved[clip] = float(torch.cat(change).norm())
    first_rate = 1 / 2  # one step per epoch, one epoch of warm-up
    assert moved[1e-3] == pytest.approx(1e-3 * first_rate, rel=1e-3)
    assert moved[None] > 10 * moved[1e-3]


def test_batches_without_objects_are_skipped(fit: Callable[..., Fit]) -> None:
    run = fit(dataset=Blobs(absent=["train1", "train4", "train5"]), batch_size=1)
    run(max_epochs=2)
    assert {int(s["step"]) for s in run.used.state.values()} == {2 * 5}
    assert run.used.param_groups[0]["lr"] == pytest.approx(0.02 * 0.1)  # the schedule counts them all the same


@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_an_epoch_without_any_object_changes_nothing(fit: Callable[..., Fit], clip_norm: float | None) -> None:
    run = fit(dataset=Blobs(absent=[f"train{i}" for i in range(8)]), scores=lambda epoch: {MONITOR: 0.0})
    before = weights(run.method)
    run(max_epochs=2, clip_norm=clip_norm)
    assert equal(weights(run.method), before)
    assert [m["train/loss"] for _, m in run.metrics if "train/loss" in m] == [0.0, 0.0]


def test_every_epoch_sees_every_case_once_in_another_order(fit: Callable[..., Fit]) -> None:
    class Recording(PixelMethod):
        seen: list[str] = []  # noqa: RUF012

        def loss(self, batch: Batch) -> Loss:
            self.seen += batch.case_ids
            assert self.model.training
            return super().loss(batch)

    run = fit(method=Recording(), batch_size=3)
    run(max_epochs=2)
    first, second = Recording.seen[:8], Recording.seen[8:]
    assert sorted(first) == sorted(second) == [f"train{i}" for i in range(8)]
    assert first != second


def test_parameters_that_the_loss_never_reaches_are_named(
    fit: Callable[..., Fit], caplog: pytest.LogCaptureFixture
) -> None:
    method = PixelMethod()
    method.model.add_module("unused", nn.Module())
    method.model.unused.register_parameter("weight", nn.Parameter(torch.zeros(2)))  # type: ignore[union-attr, operator]
    method.model.forward = lambda x: method.model[3](method.model[1](method.model[0](x)))  # type: ignore[index, method-assign]
    run = fit(method=method)
    with caplog.at_level(logging.INFO, "medsam2.training.watch"):
        run(max_epochs=2)
    messages = [r.getMessage() for r in caplog.records if "no gradient" in r.getMessage()]
    assert messages == ["1 parameter tensors get no gradient from this loss: unused"]


def test_an_optimiser_without_a_state_names_the_same(fit: Callable[..., Fit], caplog: pytest.LogCaptureFixture) -> None:
    run = fit(optimizer=torch.optim.SGD)
    with caplog.at_level(logging.INFO):
        run(max_epochs=1)
    assert "no gradient" not in caplog.text


def test_lora_is_merged_in_the_best_file_and_apart_in_the_last(fit: Callable[..., Fit]) -> None:
    run = fit(scores=lambda epoch: {MONITOR: float(epoch)})
    run.method.model.add_module("4", nn.Sequential(Pixelwise(1, 1)))
    add_lora(run.method.model, ["4.0.*"], rank=1, alpha=1.0)
    run(max_epochs=3)
    plain = PixelMethod()
    plain.model.add_module("4", nn.Sequential(Pixelwise(1, 1)))
    best, last = run.stored("best.pt")["model"], run.stored("last.pt")["model"]
    assert set(best) == set(plain.model.state_dict())
    assert "4.0.linear.parametrizations.weight.0.lora_a" in last
    merge_lora(run.method.model)
    assert run.stored("best.pt")["epoch"] == 3
    assert equal(dict(sorted(best.items())), dict(sorted(weights(run.method).items())))


class Pixelwise(nn.Module):
    """A linear layer on the channels of every pixel."""

    def __init__(self, dim_in: int, dim_out: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim_in, dim_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.movedim(1, -1)).movedim(-1, 1)


# ----------------------------------------------------------------------------------------------- averages


def test_the_average_is_validated_and_kept_and_training_goes_on_from_the_last_weights(
    fit: Callable[..., Fit],
) -> None:
    validated: dict[int, Any] = {}

    def observe(run: Fit) -> Validate:
        def scores(epoch: int) -> dict[str, float]:
            validated[epoch] = weights(run.method)
            return {MONITOR: float(epoch)}

        return scores

    plain = fit("plain")
    plain.scores = observe(plain)
    plain(max_epochs=2, max_batches=1)  # one step per epoch
    raw = dict(validated)
    averaging = fit("averaging")
    averaging.scores = observe(averaging)
    averaging(max_epochs=2, max_batches=1, ema=0.999)
    assert equal(validated[0], raw[0])
    assert equal(averaging.stored()["model"], raw[2])
    for name in raw[0]:
        first = raw[0][name].lerp(raw[1][name], 1 - 2 / 11)  # (1 + n) / (10 + n) is kept at step n
        second = first.lerp(raw[2][name], 1 - 3 / 12)
        torch.testing.assert_close(validated[1][name], first)
        torch.testing.assert_close(validated[2][name], second)
    assert equal(averaging.stored("best.pt")["model"], validated[2])
    assert equal(averaging.stored()["ema"]["averages"], validated[2])
    assert equal(weights(averaging.method), raw[2])


def test_without_a_switch_there_is_no_average(fit: Callable[..., Fit]) -> None:
    run = fit()
    run(max_epochs=1, max_batches=1)
    assert "ema" not in run.stored()


@pytest.mark.parametrize("ema", [0.0, 1.0, -0.5])
def test_an_average_that_is_none_is_refused(fit: Callable[..., Fit], ema: float) -> None:
    with pytest.raises(ValueError, match=rf"trainer\.ema={ema}: must lie between 0 and 1"):
        fit()(ema=ema)


# --------------------------------------------------------------------------------------------- precision


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_and_optimiser_stay_float32_under_autocast(fit: Callable[..., Fit], dtype: torch.dtype) -> None:
    run = fit(dtype=dtype)
    before = weights(run.method)
    run(max_epochs=2)
    assert {p.dtype for p in run.method.model.parameters()} == {torch.float32}
    state = [v for s in run.used.state.values() for v in s.values() if isinstance(v, Tensor)]
    assert {v.dtype for v in state} == {torch.float32}
    assert len(state) == 4 * 3
    assert not any(torch.equal(v, before[k]) for k, v in run.method.model.state_dict().items())


def test_bf16_computes_products_in_bf16(fit: Callable[..., Fit]) -> None:
    class Recording(PixelMethod):
        def loss(self, batch: Batch) -> Loss:
            assert self.model(batch.images).dtype == torch.bfloat16
            return super().loss(batch)

    fit(method=Recording(), dtype=torch.bfloat16)(max_epochs=1, max_batches=1)


@pytest.mark.parametrize(
    ("dtype", "enabled", "scaled"),
    [(torch.float32, False, False), (torch.bfloat16, True, False), (torch.float16, True, True)],
)
def test_there_is_one_autocast_around_the_loss_and_a_scaler_for_fp16_alone(
    fit: Callable[..., Fit], monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, enabled: bool, scaled: bool
) -> None:
    state: list[tuple[bool, torch.dtype]] = []
    entered: list[torch.autocast] = []
    enter = torch.autocast.__enter__
    monkeypatch.setattr(torch.autocast, "__enter__", lambda self: entered.append(self) or enter(self))  # type: ignore[func-returns-value]

    class Recording(PixelMethod):
        def loss(self, batch: Batch) -> Loss:
            state.append((torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")))
            total, terms, _ = super().loss(batch)
            total.register_hook(lambda gradient: state.append((torch.is_autocast_enabled("cpu"), dtype)))
            return Loss(total, terms)

    run = fit(method=Recording(), dtype=dtype, optimizer=torch.optim.SGD, scores=lambda epoch: {MONITOR: 0.0})
    run(max_epochs=1, max_batches=2)
    assert [inside for inside, _ in state] == [enabled, False, enabled, False]  # loss, backward, loss, backward
    assert not enabled or state[0][1] is dtype
    assert len(entered) == (2 if enabled else 0)
    assert bool(run.stored()["scaler"]) is scaled


def test_bf16_weights_lose_the_steps_that_float32_weights_take(fit: Callable[..., Fit]) -> None:
    moved = {}
    for legacy in (False, True):
        run = fit(str(legacy), lr=1e-6)
        before = {k: v.bfloat16().float() if legacy else v for k, v in weights(run.method).items()}
        run(max_epochs=3, legacy_bf16_weights=legacy)
        after = weights(run.method)
        assert all(torch.equal(v, v.bfloat16().float()) is legacy for v in after.values())
        moved[legacy] = float(torch.cat([(after[k] != before[k]).flatten() for k in before]).float().mean())
    assert moved[False] > 0.99
    assert moved[True] < 0.05


def test_fp16_with_clipping_survives_a_step_without_objects(fit: Callable[..., Fit]) -> None:
    run = fit(dataset=Blobs(absent=["train2"]), batch_size=1, dtype=torch.float16)
    run(max_epochs=2, clip_norm=1.0)
    assert run.used.state


# ------------------------------------------------------------------------------------------ non-finite loss


def test_a_nan_loss_stops_before_the_step_and_names_the_cases(fit: Callable[..., Fit]) -> None:
    run = fit(batch_size=1)
    history = []

    class Recording(PixelMethod):
        def loss(self, batch: Batch) -> Loss:
            history.append((batch.case_ids, weights(self)))
            if batch.case_ids == ["train3"]:
                batch.images.fill_(math.nan)
            return super().loss(batch)

    run.method = Recording()
    with pytest.raises(NonFiniteLoss) as caught:
        run(max_epochs=2)
    assert history[-1][0] == ["train3"]
    assert equal(weights(run.method), history[-1][1])
    norms = "no step before it" if len(history) == 1 else "gradient norms of the steps before 0."
    for part in ("loss is nan in epoch 1, batch", "bce=nan", "cases train3", norms, "optim.lr", "trainer.clip_norm"):
        assert part in str(caught.value)
    assert all(bool(v.isfinite().all()) for v in run.stored("best.pt")["model"].values())


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_non_finite_loss_in_a_group_spoils_no_weights(fit: Callable[..., Fit], value: float) -> None:
    class Spoilt(PixelMethod):
        calls = 0

        def loss(self, batch: Batch) -> Loss:
            self.calls += 1
            total, terms, _ = super().loss(batch)
            return Loss(total * (value if self.calls == 4 else 1.0), terms)

    run = fit(method=Spoilt())
    with pytest.raises(NonFiniteLoss, match=f"loss is {value} in epoch 1, batch 4"):
        run(accumulate=4)
    assert equal(weights(run.method), weights(PixelMethod()))


def test_a_non_finite_gradient_names_its_parts_the_terms_and_every_case_of_the_step(fit: Callable[..., Fit]) -> None:
    class Spoilt(PixelMethod):
        seen: list[str] = []  # noqa: RUF012

        def loss(self, batch: Batch) -> Loss:
            Spoilt.seen += batch.case_ids
            total, terms, _ = super().loss(batch)
            if len(Spoilt.seen) == 6:
                total.register_hook(lambda gradient: gradient * math.inf)
            if len(Spoilt.seen) == 8:
                self.model[3].weight.register_hook(lambda gradient: gradient * math.nan)  # type: ignore[index, union-attr, operator]
            return Loss(total, terms)

    run = fit(method=Spoilt())
    with pytest.raises(NonFiniteLoss) as caught:
        run(accumulate=2)
    text = str(caught.value)
    assert "the gradient's norm is nan in epoch 1, batch 4 (norms by part: 0=" in text
    assert "3=nan; loss terms: bce=0." in text
    assert f"cases since the last step {', '.join(Spoilt.seen[4:8])}; gradient norms of the steps before 0." in text
    assert all(bool(v.isfinite().all()) for v in weights(run.method).values())


# -------------------------------------------------------------------------------------------- out of memory


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1 GiB free. More. And more."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes."),
        RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 99 bytes."),
    ],
    ids=["CUDA", "Linux", "Windows"],
)
def test_out_of_memory_names_what_to_lower(fit: Callable[..., Fit], error: RuntimeError) -> None:
    class Greedy(PixelMethod):
        def loss(self, batch: Batch) -> Loss:
            raise error

    with pytest.raises(OutOfMemory) as caught:
        fit(method=Greedy())()
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("out of memory in training, epoch 1 (")
    assert "tried to allocate" in lines[0].lower()
    assert "And more" not in lines[0]
    assert lines[2].startswith("  batch_size=1 trainer.accumulate=2: saves about 50% of the activations")
    assert caught.value.__cause__ is error


def test_out_of_memory_in_a_validation_does_not_speak_of_gradients(fit: Callable[..., Fit]) -> None:
    def scores(epoch: int) -> dict[str, float]:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(OutOfMemory, match=r"in validation, epoch 0 \(CUDA out of memory\.\)") as caught:
        fit(scores=scores)()
    assert "accumulate" not in str(caught.value)
    assert "optimiser" not in str(caught.value)


def test_other_errors_stay_what_they_are(fit: Callable[..., Fit]) -> None:
    class Broken(PixelMethod):
        def loss(self, batch: Batch) -> Loss:
            raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match=r"^shapes do not fit$"):
        fit(method=Broken())()


# --------------------------------------------------------------------------------------------- interruption


class Remembering(PixelMethod):
    """Its loss depends on every batch it has seen, on the epoch, and on a generator of its own."""

    def __init__(self, **settings: Any):
        super().__init__(**settings)
        self.memory = torch.zeros(3)
        self.generator = torch.Generator().manual_seed(3)
        self.calls: list[Any] = []

    def start_epoch(self, epoch: int) -> None:
        super().start_epoch(epoch)
        self.calls.append(epoch)

    def loss(self, batch: Batch) -> Loss:
        self.calls.append(batch.case_ids)
        noise = torch.rand(3, generator=self.generator)
        self.memory = 0.5 * self.memory + 0.5 * batch.images.mean((0, 2, 3)) * noise
        total = super().loss(batch).total * (1 + self.epoch * self.memory.sum())
        return Loss(total, {"bce": total.detach(), "memory": self.memory.sum()})

    def state_dict(self) -> dict[str, Any]:
        return {"memory": self.memory, "generator": self.generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.calls.append("loaded")
        self.memory = state["memory"]
        self.generator.set_state(state["generator"])


class StoppedRemembering(Remembering):
    def loss(self, batch: Batch) -> Loss:
        if sum(isinstance(call, list) for call in self.calls) + 1 == 7:  # the third of four batches of epoch 2
            raise Stopped
        return super().loss(batch)


@pytest.mark.parametrize("minutes", [1e-9, 60.0], ids=["saved every step", "saved every epoch"])
def test_a_methods_state_and_the_average_go_on_inside_an_epoch(fit: Callable[..., Fit], minutes: float) -> None:
    settings = {"max_epochs": 3, "checkpoint_minutes": minutes, "ema": 0.9, "clip_norm": 0.5}
    whole = fit("whole", Remembering())
    expected = whole(**settings)
    with pytest.raises(Stopped):
        fit("killed", StoppedRemembering())(**settings)
    resumed = fit("killed", Remembering())
    assert resumed(**settings) == expected
    assert equal(weights(resumed.method), weights(whole.method))
    assert equal(resumed.stored(), whole.stored())
    assert equal(resumed.stored("best.pt"), whole.stored("best.pt"))
    assert resumed.metrics == whole.metrics
    assert "train/memory" in whole.metrics[-2][1]


def test_a_method_is_told_the_epoch_before_its_first_batch_and_after_its_state_is_back(
    fit: Callable[..., Fit],
) -> None:
    with pytest.raises(Stopped):
        fit(method=StoppedRemembering())(checkpoint_minutes=1e-9)
    resumed = Remembering()
    fit(method=resumed)(max_epochs=3, checkpoint_minutes=1e-9)
    kinds = ["batch" if isinstance(call, list) else call for call in resumed.calls]
    assert kinds == ["loaded", 2, "batch", "batch", 3, "batch", "batch", "batch", "batch"]


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("minutes", [1e-9, 60.0], ids=["saved every step", "saved every epoch"])
@pytest.mark.parametrize("call", [1, 2, 4, 5, 7, 12])
def test_a_killed_run_that_goes_on_equals_the_uninterrupted_one(
    fit: Callable[..., Fit], call: int, minutes: float, accumulate: int
) -> None:
    settings = {"max_epochs": 3, "accumulate": accumulate, "checkpoint_minutes": minutes}
    torch.manual_seed(1)
    whole = fit("whole", PixelMethod(dropout=0.3))
    expected = whole(**settings)
    torch.manual_seed(1)
    with pytest.raises(Stopped):
        fit("killed", StoppedMethod(call, dropout=0.3))(**settings)
    torch.manual_seed(77)  # another process starts with other generators
    resumed = fit("killed", PixelMethod(dropout=0.3, seed=5))
    assert resumed(**settings) == expected
    assert equal(weights(resumed.method), weights(whole.method))
    assert equal(resumed.used.state_dict(), whole.used.state_dict())
    assert equal(resumed.stored(), whole.stored())
    assert equal(resumed.stored("best.pt"), whole.stored("best.pt"))
    assert resumed.metrics == whole.metrics


@pytest.mark.parametrize("epoch", [0, 2, 3])
def test_a_kill_in_a_validation_leaves_no_double_entries(fit: Callable[..., Fit], epoch: int) -> None:
    whole = fit("whole")
    whole(max_epochs=3)
    killed = fit("killed")

    def validate(at: int) -> dict[str, float]:
        if at == epoch:
            killed.logger.log_metrics({"val/half": 1.0}, at)
            raise Stopped
        return {MONITOR: killed.dice()}

    killed.scores = validate
    with pytest.raises(Stopped):
        killed(max_epochs=3)
    resumed = fit("killed")
    if epoch == 0:
        RunDirectory(resumed.folder).forget_after(-1)  # as the task does where there is no checkpoint
    resumed(max_epochs=3)
    assert resumed.metrics == whole.metrics
    assert equal(weights(resumed.method), weights(whole.method))


def test_a_mid_epoch_checkpoint_goes_on_inside_the_epoch(fit: Callable[..., Fit]) -> None:
    with pytest.raises(Stopped):
        fit(method=StoppedMethod(4))(checkpoint_minutes=1e-9)  # 4 batches an epoch: killed in the last
    assert fit().folder.joinpath("checkpoints/last.pt").exists()
    assert (fit().stored()["progress"]["epoch"], fit().stored()["progress"]["batch"]) == (0, 3)
    calls = StoppedMethod(99)
    fit(method=calls)(max_epochs=1)
    assert 99 - calls.left == 1


def test_gradients_that_are_being_accumulated_are_in_no_checkpoint(fit: Callable[..., Fit]) -> None:
    with pytest.raises(Stopped):
        fit(method=StoppedMethod(4))(checkpoint_minutes=1e-9, accumulate=2)
    assert fit().stored()["progress"]["batch"] == 2


def test_a_finished_run_computes_nothing_more(fit: Callable[..., Fit]) -> None:
    first = fit()
    progress = first(max_epochs=2)
    again = fit(method=StoppedMethod(1), scores=lambda epoch: pytest.fail("validated again"))
    assert again(max_epochs=2) == progress
    assert equal(weights(again.method), weights(first.method))
    assert again.metrics == first.metrics


def test_a_checkpoint_of_another_run_is_refused(fit: Callable[..., Fit]) -> None:
    fit()(max_epochs=1)
    other = fit(run_id="bbb")
    with pytest.raises(CheckpointError, match="another configuration"):
        other(max_epochs=1)
    assert equal(weights(other.method), weights(PixelMethod()))


def test_after_a_damaged_checkpoint_the_one_before_goes_on_and_ends_as_the_uninterrupted_run(
    fit: Callable[..., Fit],
) -> None:
    whole = fit()
    whole(max_epochs=2)
    file = whole.folder / "checkpoints" / "last.pt"
    file.write_bytes(file.read_bytes()[:-200])
    before = whole.metrics
    again = fit()
    again(max_epochs=2)
    assert equal(weights(again.method), weights(whole.method))
    assert again.metrics == before


def test_where_every_checkpoint_is_damaged_nothing_is_started_anew(fit: Callable[..., Fit]) -> None:
    run = fit()
    run(max_epochs=1)
    for name in ("last.pt", "previous.pt"):
        file = run.folder / "checkpoints" / name
        file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(CheckpointError, match=r"previous\.pt: cannot be read .* force=true"):
        fit(scores=lambda epoch: pytest.fail("started again"))(max_epochs=1)


def test_anomaly_detection_is_on_only_inside(fit: Callable[..., Fit]) -> None:
    seen = []

    class Recording(PixelMethod):
        def loss(self, batch: Batch) -> Loss:
            seen.append(torch.is_anomaly_enabled())
            return super().loss(batch)

    fit("on", Recording())(max_epochs=1, max_batches=1, detect_anomaly=True)
    fit("off", Recording())(max_epochs=1, max_batches=1)
    assert seen == [True, False]
    assert not torch.is_anomaly_enabled()
