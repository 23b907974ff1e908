"""Prompt tokens learned for each structure: found by name, appended to the prompts, kept in checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from medsam2.modeling.learned_prompts import LearnedPrompts
from medsam2.modeling.sam2 import SAM2
from medsam2.modeling.weights import load_checkpoint, save_checkpoint
from tests.goldens import build_model

SIZE, DIM = 64, 128


@pytest.fixture(scope="module")
def model() -> SAM2:
    torch.manual_seed(0)
    return build_model("sam2_nano", SIZE)


def learned(structures: Sequence[str] = ("cup", "disc"), num_tokens: int = 3, dim: int = 4) -> LearnedPrompts:
    return LearnedPrompts(structures, num_tokens, dim)


def test_tokens_are_found_by_the_name_of_their_structure() -> None:
    prompts = learned()
    tokens = prompts(["disc", "cup", "disc"])
    assert tokens.shape == (3, 3, 4)
    assert torch.equal(tokens[0], tokens[2])
    assert torch.equal(tokens[1], prompts.tokens["cup"])
    assert not torch.equal(tokens[0], tokens[1])
    assert prompts([]).shape == (0, 3, 4)


def test_only_the_tokens_that_were_asked_for_get_a_gradient() -> None:
    prompts = learned()
    prompts(["disc", "disc"]).sum().backward()
    assert prompts.tokens["disc"].grad.tolist() == [[2.0] * 4] * 3
    assert prompts.tokens["cup"].grad is None


def test_tokens_begin_as_large_as_that_of_a_click(model: SAM2) -> None:
    click = model.sam_prompt_encoder.pe_layer(torch.rand(50, 1, 2)).square().mean()
    tokens = learned(num_tokens=100, dim=DIM)(["cup"]).square().mean().item()
    assert tokens == pytest.approx(click.item(), rel=0.05)


def test_a_name_with_a_dot() -> None:
    prompts = learned(["v1.0", "v2"])
    assert prompts(["v1.0"]).shape == (1, 3, 4)
    assert set(prompts.state_dict()) == {"tokens.v1_0", "tokens.v2"}


@pytest.mark.parametrize(
    ("structures", "num_tokens", "message"),
    [
        ([], 4, r"structures=\[\]: name one or more"),
        (["cup", "cup"], 4, "each once"),
        (["cup"], 0, r"prompt\.num_tokens=0 must be 1 or more"),
    ],
)
def test_bad_settings_are_refused(structures: list[str], num_tokens: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        learned(structures, num_tokens)


def test_a_structure_without_tokens_is_named() -> None:
    with pytest.raises(ValueError, match="for structure 'rim': there are those for cup, disc"):
        learned()(["cup", "rim"])


# ------------------------------------------------------------------------------------------- in the network


def as_points(coords: Tensor, labels: Tensor, model: SAM2) -> Tensor:
    """The tokens that the prompt encoder makes of points."""
    return model.sam_prompt_encoder.embed_points(coords, labels)


@torch.no_grad()
def test_further_tokens_count_as_points_do(model: SAM2) -> None:
    features = model.encode_image(torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0)))
    coords, labels = torch.tensor([[[9.0, 20.0], [40.0, 31.0]], [[30.0, 5.0], [7.0, 50.0]]]), torch.tensor([[1, 0]] * 2)
    whole = model.decode(features, coords, labels)
    # attention does not see the order of tokens
    second = as_points(coords[:, 1:], labels[:, 1:], model)
    split = model.decode(features, coords[:, :1], labels[:, :1], extra_tokens=second)
    torch.testing.assert_close(split.low_res_masks, whole.low_res_masks, atol=1e-4, rtol=1e-4)
    without = model.decode(features, coords[:, :1], labels[:, :1])
    assert (without.low_res_masks - whole.low_res_masks).abs().max() > 1e-2


@torch.no_grad()
@pytest.mark.parametrize("images", [1, 3])
def test_tokens_alone_are_a_prompt(model: SAM2, images: int) -> None:
    features = model.encode_image(torch.rand(images, 3, SIZE, SIZE))
    tokens = LearnedPrompts(["a", "b", "c"], 2, DIM)(["c", "a", "b"])
    answer = model.decode(features, extra_tokens=tokens)
    assert answer.low_res_masks.shape == (3, 1, SIZE // 4, SIZE // 4)
    alone = model.decode(features.select(torch.tensor([images - 1])), extra_tokens=tokens[2:])
    torch.testing.assert_close(answer.low_res_masks[2:], alone.low_res_masks, atol=1e-4, rtol=1e-4)
    assert (answer.low_res_masks[0] - answer.low_res_masks[1]).abs().max() > 1e-2


@torch.no_grad()
def test_tokens_for_other_objects_than_the_points_are_refused(model: SAM2) -> None:
    features = model.encode_image(torch.rand(1, 3, SIZE, SIZE))
    coords, labels = torch.zeros(3, 1, 2), torch.ones(3, 1)
    with pytest.raises(ValueError, match="extra_tokens are for 2 objects, points and masks for 3"):
        model.decode(features, coords, labels, extra_tokens=torch.zeros(2, 4, DIM))


def test_a_checkpoint_of_before_loads_strictly_and_one_with_tokens_restores_them(tmp_path: Path) -> None:
    plain, trained, other = (build_model("sam2_nano", SIZE) for _ in range(3))
    assert plain.learned_prompts is None
    assert not any("learned" in name for name in plain.state_dict())
    save_checkpoint(plain, tmp_path / "released.pt")
    load_checkpoint(trained, tmp_path / "released.pt")
    trained.learned_prompts = LearnedPrompts(["cup", "disc"], 4, DIM)
    assert "learned_prompts.tokens.cup" in dict(trained.named_parameters())
    save_checkpoint(trained, tmp_path / "best.pt")
    other.learned_prompts = LearnedPrompts(["cup", "disc"], 4, DIM)
    load_checkpoint(other, tmp_path / "best.pt")
    assert torch.equal(other.learned_prompts(["disc"]), trained.learned_prompts(["disc"]))
    other.learned_prompts = LearnedPrompts(["cup", "rim"], 4, DIM)  # as many tokens, of another structure
    with pytest.raises(ValueError, match=r"missing: learned_prompts\.tokens\.rim"):
        load_checkpoint(other, tmp_path / "best.pt")


def test_they_are_a_module_of_the_network() -> None:
    model = build_model("sam2_nano", SIZE)
    model.learned_prompts = LearnedPrompts(["cup"], 1, DIM)
    assert isinstance(dict(model.named_children())["learned_prompts"], nn.Module)
    assert model.to(torch.float64).learned_prompts(["cup"]).dtype == torch.float64
