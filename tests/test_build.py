"""The network without a run."""

from pathlib import Path

import pytest
import torch
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from medsam2.build import build_model
from medsam2.config import PROJECT
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


def test_a_wrong_size_is_one_clear_error() -> None:
    with pytest.raises(ValueError, match=r"^image_size=200 is not .* of 32; nearest valid: 192 or 224$"):
        build_model("sam2_nano", "image_size=200")


def test_a_hydra_application_may_build_models_too() -> None:
    with initialize_config_dir(str(PROJECT / "conf"), version_base="1.3"):
        outer = GlobalHydra.instance().hydra
        build_model("sam2_nano", "image_size=64")
        assert GlobalHydra.instance().hydra is outer
    assert not GlobalHydra.instance().is_initialized()
