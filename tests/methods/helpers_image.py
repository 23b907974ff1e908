"""Batches of prompted objects for the methods, and the network asked by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from medsam2.data.batch import Batch, ObjectInfo
from medsam2.data.prompts import Prompt
from medsam2.losses import BCE
from medsam2.methods.image import ImageMethod
from medsam2.modeling.sam2 import SAM2

SIZE = 64


def batch() -> Batch:
    """Three objects on two images: two on the first, one on the second."""
    generator = torch.Generator().manual_seed(1)
    targets = torch.zeros(3, 1, SIZE, SIZE)
    targets[0, :, 8:24, 8:40], targets[1, :, 30:50, 10:20], targets[2, :, 20:60, 20:60] = 1, 1, 1
    corners = torch.tensor([[[8.0, 8], [39, 23]], [[10, 30], [19, 49]], [[20, 20], [59, 59]]])
    return Batch(
        images=torch.rand(2, 3, SIZE, SIZE, generator=generator),
        image_index=torch.tensor([0, 0, 1]),
        point_coords=corners,
        point_labels=torch.tensor([[2, 3]] * 3),
        targets=targets,
        objects=[],
        case_ids=["a", "b"],
    )


def mixed_batch() -> Batch:
    """Seven objects on two images: box, nothing, three clicks, mask, one click, mask and click, three clicks."""
    generator = torch.Generator().manual_seed(2)
    clicks = [[2, 3, -1], [-1, -1, -1], [1, 1, 0], [-1, -1, -1], [1, -1, -1], [1, -1, -1], [0, 1, 1]]
    labels = torch.tensor(clicks)
    return Batch(
        images=torch.rand(2, 3, SIZE, SIZE, generator=generator),
        image_index=torch.tensor([0, 0, 0, 1, 1, 1, 1]),
        point_coords=torch.rand(7, 3, 2, generator=generator).sort(dim=1).values * SIZE * (labels >= 0)[..., None],
        point_labels=labels,
        targets=(torch.rand(7, 1, SIZE, SIZE, generator=generator) > 0.5).float(),
        objects=[],
        case_ids=["a", "b"],
        mask_inputs=torch.randn(7, 1, SIZE // 4, SIZE // 4, generator=generator) * 5,  # of those without, noise
        mask_given=torch.tensor([False, False, False, True, False, True, False]),
        point_counts=[2, 1, 3, 1, 1, 1, 3],
    )


def only(whole: Batch, i: int) -> Batch:
    """The i-th object alone, on its image alone, with its own points and without a mask if it has none."""
    count = whole.point_counts[i] if whole.point_counts else whole.point_labels.shape[1]
    has_mask = whole.mask_given is not None and bool(whole.mask_given[i])
    return Batch(
        images=whole.images[whole.image_index[i : i + 1]],
        image_index=torch.tensor([0]),
        point_coords=whole.point_coords[i : i + 1, :count],
        point_labels=whole.point_labels[i : i + 1, :count],
        targets=whole.targets[i : i + 1],
        objects=[],
        case_ids=[],
        mask_inputs=whole.mask_inputs[i : i + 1] if has_mask and whole.mask_inputs is not None else None,
    )


def with_infos(data: Batch, present: tuple[bool, ...] = (True,) * 7, name: str = "") -> Batch:
    """The batch with what the loader says about its objects; `name` is the prompt of all of them."""
    objects = []
    for row, image in enumerate(data.image_index.tolist()):
        labels = data.point_labels[row][data.point_labels[row] >= 0].numpy()
        kind = name or ("box" if 2 in labels else "click" if labels.size else "none")
        points = data.point_coords[row, : labels.size].numpy()
        budget = "none" if kind in ("none", "learned") else kind
        prompt = Prompt(points, labels, budget, kind)
        case_id = data.case_ids[image]
        objects.append(ObjectInfo(case_id, case_id, f"s{row}", prompt, None, None, None, present=present[row]))
    return replace(data, objects=objects)


def masks_only(model: SAM2, loss: Any, **settings: Any) -> ImageMethod:
    """The other heads are left as they came."""
    return ImageMethod(model, loss, iou=0.0, presence=0.0, **settings)


def decode(model: SAM2, data: Batch, mask_input: Tensor | None) -> Any:
    features = model.encode_image(data.images)
    prompts = {"point_coords": data.point_coords, "point_labels": data.point_labels, "mask_input": mask_input}
    return model.decode(features, **prompts, image_index=data.image_index, multimask_output=False)


def by_hand(model: SAM2, data: Batch, mask_input: Tensor | None = None) -> tuple[Tensor, Any]:
    output = decode(model, data, mask_input)
    logits = interpolate(output.low_res_masks, (SIZE, SIZE), mode="bilinear", align_corners=False)
    return BCE(2.0)(logits, data.targets), output


def shift_scores(model: SAM2, monkeypatch: pytest.MonkeyPatch, shift: float) -> None:
    score = model.sam_mask_decoder.pred_obj_score_head.layers[-1].bias
    monkeypatch.setattr(score, "data", score.data + shift)
