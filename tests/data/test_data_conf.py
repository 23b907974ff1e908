"""Every choice of the data groups composes, builds its object, and opens with a line that says what it is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_data import MemoryDataset
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from medsam2.data.loader import PromptedCases

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"
GROUPS = ("dataset", "prompt", "target", "transforms", "cache")
CHOICES = [f"{group}/{path.stem}" for group in GROUPS for path in sorted((CONF / group).glob("*.yaml"))]
CONTEXT = ("+paths.data_root=/data", "+paths.cache_dir=/cache", "+seed=0", "+image_size=32")


def build(choice: str, *overrides: str) -> Any:
    group, name = choice.split("/")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return instantiate(compose(overrides=[f"+{group}={name}", *CONTEXT, *overrides])[group])


@pytest.mark.parametrize("choice", CHOICES)
def test_it_builds(choice: str) -> None:
    built = build(choice)
    assert type(built).__module__.startswith("medsam2.data.")


@pytest.mark.parametrize("choice", CHOICES)
def test_the_first_line_says_what_it_is(choice: str) -> None:
    first = (CONF / f"{choice}.yaml").read_text().splitlines()[0]
    assert first.startswith("# ")
    assert first.endswith(".")


def test_plain_values_arrive() -> None:
    refuge = build("dataset/refuge", "dataset.structures=cup", "dataset.release.cropped=true")
    assert refuge.root == Path("/data/REFUGE")
    assert refuge.release.cropped is True
    assert refuge.split.val_fraction == 0.1
    chest = build("dataset/chest_ct", "dataset.window={level: 40, width: 400}")
    assert chest.window == (40.0, 400.0)
    assert [split for split, _ in chest.split_blocks] == ["train", "test", "train", "val", "train"]
    assert build("prompt/click", "prompt.num_clicks=3").budget == "3 clicks"
    assert build("target/single", "target.rater=5").rater == 5
    phantom = build("dataset/phantom", "dataset.volumes.val=1", "dataset.structures=[vessel]", "dataset.slices=all")
    assert [sum(r.split == split for r in phantom.records()) for split in ("train", "val", "test")] == [128, 16, 96]
    assert phantom.structures == ("vessel",)


def test_flips_from_the_config_reach_a_sample() -> None:
    dataset = MemoryDataset()
    settings = {"prompt": build("prompt/box"), "image_size": 32, "seed": 0, "training": True}
    data = PromptedCases(dataset, dataset.records(), transforms=build("transforms/flips"), **settings)
    assert len({data[(epoch, 0)].targets[0].numpy().tobytes() for epoch in range(12)}) > 3
    again = PromptedCases(dataset, dataset.records(), transforms=build("transforms/flips"), **settings)
    assert np.array_equal(data[(3, 1)].image, again[(3, 1)].image)


def test_importing_the_data_layer_stays_cheap() -> None:
    heavy = ("monai", "hydra", "omegaconf", "mlflow", "pandas", "nrrd", "slicerio")
    code = (
        "import sys\nfrom medsam2.data import loader, chest_ct, dataset, volume_dataset, phantom, phantom_volumes\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"
