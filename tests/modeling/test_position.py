"""Position encodings against their formulas, written out point by point."""

import math

import pytest
import torch
import torch.nn.functional as F

from medsam2.modeling.hiera import Hiera
from medsam2.modeling.position import PositionEmbeddingRandom, PositionEmbeddingSine
from medsam2.modeling.prompt_encoder import PromptEncoder


def sine_value(channel: int, row: int, column: int, height: int, width: int, channels: int) -> float:
    half = channels // 2
    place = 2 * math.pi * (row + 1) / (height + 1e-6)
    if channel >= half:
        channel, place = channel - half, 2 * math.pi * (column + 1) / (width + 1e-6)
    angle = place / 10000 ** (2 * (channel // 2) / half)
    return math.cos(angle) if channel % 2 else math.sin(angle)


@pytest.mark.parametrize(("height", "width", "channels"), [(4, 4, 8), (3, 5, 16), (6, 2, 64)])
def test_sine(height: int, width: int, channels: int) -> None:
    encoding = PositionEmbeddingSine(channels, 10000)(torch.zeros(2, 7, height, width))
    assert encoding.shape == (1, channels, height, width)
    for channel in range(channels):
        for row, column in [(0, 0), (height - 1, 0), (1, width - 1)]:
            expected = sine_value(channel, row, column, height, width, channels)
            assert encoding[0, channel, row, column].item() == pytest.approx(expected, abs=1e-5)


def test_sine_follows_the_dtype_of_its_input() -> None:
    assert PositionEmbeddingSine(8, 10000)(torch.zeros(1, 1, 2, 2, dtype=torch.bfloat16)).dtype == torch.bfloat16


def fourier_value(x: float, y: float, wave: torch.Tensor) -> list[float]:
    angles = [2 * math.pi * ((2 * x - 1) * a + (2 * y - 1) * b) for a, b in wave.T.tolist()]
    return [math.sin(a) for a in angles] + [math.cos(a) for a in angles]


@pytest.mark.parametrize(("x", "y"), [(0.0, 0.0), (0.25, 0.9), (1.0, 0.5)])
@pytest.mark.parametrize("autocast", [False, True])
def test_fourier_features_of_points(x: float, y: float, autocast: bool) -> None:
    encoding = PositionEmbeddingRandom(4)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        value = encoding(torch.tensor([[x, y]]))
    expected = fourier_value(x, y, encoding.positional_encoding_gaussian_matrix)
    assert value.dtype == torch.float32
    assert value[0].tolist() == pytest.approx(expected, abs=1e-5)


def test_grid_encodes_pixel_centres() -> None:
    encoding = PositionEmbeddingRandom(4)
    grid = encoding.grid(4)
    assert grid.shape == (1, 8, 4, 4)
    expected = fourier_value(3.5 / 4, 1.5 / 4, encoding.positional_encoding_gaussian_matrix)
    assert grid[0, :, 1, 3].tolist() == pytest.approx(expected, abs=1e-5)


def test_dense_encoding_follows_loaded_frequencies() -> None:
    encoder, other = (
        PromptEncoder(8, image_size=64, mask_in_chans=4, embed_stride=16, append_padding=True) for _ in range(2)
    )
    assert not torch.equal(encoder.dense_pe, other.dense_pe)
    encoder.load_state_dict(other.state_dict())
    assert torch.equal(encoder.dense_pe, other.dense_pe)
    assert "dense_pe" not in encoder.state_dict()


@pytest.mark.parametrize("label", [-1, 0, 1, 2, 3])
def test_point_tokens(label: int) -> None:
    encoder = PromptEncoder(8, image_size=64, mask_in_chans=4, embed_stride=16, append_padding=True)
    token = encoder.embed_points(torch.tensor([[[10.0, 31.5]]]), torch.tensor([[label]]))[0, 0]
    if label == -1:  # nothing but the embedding: the place does not matter
        assert torch.equal(token, encoder.not_a_point_embed.weight[0])
        return
    wave = encoder.pe_layer.positional_encoding_gaussian_matrix
    encoded = torch.tensor(fourier_value(10.5 / 64, 32 / 64, wave))
    kind = encoder.point_embeddings[label].get_parameter("weight")[0]
    torch.testing.assert_close(token, encoded + kind, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_trunk_position_is_never_stale() -> None:
    trunk = Hiera(8, 1, [1, 1, 1, 1], [8, 4, 2, 2], [], [7, 7], 4.0, 0.0).eval()
    before = trunk(torch.zeros(1, 3, 64, 64))[0]
    trunk.pos_embed.add_(torch.randn_like(trunk.pos_embed))
    after = trunk(torch.zeros(1, 3, 64, 64))[0]
    trunk.pos_embed_window.add_(1.0)
    last = trunk(torch.zeros(1, 3, 64, 64))[0]
    assert not torch.equal(before, after)
    assert not torch.equal(after, last)


@torch.no_grad()
def test_trunk_position_adds_a_smooth_and_a_tiled_table() -> None:
    trunk = Hiera(8, 1, [1, 1, 1, 1], [8, 4, 2, 2], [], [7, 7], 4.0, 0.0)
    trunk.pos_embed.normal_()
    trunk.pos_embed_window.normal_()
    smooth = F.interpolate(trunk.pos_embed, (16, 24), mode="bicubic")
    tiled = (trunk._position(16, 24).permute(0, 3, 1, 2) - smooth)[0]
    for row, column in [(0, 0), (7, 7), (8, 3), (15, 23)]:
        expected = trunk.pos_embed_window[0, :, row % 8, column % 8]
        torch.testing.assert_close(tiled[:, row, column], expected, atol=1e-5, rtol=1e-4)
