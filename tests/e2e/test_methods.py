"""Every method through the whole run: the same numbers however it is loaded, wherever it is stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from medsam2.experiment import run
from tests.conftest import Compose
from tests.fakes import Stopped

SMALL = (
    "dataset=phantom",
    "dataset.volumes={train: 2, val: 1, test: 1}",
    "dataset.depth=8",
    "image_size=64",
    "batch_size=4",
    "device=cpu",
    "cache=none",
    "trainer.max_epochs=2",
    "trainer.checkpoint_minutes=1e-9",  # after every optimiser step
    "trainer.ema=0.9",
    "metrics.overlays=false",
)
METHODS = {  # name -> its choice and settings: everything that is drawn or kept between steps is used
    "image": ["method=image_refine", "prompt=mixed", "transforms=ct"],
    "clicks": ["method=image_correct", "method.rounds=3", "prompt=click", "target=random", "loss=sam2"],
    "learned": ["prompt=learned"],
    "lora": ["model/tuning=lora", "trainer.accumulate=2", "loss=dice_focal"],
    "stream": ["method=memory_stream", "method.prompt_share=0.5", "method.min_iou=0", "method.reset_each_epoch=false"],
    "random": ["method=memory_stream", "method.policy=random", "method.size=2", "method.evaluation=stream"],
    "volume": ["method=volume", "method.frames=2", "method.stride=[1, 2]", "dataset.slices=all", "transforms=flips"],
}


def execute(config: Compose, folder: Path, *overrides: str) -> tuple[dict[str, Any], pd.DataFrame]:
    """A run below `folder`: its last checkpoint and its test rows."""
    cfg = config(*SMALL, *overrides, f"run_dir={folder}")
    run(cfg)
    last = torch.load(folder / "checkpoints" / "last.pt", weights_only=True)
    return last, pd.read_parquet(folder / "rows" / "test.parquet")


def equal(a: Any, b: Any) -> bool:
    """Whether two nests of plain values and tensors are the same, bit for bit."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(value, b[key]) for key, value in a.items())
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return bool(a == b)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_workers_and_a_stop_change_no_number(
    name: str, config: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = METHODS[name]
    last, rows = execute(config, tmp_path / "whole", *settings, "num_workers=0")
    assert rows["dice"].notna().all()

    cfg = config(*SMALL, *settings, "num_workers=0", f"run_dir={tmp_path / 'stopped'}")
    calls, original = [0], torch.optim.Adam.step

    def step(self: torch.optim.Adam, *args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == stop_at:
            raise Stopped
        return original(self, *args, **kwargs)

    steps = round(float(last["scheduler"]["last_epoch"]))
    stop_at = steps // 2 + 2  # in the second of two epochs
    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.Adam, "step", step)
        with pytest.raises(Stopped):
            run(cfg)
    again, rows_again = execute(config, tmp_path / "stopped", *settings, "num_workers=2")
    assert calls[0] == stop_at
    different = [key for key in last if key != "run_id" and not equal(last[key], again[key])]
    assert different == []
    pd.testing.assert_frame_equal(rows, rows_again)
