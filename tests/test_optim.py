"""Learning rates at every step, and which parameters train."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

from medsam2.modeling.learned_prompts import LearnedPrompts
from medsam2.modeling.lora import add_lora
from medsam2.optim import build_groups, constant, cosine
from tests.fakes import CONF, compose_config

WARM = [0.2, 0.4, 0.6, 0.8]  # a warm-up of 4 steps: (step + 1) / 5


def half_cosine(share: float, low: float) -> float:
    return low + (1 - low) * 0.5 * (1 + math.cos(math.pi * share))


CASES: list[tuple[str, Callable[..., Any], dict[str, Any], list[float]]] = [
    ("constant", constant, {}, [1.0] * 10),
    ("constant, warm-up", constant, {"warmup_epochs": 2}, [*WARM, *[1.0] * 6]),
    ("constant, half an epoch", constant, {"warmup_epochs": 0.5}, [0.5, *[1.0] * 9]),
    ("cosine", cosine, {}, [half_cosine(i / 10, 0.1) for i in range(11)]),
    ("cosine to zero", cosine, {"min_factor": 0.0}, [half_cosine(i / 10, 0.0) for i in range(11)]),
    (
        "cosine, warm-up",
        cosine,
        {"warmup_epochs": 2},
        [*WARM, *[half_cosine(i / 6, 0.1) for i in range(7)]],
    ),
    ("cosine, warm-up alone", cosine, {"warmup_epochs": 5}, [(i + 1) / 11 for i in range(10)]),
]


@pytest.mark.parametrize(("schedule", "settings", "expected"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_factor_at_every_step(schedule: Callable[..., Any], settings: dict[str, Any], expected: list[float]) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    scheduler = schedule(optimizer, steps_per_epoch=2, max_epochs=5, **settings)
    seen = []
    for _ in expected:
        seen.append(optimizer.param_groups[0]["lr"] / 0.5)
        optimizer.step()
        scheduler.step()
    assert seen == pytest.approx(expected)


def test_cosine_ends_at_its_floor_and_stays_there() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = cosine(optimizer, steps_per_epoch=2, max_epochs=2, min_factor=0.25)
    rates = []
    for _ in range(7):
        optimizer.step()
        scheduler.step()
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates[1] == pytest.approx(0.625)
    assert rates[3:] == pytest.approx([0.25] * 4)


def test_every_group_keeps_its_own_rate() -> None:
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (1.0, 0.1)]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    scheduler = constant(optimizer, steps_per_epoch=1, max_epochs=4, warmup_epochs=1)
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.5, 0.05])
    optimizer.step()
    scheduler.step()
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([1.0, 0.1])


def network() -> nn.ModuleDict:
    decoder = nn.ModuleDict({"mlp": nn.Linear(2, 2), "norm": nn.LayerNorm(2)})
    return nn.ModuleDict({"encoder": nn.Linear(2, 2), "decoder": decoder})


DECODER = {"decoder.mlp.weight", "decoder.mlp.bias", "decoder.norm.weight", "decoder.norm.bias"}
BIASES = {"encoder.bias", "decoder.mlp.bias", "decoder.norm.bias"}


def names_of(model: nn.Module, group: dict[str, Any]) -> list[str]:
    names = {id(p): name for name, p in model.named_parameters()}
    return [names[id(p)] for p in group["params"]]


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["*"], {"encoder.weight", "encoder.bias", *DECODER}),
        (["decoder.*"], DECODER),
        (["*.bias"], BIASES),
        (["decoder.m?p.weight", "encoder.[b]ias"], {"decoder.mlp.weight", "encoder.bias"}),
        (["*.bias", "decoder.*.bias"], BIASES),
    ],
)
def test_the_matching_parameters_train_each_once_in_the_models_order(patterns: list[str], expected: set[str]) -> None:
    model = network()
    for parameter in model.parameters():
        parameter.requires_grad_(False)  # what was frozen before is thawed
    (group,) = build_groups(model, {"some": {"names": patterns}}, lr=0.5)
    assert names_of(model, group) == [n for n, _ in model.named_parameters() if n in expected]
    assert {n for n, p in model.named_parameters() if p.requires_grad} == expected
    assert (group["name"], group["lr"], "weight_decay" in group) == ("some", 0.5, False)


def test_groups_have_rates_and_vectors_may_be_spared_from_decay() -> None:
    nodes = {"slow": {"names": ["encoder.*"], "rate": 0.25}, "fast": {"names": ["decoder.*"], "rate": 2}}
    model = network()
    plain = build_groups(model, nodes, lr=0.1)
    assert [(g["name"], g["lr"]) for g in plain] == [("slow", 0.025), ("fast", 0.2)]
    spared = build_groups(model, nodes, lr=0.1, decay_all=False)
    assert [(g["name"], g["lr"], g.get("weight_decay"), names_of(model, g)) for g in spared] == [
        ("slow", 0.025, None, ["encoder.weight"]),
        ("slow, no decay", 0.025, 0.0, ["encoder.bias"]),
        ("fast", 0.2, None, ["decoder.mlp.weight"]),
        ("fast, no decay", 0.2, 0.0, ["decoder.mlp.bias", "decoder.norm.weight", "decoder.norm.bias"]),
    ]
    optimizer = torch.optim.AdamW(spared, lr=0.1, weight_decay=0.3)
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.3, 0.0, 0.3, 0.0]


def test_vectors_are_biases_and_norms() -> None:
    model = network()
    (group,) = build_groups(model, {"vectors": {"names": ["decoder.*"], "vectors": True}}, lr=1.0)
    assert names_of(model, group) == ["decoder.mlp.bias", "decoder.norm.weight", "decoder.norm.bias"]


def test_learned_prompts_train_in_any_case() -> None:
    model = network()
    model.add_module("learned_prompts", LearnedPrompts(["cup"], num_tokens=2, dim=4))
    groups = build_groups(model, {"encoder": {"names": ["encoder.*"], "rate": 0.1}}, lr=1.0)
    assert [(g["name"], g["lr"]) for g in groups] == [("encoder", 0.1), ("learned_prompts", 1.0)]
    (group,) = build_groups(model, {"all": {"names": ["*"]}}, lr=1.0)
    assert len(group["params"]) == len(list(model.parameters()))
    (group,) = build_groups(model, {"learned_prompts": {"names": ["learned_prompts.*"], "rate": 10}}, lr=1.0)
    assert (group["lr"], len(group["params"])) == (10.0, 1)


def test_what_trains_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "medsam2.optim"):
        build_groups(network(), {"enc": {"names": ["encoder.*"], "rate": 0.1}, "n": {"names": ["*.norm.*"]}}, lr=1e-3)
    assert [r.getMessage() for r in caplog.records] == [
        "10 of 16 parameters train: enc 6 at lr 0.0001; n 4 at lr 0.001"
    ]


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ({}, "groups: nothing would train"),
        ({"a": {}}, r"groups\.a\.names=None: must be a list of patterns"),
        ({"a": {"names": "encoder.*"}}, r"groups\.a\.names=encoder\.\*: must be a list"),
        ({"a": {"names": []}}, r"groups\.a\.names=\[\]: must be a list"),
        ({"a": {"names": ["*"], "rte": 1.0}}, r"groups\.a\.rte: unknown key; known here: names, rate, vectors"),
        ({"a": {"names": ["*"], "rate": 0}}, r"groups\.a\.rate=0: must be a number > 0; leave the group out to freeze"),
        ({"a": {"names": ["*"], "rate": -1.0}}, r"groups\.a\.rate=-1\.0"),
        ({"a": {"names": ["*"], "rate": math.inf}}, r"groups\.a\.rate=inf"),
        ({"a": {"names": ["*"], "rate": "1"}}, r"groups\.a\.rate=1"),
        (
            {"a": {"names": ["encoder.*"]}, "b": {"names": ["decodr.*"]}},
            r"groups\.b: 'decodr\.\*' matches no parameter; names start with decoder, encoder",
        ),
        (
            {"a": {"names": ["encoder.*"]}, "b": {"names": ["*.bias"]}},
            r"groups: encoder\.bias is named by a and by b; a parameter has one learning rate",
        ),
    ],
)
def test_a_mistake_is_one_error_and_freezes_nothing(nodes: dict[str, Any], message: str) -> None:
    model = network()
    with pytest.raises(ValueError, match=rf"^model\.tuning\.{message}"):
        build_groups(model, nodes, lr=1.0)
    assert all(p.requires_grad for p in model.parameters())


# ----------------------------------------------------------------------------------- the choices of model/tuning

CHOICES = sorted(file.stem for file in (CONF / "model" / "tuning").glob("*.yaml"))
MEMORY = ("memory_", "maskmem_", "mask_downsample.", "no_mem_", "no_obj_", "obj_ptr_")


def trunk(name: str) -> bool:
    return name.startswith("image_encoder.") and not name.startswith("image_encoder.neck.")


def heads(name: str) -> bool:
    return name.startswith("sam_mask_decoder.")


EXPECTED: dict[str, Callable[[str, nn.Parameter], bool]] = {
    "full": lambda name, p: True,
    "decoder": lambda name, p: heads(name),
    "decoder_memory": lambda name, p: heads(name) or name.startswith(MEMORY),
    "neck_up": lambda name, p: not trunk(name),
    "bias_norm": lambda name, p: p.ndim == 1,
    "lora": lambda name, p: heads(name) or (trunk(name) and ".lora_" in name),
}


@cache
def built(overrides: tuple[str, ...]) -> nn.Module:
    model: nn.Module = instantiate(compose_config(*overrides).model.network)
    return model


def tuning_of(choice: str) -> dict[str, Any]:
    folder = CONF / "model" / "tuning"
    merged = OmegaConf.merge(OmegaConf.load(folder / "base" / "common.yaml"), OmegaConf.load(folder / f"{choice}.yaml"))
    tuning = OmegaConf.to_container(merged)
    assert isinstance(tuning, dict)
    return {str(key): value for key, value in tuning.items()}


NETWORKS = {"SAM 2.0": ("model=sam2_nano", "model/release=sam2_0"), "SAM 2.1": (), "LiteMedSAM": ("model=litemedsam",)}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("choice", CHOICES)
def test_the_groups_of_every_choice_are_disjoint_and_complete(choice: str, network: str) -> None:
    tuning, model = tuning_of(choice), built(NETWORKS[network])
    if tuning["lora"]:
        model = copy.deepcopy(model)
        add_lora(model, **tuning["lora"])
    if network == "LiteMedSAM" and choice == "decoder_memory":
        with pytest.raises(
            ValueError, match=r"groups\.memory: 'memory_\*' matches no parameter.*choose a model/tuning"
        ):
            build_groups(model, tuning["groups"], 1e-4, tuning["decay_all"])
        return
    for decay_all in (True, False):
        groups = build_groups(model, tuning["groups"], 1e-4, decay_all)
        members = [name for group in groups for name in names_of(model, group)]
        assert len(members) == len(set(members))
        assert set(members) == {n for n, p in model.named_parameters() if p.requires_grad}
        assert set(members) == {n for n, p in model.named_parameters() if EXPECTED[choice](n, p)}
        rates = {group["name"].split(",")[0]: group["lr"] / 1e-4 for group in groups}
        assert list(rates) == list(tuning["groups"])  # the first one's rate is logged
        assert rates == pytest.approx({name: 0.1 if name == "memory" else 1.0 for name in tuning["groups"]})
