"""Other tools' scores: by hand for every kind of empty mask, against MONAI itself and against MedPy's definition."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.metrics import DiceMetric, HausdorffDistanceMetric, MeanIoU
from scipy.ndimage import binary_erosion, distance_transform_edt, gaussian_filter

from medsam2.evaluation.conventions import CONVENTIONS, find_metrics
from medsam2.evaluation.evaluator import Evaluator
from medsam2.evaluation.metrics import METRICS, Mask, Pair
from medsam2.evaluation.rows import summarise
from tests.evaluation.test_scoring import object_of, score, slices_of

EMPTY = np.zeros((1, 12), dtype=bool)
LABEL, NEAR, FAR = EMPTY.copy(), EMPTY.copy(), EMPTY.copy()
LABEL[0, 2:4] = True
NEAR[0, 3:6] = True  # 1 pixel in common; to the label 0, 1, 2 pixels, and back 1, 0
FAR[0, 11] = True
SPACING = (5.0, 0.5)  # which no other tool looks at


def test_which_metrics_a_tool_has() -> None:
    assert {name: list(metrics) for name, metrics in CONVENTIONS.items()} == {
        "medsam2": ["dice", "iou", "hd95", "assd", "nsd", "volume_error"],
        "transunet": ["dice", "hd95"],
        "nnunet": ["dice", "iou"],
        "monai": ["dice", "iou", "hd95"],
    }
    assert find_metrics("medsam2") is METRICS


@pytest.mark.parametrize(
    ("convention", "prediction", "label", "expected"),
    [
        # distances 0 0 1 1 2 together: 95 % lies at place 3.8 of 0..4
        ("transunet", NEAR, LABEL, {"dice": 2 / 5, "hd95": 1.8}),
        ("transunet", FAR, LABEL, {"dice": 0.0, "hd95": 8.9}),  # of 8 8 9
        ("transunet", NEAR, EMPTY, {"dice": 1.0, "hd95": 0.0}),
        ("transunet", EMPTY, LABEL, {"dice": 0.0, "hd95": 0.0}),
        ("transunet", EMPTY, EMPTY, {"dice": 0.0, "hd95": 0.0}),
        ("nnunet", NEAR, LABEL, {"dice": 2 / 5, "iou": 1 / 4}),
        ("nnunet", NEAR, EMPTY, {"dice": 0.0, "iou": 0.0}),
        ("nnunet", EMPTY, LABEL, {"dice": 0.0, "iou": 0.0}),
        ("nnunet", EMPTY, EMPTY, {"dice": None, "iou": None}),
        # of 0 1 2 the 95 % lies at place 1.9, of 0 1 at 0.95
        ("monai", NEAR, LABEL, {"dice": 2 / 5, "iou": 1 / 4, "hd95": 1.9}),
        ("monai", NEAR, EMPTY, {"dice": None, "iou": None, "hd95": None}),
        ("monai", EMPTY, LABEL, {"dice": 0.0, "iou": 0.0, "hd95": None}),
        ("monai", EMPTY, EMPTY, {"dice": None, "iou": None, "hd95": None}),
        ("medsam2", NEAR, LABEL, {"dice": 2 / 5, "iou": 1 / 4, "hd95": 1.9 * 0.5}),
        ("medsam2", NEAR, EMPTY, {"dice": 0.0, "iou": 0.0, "hd95": np.hypot(5.0, 12 * 0.5)}),
        ("medsam2", EMPTY, LABEL, {"dice": 0.0, "iou": 0.0, "hd95": np.hypot(5.0, 12 * 0.5)}),
        ("medsam2", EMPTY, EMPTY, {"dice": 1.0, "iou": 1.0, "hd95": 0.0}),
    ],
)
@pytest.mark.parametrize("volume", [False, True])
def test_a_row_by_hand(
    convention: str, prediction: Mask, label: Mask, expected: dict[str, float | None], volume: bool
) -> None:
    """Through the evaluator, as an image and as a volume of one slice."""
    evaluator = Evaluator(list(expected), convention=convention)
    more: dict[str, Any] = {"spacing": SPACING}
    objects = slices_of("v", [label], [0], thickness=1e-9, **more) if volume else [object_of("c", label, **more)]
    (row,) = score(evaluator, (objects, np.where(prediction, 5.0, -5.0)[None]))
    assert all((row[name] is None) == (value is None) for name, value in expected.items())
    known = {name: value for name, value in expected.items() if value is not None}
    assert {name: row[name] for name in known} == pytest.approx(known, rel=1e-6)
    assert row["convention"] == convention
    assert row["size_label"] == pytest.approx(label.sum() * 2.5 * (1e-9 if volume else 1))  # sizes stay in mm


# ---------------------------------------------------------------------------------------- the tools themselves


def blobs(seed: int, *shape: int) -> tuple[Mask, Mask]:
    """A prediction and a label that overlap in part and reach the border."""
    rng = np.random.default_rng(seed)
    field = gaussian_filter(rng.normal(size=shape), 2)
    other = field + gaussian_filter(rng.normal(size=shape), 2)
    return field > np.quantile(field, 0.8), other > np.quantile(other, 0.7)


SHAPES = [(31, 40), (6, 17, 20)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("seed", range(4))
def test_transunet_measures_as_medpy(shape: tuple[int, ...], seed: int) -> None:
    """MedPy's definition written out: borders by erosion, a distance map of each, all distances in one pool."""
    prediction, label = blobs(seed, *shape)
    borders = [mask & ~binary_erosion(mask) for mask in (prediction, label)]
    pool = [distance_transform_edt(~b)[a] for a, b in (borders, borders[::-1])]
    expected = np.percentile(np.concatenate(pool), 95)
    metrics, pair = find_metrics("transunet"), Pair(prediction, label, (2.0,) * len(shape))
    assert metrics["hd95"](pair) == pytest.approx(expected, abs=1e-5)
    assert metrics["dice"](pair) == pytest.approx(2 * (prediction & label).sum() / (prediction.sum() + label.sum()))
    ours = METRICS["hd95"](Pair(prediction, label))
    assert ours is not None
    assert abs(ours - expected) > 1e-3  # the larger direction alone is something else


@pytest.mark.parametrize("shape", SHAPES)
def test_monai_scores_as_monai(shape: tuple[int, ...]) -> None:
    """Of every case, and the mean over cases: MONAI's own classes, as they are by default (the distance at 95 %)."""
    pairs = [blobs(seed, *shape) for seed in range(3)]
    some, none = pairs[0][0], np.zeros(shape, dtype=bool)
    pairs += [(some, none), (none, some), (none, none)]
    theirs = {"dice": DiceMetric(), "iou": MeanIoU(), "hd95": HausdorffDistanceMetric(percentile=95)}
    objects = [Pair(prediction, label, (0.5,) * len(shape)) for prediction, label in pairs]
    for name, metric in theirs.items():
        for prediction, label in pairs:
            metric(*(torch.from_numpy(mask)[None, None].float() for mask in (prediction, label)))
        single = metric.get_buffer()[:, 0].tolist()
        ours = [find_metrics("monai")[name](pair) for pair in objects]
        assert [np.nan if value is None else value for value in ours] == pytest.approx(single, abs=1e-4, nan_ok=True)
        mean = np.mean([value for value in ours if value is not None])
        assert mean == pytest.approx(float(metric.aggregate()), abs=1e-4)
    assert sum(np.isnan(single)) == 3  # of the distance: wherever a mask is empty


def test_nnunet_counts_true_and_false_pixels() -> None:
    prediction, label = blobs(0, 31, 40)
    tp, fp, fn = (int(m.sum()) for m in (prediction & label, prediction & ~label, ~prediction & label))
    metrics, pair = find_metrics("nnunet"), Pair(prediction, label)
    assert metrics["dice"](pair) == pytest.approx(2 * tp / (2 * tp + fp + fn))
    assert metrics["iou"](pair) == pytest.approx(tp / (tp + fp + fn))


# ------------------------------------------------------------------------------------------------ what follows


@pytest.mark.parametrize(
    ("convention", "dice"),
    [
        ("medsam2", (2 / 5 + 0 + 0 + 1) / 4),
        ("transunet", (2 / 5 + 1 + 0 + 0) / 4),
        ("nnunet", (2 / 5 + 0 + 0) / 3),
        ("monai", (2 / 5 + 0) / 2),
    ],
)
def test_a_mean_has_what_a_tool_leaves_of_it(convention: str, dice: float) -> None:
    """The same four cases: found in part, found where nothing is, missed, rightly found absent."""
    cases = [(NEAR, LABEL), (NEAR, EMPTY), (EMPTY, LABEL), (EMPTY, EMPTY)]
    objects = [object_of(f"c{i}", label) for i, (_, label) in enumerate(cases)]
    logits = np.stack([np.where(prediction, 5.0, -5.0) for prediction, _ in cases])
    rows = score(Evaluator(["dice"], convention=convention), (objects, logits))
    assert summarise(rows, "test")["test/dice/mean"] == pytest.approx(dice)


def test_other_scores_are_announced(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        Evaluator(["dice", "hd95"])
        assert not caplog.messages
        Evaluator(["dice", "hd95"], convention="transunet")
    (message,) = caplog.messages
    assert message.startswith("metrics.convention=transunet: dice, hd95 as transunet scores")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"convention": "medpy"}, "metrics.convention=medpy: use one of medsam2, transunet, nnunet, monai"),
        (
            {"convention": "transunet", "names": ["iou"]},
            r"metrics.names=\['iou'\]: known of metrics.convention=transunet are dice, hd95",
        ),
        ({"convention": "nnunet", "names": ["dice", "ece"]}, "known of metrics.convention=nnunet are dice, iou"),
        ({"convention": "nnunet", "both_empty": "skip"}, "metrics.both_empty=skip: convention=nnunet says itself"),
        ({"convention": "monai", "legacy_logit_thresholds": [0.1]}, "is not how monai scores; use null"),
    ],
)
def test_wrong_settings_are_named_with_the_remedy(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Evaluator(**({"names": ["dice"]} | settings))


def test_the_page_says_what_its_program_prints(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
    program, printed = page.split("```python\n")[-1].split("```\n\n```\n")
    exec(program, {})
    assert capsys.readouterr().out == printed.split("```")[0]
