"""What a test lets several processes do together, and one process alone."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medsam2.data.loader import build_loader
from medsam2.data.phantom_volumes import PhantomVolumes
from medsam2.data.prompts import BoxPrompt, NoPrompt
from medsam2.data.records import DatasetError, of_split
from medsam2.distributed import barrier, gather, rank, world_size
from medsam2.evaluation.calibration import BinTally
from medsam2.evaluation.evaluator import Evaluator
from medsam2.evaluation.gallery import Thumbnails, save_gallery
from medsam2.losses import BCE, FocalDice
from medsam2.methods.image import ImageMethod
from medsam2.methods.volume import VolumeMethod
from medsam2.modeling.sam2 import SAM2
from medsam2.optim import cosine
from medsam2.ranks.worker import Link
from medsam2.runs import RunDirectory
from medsam2.tasks.parts import RunLogger
from medsam2.tracking.base import Offline
from medsam2.training.checkpoint import Checkpoints
from medsam2.training.precision import Runtime
from medsam2.training.stop import Preempted, Stop
from medsam2.training.trainer import Trainer
from medsam2.training.watch import Watch
from tests.fakes import Blobs, PixelMethod
from tests.methods.helpers_volume import SIZE, build

EPOCHS = {"image": 1, "image_correct": 2, "volume": 2, "pixels": 3}
ABSENT = ["train0", "train3", "train5"]


def phantom() -> PhantomVolumes:
    volumes = {"train": 1, "val": 3, "test": 1}
    return PhantomVolumes(structures=["lobe", "kidney"], volumes=volumes, size=64, depth=8, slices="all", noise=0.03)


def without_dropout() -> SAM2:
    """Dropout is another on each rank, as it is in every batch."""
    model = build()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.0
    return model


@dataclass
class Plan:
    """A training run: 7 images, or 3 clips, in batches of which the last one is smaller."""

    method: Any
    dataset: Any
    prompt: Any
    batch_size: int
    settings: dict[str, Any] = field(default_factory=dict)


def plan(name: str) -> Plan:
    if name == "image":  # objects that are not there: each term is a mean over others
        settings = {"accumulate": 2, "clip_norm": 0.5, "ema": 0.9}
        return Plan(ImageMethod(build(), BCE(2.0)), Blobs(train=7, absent=ABSENT), NoPrompt(), 2, settings)
    if name == "image_correct":  # images without objects: some ranks have none
        method = ImageMethod(build(), FocalDice(), rounds=3, correct=True, candidates=True)
        return Plan(method, Blobs(train=7, absent=ABSENT), BoxPrompt(), 2)
    if name == "volume":
        method = VolumeMethod(without_dropout(), FocalDice(), frames=3)
        return Plan(method, phantom(), BoxPrompt(), 6, {"clip_norm": 1.0})
    return Plan(PixelMethod(), Blobs(train=7, absent=ABSENT), BoxPrompt(), 2, {"ema": 0.9})


@dataclass
class Trained:
    """What a run left: the loss and the cases of every batch, the weights, and the lines of its metrics."""

    losses: list[tuple[float, list[str]]] = field(default_factory=list)
    weights: dict[str, Tensor] = field(default_factory=dict)
    average: dict[str, Tensor] = field(default_factory=dict)
    metrics: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    stopped: int | None = None


def train(name: str, folder: Path, max_epochs: int = 3, stop_at: int | None = None) -> Trained:
    """Trains in a folder, from where the folder is; `stop_at`: the last rank hears USR2 in that batch."""
    what, done, stop = plan(name), Trained(), Stop()
    cases = what.method.build_cases(
        dataset=what.dataset,
        records=of_split(what.dataset.records(), "train"),
        prompt=what.prompt,
        image_size=SIZE,
        seed=0,
        training=True,
    )
    loader = build_loader(cases, what.batch_size, num_workers=0, shuffle=True, seed=0)
    trainer = Trainer(max_epochs=max_epochs, checkpoint_minutes=1e-9, **what.settings)
    directory = RunDirectory(folder)
    if rank() == 0:
        directory.open("aaa", "", fresh=False)
    barrier()
    logger, checkpoints = RunLogger(directory, Offline()), Checkpoints(directory.checkpoints, "aaa")
    optimizer = torch.optim.SGD(what.method.model.parameters(), lr=0.01, momentum=0.9)
    scheduler = cosine(optimizer, trainer.steps_per_epoch(loader), max_epochs, warmup_epochs=1)
    check_loss = Watch.check_loss

    def listen(self: Watch, cases: list[str], terms: Mapping[str, float], place: str) -> None:
        done.losses.append((terms["loss"], list(cases)))
        if len(done.losses) == stop_at and rank() == world_size() - 1:
            stop.signum = signal.SIGUSR2
        check_loss(self, cases, terms, place)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Watch, "check_loss", listen)
        try:
            parts = what.method, optimizer, scheduler, loader, validate, Runtime("cpu", torch.float32)
            trainer.fit(*parts, checkpoints, logger, stop)
        except Preempted as error:
            done.stopped = error.signum
    done.weights = {k: v.detach().clone() for k, v in what.method.model.state_dict().items()}
    barrier()
    done.metrics = [(line["epoch"], line["metrics"]) for line in directory.metrics()]
    if what.settings.get("ema"):
        done.average = torch.load(folder / "checkpoints" / "last.pt", weights_only=True)["ema"]["averages"]
    return done


def validate(epoch: int) -> dict[str, float]:
    return {"val/dice/mean": 0.1 * epoch}


def evaluate(dataset: Any, batch_size: int, folder: Path) -> list[dict[str, Any]]:
    """The rows, with those of the calibration bins behind them; a gallery in the folder."""
    method, bins, thumbnails = PixelMethod(), BinTally(), Thumbnails()
    cases = method.build_cases(
        dataset=dataset, records=of_split(dataset.records(), "val"), prompt=BoxPrompt(), image_size=SIZE, seed=0
    )
    loader = build_loader(cases, batch_size, num_workers=0, shuffle=False, seed=0)
    evaluator, autocast = Evaluator(["dice", "hd95", "ece"]), Runtime("cpu", torch.float32).autocast
    rows = evaluator.evaluate(method, loader, "val", "cpu", autocast, witnesses=[bins, thumbnails])
    save_gallery(thumbnails, folder / "gallery.npz")
    return rows + bins.rows("val")


def do_all(folder: Path, names: Sequence[str]) -> dict[str, Any]:
    """Everything that is to be the same on two ranks as in one process."""
    torch.set_num_threads(1)
    results: dict[str, Any] = {name: train(name, folder / name, EPOCHS[name]) for name in names}
    results |= {
        "rows": evaluate(Blobs(val=5), 2, folder),
        "rows of volumes": evaluate(phantom(), 4, folder / "volumes"),
    }
    barrier()
    return results | {"gallery": (folder / "gallery.npz").read_bytes()}


def work(link: Link, folder: Path, names: Sequence[str]) -> None:
    """What two ranks do in the tests; at the end one of them is killed."""
    results = do_all(folder, names)
    results["stopped"] = train("pixels", folder / "stopped", stop_at=6)
    results["gone on"] = train("pixels", folder / "stopped")
    results["left for one"] = train("pixels", folder / "left", stop_at=6)
    results["other"] = gather(results)[1]
    if rank() == 0:
        torch.save(results, folder / "results.pt")
    barrier()
    if rank() == 1:
        (folder / "killed").write_text(str(time.time()))
        os.kill(os.getpid(), signal.SIGKILL)
    barrier()


# ------------------------------------------------------------------------------------------------ faults


def fail(link: Link) -> None:
    if link.rank == 1:
        raise DatasetError("case a: no such file", "missing file")
    barrier()


def until_told(link: Link, folder: Path) -> None:
    """Steps until all agree to leave, and says at which."""
    (folder / f"pid{link.rank}").write_text(str(os.getpid()))
    for step in range(10**6):
        time.sleep(0.01)
        if link.stop.agreed:
            (folder / f"step{link.rank}").write_text(str(step))
            link.stop.leave()
