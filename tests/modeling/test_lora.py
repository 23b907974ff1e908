"""Low-rank updates: nothing changes at the start, only they train, and what is merged is the network it was."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from torch import Tensor, nn

from medsam2.modeling.lora import LowRank, add_lora, merge_lora, merged_state_dict
from medsam2.optim import build_groups
from tests.fakes import compose_config

TRUNK = ["image_encoder.*.attn.qkv", "image_encoder.*.attn.proj"]
STACKED = ["sam_mask_decoder.output_hypernetworks_mlps.*"]  # layers whose weights are read and stacked
GROUPS = {"lora": {"names": ["*.lora_a", "*.lora_b"]}, "decoder": {"names": ["sam_mask_decoder.*"]}}


@cache
def network() -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = instantiate(compose_config("image_size=64").model.network)
    return model


def adapted(targets: list[str], rank: int = 4, alpha: float = 8.0, seed: int = 0) -> Any:
    model = copy.deepcopy(network())
    add_lora(model, targets, rank, alpha, seed)
    return model


def stir(model: nn.Module) -> None:
    """Weights as after some training: every B is another than zero."""
    torch.manual_seed(7)
    for module in model.modules():
        if isinstance(module, LowRank):
            nn.init.normal_(module.lora_b, std=0.1)


def answer(model: nn.Module) -> Tensor:
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        points = torch.full((2, 1, 2), 30.0), torch.ones(2, 1, dtype=torch.long)
        masks: Tensor = model.eval()(images, *points).low_res_masks
    return masks


@pytest.mark.parametrize("targets", [TRUNK, STACKED, ["*"]], ids=["trunk", "stacked", "every layer"])
def test_it_starts_as_it_was_and_merged_equals_unmerged(targets: list[str]) -> None:
    plain = answer(network())
    model = adapted(targets)
    assert torch.equal(answer(model), plain)
    stir(model)
    unmerged = answer(model)
    assert (unmerged - plain).abs().max() > 1e-2
    state = merged_state_dict(model)
    assert torch.equal(answer(model), unmerged)  # to ask for the merged state changes nothing
    other = copy.deepcopy(network())
    other.load_state_dict(state, strict=True)
    torch.testing.assert_close(answer(other), unmerged, rtol=0, atol=1e-6)
    merge_lora(model)
    torch.testing.assert_close(answer(model), unmerged, rtol=0, atol=1e-6)
    assert [type(m) for m in model.modules()] == [type(m) for m in network().modules()]
    assert list(model.state_dict()) == list(merged_state_dict(model))
    assert set(state) == set(network().state_dict()) == set(model.state_dict())


def test_without_lora_nothing_is_merged() -> None:
    model = copy.deepcopy(network())
    before = model.state_dict()
    assert list(merged_state_dict(model)) == list(before)
    merge_lora(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_sum_is_scaled_by_alpha_over_rank_and_in_float32() -> None:
    layer = nn.Sequential(nn.Linear(6, 5))
    weight = layer[0].weight.detach().clone()
    add_lora(layer, ["0"], rank=2, alpha=3.0)
    stir(layer)
    update = layer[0].parametrizations.weight[0]  # type: ignore[union-attr, index]
    expected = weight + 1.5 * update.lora_b @ update.lora_a  # type: ignore[operator, union-attr]
    torch.testing.assert_close(layer[0].weight, expected)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(layer[0].weight, expected)


def test_the_start_is_drawn_from_the_seed_alone() -> None:
    torch.manual_seed(1)
    first = adapted(TRUNK, seed=3).state_dict()
    drawn = torch.rand(1)
    torch.manual_seed(2)
    again, other = adapted(TRUNK, seed=3).state_dict(), adapted(TRUNK, seed=4).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    changed = {name.rsplit(".", 1)[1] for name in first if not torch.equal(first[name], other[name])}
    assert changed == {"lora_a"}
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), drawn)
    spread = torch.cat([value.flatten() * value.shape[1] ** 0.5 for name, value in first.items() if "lora_a" in name])
    assert spread.std().item() == pytest.approx(1, abs=0.05)


def test_only_updates_and_decoder_train_and_number_what_they_should() -> None:
    model = adapted(TRUNK, rank=4)
    build_groups(model, GROUPS, lr=1.0)
    training = {n for n, p in model.named_parameters() if p.requires_grad}
    decoder = {n for n, _ in network().named_parameters() if n.startswith("sam_mask_decoder.")}
    updates = training - decoder
    assert decoder < training
    layers = {n: m for n, m in network().named_modules() if n.endswith((".attn.qkv", ".attn.proj")) and "trunk" in n}
    assert len(layers) == 2 * 5  # blocks of nano
    count = sum(p.numel() for n, p in model.named_parameters() if n in updates)
    assert count == sum(4 * (m.in_features + m.out_features) for m in layers.values())  # type: ignore[union-attr, operator]
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    for _ in range(2):  # at the first step the zeros of B hide A from the gradient
        optimizer.zero_grad()
        points = torch.full((1, 1, 2), 30.0), torch.ones(1, 1, dtype=torch.long)
        model.train()(torch.rand(1, 3, 64, 64), *points).low_res_masks.square().sum().backward()
        optimizer.step()
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert updates < moved <= training


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"targets": ["trunk.*"]},
            r"lora\.targets: 'trunk\.\*' matches no linear layer; .* such as image_encoder\.trunk",
        ),
        ({"targets": ["image_encoder.trunk.patch_embed.proj"]}, r"patch_embed\.proj' matches no linear layer"),
        ({"targets": TRUNK, "rank": 0}, r"lora: rank=0, alpha=8\.0: rank must be at least 1"),
        ({"targets": TRUNK, "alpha": 0.0}, r"lora: rank=4, alpha=0\.0: .* alpha above 0"),
    ],
)
def test_a_mistake_is_one_error(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=rf"^model\.tuning\.{message}" if "lora" in message else message):
        adapted(**settings)
