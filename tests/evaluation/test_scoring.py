"""Rows of images with raters and of cups in discs, and of volumes as wholes and slice by slice."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from medsam2.data.batch import Batch, ObjectInfo
from medsam2.data.prepared import pack
from medsam2.data.prompts import Prompt
from medsam2.evaluation.calibration import compute_ece, count_bins
from medsam2.evaluation.evaluator import Evaluator
from medsam2.evaluation.metrics import METRICS, Mask, Pair, compute_overlap
from medsam2.evaluation.raters import compare_raters, count_common
from medsam2.methods.base import Method, Prediction

SHAPE = (9, 14)
SPACING, THICKNESS = (0.7, 0.5), 3.0
BOX = np.array([[2, 1], [9, 5]], dtype=np.float32)


class Told(Method):
    """Answers with the logits that it is handed, in place of a batch's images."""

    protocol = "told"

    def __init__(self) -> None:
        super().__init__(nn.Identity())

    def predict(self, batch: Batch) -> Prediction:
        return Prediction(batch.images, torch.linspace(0.1, 0.9, len(batch.objects)), batch.objects)


def asked(name: str, points: Any = ()) -> Prompt:
    labels = {"box": [2, 3], "click": [1]}.get(name, [])
    budget = {"box": "box", "click": "1 click"}.get(name, "none")
    return Prompt(np.array(points, np.float32).reshape(-1, 2), np.array(labels, np.int64), budget, name)


def object_of(case: str, label: Mask, **more: Any) -> ObjectInfo:
    head = {"patient_id": "p", "structure": "liver", "prompt": asked("box", BOX), "spacing": SPACING, "image": None}
    return ObjectInfo(case_id=case, label=label, **(head | more))


def slices_of(volume: str, labels: Sequence[Mask], indices: Sequence[int], **more: Any) -> list[ObjectInfo]:
    return [
        object_of(f"{volume}_z{i:03d}", label, volume=volume, index=i, **({"thickness": THICKNESS} | more))
        for i, label in zip(indices, labels, strict=True)
    ]


def batch_of(objects: Sequence[ObjectInfo], logits: np.ndarray[Any, Any]) -> Batch:
    nothing = torch.zeros(len(objects), 1, 2)
    images = torch.from_numpy(np.ascontiguousarray(logits)).float()[:, None]
    return Batch(images, torch.arange(len(objects)), nothing, nothing[..., 0], nothing, list(objects), ["-"])


def score(evaluator: Evaluator, *batches: tuple[Sequence[ObjectInfo], np.ndarray[Any, Any]]) -> list[dict[str, Any]]:
    return evaluator.evaluate(Told(), [batch_of(*one) for one in batches], "test", "cpu", nullcontext)


def shapes(*shape: int, seed: int = 0) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Logits, and labels that they agree with in part."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=shape).astype(np.float32)
    return logits, logits + rng.normal(size=shape) > 0.5


ALL = Evaluator(["dice", "iou", "hd95", "assd", "nsd", "volume_error", "ece"])


# ------------------------------------------------------------------------------------------------- volumes


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_a_volume_is_scored_as_a_whole(batch_size: int) -> None:
    logits, labels = shapes(5, *SHAPE)
    labels[1] = False
    objects = slices_of("v1", labels, range(5))
    batches = [(objects[i : i + batch_size], logits[i : i + batch_size]) for i in range(0, 5, batch_size)]
    (row,) = score(ALL, *batches)
    pair = Pair(logits > 0, labels, (THICKNESS, *SPACING))
    expected = {name: metric(pair) for name, metric in METRICS.items()}
    shown = [0, 2, 3, 4]
    single = [Pair(logits[i] > 0, labels[i]).counts for i in shown]
    dice, iou = compute_overlap(np.stack(single))
    ious = torch.cat([torch.linspace(0.1, 0.9, len(infos)) for infos, _ in batches]).numpy()
    filled = np.zeros((5, *SHAPE), dtype=bool)
    filled[:, 1:6, 2:10] = True
    expected |= {
        "phase": "test",
        "protocol": "told",
        "convention": "medsam2",
        "position": 0,
        "case_id": "v1",
        "patient_id": "p",
        "structure": "liver",
        "prompt": "box",
        "budget": "box on 5 slices",
        "prompted_slices": 5,
        "ece": compute_ece(count_bins(1 / (1 + np.exp(-logits)), labels)),
        "slice_dice": dice.mean(),
        "slice_iou": iou.mean(),
        "prompt_dice": METRICS["dice"](Pair(filled, labels)),
        "size_label": labels.sum() * 3.0 * 0.7 * 0.5,
        "size_prediction": (logits > 0).sum() * 3.0 * 0.7 * 0.5,
        "size_unit": "mm3",
        "iou_predicted": ious[shown].mean(),
    }
    assert row == pytest.approx(expected)
    assert abs(row["slice_dice"] - row["dice"]) > 0.001  # it could not be told apart otherwise


def test_slices_that_nobody_asked_about_count_as_empty() -> None:
    """Distances across a gap are as far as the slices lie apart; another structure shows how deep the volume is."""
    logits, labels = shapes(6, *SHAPE, seed=3)
    seen = [0, 1, 4]
    liver = slices_of("v", labels[seen], [i + 7 for i in seen])
    spleen = slices_of("v", labels[[5]] & False, [12], structure="spleen")
    rows = score(ALL, (liver + spleen, logits[[*seen, 5]]))
    whole, answered = labels.copy(), logits > 0
    whole[[2, 3, 5]] = answered[[2, 3, 5]] = False
    pair = Pair(answered, whole, (THICKNESS, *SPACING))
    assert {name: rows[0][name] for name in METRICS} == pytest.approx({name: m(pair) for name, m in METRICS.items()})
    assert rows[1]["hd95"] == pytest.approx(np.linalg.norm([6 * 3.0, 9 * 0.7, 14 * 0.5]))  # of all six slices
    assert [row["structure"] for row in rows] == ["liver", "spleen"]


def test_volumes_and_images_follow_one_another() -> None:
    logits, labels = shapes(6, *SHAPE)
    first = slices_of("v1", labels[:2], [0, 1]) + slices_of("v1", labels[:2], [0, 1], structure="spleen")
    order = [first[0], first[2], first[1], first[3]]  # slice by slice
    objects = [*order, *slices_of("v2", labels[2:4], [0, 1]), object_of("c1", labels[4])]
    rows = score(ALL, (objects[:3], logits[[0, 0, 1]]), (objects[3:], logits[[1, 2, 3, 4]]))
    named = [(row["case_id"], row["structure"], row["size_unit"]) for row in rows]
    assert named == [("v1", "liver", "mm3"), ("v1", "spleen", "mm3"), ("v2", "liver", "mm3"), ("c1", "liver", "mm2")]
    assert rows[0]["dice"] == rows[1]["dice"] == METRICS["dice"](Pair(logits[:2] > 0, labels[:2]))
    assert rows[3]["dice"] == METRICS["dice"](Pair(logits[4] > 0, labels[4]))
    assert [row["position"] for row in rows] == [0, 0, 1, 2]  # of all that is asked at once
    slices = score(Evaluator(["dice"], unit="slice"), (objects, logits[[0, 0, 1, 1, 2, 3, 4]]))
    assert [row["position"] for row in slices] == [0, 0, 0, 0, 1, 1, 2]


def test_a_volume_in_two_pieces_is_refused() -> None:
    logits, labels = shapes(3, *SHAPE)
    objects = [*slices_of("v1", labels[:1], [0]), *slices_of("v2", labels[1:2], [0]), *slices_of("v1", labels[2:], [1])]
    with pytest.raises(ValueError, match=r"volume v1: .*in the dataset's order"):
        score(ALL, (objects, logits))


@pytest.mark.parametrize(("spacing", "thickness"), [(None, THICKNESS), (SPACING, None), (None, None)])
def test_without_all_three_spacings_distances_are_in_voxels(spacing: Any, thickness: Any) -> None:
    logits, labels = shapes(4, *SHAPE)
    (row,) = score(ALL, (slices_of("v", labels, range(4), spacing=spacing, thickness=thickness), logits))
    assert row["hd95"] == METRICS["hd95"](Pair(logits > 0, labels))
    assert (row["size_unit"], row["size_label"]) == ("voxel", labels.sum())


@pytest.mark.parametrize(
    ("prompts", "expected"),
    [
        (["box", "-", "-", "-"], ("box", "box on 1 slice", 1)),
        (["-", "box", "-", "box"], ("box", "box on 2 slices", 2)),
        (["box", "click", "box", "-"], ("box, click", "box on 2 slices, 1 click on 1 slice", 3)),
        (["box", "none", "-", "-"], ("box", "box on 1 slice", 1)),
        (["learned"] * 4, ("learned", "none", 0)),
        (["none"] * 4, ("none", "none", 0)),
    ],
)
def test_the_budget_counts_prompted_slices(prompts: list[str], expected: tuple[str, str, int]) -> None:
    logits, labels = shapes(4, *SHAPE)
    objects = slices_of("v", labels, range(4))
    for info, name in zip(objects, prompts, strict=True):
        info.prompted = name != "-"
        info.prompt = asked("none" if name == "-" else name, {"box": BOX, "click": [[3, 3]]}.get(name, ()))
    (row,) = score(ALL, (objects, logits))
    assert (row["prompt"], row["budget"], row["prompted_slices"]) == expected
    boxes = np.zeros((4, *SHAPE), dtype=bool)
    boxes[[i for i, name in enumerate(prompts) if name == "box"], 1:6, 2:10] = True
    comparable = "box" in prompts and "click" not in prompts
    assert row["prompt_dice"] == (pytest.approx(METRICS["dice"](Pair(boxes, labels))) if comparable else None)


def test_slices_may_be_scored_one_by_one() -> None:
    logits, labels = shapes(3, *SHAPE)
    objects = slices_of("v", labels, range(3))
    objects[1].prompted = objects[2].prompted = False
    objects[1].prompt = objects[2].prompt = asked("none")
    rows = score(Evaluator(["dice", "hd95"], unit="slice"), (objects, logits))
    assert [(row["case_id"], row["prompt"], row["budget"], row["prompted_slices"]) for row in rows] == [
        ("v_z000", "box", "box", 1),
        ("v_z001", "box", "tracked from box on 1 slice", 0),  # not prompt-free
        ("v_z002", "box", "tracked from box on 1 slice", 0),
    ]
    for row, mask, label in zip(rows, logits > 0, labels, strict=True):
        pair = Pair(mask, label, SPACING)
        assert (row["dice"], row["hd95"]) == pytest.approx((METRICS["dice"](pair), METRICS["hd95"](pair)))
        assert row["size_unit"] == "mm2"
        assert "slice_dice" not in row


# -------------------------------------------------------------------------------------------- empty masks


EMPTY = np.zeros(SHAPE, dtype=bool)
NOTHING = np.full(SHAPE, -5.0)
DIAGONAL = float(np.hypot(9 * 0.7, 14 * 0.5))


@pytest.mark.parametrize("volume", [False, True])
@pytest.mark.parametrize(
    ("both_empty", "logits", "label", "dice", "hd95"),
    [
        ("score", NOTHING, EMPTY, 1.0, 0.0),
        ("skip", NOTHING, EMPTY, None, None),
        ("skip", NOTHING, ~EMPTY, 0.0, DIAGONAL),
        ("skip", -NOTHING, EMPTY, 0.0, DIAGONAL),
    ],
)
def test_absent_structures(both_empty: str, logits: Any, label: Mask, dice: Any, hd95: Any, volume: bool) -> None:
    names = ["dice", "iou", "hd95", "assd", "nsd", "volume_error", "ece"]
    raters = pack(np.stack([label] * 2))
    objects = slices_of("v", [label], [0], raters=raters) if volume else [object_of("c", label, raters=raters)]
    (row,) = score(Evaluator(names, both_empty=both_empty), (objects, logits[None]))
    if volume and hd95:
        hd95 = float(np.hypot(DIAGONAL, THICKNESS))
    assert (row["dice"], row["hd95"]) == pytest.approx((dice, hd95))
    if dice is None:
        assert all(row[name] is None for name in (*names, "prompt_dice"))
    assert ("rater_dice" in row) == (dice is not None)


# --------------------------------------------------------------------------------- raters, ratios, thresholds


def test_raters_are_compared_where_there_are_several() -> None:
    logits, raters = shapes(3, *SHAPE)
    packed = pack(raters)
    objects = [object_of("c1", raters[0], raters=packed), object_of("c2", raters[0], raters=pack(raters[:1]))]
    first, second = score(Evaluator(["dice"]), (objects, logits[:2]))
    scores = compare_raters(count_common(logits[0] > 0, packed))
    assert {name: first[name] for name in scores} == scores
    assert first["rater1_dice"] == first["dice"]
    assert not set(scores) & set(second)


def test_raters_of_a_volume_are_compared_in_3d() -> None:
    """A slice without raters is one on which they marked nothing, while what is answered there counts."""
    logits, masks = shapes(4, *SHAPE)
    raters = masks[:, None] & (np.random.default_rng(1).random((4, 3, *SHAPE)) > 0.3)
    raters[2] = False
    objects = slices_of("v", masks, [5, 6, 7, 9])
    for info, of_slice in zip(objects, raters, strict=True):
        info.raters = pack(of_slice) if of_slice.any() else None
    (row,) = score(Evaluator(["dice"]), (objects[:3], logits[:3]), (objects[3:], logits[3:]))
    volumes = raters.swapaxes(0, 1)
    each = [METRICS["dice"](Pair(logits > 0, volume)) for volume in volumes]
    pairs = [METRICS["dice"](Pair(a, b)) for a, b in combinations(volumes, 2)]
    expected = {f"rater{i}_dice": dice for i, dice in enumerate(each, start=1)}
    expected |= {"rater_dice": np.mean(each), "rater_ceiling": np.mean(pairs)}
    assert {name: value for name, value in row.items() if name.startswith("rater")} == pytest.approx(expected)
    slices = score(Evaluator(["dice"], unit="slice"), (objects, logits))
    assert ["rater_dice" in one for one in slices] == [True, True, False, True]
    means = [np.mean([one[name] for one in slices if name in one]) for name in ("rater_dice", "rater_ceiling")]
    assert np.abs(np.subtract(means, [row["rater_dice"], row["rater_ceiling"]])).min() > 0.001  # not a mean of slices


def test_a_volume_of_one_rater_has_no_rater_columns() -> None:
    logits, labels = shapes(2, *SHAPE)
    (row,) = score(Evaluator(["dice"]), (slices_of("v", labels, range(2)), logits))
    assert not [name for name in row if name.startswith("rater")]


def test_a_cup_and_its_disc_make_a_row() -> None:
    cup, disc = np.zeros((2, *SHAPE), dtype=bool)
    cup[3:5, 4:7], disc[1:7, 3:9] = True, True
    predicted = np.where(np.stack([np.roll(cup, 1, axis=0) | cup, disc]), 3.0, -3.0)
    objects = [object_of("c", m, structure=s) for m, s in ((cup, "cup"), (disc, "disc"))]
    *others, ratio = score(Evaluator(["dice"], vcdr=["cup", "disc"]), (objects, predicted))
    assert [row["structure"] for row in others] == ["cup", "disc"]
    assert ratio == pytest.approx(
        {
            "phase": "test",
            "protocol": "told",
            "convention": "medsam2",
            "position": 0,
            "case_id": "c",
            "patient_id": "p",
            "structure": "cup_to_disc",
            "prompt": "box",
            "budget": "box",
            "prompted_slices": 1,
            "vcdr": 3 / 6,
            "vcdr_label": 2 / 6,
            "vcdr_error": 1 / 6,
        }
    )
    assert others == score(Evaluator(["dice"]), (objects, predicted))
    assert score(Evaluator(["dice"], vcdr=["cup", "disc"]), (objects[:1], predicted[:1])) == others[:1]


@pytest.mark.parametrize(
    ("vcdr", "structures", "volume", "there"),
    [
        (["cup", "disc"], ["cup", "disc"], False, None),
        (["cup", "disc"], ["disc", "lens"], False, "disc, lens"),
        (["cup", "disc"], ["liver"], False, "liver"),
        (["cup", "disc"], ["cup", "disc"], True, "cup, disc"),  # slices have no ratio
        (["cup", "disc"], [], False, "no structures"),
        (None, ["liver"], False, None),
    ],
)
def test_a_ratio_that_no_case_has_is_warned_of_once(
    vcdr: Any, structures: list[str], volume: bool, there: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    label = np.ones(SHAPE, dtype=bool)
    more = {"volume": "v"} if volume else {}
    cases = [[object_of(case, label, structure=s, **more) for s in structures] for case in "ab"]
    with caplog.at_level("WARNING"):
        score(Evaluator(["dice"], vcdr=vcdr), *((case, np.ones((len(case), *SHAPE))) for case in cases if case))
    warned = [record.getMessage() for record in caplog.records]
    assert len(warned) == (there is not None)
    if there is not None:
        assert warned[0].startswith("metrics.vcdr=[cup,disc]: no case of test has")
        assert f"; there are {there};" in warned[0]


@pytest.mark.parametrize("volume", [False, True])
def test_legacy_dice_is_the_mean_over_thresholds_on_logits(volume: bool) -> None:
    thresholds = [0.1, 0.3, 0.5, 0.7, 0.9]
    logits, labels = shapes(3, *SHAPE)
    objects = slices_of("v", labels, range(3)) if volume else [object_of("c", labels[0])]
    logits, labels = (logits, labels) if volume else (logits[:1], labels[:1])
    (legacy,) = score(Evaluator(["dice", "iou", "nsd"], legacy_logit_thresholds=thresholds), (objects, logits))
    (correct,) = score(Evaluator(["dice", "iou", "nsd"]), (objects, logits))
    pairs = [Pair(logits > t, labels) for t in thresholds]
    for name in ("dice", "iou"):
        assert legacy[name] == pytest.approx(np.mean([METRICS[name](pair) for pair in pairs]))
        assert correct[name] == METRICS[name](Pair(logits > 0, labels)) != legacy[name]
    assert legacy["nsd"] == correct["nsd"]
    assert legacy["size_prediction"] == correct["size_prediction"]
