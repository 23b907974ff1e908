"""Which runs are one arm, and what arms are called."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from medsam2.results.collect import Arms, Study, name_arms
from medsam2.results.collect.study import frame_of

BASE = {
    "dataset.name": "refuge",
    "dataset.gap": 1,
    "seed": 0,
    "model.name": "sam2_s",
    "model.network._target_": "m.SAM2",
    "model.network.depth": 12,
    "image_size": 512,
    "optim._target_": "torch.optim.Adam",
    "optim.lr": 1e-4,
    "optim.betas": [0.9, 0.999],
    "loss._target_": "monai.losses.DiceCELoss",
    "loss.weights": None,
    "metrics.names": ["dice"],
    "task._target_": "t.train",
}
B = {"model.name": "sam2_b", "model.network.depth": 24}


def name(
    *runs: dict[str, Any], choices: list[dict[str, str]] | None = None, origins: dict[int, str] | None = None
) -> Arms:
    """The arms of runs that differ from BASE in these keys; run_ids are r0, r1, …"""
    params = {f"r{i}": {k: v for k, v in (BASE | changed).items() if v != "absent"} for i, changed in enumerate(runs)}
    about = {
        run_id: {"dataset": given["dataset.name"], "origin": (origins or {}).get(i)}
        for i, (run_id, given) in enumerate(params.items())
    }
    chosen = frame_of(dict(zip(params, choices or [{}] * len(runs), strict=True)))
    none = pd.DataFrame()
    return name_arms(Study(frame_of(about), frame_of(params), none, none, none, none, none, choices=chosen))


@pytest.mark.parametrize(
    ("runs", "labels", "by"),
    [
        ([{}, {"seed": 1}], ["sam2_s", "sam2_s"], []),
        ([{}, B], ["sam2_s", "sam2_b"], ["model.name"]),  # depth follows from it
        ([{}, {"dataset.fold": 3}, {"dataset.name": "papila"}], ["sam2_s"] * 3, []),
        ([{}, {"image_size": 256}], ["image_size=512", "image_size=256"], ["image_size"]),
        (
            [{}, B, {"image_size": 256}],
            [
                "model.name=sam2_s image_size=512",
                "model.name=sam2_b image_size=512",
                "model.name=sam2_s image_size=256",
            ],
            ["model.name", "image_size"],
        ),
        ([B, {"image_size": 256}], ["sam2_b", "sam2_s"], ["model.name"]),  # one key tells enough
        (
            [{}, {"optim.lr": 1e-3, "optim.betas": [0.5, 0.9]}],
            ["optim.betas=[0.9,0.999]", "optim.betas=[0.5,0.9]"],
            ["optim.betas"],
        ),
        ([{}, {"optim.lr": 1e-3}], ["optim.lr=0.0001", "optim.lr=0.001"], ["optim.lr"]),
        (
            [{}, {"loss._target_": "n.FocalLoss"}],
            ["loss._target_=DiceCELoss", "loss._target_=FocalLoss"],
            ["loss._target_"],
        ),
        (
            [{}, {"loss._target_": "n.DiceCELoss"}],
            ["loss._target_=monai.losses.DiceCELoss", "loss._target_=n.DiceCELoss"],
            ["loss._target_"],
        ),
        ([{}, {"loss.weights": [1, 2]}], ["loss.weights=null", "loss.weights=[1,2]"], ["loss.weights"]),
        ([{}, {"loss.weights": "absent"}], ["sam2_s", "sam2_s"], []),
        ([{"image_size": 512.0}, {}], ["sam2_s", "sam2_s"], []),
        ([{}, {"image_size": "512"}], ["image_size=512", "image_size=512"], ["image_size"]),
        ([{}, {"metrics.names": ["iou"]}, {"run": "5a4c"}], ["sam2_s"] * 3, []),
        (
            [{}, {"model.network.depth": 13}],
            ["model.network.depth=12", "model.network.depth=13"],
            ["model.network.depth"],
        ),
        (  # as it came: another arm
            [{}, {"task._target_": "t.evaluate"}],
            ["task._target_=train", "task._target_=evaluate"],
            ["task._target_"],
        ),
        ([{}, {"dataset.gap": 2}], ["dataset.gap=1", "dataset.gap=2"], ["dataset.gap"]),
        ([{}, {"dataset.name": "papila", "dataset.gap": 2}], ["sam2_s", "sam2_s"], []),
    ],
)
def test_labels_are_of_as_few_keys_as_tell_arms_apart(
    runs: list[dict[str, Any]], labels: list[str], by: list[str]
) -> None:
    arms = name(*runs)
    assert (list(arms.arm), arms.by) == (labels, by)


def test_choices_speak_first() -> None:
    s, b = {"model": "sam2_s", "loss": "dice_ce"}, {"model": "sam2_b", "loss": "dice_ce"}
    arms = name({}, B, {"seed": 1}, B | {"optim.lr": 1e-3}, choices=[s, b, s, b])
    assert list(arms.arm) == [
        "model=sam2_s optim.lr=0.0001",
        "model=sam2_b optim.lr=0.0001",
        "model=sam2_s optim.lr=0.0001",
        "model=sam2_b optim.lr=0.001",
    ]
    assert arms.by == ["model", "optim.lr"]
    assert arms.varied.columns.tolist() == ["model", "optim.lr", "model.name", "model.network.depth"]
    assert arms.varied.loc["model=sam2_b optim.lr=0.001"].tolist() == ["sam2_b", "0.001", "sam2_b", "24"]
    assert arms.fixed["loss"] == "dice_ce"
    assert arms.fixed["optim.betas"] == "[0.9,0.999]"
    assert arms.fixed["loss._target_"] == "monai.losses.DiceCELoss"
    assert not {"seed", "model.name", "model"} & set(arms.fixed.index)


@pytest.mark.parametrize(
    ("choices", "label"),
    [
        ([{"model": "s"}, {}], "sam2_s"),  # an old run does not say
        ([{"experiment": "x", "model": "m"}, {"experiment": "y", "model": "m"}], "sam2_s"),
        ([{"hydra/launcher": "x"}, {"hydra/launcher": "y"}], "sam2_s"),
        ([{"tracking": "x"}, {"tracking": "y"}], "sam2_s"),
        ([{"optim": "x"}, {"optim": "y"}], "sam2_s"),  # nothing of optim varies
        ([{"model/trunk": "x"}, {"model/trunk": "y"}], "sam2_s"),
        ([{"model/network": "x"}, {"model/network": "y"}], "x"),
    ],
)
def test_choices_that_do_not_say_how_arms_differ_are_not_used(choices: list[dict[str, str]], label: str) -> None:
    assert name({}, B, choices=choices).arm["r0"] == label


def test_choices_of_one_arm_that_contradict_each_other_are_not_used() -> None:
    chosen = [{"model": "small"}, {"model": "tiny"}, {"model": "base"}]
    assert list(name({}, {"seed": 1}, B, choices=chosen).arm) == ["sam2_s", "sam2_s", "sam2_b"]
    # a run that scores the weights of another does not speak for them
    assert list(name({}, {"seed": 1}, B, choices=chosen, origins={1: "r0"}).arm) == ["small", "small", "base"]


def test_a_key_of_one_dataset_says_nothing_of_the_others() -> None:
    other = {"dataset.name": "papila", "dataset.gap": 7}
    arms = name({}, {"dataset.gap": 2}, other, other | {"seed": 1})
    assert list(arms.arm[:2]) == ["dataset.gap=1", "dataset.gap=2"]
    assert arms.arm["r2"] == arms.arm["r3"] not in ("dataset.gap=1", "dataset.gap=2")
    fixed = name({}, other).fixed
    assert (fixed["dataset.gap [refuge]"], fixed["dataset.gap [papila]"]) == ("1", "7")
    assert fixed["image_size"] == "512"


def test_masks_of_others_are_an_arm_by_their_name() -> None:
    theirs = {key: "absent" for key in BASE if key.partition(".")[0] in ("optim", "loss", "image_size")}
    theirs |= {"model.name": "nnunet", "task._target_": "t.evaluate"}
    runs = [{}, B, *(theirs | {"predictions": text, "seed": i} for i, text in enumerate(("0a", "1b")))]
    arms = name(*runs)
    assert list(arms.arm) == ["sam2_s", "sam2_b", "nnunet", "nnunet"]
    assert arms.fixed["optim.lr"] == "0.0001"
    assert list(arms.varied.columns) == ["model.name", "model.network.depth"]
    assert list(name({}, theirs | {"predictions": "0a", "model.name": "sam2_s"}).arm) == ["sam2_s", "sam2_s (masks)"]
    alone = name(theirs | {"predictions": "0a"})
    assert (list(alone.arm), alone.by) == (["nnunet"], [])


def test_labels_are_unique_and_stand_for_one_arm_each() -> None:
    grid = [
        {"image_size": size, "optim.lr": lr, "seed": seed} | model
        for size in (256, 512) for lr in (1e-3, 1e-4) for model in ({}, B) for seed in (0, 1)
    ]  # fmt: skip
    arms = name(*grid)
    assert arms.by == ["model.name", "image_size", "optim.lr"]
    assert sorted(arms.arm.value_counts()) == [2] * 8
    assert list(arms.varied.index) == list(dict.fromkeys(arms.arm))
