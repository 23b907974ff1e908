"""SAM 1's names become ours; whatever is not the prompt encoder's or the decoder's keeps its name."""

import pytest
import torch

from medsam2.modeling.sam1_names import from_sam1

NAMES = {
    "prompt_encoder.no_mask_embed.weight": "sam_prompt_encoder.no_mask_embed.weight",
    "mask_decoder.transformer.layers.0.mlp.lin1.weight": "sam_mask_decoder.transformer.layers.0.mlp.layers.0.weight",
    "mask_decoder.transformer.layers.1.mlp.lin2.bias": "sam_mask_decoder.transformer.layers.1.mlp.layers.1.bias",
    "mask_decoder.iou_prediction_head.layers.2.bias": "sam_mask_decoder.iou_prediction_head.layers.2.bias",
    "image_encoder.blocks.3.mlp.lin1.weight": "image_encoder.blocks.3.mlp.lin1.weight",
    "image_encoder.neck.0.weight": "image_encoder.neck.0.weight",
}


@pytest.mark.parametrize(("theirs", "ours"), NAMES.items())
def test_a_name(theirs: str, ours: str) -> None:
    value = torch.ones(1)
    (renamed,) = from_sam1({theirs: value}).items()
    assert renamed[0] == ours
    assert renamed[1] is value


def test_names_stay_apart() -> None:
    state = {name: torch.zeros(0) for name in NAMES}
    assert list(from_sam1(state)) == list(NAMES.values())
    assert list(state) == list(NAMES)  # the argument stays as it was
