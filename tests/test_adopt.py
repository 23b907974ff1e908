"""What an evaluation takes from a trained run, and what stays as it was typed; masks of others in place of a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from medsam2.adopt import adopt, adopted_choices, typed_keys
from medsam2.config import identity
from medsam2.config_check import ConfigError, find_problems
from medsam2.origin import find_origin
from medsam2.runs import RunDirectory
from tests.conftest import Compose

EVALUATE = "task=evaluate"


def train(config: Compose, *overrides: str, state: str = "finished", best: bool = True) -> RunDirectory:
    """The folder of a run as a training leaves it, without the training."""
    cfg = config(*overrides)
    directory = RunDirectory(Path(cfg.run_dir))
    directory.open(cfg.run_id, OmegaConf.to_yaml(cfg, resolve=True), fresh=False, params=identity(cfg))
    choices = {"model": cfg.model.name, "prompt": "box", "dataset": cfg.dataset.name, "task": "train", "cache": "disk"}
    directory.describe(dataset=cfg.dataset.name, split_hash="abc", choices=choices)
    directory.update(state=state)
    if best:
        (directory.checkpoints / "best.pt").write_bytes(f"weights of {cfg.run_id}".encode())
    return directory


def evaluate(config: Compose, run: RunDirectory | str, *overrides: str) -> DictConfig:
    name = run if isinstance(run, str) else run.status()["run_id"]
    typed = (EVALUATE, f"run='{name}'", *overrides)
    cfg = config(*typed)
    adopt(cfg, typed)
    return cfg


def refusal(config: Compose, *overrides: str) -> str:
    cfg = config(*overrides)
    with pytest.raises(ConfigError) as caught:
        adopt(cfg, overrides)
    return str(caught.value)


# few sets of groups: to compose one takes half a second, to change values in it does not
GROUPS = ("prompt=click", "method=image_correct", "loss=bce", "metrics=surface", "dataset=phantom")
TRAINED = (*GROUPS, "image_size=64", "seed=7", "batch_size=2", "optim.lr=0.5")


def test_what_decides_numbers_comes_from_the_trained_run(config: Compose) -> None:
    directory = train(config, *TRAINED)
    cfg, before = evaluate(config, directory, "dataset=chest_ct"), config(*TRAINED)
    for key in ("prompt", "method", "metrics", "loss", "seed", "batch_size", "optim", "image_size", "model.network"):
        assert OmegaConf.select(cfg, key) == OmegaConf.select(before, key), key
    assert cfg.model.checkpoint == str(directory.checkpoints / "best.pt")
    assert (cfg.dataset.name, cfg.task._target_) == ("chest_ct", "medsam2.tasks.evaluate.evaluate")
    assert cfg.run == before.run_id
    assert find_problems(cfg) == []


def test_without_a_dataset_it_is_that_of_the_training_where_it_lies_here(config: Compose) -> None:
    directory = train(config, "dataset=refuge", "paths.data_root=/elsewhere", "dataset.split_seed=3")
    cfg = evaluate(config, directory, "paths.data_root=/here")
    assert (cfg.dataset.name, cfg.dataset.split_seed) == ("refuge", 3)
    assert cfg.dataset.root == f"/here/{Path(config('dataset=refuge').dataset.root).name}"


LOCAL = ("num_workers=7", "num_threads=3", "device=cpu", "force=true", "study=other", "trainer.devices=2")


def test_what_concerns_this_machine_stays(config: Compose) -> None:
    directory = train(config, *LOCAL, "trainer.max_epochs=3")
    cfg, plain = evaluate(config, directory), config()
    for key in (
        "num_workers",
        "num_threads",
        "device",
        "force",
        "study",
        "cache",
        "paths",
        "tracking",
        "trainer.devices",
    ):
        assert OmegaConf.select(cfg, key) == OmegaConf.select(plain, key), key
    assert cfg.trainer.max_epochs == 3


def test_what_is_typed_wins(config: Compose) -> None:
    directory = train(config, *TRAINED)
    typed = (
        EVALUATE,
        "prompt=box",
        "metrics.nsd_tolerance=1",
        "seed=1",
        "model.mask_selection.thresh=0.5",
        "~metrics.vcdr",
    )
    cfg = config(EVALUATE, f"run={directory.path.name}", *(one for one in typed[2:] if "=" in one))  # a box by default
    del cfg.metrics.vcdr
    adopt(cfg, typed)
    assert cfg.prompt == config().prompt != config(*GROUPS).prompt  # a group as a whole
    assert (cfg.metrics.nsd_tolerance, cfg.seed) == (1, 1)
    assert cfg.metrics.names == config(*GROUPS).metrics.names  # the rest is the run's
    assert "vcdr" not in cfg.metrics
    decoder = cfg.model.network.sam_mask_decoder
    assert decoder.dynamic_multimask_stability_thresh == 0.5  # wherever it counts


@pytest.mark.parametrize("model", ["sam2_nano", "litemedsam"])
def test_another_image_size_reaches_the_whole_network(config: Compose, model: str) -> None:
    directory = train(config, f"model={model}", "model.checkpoint=null", "image_size=64")
    assert evaluate(config, directory).model.network.image_size == 64
    cfg = evaluate(config, directory, "image_size=96")
    sizes = [value for key, value in identity(cfg).items() if key.startswith("model.network") and "image_size" in key]
    assert len(sizes) >= 2
    assert set(sizes) == {96}


def test_a_key_that_an_old_run_does_not_know_has_its_default(config: Compose) -> None:
    directory = train(config, *TRAINED)
    old = OmegaConf.load(directory.path / "config.yaml")
    del old.trainer, old.model.mask_selection, old.metrics.unit
    (directory.path / "config.yaml").write_text(OmegaConf.to_yaml(old))
    cfg = evaluate(config, directory)
    assert cfg.trainer == config().trainer
    assert cfg.model.mask_selection == config().model.mask_selection
    assert "unit" not in cfg.metrics  # the class has a default of its own
    assert find_problems(cfg) == []


def test_merged_weights_get_no_updates_on_top(config: Compose) -> None:
    cfg = evaluate(config, train(config, "model/tuning=lora"))
    assert cfg.model.tuning.lora is None
    assert cfg.model.sha256 is None


# ------------------------------------------------------------------------------------------------ identity


def test_an_evaluation_is_a_run_of_its_own_that_follows_from_the_weights(config: Compose) -> None:
    first, second = train(config, "seed=1"), train(config, "seed=2")
    ids = [evaluate(config, one).run_id for one in (first, second)]
    ids.append(first.status()["run_id"])
    assert len(set(ids)) == 3
    assert {evaluate(config, name).run_id for name in (ids[2][:6], str(first.path))} == {ids[0]}  # however it is named
    (first.checkpoints / "best.pt").write_bytes(b"others")
    assert evaluate(config, first).run_id not in ids


def test_what_came_later_leaves_older_run_ids(config: Compose) -> None:
    values = identity(config())
    assert not {"run", "predictions", "name", "labels", "metrics.convention"} & set(values)
    assert config().run_id == config("metrics.convention=medsam2").run_id != config("metrics.convention=monai").run_id


def test_to_complete_twice_changes_nothing(config: Compose) -> None:
    cfg = evaluate(config, train(config, *TRAINED), "seed=3")
    before = OmegaConf.to_container(cfg)
    adopt(cfg)
    assert OmegaConf.to_container(cfg) == before


def test_a_config_that_names_nothing_stays_as_it_is(config: Compose) -> None:
    cfg = config(EVALUATE)
    adopt(cfg, (EVALUATE,))
    assert cfg == config(EVALUATE)
    assert find_origin(cfg) is None


def test_what_is_said_of_the_origin(config: Compose, tmp_path: Path) -> None:
    (tmp_path / "start.pt").write_bytes(b"released")
    directory = train(config, f"model.checkpoint={tmp_path / 'start.pt'}")
    params = json.loads((directory.path / "run.json").read_text())["params"]
    cfg = evaluate(config, directory)
    expected = {"run_id": cfg.run, "dataset": "chest_ct", "split_hash": "abc", "checkpoint": params["model.checkpoint"]}
    assert find_origin(cfg) == expected
    typed = (EVALUATE, "prompt=click", "dataset=phantom")
    chosen = {"model": "sam2_l", "prompt": "click", "dataset": "phantom", "task": "evaluate", "cache": "none"}
    assert adopted_choices(cfg, chosen, typed) == chosen | {"model": "sam2_nano"}


# ------------------------------------------------------------------------------------------------- refusals


def test_a_run_that_is_not_there_is_answered_by_those_that_are(config: Compose) -> None:
    ids = [train(config, f"seed={seed}").status()["run_id"] for seed in range(2)]
    text = refusal(config, EVALUATE, f"run={ids[1][:-1]}_")
    assert f"run={ids[1][:-1]}_: no such run below" in text
    lines = [line.split() for line in text.splitlines() if "chest_ct/" in line]
    assert lines[0][0] == ids[1]  # the most alike first
    assert {tuple(line) for line in lines} == {(one, f"chest_ct/sam2_nano-{one}") for one in ids}
    assert "several runs begin so" in refusal(config, EVALUATE, "run=sam2_nano")


def test_nothing_is_there(config: Compose, tmp_path: Path) -> None:
    assert "there is none" in refusal(config, EVALUATE, "run=abc")
    assert "has no status.json" in refusal(config, EVALUATE, f"run={tmp_path}")
    assert "was read as a number" in refusal(config, EVALUATE, "run=1e45")


def test_a_run_elsewhere_that_a_sweep_names(config: Compose, tmp_path: Path) -> None:
    directory = train(config, f"run_dir={tmp_path / 'far' / 'away'}")
    run_id = directory.status()["run_id"]
    assert "no such run" in refusal(config, EVALUATE, f"run={run_id}")
    sweep = tmp_path / "outputs" / "sweeps" / "s"
    sweep.mkdir(parents=True)
    (sweep / "manifest.json").write_text(json.dumps({"jobs": [{"run_id": run_id, "run_dir": str(directory.path)}]}))
    assert evaluate(config, directory).run == run_id


UNFIT: list[tuple[dict[str, Any], str]] = [
    ({"state": "interrupted"}, "is interrupted, not finished; give its own command again"),
    ({"state": "failed"}, "is failed, not finished"),
    ({"best": False}, "best.pt; the weights were deleted"),
]


@pytest.mark.parametrize(("how", "text"), UNFIT)
def test_a_run_that_cannot_be_evaluated(config: Compose, how: dict[str, Any], text: str) -> None:
    run_id = train(config, **how).status()["run_id"]
    assert text in refusal(config, EVALUATE, f"run={run_id}")


def test_an_evaluation_has_no_weights_of_its_own(config: Compose) -> None:
    directory = train(config, best=False)
    directory.describe(origin={"run_id": "fffff"})
    assert "it evaluates run=fffff: use that" in refusal(config, EVALUATE, f"run={directory.status()['run_id']}")


SENSELESS = [
    (("model=sam2_t",), "model: a trained run is evaluated with its own model"),
    (("model.checkpoint=x.pt",), "model.checkpoint: a trained run is evaluated with its own model"),
    (("model/tuning=lora",), "model.tuning: a trained run"),
    (("optim.lr=1",), "optim.lr: says how a network is trained"),
    (("trainer.max_epochs=1",), "trainer.max_epochs: says how a network is trained"),
    (("predictions=/somewhere",), "not both"),
]


@pytest.mark.parametrize(("overrides", "text"), SENSELESS)
def test_what_makes_no_sense_with_a_run(config: Compose, overrides: tuple[str, ...], text: str) -> None:
    assert text in refusal(config, EVALUATE, "run=abc", *overrides)


@pytest.mark.parametrize(
    ("overrides", "texts"),
    [
        (("run=abc",), ("goes with task=evaluate", "best.pt")),
        (("task=sync", "run=abc"), ("goes with task=evaluate",)),
        (("predictions=/x", "name=a"), ("predictions=/x: goes with task=evaluate",)),
        ((EVALUATE, "name=a"), ("name=a: is about masks of others; give predictions=DIR",)),
        ((EVALUATE, "predictions=/nowhere", "name=a"), ("predictions=/nowhere: no such folder",)),
        ((EVALUATE, "predictions=/"), ("name=None: say who made the masks",)),
        ((EVALUATE, "predictions=/", "name='a b'"), ("name=a b: say who made the masks",)),
        ((EVALUATE, "predictions=/", "name=a", "prompt=click"), ("prompt: masks that are there already are scored",)),
    ],
)
def test_other_refusals(config: Compose, overrides: tuple[str, ...], texts: tuple[str, ...]) -> None:
    said = refusal(config, *overrides)
    for text in texts:
        assert text in said


def test_typed_keys() -> None:
    overrides = ["model/tuning=lora", "+a.b=1", "++c=2", "~debug", "seed=1,2", "a.b=3", "metrics.names=[dice]"]
    assert typed_keys(overrides) == ["model.tuning", "a.b", "c", "debug", "seed", "metrics.names"]


# ---------------------------------------------------------------------------------------------------- masks


def masks(config: Compose, folder: Path, *overrides: str) -> DictConfig:
    typed = (EVALUATE, f"predictions={folder}", "name=nnunet", *overrides)
    cfg = config(*typed)
    adopt(cfg, typed)
    return cfg


def test_masks_take_no_network(config: Compose, tmp_path: Path) -> None:
    cfg = masks(config, tmp_path, "labels={left_lung: 6, right_lung: [1, 2]}", "device=cuda")
    assert OmegaConf.to_container(cfg.model) == {"name": "nnunet", "checkpoint": None}
    assert (cfg.method.folder, cfg.method.labels.left_lung, cfg.device) == (str(tmp_path), 6, "cpu")
    assert not {"optim", "scheduler", "loss"} & set(cfg)
    assert find_problems(cfg) == []
    assert cfg.run_dir.endswith(f"runs/chest_ct/nnunet-{cfg.run_id}")


def test_what_masks_are_follows_from_their_content(config: Compose, tmp_path: Path) -> None:
    for name, content in {"a": b"1", "b": b"1", "c": b"2"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "case.png").write_bytes(content)
        (tmp_path / name / "log.txt").write_text(name)
    ids = {name: masks(config, tmp_path / name).run_id for name in "abc"}
    assert ids["a"] == ids["b"] != ids["c"]
    plain = masks(config, tmp_path / "a")
    roots = {key.split(".")[0] for key in identity(plain)}
    assert roots == {"dataset", "metrics", "task", "seed", "predictions", "model"}
    assert identity(plain)["model.name"] == "nnunet"
    others = ("metrics=surface", "dataset=phantom", "labels={left_lung: 1, right_lung: 2}", "seed=1")
    assert len({masks(config, tmp_path / "a", *o).run_id for o in zip(others)} | {plain.run_id}) == 5
