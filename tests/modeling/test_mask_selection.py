"""Which of the decoder's masks is returned, on hand-made logits."""

import pytest
import torch

from medsam2.modeling.mask_decoder import MaskPredictions, compute_stability
from tests.goldens import build_model


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([1.0, 1.0, -1.0], 1.0),
        ([1.0, 0.0, -1.0], 0.5),  # 0 lies between the thresholds
        ([0.06, 0.04, -0.04], 1 / 3),
        ([-1.0, -1.0, -1.0], 1.0),  # empty: stable
        ([0.0, 0.0, -1.0], 0.0),
    ],
)
def test_stability(rows: list[float], expected: float) -> None:
    assert compute_stability(torch.tensor(rows).view(1, 3, 1), 0.05).item() == pytest.approx(expected)


def candidates() -> MaskPredictions:
    """Object 0 has a stable mask 0, object 1 an unstable one; mask k has logits of magnitude k + 1."""
    masks = torch.stack([torch.full((2, 2, 2), float(k + 1)) for k in range(4)], dim=1)
    masks[1, 0] = torch.tensor([[1.0, 0.0], [0.0, -1.0]])
    ious = torch.tensor([[0.1, 0.9, 0.2, 0.3], [0.1, 0.2, 0.4, 0.3]])
    return MaskPredictions(masks, ious, torch.zeros(2, 1), torch.arange(8.0).view(2, 4, 1))


@pytest.mark.parametrize(
    ("selection", "training", "kept", "ious"),
    [
        ("stable", False, [1.0, 3.0], [0.1, 0.4]),
        ("stable", True, [1.0, 1.0], [0.1, 0.1]),
        ("single", False, [1.0, 1.0], [0.1, 0.1]),
    ],
)
def test_single_mask_selection(selection: str, training: bool, kept: list[float], ious: list[float]) -> None:
    decoder = build_model("sam2_nano", 64, [f"model/mask_selection={selection}"]).sam_mask_decoder.train(training)
    one = decoder.select(candidates(), multimask_output=False)
    assert one.low_res_masks[:, 0, 0, 0].tolist() == kept
    assert one.iou_predictions[:, 0].tolist() == pytest.approx(ious)
    assert one.mask_tokens.flatten().tolist() == [0.0, 4.0]  # the first token in every case
    three = decoder.select(candidates(), multimask_output=True)
    assert three.low_res_masks[0, :, 0, 0].tolist() == [2.0, 3.0, 4.0]
    assert three.mask_tokens[1].flatten().tolist() == [5.0, 6.0, 7.0]
