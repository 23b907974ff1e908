"""The network without a run."""

from pathlib import Path

import pytest
import torch

from medsam2.build import build_model
from medsam2.modeling.sam2 import SAM2
from medsam2.modeling.weights import save_checkpoint


def test_a_choice_is_built_with_its_weights(tmp_path: Path) -> None:
    torch.manual_seed(0)
    random = build_model("sam2_nano", "image_size=64")
    assert isinstance(random, SAM2)
    assert (random.image_size, random.training) == (64, False)
    save_checkpoint(random, tmp_path / "nano.pt")
    loaded = build_model("sam2_nano", f"model.checkpoint={tmp_path / 'nano.pt'}", "image_size=96")
    assert loaded.image_size == 96
    torch.testing.assert_close(loaded.state_dict(), random.state_dict(), rtol=0, atol=0)


def test_missing_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothing\.pt does not exist.*task=fetch"):
        build_model("sam2_t", f"model.checkpoint={tmp_path / 'nothing.pt'}", "image_size=64")
