"""The trunk in window order against the same trunk written with padded windows, block by block."""

import copy
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from medsam2.modeling import hiera
from medsam2.modeling.hiera import Hiera, MultiScaleBlock
from medsam2.modeling.image_encoder import FpnNeck, ImageEncoder
from medsam2.modeling.position import PositionEmbeddingSine
from medsam2.modeling.windows import WindowOrder

TINY = ([8, 4, 14, 7], [1, 1, 3, 2], [3])  # windows, stages, global blocks
LARGE = ([8, 4, 16, 8], [1, 1, 2, 2], [3])
SMALL = ([8, 4, 2, 2], [1, 1, 2, 1], [1, 2])  # one order for three stages; two pooling blocks attend globally


def build_trunk(windows: Sequence[int], stages: Sequence[int], blocks: Sequence[int], **options: float) -> Hiera:
    """A narrow trunk in float64 with two heads; every parameter, the biases above all, makes a difference."""
    torch.manual_seed(0)
    settings = {"mlp_ratio": 2.0, "drop_path_rate": 0.0, **options}
    trunk = Hiera(8, 2, stages, windows, blocks, window_pos_embed_bkg_spatial_size=[7, 5], **settings)
    for name, parameter in trunk.named_parameters():
        parameter.data.normal_(1.0 if "norm" in name else 0.0, 0.5 if parameter.ndim == 1 else 0.3)
    return trunk.double().eval()


def draw_pixels(batch: int, height: int, width: int) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def pool_map(x: Tensor) -> Tensor:
    return F.max_pool2d(x.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)


def attend_padded(block: MultiScaleBlock, x: Tensor) -> Tensor:
    """Attention of one window or map, B x h x w x C, the zeros of its padding included."""
    attention = block.attn
    q, k, v = attention.qkv(x).chunk(3, dim=-1)
    q = pool_map(q) if block.pool else q
    heads = [t.flatten(1, 2).unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for t in (q, k, v)]
    weights = (heads[0] @ heads[1].transpose(-1, -2) / heads[0].shape[-1] ** 0.5).softmax(-1)
    return attention.proj((weights @ heads[2]).transpose(1, 2).flatten(2)).unflatten(1, q.shape[1:3])


def run_block_padded(block: MultiScaleBlock, x: Tensor) -> Tensor:
    y, step = block.norm1(x), 2 if block.pool else 1
    shortcut = pool_map(block.proj(y)) if block.pool else x
    window = block.window or max(y.shape[1:3])
    if block.window:
        y = F.pad(y, (0, 0, 0, -y.shape[2] % window, 0, -y.shape[1] % window))
    rows = [
        torch.cat([attend_padded(block, part) for part in row.split(window, dim=2)], dim=2)
        for row in y.split(window, dim=1)
    ]
    x = shortcut + torch.cat(rows, dim=1)[:, : x.shape[1] // step, : x.shape[2] // step]
    return x + block.mlp(block.norm2(x))


def run_padded(trunk: Hiera, pixels: Tensor) -> list[Tensor]:
    x = trunk.patch_embed(pixels)
    x = x + F.interpolate(trunk.pos_embed, x.shape[2:], mode="bicubic")
    tiles = (x.shape[2] // trunk.pos_embed_window.shape[2], x.shape[3] // trunk.pos_embed_window.shape[3])
    x = (x + trunk.pos_embed_window.tile(1, 1, *tiles)).permute(0, 2, 3, 1)
    outputs = []
    for index, block in enumerate(trunk.blocks):
        x = run_block_padded(block, x)
        if index in trunk.stage_ends:
            outputs.append(x.permute(0, 3, 1, 2))
    return outputs


@pytest.mark.parametrize(
    ("settings", "height", "width"),
    [
        (TINY, 32, 32),
        (TINY, 224, 224),
        (TINY, 256, 256),
        (TINY, 96, 288),
        (TINY, 480, 224),
        (LARGE, 224, 224),
        (LARGE, 256, 256),
        (LARGE, 160, 320),
        (SMALL, 64, 96),
    ],
)
@pytest.mark.parametrize("train", [False, True])
def test_outputs_are_those_of_padded_windows(settings: tuple, height: int, width: int, train: bool) -> None:
    trunk = build_trunk(*settings).train(train)
    pixels = draw_pixels(2, height, width)
    with torch.no_grad():
        for ours, padded in zip(trunk(pixels), run_padded(trunk, pixels), strict=True):
            torch.testing.assert_close(ours, padded, atol=1e-10, rtol=1e-10)


def collect_gradients(trunk: Hiera, outputs: list[Tensor]) -> dict[str, Tensor]:
    trunk.zero_grad()
    sum((x * torch.linspace(-1, 1, x.numel()).view_as(x)).mean() for x in outputs).backward()
    return {name: p.grad for name, p in trunk.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(("settings", "height", "width"), [(TINY, 256, 288), (LARGE, 224, 224), (SMALL, 64, 96)])
def test_gradients_are_those_of_padded_windows(settings: tuple, height: int, width: int) -> None:
    trunk, pixels = build_trunk(*settings), draw_pixels(2, height, width)
    expected = {name: grad.clone() for name, grad in collect_gradients(trunk, run_padded(trunk, pixels)).items()}
    gradients = collect_gradients(trunk, trunk(pixels))
    assert gradients.keys() == expected.keys() == dict(trunk.named_parameters()).keys()
    for name, grad in gradients.items():
        error = (grad - expected[name]).norm() / expected[name].norm()
        assert error < 1e-8, (name, error)


@pytest.mark.parametrize("pads_count", [True, False])
def test_reference_sees_padding_that_is_left_out(pads_count: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    trunk, pixels = build_trunk(*TINY), draw_pixels(1, 256, 256)
    if not pads_count:
        groups = WindowOrder.groups
        monkeypatch.setattr(WindowOrder, "groups", lambda order: [g._replace(pads=0) for g in groups(order)])
    with torch.no_grad():
        error = (trunk(pixels)[3] - run_padded(trunk, pixels)[3]).abs().max()
    assert (error < 1e-8) == pads_count


@pytest.mark.parametrize("order", [WindowOrder(8, 16, 8, 3), WindowOrder(16, 18, 14, 1), WindowOrder(5, 3, 4, 0)])
def test_order_is_undone_and_keeps_cells_together(order: WindowOrder) -> None:
    x = torch.arange(2.0 * order.height * order.width).view(2, order.height, order.width, 1)
    tokens = order.flatten(x)
    assert torch.equal(order.unflatten(tokens), x)
    assert sum(group.number * group.tokens for group in order.groups()) == order.height * order.width
    for _ in range(order.pools):
        tokens, x, order = hiera.max_pool(tokens), pool_map(x), order.pooled()
        assert torch.equal(order.unflatten(tokens), x)


def test_groups_are_windows_by_their_valid_tokens() -> None:
    square, oblong = WindowOrder(32, 32, 14, 1), WindowOrder(16, 18, 14, 1)
    assert square.groups() == [(4, 196, 0), (4, 56, 140), (1, 16, 180)]
    assert oblong.groups() == [
        (1, 196, 0),
        (1, 56, 140),
        (1, 28, 168),
        (1, 8, 188),
    ]


@torch.no_grad()
@pytest.mark.parametrize("piece", [1, 100, 10**9])
def test_pieces_change_nothing(piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    trunk, pixels = build_trunk(*TINY), draw_pixels(3, 96, 224)
    whole = trunk.train()(pixels)
    monkeypatch.setattr(hiera, "PIECE", piece)
    for a, b in zip(trunk.eval()(pixels), whole, strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-10)


def test_checkpointing_gives_the_same_gradients_from_less() -> None:
    pixels, results = draw_pixels(2, 128, 96), []
    for switch in (False, True):
        trunk = build_trunk(*TINY, drop_path_rate=0.5, activation_checkpointing=switch).train()
        stored: list[int] = []
        torch.manual_seed(3)
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=stored: (s.append(t.nbytes), t)[1], lambda t: t):
            outputs = trunk(pixels)
        results.append((collect_gradients(trunk, outputs), sum(stored)))
    (plain, much), (again, little) = results
    assert little < much / 4
    assert plain.keys() == again.keys()
    assert all(torch.equal(plain[name], again[name]) for name in plain)


def test_drop_path_takes_a_branch_from_whole_images() -> None:
    trunk = build_trunk(*TINY, drop_path_rate=0.9).train()
    block = copy.deepcopy(trunk.blocks[-1])
    order = WindowOrder(9, 7, 7, 0)
    x = torch.randn(64, 63, 64, dtype=torch.float64)
    kept = (block(x, order.groups()) != x).any(dim=2)
    assert torch.equal(kept, kept[:, :1].expand_as(kept))
    assert 0 < kept[:, 0].sum() < 40  # a branch stays with probability 0.1, one of two with 0.19


def build_encoder() -> ImageEncoder:
    trunk = build_trunk(*TINY)
    return (
        ImageEncoder(trunk, FpnNeck(16, [64, 32, 16, 8], [2, 3], PositionEmbeddingSine(16, 10000)), scalp=1)
        .float()
        .eval()
    )


@torch.no_grad()
def test_autocast_keeps_the_first_stage_and_the_sum_of_levels_in_float32() -> None:
    encoder, pixels = build_encoder(), draw_pixels(1, 96, 96).float()
    exact = encoder(pixels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = encoder(pixels)
        stages = encoder.trunk(pixels)
    assert [x.dtype for x in rough] == [torch.bfloat16, torch.bfloat16, torch.float32]
    assert [x.dtype for x in stages] == [torch.float32, torch.bfloat16, torch.bfloat16, torch.bfloat16]
    for a, b in zip(rough, exact, strict=True):
        assert (a.float() - b).norm() < 0.03 * b.norm()


@pytest.mark.slow
@torch.no_grad()
def test_one_graph_with_and_without_padding() -> None:
    trunk = build_trunk(*TINY)
    compiled = torch.compile(trunk, fullgraph=True, backend="eager", dynamic=False)
    for size in (96, 224):
        pixels = draw_pixels(1, size, size)
        for a, b in zip(compiled(pixels), trunk(pixels), strict=True):
            torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-10)


def test_trunk_is_built_without_memory() -> None:
    with torch.device("meta"):
        trunk = Hiera(8, 1, [1, 1, 1, 1], [8, 4, 14, 7], [], [7, 7], 4.0, 0.3)
    assert {p.device.type for p in trunk.parameters()} == {"meta"}
