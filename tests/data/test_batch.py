"""Collating: masks and points of some objects only, groups of equal length, masks as logits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from helpers_data import square
from torch import Tensor

from medsam2.data.batch import MASK_LOGIT, ObjectInfo, Sample, collate, mask_to_logits, merge_structures
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


# ------------------------------------------------------------------------------------------------- soft targets


@pytest.mark.parametrize("kinds", [("soft",), ("soft", "none"), ("none", "soft"), ("hard",), ("hard", "none")])
def test_targets_keep_their_type_until_they_are_floats(kinds: Sequence[str]) -> None:
    samples = []
    for kind in kinds:
        one = sample([] if kind == "none" else [BoxPrompt()])
        one.targets = one.targets.bool() if kind != "soft" else one.targets.float() * 0.25
        samples.append(one)
    batch = collate(samples)
    assert batch.targets.dtype == (torch.float32 if "soft" in kinds else torch.bool)
    assert batch.to("cpu").targets.dtype == torch.float32
    assert batch.to("cpu").targets.max() == (0.25 if "soft" in kinds else 1)


# ---------------------------------------------------------------------------------------------------- merging

# two images: three structures on the first, one on the second; a row per object, a column per pixel
LOGITS = torch.tensor([[4.0, 2.0, -1.0, 3.0], [1.0, 5.0, -2.0, 3.0], [-6.0, 2.0, -3.0, -1.0], [9.0, 9.0, 9.0, 9.0]])
MERGED = torch.tensor([[3.0, -3.0, -1.0, 3.0], [-3.0, 3.0, -2.0, 3.0], [-10.0, -3.0, -3.0, -4.0], [9.0, 9.0, 9.0, 9.0]])
IMAGES = torch.tensor([0, 0, 0, 1])


def as_pixels(rows: Tensor) -> Tensor:
    return rows.reshape(len(rows), 1, 2, 2)


def test_a_pixel_goes_to_the_largest_logit() -> None:
    merged = merge_structures(as_pixels(LOGITS), IMAGES)
    assert torch.equal(merged, as_pixels(MERGED))
    assert torch.equal((merged > 0).sum(0)[0], torch.tensor([[2, 2], [1, 3]]))  # with the other image, and the tie
    order = torch.tensor([2, 3, 0, 1])
    assert torch.equal(merge_structures(as_pixels(LOGITS[order]), IMAGES[order]), as_pixels(MERGED[order]))


@pytest.mark.parametrize(
    ("exclusive", "expected"),
    [
        (True, MERGED),
        (False, LOGITS),
        ([False] * 4, LOGITS),
        (
            [True, False, True, True],
            torch.stack([LOGITS[0], LOGITS[1], torch.tensor([-10.0, 2.0, -3.0, -4.0]), LOGITS[3]]),
        ),
    ],
)
def test_only_those_that_exclude_each_other_are_merged(exclusive: bool | list[bool], expected: Tensor) -> None:
    assert torch.equal(merge_structures(as_pixels(LOGITS), IMAGES, exclusive), as_pixels(expected))


def test_merged_answers_exclude_each_other_at_any_size() -> None:
    logits = torch.randn(6, 1, 9, 9, generator=torch.Generator().manual_seed(0)) * 4 + 2
    index = torch.tensor([0, 1, 0, 1, 0, 1])
    merged = merge_structures(logits, index)
    claimed = (merged > 0)[::2].any(0)
    assert torch.equal(claimed, (logits > 0)[::2].any(0))  # no pixel that somebody claimed is lost
    assert torch.equal((merged > 0)[::2].float().argmax(0)[claimed], logits[::2].argmax(0)[claimed])
    for mode, corners in (("bilinear", False), ("nearest", None)):
        large = torch.nn.functional.interpolate(merged, (101, 57), mode=mode, align_corners=corners)
        assert (large[::2] > 0).sum(0).max() == 1
    plain = torch.nn.functional.interpolate(logits, (101, 57), mode="bilinear", align_corners=False)
    assert (plain[::2] > 0).sum(0).max() == 3


def test_equal_answers_and_none_stay_as_they_are() -> None:
    same = torch.randn(1, 1, 4, 4).expand(3, 1, 4, 4)
    assert torch.equal(merge_structures(same, torch.zeros(3, dtype=torch.int64)), same)
    assert merge_structures(torch.zeros(0, 1, 4, 4), torch.zeros(0, dtype=torch.int64)).shape == (0, 1, 4, 4)
