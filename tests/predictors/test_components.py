"""Components are 8-connected and counted alike by SciPy and torch; holes and islands go by their area."""

import pytest
import torch
from torch import Tensor

from medsam2.predictors import components
from medsam2.predictors.components import clean_masks, compute_areas_scipy, compute_areas_torch, fill_holes, spread

BOTH = pytest.mark.parametrize("compute_areas", [compute_areas_scipy, compute_areas_torch])


def draw(*rows: str) -> Tensor:
    return torch.tensor([[character == "#" for character in row] for row in rows])


@BOTH
def test_diagonal_neighbours_connect_and_masks_do_not(compute_areas) -> None:
    masks = torch.stack((draw("#..#", ".#.#", "...."), draw("#...", "....", "..##")))
    expected = [[[2, 0, 0, 2], [0, 2, 0, 2], [0, 0, 0, 0]], [[1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 2, 2]]]
    assert compute_areas(masks).tolist() == expected


def spiral(size: int) -> Tensor:
    """One component as long as it gets."""
    mask = torch.zeros(size, size, dtype=torch.bool)
    x, y, dx, dy = 0, 0, 1, 0
    mask[y, x] = True
    while True:
        for _ in range(2):
            ahead = (y + 2 * dy, x + 2 * dx)
            if min(ahead) >= 0 and max(ahead) < size and not mask[ahead]:
                break
            dx, dy = -dy, dx
        else:
            return mask
        x, y = x + dx, y + dy
        mask[y, x] = True


@pytest.mark.parametrize("density", [0.0, 0.2, 0.4, 0.6, 1.0])
def test_torch_counts_as_scipy_does(density: float) -> None:
    masks = torch.rand(5, 33, 47, generator=torch.Generator().manual_seed(1)) < density
    assert torch.equal(compute_areas_torch(masks), compute_areas_scipy(masks))


def test_torch_follows_long_components_in_few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = []
    monkeypatch.setattr(components, "spread", lambda x: rounds.append(1) or spread(x))
    masks = torch.stack((spiral(41), spiral(41).T.flip(0)))
    areas = compute_areas_torch(masks)
    assert len(rounds) < 20
    assert areas.amax() == masks[0].sum() > 800
    assert torch.equal(areas, compute_areas_scipy(masks))


@BOTH
def test_no_masks_have_no_areas(compute_areas) -> None:
    assert compute_areas(torch.zeros(0, 4, 5, dtype=torch.bool)).shape == (0, 4, 5)


PICTURE = draw(
    "######..",
    "#.##.#..",
    "#.####..",
    "######..",
    "........",
    ".......#",
)  # a square with holes of 2 and 1 pixels, an island of 1


@pytest.mark.parametrize(("hole", "filled"), [(0, []), (1, [(1, 4)]), (2, [(1, 1), (1, 4), (2, 1)])])
@pytest.mark.parametrize(("island", "removed"), [(0, []), (1, [(5, 7)])])
def test_areas_up_to_the_limit_go(hole: int, filled: list, island: int, removed: list) -> None:
    expected = PICTURE.clone()
    for position in filled:
        expected[position] = True
    for position in removed:
        expected[position] = False
    assert torch.equal(clean_masks(PICTURE[None], hole, island)[0], expected)


@pytest.mark.parametrize(("threshold", "margin"), [(0.0, 10.0), (0.5, 0.1)])
def test_filled_and_removed_pixels_get_threshold_and_margin(threshold: float, margin: float) -> None:
    logits = torch.where(PICTURE, threshold + 3.0, threshold)  # equal to the threshold is outside
    result = fill_holes(logits.expand(2, 3, 6, 8), 1, 1, threshold, margin)
    expected = logits.clone()
    expected[1, 4], expected[5, 7] = threshold + margin, threshold - margin
    assert result.shape == (2, 3, 6, 8)
    assert torch.equal(result, expected.expand(2, 3, 6, 8))
    assert torch.equal(logits, torch.where(PICTURE, threshold + 3.0, threshold))  # the input stays


def test_islands_are_measured_with_their_holes_filled() -> None:
    ring = draw("###..", "#.#..", "###..", ".....")
    assert not clean_masks(ring[None], 0, 8).any()
    assert clean_masks(ring[None], 1, 8).sum() == 9


def test_nothing_to_do_returns_the_logits_themselves() -> None:
    logits = torch.randn(2, 1, 4, 4)
    assert fill_holes(logits) is logits
