"""Boxes against hand-computed numbers, suppression against the plain loop."""

import pytest
import torch

from medsam2.predictors import boxes as module
from medsam2.predictors.boxes import compute_box_iou, compute_mask_boxes, suppress_overlaps, touch_crop
from tests.predictors.fakes_predictors import paint


def test_boxes_of_masks_are_inclusive_and_zero_where_empty() -> None:
    masks = torch.stack((paint(6, 9, (2, 1, 5, 4)), paint(6, 9), paint(6, 9, (8, 5, 9, 6)), paint(6, 9, (0, 0, 9, 6))))
    assert compute_mask_boxes(masks).tolist() == [[2, 1, 4, 3], [0, 0, 0, 0], [8, 5, 8, 5], [0, 0, 8, 5]]
    parts = paint(6, 9, (1, 4, 2, 5), (6, 0, 8, 1))
    assert compute_mask_boxes(parts[None]).tolist() == [[1, 0, 7, 4]]
    assert compute_mask_boxes(masks[:0]).shape == (0, 4)


def test_iou_of_boxes() -> None:
    a = torch.tensor([[0, 0, 4, 4], [0, 0, 2, 2]])
    b = torch.tensor([[0, 0, 4, 4], [2, 2, 6, 6], [4, 0, 8, 4]])
    torch.testing.assert_close(compute_box_iou(a, b), torch.tensor([[1.0, 4 / 28, 0.0], [0.25, 0.0, 0.0]]))


def suppress_by_loop(boxes: torch.Tensor, scores: torch.Tensor, threshold: float) -> list[int]:
    """Best first; equal scores in the order given."""
    rest = sorted(range(len(boxes)), key=lambda i: -scores[i].item())
    kept = []
    while rest:
        best, *rest = rest
        kept.append(best)
        if rest:
            overlapping = compute_box_iou(boxes[best][None], boxes[rest])[0] > threshold
            rest = [i for i, too_much in zip(rest, overlapping.tolist(), strict=True) if not too_much]
    return kept


@pytest.mark.parametrize("chunk", [module.CHUNK, 500])  # whole, and two rows at a time
@pytest.mark.parametrize("threshold", [0.1, 0.4, 0.7])
@pytest.mark.parametrize("distinct_scores", [200, 3])
def test_suppression_is_the_greedy_loop(
    threshold: float, distinct_scores: int, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK", chunk)
    generator = torch.Generator().manual_seed(distinct_scores)
    corner = torch.randint(0, 40, (200, 2), generator=generator)
    boxes = torch.cat((corner, corner + torch.randint(0, 30, (200, 2), generator=generator)), dim=1)
    scores = torch.randint(0, distinct_scores, (200,), generator=generator).float()
    kept = suppress_overlaps(boxes, scores, threshold).tolist()
    assert kept == suppress_by_loop(boxes, scores, threshold)
    assert 5 < len(kept) < 195


def test_a_suppressed_box_suppresses_nothing() -> None:
    chain = torch.tensor([[0.0, 0, 10, 10], [4, 0, 14, 10], [8, 0, 18, 10], [12, 0, 22, 10]])  # neighbours: IoU 0.43
    assert suppress_overlaps(chain, torch.tensor([4.0, 3, 2, 1]), 0.4).tolist() == [0, 2]
    assert suppress_overlaps(chain, torch.tensor([1.0, 2, 3, 4]), 0.4).tolist() == [3, 1]
    assert suppress_overlaps(chain, torch.tensor([3.0, 4, 2, 1]), 0.4).tolist() == [1, 3]


def test_ties_go_to_the_earlier_box_and_the_threshold_itself_stays() -> None:
    same = torch.tensor([[0.0, 0, 4, 4], [0, 0, 4, 2], [0, 0, 4, 4]])
    assert suppress_overlaps(same, torch.ones(3), 0.5).tolist() == [0, 1]
    assert suppress_overlaps(same[:0], torch.ones(0), 0.5).tolist() == []


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ([31, 60, 80, 90], False),  # 21 from the nearest side of the crop
        ([21, 60, 80, 90], True),  # 11 from its left side
        ([31, 60, 80, 101], True),  # 19 from its lower side
        ([31, 5, 80, 90], False),  # near its upper side, which is the image's
        ([31, 60, 110, 90], True),  # 20 from its right side
        ([31, 60, 109, 90], False),
    ],
)
def test_boxes_cut_by_a_crop(box: list[int], expected: bool) -> None:
    crop, image = torch.tensor([10, 0, 130, 120]), torch.tensor([0, 0, 300, 200])
    assert touch_crop(torch.tensor([box]), crop, image).tolist() == [expected]
    assert touch_crop(torch.tensor([box]), image, image).tolist() == [False]
