"""Small real parts: a dataset in memory, a network of some hundred weights, and the method that trains it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from medsam2.config import register_resolvers
from medsam2.data.loader import Batch, PromptedCases, Sample, build_loader
from medsam2.data.prompts import BoxPrompt
from medsam2.data.records import Case, Record, of_split
from medsam2.data.seeding import stable_rng
from medsam2.methods.base import Loss, Method, Prediction

CONF = Path(__file__).resolve().parents[1] / "conf"
SHAPE = (20, 30)  # height, width: not square, so that a swap shows
SIZE = 32


def compose_config(*overrides: str) -> DictConfig:
    """What `python run.py OVERRIDES` would run; the smallest model where none is named.

    Composing takes half a second, so it is done once per set of groups; plain values are merged into a copy.
    """
    groups = tuple(o for o in overrides if _is_group(o.lstrip("+").split("=")[0]))
    if not any(o.startswith(("model=", "experiment=")) for o in groups):
        groups = ("model=sam2_nano", *groups)
    cfg = copy.deepcopy(_compose(groups))
    OmegaConf.set_struct(cfg, False)
    for override in overrides:
        if override not in groups:
            parsed = OverridesParser.create().parse_override(override)
            OmegaConf.update(cfg, parsed.key_or_group, parsed.value(), merge=False)
    return cfg


def _is_group(key: str) -> bool:
    return key == "sweeps" or (CONF / key.split("@")[0]).is_dir()


@cache
def _compose(groups: tuple[str, ...]) -> DictConfig:
    register_resolvers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides=list(groups))


class Blobs:
    """Bright rectangles on noise, one per case; `absent` cases show none."""

    name = "blobs"
    structures = ("blob",)
    allow_shared_patient = False
    exclusive = True
    root = Path()

    def __init__(self, train: int = 8, val: int = 3, test: int = 3, absent: Sequence[str] = ()):
        self.counts = {"test": test, "train": train, "val": val}
        self.absent = set(absent)

    def records(self) -> list[Record]:
        return [
            Record(f"{split}{i}", f"{split}{i}", split, index=i)
            for split, count in self.counts.items()
            for i in range(count)
        ]

    def load(self, record: Record) -> Case:
        rng = stable_rng("blob", record.case_id)
        top, left = int(rng.integers(0, 10)), int(rng.integers(0, 15))
        label = np.zeros(SHAPE, dtype=bool)
        if record.case_id not in self.absent:
            label[top : top + 8, left : left + 12] = True
        image = rng.uniform(0, 0.4, (*SHAPE, 3)).astype(np.float32) + np.float32(0.5) * label[..., None]
        return Case(record, image, {"blob": label}, {"blob": label[None]}, (2.0, 3.0))

    def fingerprint(self) -> str:
        return "0123456789abcdef"

    def decoding(self) -> dict[str, Any]:
        return {"absent": sorted(self.absent)}

    def loader(self, batch_size: int, split: str = "train", seed: int = 0) -> Any:
        training = split == "train"
        cases = PromptedCases(self, of_split(self.records(), split), BoxPrompt(), SIZE, seed, training=training)
        return build_loader(cases, batch_size, num_workers=0, shuffle=training, seed=seed)


class PixelMethod(Method):
    """Judges each pixel by its neighbourhood; the prompt is not looked at."""

    def __init__(self, dropout: float = 0.0, seed: int = 0):
        super().__init__(nn.Identity())
        generator_state = torch.get_rng_state()
        torch.manual_seed(seed)
        self.model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.GELU(), nn.Dropout(dropout), nn.Conv2d(4, 1, 1))
        torch.set_rng_state(generator_state)

    def loss(self, batch: Batch) -> Loss:
        logits = self.model(batch.images)[batch.image_index].float()
        total = binary_cross_entropy_with_logits(logits, batch.targets)
        return Loss(total, {"bce": total.detach()})

    def predict(self, batch: Batch) -> Prediction:
        logits = self.model(batch.images)[batch.image_index].float()
        return Prediction(logits, logits.sigmoid().amax((1, 2, 3)), batch.objects)


class Stopped(BaseException):
    """Stands for a kill: nothing in the project catches it."""


class StoppedMethod(PixelMethod):
    """Is stopped in the middle of its `calls`-th loss (from 1)."""

    def __init__(self, calls: int, **settings: Any):
        super().__init__(**settings)
        self.left = calls

    def loss(self, batch: Batch) -> Loss:
        self.left -= 1
        if self.left == 0:
            raise Stopped
        return super().loss(batch)


def batch_of(samples: Sequence[Sample]) -> Batch:
    from medsam2.data.batch import collate

    return collate(samples)
