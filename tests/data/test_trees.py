"""Every dataset on a tree with its real layout: what its config composes lists, loads and trains."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hydra.utils import instantiate
from trees import Tree, all_trees

from medsam2.config import PROJECT
from medsam2.data.loader import PromptedCases, collate
from medsam2.data.records import SPLITS
from medsam2.experiment import run
from tests.conftest import Compose

TREES = all_trees()


def test_every_dataset_has_a_tree() -> None:
    choices = {file.stem for file in (PROJECT / "conf" / "dataset").glob("*.yaml")}
    assert choices - {"chest_ct", "phantom"} == {tree.dataset for tree in TREES}
    assert len({tree.name for tree in TREES}) == len(TREES)


@pytest.mark.parametrize("tree", TREES, ids=lambda tree: tree.name)
def test_a_dataset_lists_and_loads_every_case(tree: Tree, config: Compose, tmp_path: Path) -> None:
    tree.write(tmp_path)
    cfg = config(*tree.command(tmp_path))
    dataset = instantiate(cfg.dataset)
    records = dataset.records()
    assert {record.split for record in records} == set(SPLITS)
    assert [record.case_id for record in records] == sorted(record.case_id for record in records)
    shown = set()
    for record in records:
        case = dataset.load(record)
        assert case.image.dtype == np.float32
        assert case.image.shape[2] in (1, 3)
        assert 0 <= case.image.min() <= case.image.max() <= 1
        assert tuple(case.labels) == dataset.structures
        for structure, label in case.labels.items():
            assert label.shape == case.image.shape[:2] == case.raters[structure].shape[1:]
            shown |= {structure} if label.any() else set()
    assert shown == set(dataset.structures)
    json.dumps(dataset.decoding())  # plain values: they name entries of the cache
    assert dataset.fingerprint() == instantiate(cfg.dataset).fingerprint()
    cases = PromptedCases(dataset, records[:2], instantiate(cfg.prompt), 64, 0, training=True)
    assert collate([cases[0], cases[1]]).to("cpu").images.shape == (2, 3, 64, 64)


@pytest.mark.slow
@pytest.mark.parametrize("tree", TREES, ids=lambda tree: tree.name)
def test_a_dataset_trains_an_epoch(tree: Tree, config: Compose, tmp_path: Path) -> None:
    tree.write(tmp_path / "data")
    settings = ["model=sam2_nano", "trainer.max_epochs=1", "image_size=64", "num_workers=0"]
    cfg = config(*tree.command(tmp_path / "data"), *settings)
    assert 0 <= run(cfg) <= 1
    status = json.loads((Path(cfg.run_dir) / "status.json").read_text())
    assert status["state"] == "finished"
    assert {key.split("/")[0] for key in status["metrics"]} >= {"zero_shot", "test", "best"}
