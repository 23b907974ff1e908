"""Collating: masks and points of some objects only, groups of equal length, masks as logits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from helpers_data import square
from torch import Tensor

from medsam2.data.batch import MASK_LOGIT, ObjectInfo, Sample, collate, mask_to_logits
from medsam2.data.prompts import BoxPrompt, ClickPrompt, MaskPrompt, NoPrompt, Prompt, Prompter
from medsam2.modeling.sam2 import MASK_LOGIT as MODEL_MASK_LOGIT
from tests.goldens import build_model

SIZE = 64
TARGET = square(8, 20, 24, 30, (SIZE, SIZE))


def sample(prompters: Sequence[Prompter], case_id: str = "a") -> Sample:
    """A case with an object, all of the same shape, for each prompter."""
    prompts = [prompter(TARGET, np.random.default_rng(i)) for i, prompter in enumerate(prompters)]
    return Sample(
        case_id=case_id,
        image=torch.zeros(3, SIZE, SIZE),
        targets=torch.from_numpy(TARGET).expand(len(prompts), SIZE, SIZE),
        point_coords=[torch.from_numpy(prompt.points) for prompt in prompts],
        point_labels=[torch.from_numpy(prompt.labels) for prompt in prompts],
        objects=[ObjectInfo(case_id, case_id, f"s{i}", prompt, None, None, None) for i, prompt in enumerate(prompts)],
        mask_inputs=[to_logits(prompt) for prompt in prompts],
    )


def to_logits(prompt: Prompt) -> Tensor | None:
    return None if prompt.mask is None else mask_to_logits(prompt.mask, SIZE // 4)


def test_points_and_masks_of_some_objects_only() -> None:
    one, other = sample([ClickPrompt(3), MaskPrompt()]), sample([NoPrompt(), BoxPrompt(), MaskPrompt(0.3)], "b")
    batch = collate([one, other])
    assert batch.point_labels.tolist() == [[1, 1, 1], [-1, -1, -1], [-1, -1, -1], [2, 3, -1], [-1, -1, -1]]
    assert batch.point_coords[[1, 2, 4]].count_nonzero() == 0
    assert batch.point_counts == [3, 1, 1, 2, 1]
    assert batch.group_by_points() == {3: [0], 1: [1, 2, 4], 2: [3]}
    assert batch.mask_given is not None
    assert batch.mask_given.tolist() == [False, True, False, False, True]
    assert batch.mask_inputs is not None
    assert batch.mask_inputs.shape == (5, 1, SIZE // 4, SIZE // 4)
    assert batch.mask_inputs[[0, 2, 3]].count_nonzero() == 0
    for row, mask in ((1, one.mask_inputs[1]), (4, other.mask_inputs[2])):
        assert mask is not None
        assert torch.equal(batch.mask_inputs[row], mask)


def test_a_sample_may_leave_masks_out() -> None:
    without = sample([BoxPrompt(), BoxPrompt()])
    without.mask_inputs = []
    batch = collate([without, sample([MaskPrompt()], "b")])
    assert batch.mask_given is not None
    assert batch.mask_given.tolist() == [False, False, True]


def test_no_masks_at_all_take_no_memory() -> None:
    batch = collate([sample([BoxPrompt(), ClickPrompt(2)])])
    assert batch.mask_inputs is None
    assert batch.mask_given is not None
    assert batch.mask_given.tolist() == [False, False]
    assert batch.group_by_points() == {2: [0, 1]}


@pytest.mark.parametrize("prompter", [NoPrompt(), MaskPrompt()])
def test_prompts_without_points_have_one_padding_point(prompter: Prompter) -> None:
    batch = collate([sample([prompter])])
    assert batch.point_labels.tolist() == [[-1]]
    assert batch.point_coords.tolist() == [[[0, 0]]]


def test_a_batch_without_objects() -> None:
    batch = collate([sample([])])
    assert batch.mask_inputs is None
    assert batch.mask_given is not None
    assert batch.mask_given.shape == (0,)
    assert batch.point_counts == []
    assert batch.group_by_points() == {}


def test_masks_move_with_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = collate([sample([MaskPrompt(), BoxPrompt()])])
    moved = batch.to("meta")
    assert moved.mask_inputs is not None
    assert moved.mask_given is not None
    assert moved.mask_inputs.is_meta
    assert moved.mask_given.is_meta
    assert moved.point_counts == [1, 2]
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: self + 1 if self.dtype.is_floating_point else ~self)
    pinned = batch.pin_memory()
    assert batch.mask_inputs is not None
    assert torch.equal(pinned.mask_inputs, batch.mask_inputs + 1)  # type: ignore[arg-type]
    assert pinned.mask_given.tolist() == [False, True]  # type: ignore[union-attr]


def test_mask_logits_by_hand() -> None:
    logits = mask_to_logits(square(0, 0, 8, 16, (16, 32)), 4)  # the upper left quarter
    assert logits.shape == (1, 4, 4)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits[0, [0, -1], [0, -1]], torch.tensor([MASK_LOGIT, -MASK_LOGIT]))
    assert torch.equal(logits > 0, torch.tensor([[[True, True, False, False]] * 2 + [[False] * 4] * 2]))
    assert 0 < logits[0, 0, 1] < 0.9 * MASK_LOGIT  # beside the border
    full = mask_to_logits(np.ones((5, 7), dtype=bool), 8)
    torch.testing.assert_close(full, torch.full((1, 8, 8), MASK_LOGIT))


@torch.no_grad()
def test_mask_logits_are_those_sam_2_makes_of_a_given_mask() -> None:
    model = build_model("sam2_nano", SIZE)
    mask = torch.from_numpy(TARGET).float()[None, None]
    output = model.use_mask_as_output(model.forward_image(torch.zeros(1, 3, SIZE, SIZE)), mask)
    torch.testing.assert_close(mask_to_logits(TARGET, SIZE // 4), output.low_res_masks[0])
    assert MODEL_MASK_LOGIT == MASK_LOGIT
