"""Volumes: what is minimised, what is answered on each slice, and what Medical-SAM2 did in its place."""

from __future__ import annotations

from contextlib import nullcontext
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits as bce
from torch.nn.functional import interpolate

from medsam2.data.chest_ct import ChestCT
from medsam2.data.clip_batch import Clip, ClipBatch
from medsam2.data.clips import ClipCases
from medsam2.data.loader import build_loader
from medsam2.data.phantom_volumes import PhantomVolumes
from medsam2.data.prompts import BoxPrompt, LearnedPrompt, NoPrompt
from medsam2.data.records import of_split
from medsam2.evaluation.evaluator import Evaluator
from medsam2.losses import BCE
from medsam2.methods.tracking import ObjectTracker
from medsam2.methods.volume import VolumeMethod
from medsam2.modeling.sam2 import NO_OBJ_SCORE, SAM2
from tests.conftest import Compose
from tests.fakes import Blobs
from tests.goldens import build_model
from tests.methods.helpers_volume import SIZE, box, build, clicks, make_clip, mask

SEEN = [[True] * 6, [True, True, True, False, False, False]]


@pytest.fixture(scope="module")
def model() -> SAM2:
    return build()


@pytest.fixture(scope="module")
def blind(model: SAM2) -> SAM2:
    """It judges every object absent."""
    blind = deepcopy(model)
    blind.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.data.fill_(-3.0)
    return blind


def clip(**settings: Any) -> Clip:
    return make_clip([{2: box(2)}, {1: box(1, 1)}], present=SEEN, **settings)


def phantom(**settings: Any) -> PhantomVolumes:
    defaults = {"structures": ["lobe", "kidney"], "volumes": {"train": 4, "val": 1, "test": 1}, "size": 64, "depth": 8}
    return PhantomVolumes(**{"slices": "all", "noise": 0.03, **defaults, **settings})


def cases(method: VolumeMethod, dataset: Any = None, split: str = "train", **settings: Any) -> ClipCases:
    dataset = dataset or phantom()
    records = of_split(dataset.records(), split)
    defaults: dict[str, Any] = {"prompt": BoxPrompt(), "image_size": SIZE, "seed": 0}
    return method.build_cases(dataset=dataset, records=records, **(defaults | settings))


# ---------------------------------------------------------------------------------------------------------- loss


@torch.no_grad()
def test_the_loss_is_a_mean_over_objects_and_slices_however_they_are_batched(model: SAM2) -> None:
    clips = [clip(), make_clip([{0: clicks(0, 1)}], length=3, seed=1)]
    loss = VolumeMethod(model, BCE(), candidates=True).loss(ClipBatch(clips))
    masks, errors, scores, truths = [], [], [], []
    for one in clips:
        for step in ObjectTracker(model, [one], "both", candidates=True, chunk=8, keep=True).run():
            for i, (track, t) in enumerate(step.places):
                assert one.targets is not None
                target, output = one.targets[track.row, t].float(), step.output
                scores.append(output.object_score_logits[i, 0])
                truths.append(one.present[track.row, t].float())
                if truths[-1]:
                    every = interpolate(output.ungated_masks[i : i + 1], (SIZE, SIZE), mode="bilinear")[0]
                    dice = [2 * (m.sigmoid() * target).sum() / (m.sigmoid().sum() + target.sum()) for m in every]
                    best = int(torch.stack(dice).argmax())
                    masks.append(bce(every[best], target))
                    inside = [((m > 0) & (target > 0)).sum() / ((m > 0) | (target > 0)).sum() for m in every]
                    errors.append((output.iou_predictions[i] - torch.stack(inside)).abs().mean())
    assert (len(masks), len(scores)) == (12, 15)
    expected = {
        "mask": torch.stack(masks).mean(),
        "iou": torch.stack(errors).mean(),
        "presence": bce(torch.stack(scores), torch.stack(truths)),
    }
    for name, value in expected.items():
        torch.testing.assert_close(loss.terms[name], value, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(loss.total, sum(expected.values()), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(loss.terms["loss"], loss.total)


def test_a17_presence_learns_and_nothing_is_compared_with_a_cut_mask(blind: SAM2) -> None:
    blind.train()
    loss = VolumeMethod(blind, BCE()).loss(ClipBatch([clip()]))
    assert loss.terms["mask"] < 20
    loss.total.backward()
    head = [p.grad for p in blind.sam_mask_decoder.pred_obj_score_head.parameters()]
    masks = [p.grad for p in blind.sam_mask_decoder.output_hypernetworks_mlps.parameters()]
    assert all(grad is not None and grad.isfinite().all() for grad in head)
    assert all(grad is not None and grad.abs().sum() > 0 for grad in head)
    assert sum(float(grad.abs().sum()) for grad in masks if grad is not None) > 0
    blind.zero_grad()

    legacy = VolumeMethod(blind, BCE(), iou=0, presence=0, legacy_gated_loss=True).loss(ClipBatch([clip()]))
    assert legacy.terms["mask"] > 50  # 1024 at every pixel of a mask that is there
    legacy.total.backward()
    assert all(p.grad is None or not p.grad.any() for p in blind.sam_mask_decoder.parameters())
    blind.zero_grad()
    blind.eval()


@torch.no_grad()
def test_an_object_that_leaves_teaches_presence_alone(model: SAM2) -> None:
    absent = make_clip([{0: box(0)}], length=3, present=[[True, False, False]])
    terms = VolumeMethod(model, BCE(), direction="forward").loss(ClipBatch([absent])).terms
    alone = make_clip([{0: box(0)}], length=1)
    first = VolumeMethod(model, BCE(), direction="forward").loss(ClipBatch([alone])).terms
    torch.testing.assert_close(terms["mask"], first["mask"], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(terms["iou"], first["iou"], atol=1e-4, rtol=1e-4)
    assert terms["presence"] > 1.5  # the score is near 3 everywhere


@torch.no_grad()
def test_a_given_mask_is_no_answer_to_learn_from(model: SAM2) -> None:
    method = VolumeMethod(model, BCE(), direction="forward")
    given, boxed = (make_clip([{0: kind(0)}], length=4) for kind in (mask, box))
    terms = method.loss(ClipBatch([given])).terms
    tracked = [step for step in method._track([given], keep=True) if not step.given]
    errors = [step.output.object_score_logits[0, 0] for step in tracked]
    torch.testing.assert_close(terms["presence"], bce(torch.stack(errors), torch.ones(3)), atol=1e-4, rtol=1e-4)
    assert method.loss(ClipBatch([boxed])).terms["presence"] != terms["presence"]
    nothing_else = method.loss(ClipBatch([make_clip([{0: mask(0)}], length=1)]))
    assert nothing_else.total == 0


def test_a_batch_of_given_masks_alone_has_a_graph(model: SAM2) -> None:
    total = VolumeMethod(model, BCE()).loss(ClipBatch([make_clip([{0: mask(0)}], length=1)])).total
    total.backward()
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())
    model.zero_grad()


@torch.no_grad()
def test_weights_of_zero_leave_a_head_out(model: SAM2) -> None:
    terms = VolumeMethod(model, BCE(), iou=0, presence=0).loss(ClipBatch([clip()])).terms
    assert set(terms) == {"loss", "mask"}


@torch.no_grad()
def test_clips_without_objects_change_nothing(model: SAM2) -> None:
    empty = make_clip([{0: box(0)}])
    empty = Clip("e", empty.images, None, torch.zeros(0, 6, dtype=torch.bool), [], [])
    method = VolumeMethod(model, BCE())
    torch.testing.assert_close(
        method.loss(ClipBatch([empty, clip()])).total, method.loss(ClipBatch([clip()])).total, atol=1e-4, rtol=1e-4
    )
    assert len(method.predict(ClipBatch([empty, clip()])).objects) == 12


def test_under_bf16_loss_and_answer_are_float32(model: SAM2) -> None:
    method = VolumeMethod(model, BCE())
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        short = make_clip([{0: box(0)}], length=2)
        loss, prediction = method.loss(ClipBatch([short])), method.predict(ClipBatch([short]))
    assert loss.total.dtype == torch.float32
    assert loss.total.isfinite()
    assert {prediction.mask_logits.dtype, prediction.iou_predictions.dtype} == {torch.float32}


# ------------------------------------------------------------------------------------------------------- answers


@torch.no_grad()
@pytest.mark.parametrize("keep", [0, 64])
def test_every_slice_is_answered_in_the_order_of_the_objects(model: SAM2, keep: int) -> None:
    clips = [clip(), make_clip([{3: box(3)}], length=4, seed=1)]
    prediction = VolumeMethod(model, BCE(), candidates=True, keep=keep).predict(ClipBatch(clips))
    assert prediction.mask_logits.shape == (16, 1, SIZE // 4, SIZE // 4)
    assert prediction.iou_predictions.shape == (16,)
    described = [(info.structure, info.index) for info in prediction.objects]
    assert described == [(f"s{n}", t) for t in range(6) for n in range(2)] + [("s0", t) for t in range(4)]
    for one, first in zip(clips, (0, 12), strict=True):
        count = len(one.prompts)
        for step in ObjectTracker(model, [one], "both", candidates=True, chunk=8, keep=True).run():
            for i, (track, t) in enumerate(step.places):
                row = first + t * count + track.row
                answer = prediction.mask_logits[row]
                torch.testing.assert_close(answer, step.output.low_res_masks[i], atol=1e-4, rtol=1e-4)
                iou = step.output.iou_predictions[i].max()
                torch.testing.assert_close(prediction.iou_predictions[row], iou, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_presence_empties_tracked_slices_but_not_prompted_ones(blind: SAM2) -> None:
    masks = VolumeMethod(blind, BCE()).predict(ClipBatch([make_clip([{2: box(2)}])])).mask_logits
    assert [bool((m == NO_OBJ_SCORE).all()) for m in masks] == [True, True, False, True, True, True]


@torch.no_grad()
@pytest.mark.parametrize(("direction", "empty"), [("forward", [0, 1]), ("backward", [3, 4, 5]), ("both", list[int]())])
def test_what_is_out_of_reach_is_empty(model: SAM2, direction: str, empty: list[int]) -> None:
    method = VolumeMethod(model, BCE(), direction=direction)
    masks = method.predict(ClipBatch([make_clip([{2: box(2)}])])).mask_logits
    assert [t for t in range(6) if (masks[t] == NO_OBJ_SCORE).all()] == empty
    assert method.protocol == direction


@torch.no_grad()
def test_a16_the_oracle_tells_where_an_object_is_not(model: SAM2) -> None:
    settings: dict[str, Any] = {"prompted": "every", "step": 2, "num_prompts": None}
    told = {}
    for oracle in (False, True):
        method = VolumeMethod(model, BCE(), legacy_absent_oracle=oracle, **settings)
        prediction = method.predict(next(iter(build_loader(cases(method), 1, 0, shuffle=False, seed=0))))
        answers = zip(prediction.mask_logits, prediction.objects, strict=True)
        told[oracle] = [i.index for m, i in answers if not i.present and torch.allclose(m, torch.tensor(-10.0))]
    assert told[False] == []
    assert told[True]
    assert all(index % 2 == 0 for index in told[True])


@torch.no_grad()
def test_a15_and_the_budget_show_in_the_rows(model: SAM2) -> None:
    dataset = phantom()
    method = VolumeMethod(model, BCE(), prompted="every", step=3, num_prompts=None, direction="forward")
    loader = build_loader(cases(method, dataset, "test"), 4, 0, shuffle=False, seed=0)
    rows = Evaluator(["dice"]).evaluate(method, loader, "test", "cpu", nullcontext)
    assert [(row["case_id"], row["structure"]) for row in rows] == [("test00", "lobe"), ("test00", "kidney")]
    for row in rows:
        label = dataset.draw("test00").raters[row["structure"]].sum(0) >= 2
        shown = int(label.any((1, 2)).sum())
        assert row["prompted_slices"] == -(-shown // 3)
        assert row["protocol"] == "forward"
        assert row["size_label"] == 3.0 * label.sum()  # mm³: no slice is left out


@torch.no_grad()
@pytest.mark.parametrize(
    ("unit", "budgets"), [("volume", ["box on 1 slice"]), ("slice", ["box", "tracked from box on 1 slice"])]
)
def test_neighbours_of_no_volume_are_scored_as_one_because_they_are_tracked_as_one(
    model: SAM2, unit: str, budgets: list[str]
) -> None:
    method = VolumeMethod(model, BCE())
    loader = build_loader(cases(method, ChestCT(), "val"), 4, 0, shuffle=False, seed=0)
    rows = Evaluator(["dice"], unit=unit).evaluate(method, loader, "val", "cpu", nullcontext)
    assert len(rows) == (2 if unit == "volume" else 8)
    assert sorted({row["budget"] for row in rows}) == budgets
    assert sum(row["prompted_slices"] for row in rows) == 2


# ------------------------------------------------------------------------------------------- settings and mistakes


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"direction": "up"}, "method.direction='up' must be one of forward, backward, both"),
        ({"chunk": 0}, "method.chunk=0 must be 1 or more"),
        ({"keep": -1}, "method.keep=-1 0 or more"),
        ({"frames": 0}, "method.frames=0"),
        ({"presence": -1.0}, "method.presence=-1.0"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(model: SAM2, settings: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        VolumeMethod(model, BCE(), **settings)


def test_a_network_without_memory_is_refused() -> None:
    with pytest.raises(ValueError, match="this network has no memory; choose a SAM 2"):
        VolumeMethod(nn.Linear(1, 1), BCE())  # type: ignore[arg-type]


@pytest.mark.parametrize("prompt", [NoPrompt(), LearnedPrompt()])
def test_prompts_that_show_nothing_are_refused(model: SAM2, prompt: Any) -> None:
    with pytest.raises(ValueError, match=f"prompt={prompt.name} shows no object .* use method=image"):
        cases(VolumeMethod(model, BCE()), prompt=prompt)


def test_single_images_are_refused(model: SAM2) -> None:
    with pytest.raises(ValueError, match="dataset=blobs has no neighbouring slices"):
        cases(VolumeMethod(model, BCE()), Blobs(), training=True)


def test_the_choices_of_the_config(config: Compose) -> None:
    chosen = config("method=volume").method
    assert {key: chosen[key] for key in ("frames", "stride", "direction", "prompted", "num_prompts")} == {
        "frames": 4, "stride": 1, "direction": "both", "prompted": "largest", "num_prompts": 1,
    }  # fmt: skip
    assert not any(value for key, value in chosen.items() if key.startswith("legacy_"))
    legacy = config("method=volume_legacy").method
    assert all(value for key, value in legacy.items() if key.startswith("legacy_"))
    assert (legacy.frames, legacy.prompted, legacy.step, legacy.iou, legacy.presence) == (2, "every", 2, 0, 0)
    assert legacy.candidates


def test_model_and_loss_move_together() -> None:
    method = VolumeMethod(build_model("sam2_nano", SIZE), BCE(2.0))
    method.to("meta")
    assert {p.device.type for p in method.model.parameters()} == {"meta"}
    assert {b.device.type for b in method.supervision.buffers()} == {"meta"}


# ------------------------------------------------------------------------------------------------------ learning


class DiceBCE(nn.Module):
    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        inside = logits.sigmoid()
        dice = (2 * (inside * targets).sum((1, 2, 3)) + 1) / (inside + targets).sum((1, 2, 3)).add(1)
        return (1 - dice).mean() + bce(logits, targets)


@pytest.mark.slow
def test_four_volumes_are_learned_with_the_presence_of_their_organ() -> None:
    torch.manual_seed(0)
    dataset, epochs = phantom(structures=["lobe"]), 75
    method = VolumeMethod(build_model("sam2_nano", SIZE), DiceBCE(), frames=4)
    loader = build_loader(cases(method, dataset, training=True), 16, 0, shuffle=True, seed=0)
    optimizer = torch.optim.AdamW(method.model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, epochs * len(loader), pct_start=0.2)
    method.model.train()
    for epoch in range(epochs):
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        for batch in loader:
            optimizer.zero_grad()
            method.loss(batch.to("cpu")).total.backward()
            nn.utils.clip_grad_norm_(method.model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    seen = build_loader(cases(method, dataset), 1, 0, shuffle=False, seed=0)
    rows = Evaluator(["dice"]).evaluate(method, seen, "train", "cpu", nullcontext)
    assert len(rows) == 4
    assert np.mean([row["dice"] for row in rows]) >= 0.95
    slices = Evaluator(["dice"], unit="slice").evaluate(method, seen, "train", "cpu", nullcontext)
    empty = [row for row in slices if row["size_label"] == 0]
    assert len(empty) >= 8
    assert [row["size_prediction"] for row in empty] == [0] * len(empty)
