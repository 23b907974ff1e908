"""Scores at a case's own resolution, at probability 0.5, one row per case and structure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from medsam2.data.batch import Batch, ObjectInfo
from medsam2.data.prompts import Prompt
from medsam2.evaluation.evaluator import Evaluator
from medsam2.evaluation.metrics import Pair, compute_dice
from medsam2.methods.base import Method, Prediction
from medsam2.training.precision import Runtime
from tests.fakes import SHAPE, SIZE, Blobs, PixelMethod


class Fixed(Method):
    """Answers with given logits."""

    protocol = "fixed"

    def __init__(self, logits: Tensor):
        super().__init__(nn.Identity())
        self.logits = logits

    def predict(self, batch: Batch) -> Prediction:
        assert not self.model.training
        assert torch.is_inference_mode_enabled()
        return Prediction(self.logits, torch.full((len(self.logits),), 0.25), batch.objects)


def batch_of(label: np.ndarray[Any, Any], spacing: tuple[float, float] | None = None, box: bool = True) -> Batch:
    points, kinds = ([[1, 0], [2, 1]], [2, 3]) if box else ([[1, 0]], [1])
    prompt = Prompt(
        np.array(points, dtype=np.float32), np.array(kinds), "box" if box else "1 click", "box" if box else "click"
    )
    info = ObjectInfo("case1", "patient1", "cup", prompt, spacing, label, None)
    nothing = torch.zeros(1, 1, 2)
    return Batch(torch.zeros(1, 3, 8, 8), torch.tensor([0]), nothing, torch.zeros(1, 1), nothing, [info], ["case1"])


def evaluate(evaluator: Evaluator, logits: Tensor, batch: Batch) -> dict[str, Any]:
    (row,) = evaluator.evaluate(Fixed(logits), [batch], "test", "cpu", nullcontext)
    return row


LABEL = np.zeros((2, 4), dtype=bool)
LABEL[:, 1:3] = True  # 4 pixels


def test_a_row_says_everything() -> None:
    logits = torch.tensor([[-1.0, 1.0, -1.0, -1.0], [-1.0, 1.0, 1.0, 1.0]])[None, None]
    assert evaluate(Evaluator(["dice", "iou"]), logits, batch_of(LABEL, (0.5, 3.0))) == pytest.approx(
        {
            "phase": "test",
            "protocol": "fixed",
            "convention": "medsam2",
            "position": 0,
            "case_id": "case1",
            "patient_id": "patient1",
            "structure": "cup",
            "prompt": "box",
            "budget": "box",
            "prompted_slices": 1,
            "dice": 2 * 3 / 8,
            "iou": 3 / 5,
            "prompt_dice": 1.0,
            "size_label": 6.0,
            "size_prediction": 6.0,
            "size_unit": "mm2",
            "iou_predicted": 0.25,
        }
    )


def test_without_spacing_areas_are_pixels_and_a_click_fills_nothing() -> None:
    row = evaluate(Evaluator(["dice"]), torch.ones(1, 1, 2, 4), batch_of(LABEL, box=False))
    assert (row["size_label"], row["size_prediction"], row["size_unit"]) == (4.0, 8.0, "pixel")
    assert (row["prompt_dice"], row["budget"]) == (None, "1 click")
    assert "iou" not in row


@pytest.mark.parametrize(
    ("logit", "probability", "foreground"),
    [
        (0.3, 0.5, True),  # p = 0.57; a threshold of 0.5 on the logit would miss it
        (1e-4, 0.5, True),
        (0.0, 0.5, False),
        (-1e-4, 0.5, False),
        (0.3, 0.6, False),
        (0.41, 0.6, True),
        (-0.3, 0.4, True),
    ],
)
def test_the_threshold_is_on_the_probability(logit: float, probability: float, foreground: bool) -> None:
    row = evaluate(Evaluator(["dice"], probability=probability), torch.full((1, 1, 2, 4), logit), batch_of(LABEL))
    assert row["size_prediction"] == (8.0 if foreground else 0.0)


def test_logits_are_interpolated_not_masks() -> None:
    # between -1 and 3 the bilinear zero lies a quarter of the way; nearest masks would put it in the middle
    logits = torch.tensor([-1.0, 3.0]).view(1, 1, 1, 2)
    label = np.ones((1, 16), dtype=bool)
    row = evaluate(Evaluator(["dice"]), logits, batch_of(label, box=False))
    positions = np.clip((np.arange(16) + 0.5) / 8 - 0.5, 0, 1)
    assert row["size_prediction"] == float((-1 + 4 * positions > 0).sum()) == 10.0


@pytest.mark.parametrize("shape", [(20, 30), (30, 20), (7, 64)])
def test_masks_are_scored_at_the_labels_own_size(shape: tuple[int, int]) -> None:
    label = np.zeros(shape, dtype=bool)
    label[: shape[0] // 2, : shape[1] // 4] = True
    logits = torch.full((1, 1, 16, 16), -4.0)
    logits[..., :8, :4] = 4.0  # the same fractions of the height and of the width
    evaluator = Evaluator(["dice"])
    batch = batch_of(label, box=False)
    ((_, mask, iou, *_),) = evaluator.predict(Fixed(logits), batch, "cpu", nullcontext)
    assert mask.shape == shape
    assert mask.dtype == bool
    assert iou == 0.25
    assert compute_dice(Pair(mask, label)) > 0.9
    assert compute_dice(Pair(mask[::-1], label)) == 0.0


def test_an_object_that_is_missed_scores_zero() -> None:
    row = evaluate(Evaluator(["dice", "iou"]), torch.full((1, 1, 2, 4), -5.0), batch_of(LABEL))
    assert (row["dice"], row["iou"]) == (0.0, 0.0)


def test_rows_come_in_the_order_of_the_cases_and_the_batch_size_does_not_matter() -> None:
    dataset, method = Blobs(test=5, absent=["test1"]), PixelMethod()
    runtime, evaluator = Runtime("cpu", torch.float32), Evaluator(["dice", "iou"])
    results = [
        evaluator.evaluate(method, dataset.loader(size, "test"), "test", "cpu", runtime.autocast) for size in (1, 2, 5)
    ]
    assert [r["case_id"] for r in results[0]] == ["test0", "test2", "test3", "test4"]
    assert [r["position"] for r in results[0]] == [0, 1, 2, 3]
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert a == pytest.approx(b, abs=1e-5)


def test_a_batch_without_objects_has_no_rows() -> None:
    dataset = Blobs(test=1, absent=["test0"])
    assert Evaluator(["dice"]).evaluate(PixelMethod(), dataset.loader(1, "test"), "test", "cpu", nullcontext) == []


def test_the_model_is_asked_in_evaluation_mode_and_autocast() -> None:
    class Recording(PixelMethod):
        def predict(self, batch: Batch) -> Prediction:
            assert not self.model.training
            assert torch.is_inference_mode_enabled()
            assert self.model(batch.images).dtype == torch.bfloat16
            return super().predict(batch)

    method = Recording(dropout=0.9)
    method.model.train()
    autocast = Runtime("cpu", torch.bfloat16).autocast
    assert len(Evaluator(["dice"]).evaluate(method, Blobs().loader(2, "test"), "test", "cpu", autocast)) == 3


def test_evaluation_uses_labels_of_native_shape() -> None:
    dataset = Blobs()
    batch = next(iter(dataset.loader(1, "test")))
    assert batch.targets.shape[-2:] == (SIZE, SIZE)
    ((info, mask, *_),) = Evaluator(["dice"]).predict(PixelMethod(), batch, "cpu", nullcontext)
    assert mask.shape == SHAPE
    assert info.label is not None
    assert np.array_equal(info.label, dataset.load(dataset.records()[0]).labels["blob"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"names": ["dise"]},
            r"metrics.names=\['dise'\]: known metrics are dice, iou, hd95, assd, nsd, volume_error, ece",
        ),
        ({"names": []}, r"metrics.names=\[\].*one or more"),
        ({"probability": 0.0}, "metrics.probability=0.0: .*between 0 and 1"),
        ({"probability": 1.0}, "metrics.probability=1.0"),
        ({"unit": "case"}, "metrics.unit=case: use volume or slice"),
        ({"nsd_tolerance": -1.0}, "metrics.nsd_tolerance=-1.0: .* 0 or more"),
        ({"both_empty": "drop"}, "metrics.both_empty=drop: use score or skip"),
        ({"vcdr": ["cup"]}, r"metrics.vcdr=\['cup'\]: .*\[cup,disc\]"),
        ({"vcdr": ["cup", "cup"]}, "metrics.vcdr"),
        ({"legacy_logit_thresholds": [math.inf]}, "metrics.legacy_logit_thresholds"),
        ({"unit": "case", "both_empty": "drop"}, "metrics.unit=case.*metrics.both_empty=drop"),
    ],
)
def test_wrong_settings_are_named_with_the_remedy(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Evaluator(**({"names": ["dice"]} | settings))


# ------------------------------------------------------------------------------- what comes before the cases


def test_an_evaluation_begins_with_the_support() -> None:
    started: list[list[str]] = []

    class Remembering(PixelMethod):
        def start_evaluation(self, support: Callable[[], Iterable[Batch]]) -> None:
            assert not self.model.training
            assert torch.is_inference_mode_enabled()
            batches = list(support())
            assert all(batch.images.dtype == torch.float32 for batch in batches)  # on the device, as in predict
            started.append([case for batch in batches for case in batch.case_ids])

    dataset, method = Blobs(train=3, test=1), Remembering()
    method.model.train()
    evaluator = Evaluator(["dice"])
    evaluator.evaluate(method, dataset.loader(1, "test"), "test", "cpu", nullcontext, lambda: dataset.loader(2, "val"))
    evaluator.evaluate(method, dataset.loader(1, "test"), "test", "cpu", nullcontext)
    assert started == [["val0", "val1", "val2"], []]
