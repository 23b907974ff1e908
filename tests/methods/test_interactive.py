"""A method asked again and again answers as it does when it is asked once, and encodes nothing twice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from medsam2.data.batch import Batch, ObjectInfo
from medsam2.data.budget_prompt import ClickBudget
from medsam2.data.loader import build_loader
from medsam2.data.phantom_volumes import PhantomVolumes
from medsam2.data.prompts import BoxPrompt, ClickPrompt, Prompter
from medsam2.data.records import of_split
from medsam2.evaluation.budget import BudgetRecorder, count_clicks, summarise_budget
from medsam2.evaluation.evaluator import Evaluator
from medsam2.evaluation.rows import Row
from medsam2.losses import BCE
from medsam2.methods.base import Method
from medsam2.methods.image import ImageMethod
from medsam2.methods.interactive import Interactive, find_axes
from medsam2.methods.memory_stream import MemoryStream
from medsam2.methods.volume import VolumeMethod
from medsam2.modeling.mask_decoder import MaskPredictions
from medsam2.modeling.sam import ImageFeatures
from medsam2.modeling.sam2 import SAM2
from tests.fakes import Blobs, PixelMethod
from tests.methods.helpers_volume import SIZE, build

BUDGET = ClickBudget(clicks=3, jitter=[0, 0.2], draws=2, slices=[1, 2, None])
CENTER = ClickPrompt(1, "center")


@pytest.fixture(scope="module")
def model() -> SAM2:
    return build()


def draw_volumes(test: int) -> PhantomVolumes:
    counts = {"train": 1, "val": 1, "test": test}
    return PhantomVolumes(structures=["lobe", "kidney"], volumes=counts, size=64, depth=8, slices="all")


@pytest.fixture(scope="module")
def volumes() -> PhantomVolumes:
    return draw_volumes(1)


@contextmanager
def counting(model: SAM2) -> Iterator[list[int]]:
    """How many images the encoder is given."""
    seen: list[int] = []
    hook = model.image_encoder.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    yield seen
    hook.remove()


def load(method: Method, dataset: Any, prompt: Prompter, split: str = "test", batch_size: int = 2) -> Any:
    records = of_split(dataset.records(), split)
    cases = method.build_cases(dataset=dataset, records=records, prompt=prompt, image_size=SIZE, seed=method.seed)
    return build_loader(cases, batch_size, num_workers=0, shuffle=False, seed=0)


def score(method: Method, dataset: Any, prompt: Prompter) -> list[Row]:
    """The rows of an ordinary evaluation."""
    batches, support = load(method, dataset, prompt), lambda: load(method, dataset, prompt, "train")
    return Evaluator(["dice", "iou"]).evaluate(method, batches, "test", "cpu", nullcontext, support)


def record(method: Method, dataset: Any, budget: ClickBudget = BUDGET) -> tuple[list[Row], list[Row]]:
    """The ordinary rows and those of the budget."""
    recorder = BudgetRecorder(Evaluator(["dice", "iou"]), method.protocol)
    rows = score(Interactive(method, budget, recorder), dataset, budget)
    return rows, recorder.rows()


def at(rows: list[Row], axis: str, level: float, draw: int = 0) -> list[Row]:
    return [row for row in rows if (row["axis"], row["level"], row["draw"]) == (axis, level, draw)]


def assert_same(found: list[Row], expected: list[Row], phase: str = "budget") -> None:
    """The same rows, but for the columns that say where they were taken; scores to 1e-6."""
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        assert one["phase"] == phase
        for key in other.keys() - {"phase"}:
            same = pytest.approx(other[key], abs=1e-6) if isinstance(other[key], float) else other[key]
            assert one[key] == same, key
    assert any(0 < row["dice"] < 1 for row in expected), "nothing was compared"


# ------------------------------------------------------------------------------------------------- images


@pytest.mark.parametrize("clicks", [1, 2, 3])
def test_after_so_many_clicks_it_answers_as_the_method_that_corrects_itself(model: SAM2, clicks: int) -> None:
    rows, budget = record(ImageMethod(model, BCE()), Blobs())
    once = score(ImageMethod(model, BCE(), correct=True, eval_rounds=clicks), Blobs(), CENTER)
    assert_same(at(budget, "clicks", clicks), once)
    if clicks == 1:
        assert_same(rows, once, "test")
        assert once[0]["budget"] == "1 click"


def test_a_method_that_refines_its_answer_does_so_after_every_click(model: SAM2) -> None:
    refining = ImageMethod(model, BCE(), eval_rounds=2)
    rows, budget = record(refining, Blobs())
    assert_same(rows, score(refining, Blobs(), CENTER), "test")
    assert_same(at(budget, "jitter", 0), score(refining, Blobs(), BoxPrompt()))


def test_an_exact_box_is_the_prompt_box_and_others_are_not(model: SAM2) -> None:
    method = ImageMethod(model, BCE())
    _, budget = record(method, Blobs())
    assert_same(at(budget, "jitter", 0), score(method, Blobs(), BoxPrompt()))
    assert len(at(budget, "jitter", 0.2, 1)) == 3
    drawn = [[row["prompt_dice"] for row in at(budget, "jitter", 0.2, draw)] for draw in (0, 1)]
    assert drawn[0] != drawn[1]
    assert max(map(max, drawn)) < 1


@pytest.mark.parametrize("evaluation", ["support", "no_memory"])
def test_a_memory_of_training_cases_conditions_every_click(model: SAM2, evaluation: Any) -> None:
    method = MemoryStream(model, BCE(), evaluation=evaluation, min_iou=0.0, support_cases=2)
    rows, budget = record(method, Blobs())
    assert {row["protocol"] for row in rows + budget} == {evaluation}
    assert_same(rows, score(method, Blobs(), CENTER), "test")
    assert len(at(budget, "clicks", 3)) == 3
    if evaluation == "no_memory":  # memories are of cases that were clicked, whatever is asked then
        assert_same(at(budget, "jitter", 0), score(method, Blobs(), BoxPrompt()))


def test_images_are_encoded_once_for_all_clicks_and_boxes(model: SAM2) -> None:
    with counting(model) as seen:
        _, budget = record(ImageMethod(model, BCE()), Blobs(test=5))
    assert len(budget) == 5 * (3 + 1 + 2)
    assert sum(seen) == 5


def test_slices_of_volumes_are_scored_as_volumes_wherever_batches_begin(model: SAM2) -> None:
    method, volumes = ImageMethod(model, BCE()), draw_volumes(2)
    rows, budget = record(method, volumes, ClickBudget(clicks=2, jitter=[0]))
    assert {row["case_id"] for row in budget} == {"test00", "test01"}
    assert len(budget) == 2 * 2 * (2 + 1)
    assert_same(at(budget, "clicks", 2), score(ImageMethod(model, BCE(), correct=True, eval_rounds=2), volumes, CENTER))
    assert_same(rows, score(method, volumes, CENTER), "test")


def test_without_a_listener_only_the_first_point_is_asked(model: SAM2, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, original = [0], model.decode

    def decode(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        return original(*args, **kwargs)

    monkeypatch.setattr(model, "decode", decode)
    quiet = Interactive(ImageMethod(model, BCE()), BUDGET)
    assert_same(score(quiet, Blobs(), BUDGET), score(ImageMethod(model, BCE()), Blobs(), CENTER), "test")
    assert calls[0] == 2 * 2  # two batches, each once here and once there


# ------------------------------------------------------------------------------------------------ volumes


@pytest.mark.parametrize(
    ("slice_prompt", "keep"), [("click", 64), *(pytest.param("box", keep, marks=pytest.mark.slow) for keep in (0, 64))]
)
def test_volumes_are_followed_as_from_so_many_slices(
    model: SAM2, volumes: PhantomVolumes, slice_prompt: str, keep: int
) -> None:
    budget = ClickBudget(slices=[1, 2, None], slice_prompt=slice_prompt)
    rows, found = record(VolumeMethod(model, BCE(), keep=keep), volumes, budget)
    for level, count in ((1, 1), (2, 2), (float("inf"), None)):
        once = score(VolumeMethod(model, BCE(), num_prompts=count, keep=keep), volumes, budget.first("slices"))
        assert_same(at(found, "slices", level), once)
        if count == 1:
            assert_same(rows, once, "test")
            assert {row["prompted_slices"] for row in rows} == {1}


def test_slices_are_encoded_once_for_all_budgets(model: SAM2, volumes: PhantomVolumes) -> None:
    with counting(model) as seen:
        _, found = record(VolumeMethod(model, BCE()), volumes)
    assert len(found) == 3 * 2
    assert sum(seen) == 8


@pytest.mark.slow
def test_budgets_of_one_object_do_not_share_out_its_pixels(
    model: SAM2, volumes: PhantomVolumes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "non_overlap_memories", True)
    _, found = record(VolumeMethod(model, BCE()), volumes)
    assert_same(at(found, "slices", 2), score(VolumeMethod(model, BCE(), num_prompts=2), volumes, CENTER))


# -------------------------------------------------------------------------------------------- known answers


class Mending(nn.Module):
    """Knows the truth, which is its image, and shows it in those quarters alone that were clicked.

    Where nothing was clicked it first answers `start`, S×S. Its memory is the mask it is given back.
    """

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.start = start
        self.sam_mask_decoder = nn.Module()
        self.sam_prompt_encoder = nn.Module()
        self.sam_mask_decoder.pred_obj_scores = False
        self.sam_prompt_encoder.mask_size, self.sam_prompt_encoder.num_padding = len(start), 1
        self.clicked: list[list[int]] = []

    def encode_image(self, images: Tensor) -> ImageFeatures:
        return ImageFeatures(images[:, :1], ())

    def decode(self, features: ImageFeatures, point_coords: Tensor, point_labels: Tensor, **more: Any) -> Any:
        truth, half = features.embed * 20 - 10, len(self.start) // 2
        given = more["mask_input"]
        masks = (self.start * 20 - 10).expand_as(truth).clone() if given is None else given.clone()
        for row, (x, y) in enumerate(point_coords[:, -1].long().tolist()):
            quarter = (
                row,
                0,
                slice(y // half * half, y // half * half + half),
                slice(x // half * half, x // half * half + half),
            )
            masks[quarter] = truth[quarter]
        self.clicked.append(point_labels[:, -1].tolist())
        count = len(masks)
        return MaskPredictions(masks, torch.ones(count, 1), torch.ones(count, 1), torch.zeros(count, 1, 4))


def truths() -> Tensor:
    """Two masks of 32×32: one of 196, 140 and 16 pixels in three quarters, one of 196 in the first alone."""
    masks = torch.zeros(2, 1, 32, 32)
    masks[:, :, 1:15, 1:15] = 1
    masks[0, :, 17:27, 17:31] = 1
    masks[0, :, 4:8, 20:24] = 1
    return masks


def by_hand(start: Tensor, clicks: int) -> tuple[list[Row], Mending]:
    labels, model = truths(), Mending(start)
    infos = [
        ObjectInfo(name, name, "disc", CENTER(mask[0].numpy() > 0, np.random.default_rng(0)), None, mask[0].numpy() > 0)
        for name, mask in zip("ab", labels, strict=True)
    ]
    coords = torch.from_numpy(np.stack([info.prompt.points for info in infos]))
    images = labels.expand(-1, 3, -1, -1)
    batch = Batch(images, torch.arange(2), coords, torch.ones(2, 1, dtype=torch.int64), labels, infos, ["a", "b"])
    recorder = BudgetRecorder(Evaluator(["dice"]), "alone")
    budget = ClickBudget(axes=["clicks"], clicks=clicks)
    method = Interactive(ImageMethod(model, BCE()), budget, recorder)  # type: ignore[arg-type]
    Evaluator(["dice"]).evaluate(method, [batch], "test", "cpu", nullcontext)
    return recorder.rows(), model


def test_a_decoder_that_mends_the_quarter_that_was_clicked() -> None:
    start = torch.zeros(32, 32)
    start[16:, :16] = 1  # 256 pixels too many, the deepest error
    rows, model = by_hand(start, 5)
    curves = {case: [row["dice"] for row in rows if row["case_id"] == case] for case in "ab"}
    assert curves["a"] == pytest.approx([392 / 804, 392 / 548, 672 / 688, 1, 1])
    assert curves["b"] == pytest.approx([392 / 648, 1, 1, 1, 1])
    assert model.clicked[:3] == [[1, 1], [0, 0], [1, 1]]  # the second one takes away what is too much
    assert [row["budget"] for row in rows[:3]] == ["1 click", "1 click + 1 click", "1 click + 2 clicks"]
    assert [row["position"] for row in rows] == [0] * 5 + [1] * 5

    summary = summarise_budget(rows, [0.8, 0.99])
    assert summary["budget/dice@2/disc"] == pytest.approx((392 / 548 + 1) / 2)
    assert summary["budget/noc80/mean"] == pytest.approx((3 + 2) / 2)
    assert summary["budget/noc99/mean"] == pytest.approx((4 + 2) / 2)
    assert summary["budget/noc99_failed/mean"] == 0


def test_a_case_that_never_gets_there_counts_as_all_clicks_and_as_failed() -> None:
    start = torch.zeros(32, 32)
    start[16:, :16] = 1
    rows, _ = by_hand(start, 2)
    needed = count_clicks(pd.DataFrame(rows), 0.8).set_index("case_id")
    assert needed["clicks"].to_dict() == {"a": 2, "b": 2}
    assert needed["failed"].to_dict() == {"a": True, "b": False}
    assert summarise_budget(rows, [0.8])["budget/noc80_failed/mean"] == 0.5


def test_a_perfect_model_needs_one_click() -> None:
    rows, _ = by_hand(truths()[0, 0], 3)
    of_a = [row for row in rows if row["case_id"] == "a"]
    assert [row["dice"] for row in of_a] == [1, 1, 1]
    summary = summarise_budget(of_a, [0.8, 0.85, 0.9, 1.0])
    assert {summary[f"budget/noc{t}/mean"] for t in (80, 85, 90, 100)} == {1.0}


# --------------------------------------------------------------------------------------------- who is asked


def test_a_network_of_boxes_is_asked_with_boxes(
    model: SAM2, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(model.sam_prompt_encoder, "num_padding", 0)
    method = ImageMethod(model, BCE())
    rows, budget = record(method, Blobs())
    assert {row["axis"] for row in budget} == {"jitter"}
    assert_same(rows, score(method, Blobs(), BoxPrompt()), "test")
    assert "trained on boxes alone" in caplog.text
    assert find_axes(method, ["clicks"]) == ["clicks"]


@pytest.mark.parametrize(
    ("make", "axes", "message"),
    [
        (lambda m: PixelMethod(), None, "PixelMethod cannot be asked so"),
        (lambda m: MemoryStream(m, BCE(), evaluation="stream"), None, "method.evaluation=stream"),
        (lambda m: MemoryStream(m, BCE(), eval_prompt_share=0.5), None, "eval_prompt_share"),
        (lambda m: VolumeMethod(m, BCE(), legacy_absent_oracle=True), None, "legacy_absent_oracle"),
        (lambda m: VolumeMethod(m, BCE()), ["clicks"], r"VolumeMethod is asked along slices, not along clicks"),
        (lambda m: ImageMethod(m, BCE()), ["clicks", "slices"], r"along clicks, jitter, not along slices"),
    ],
)
def test_who_cannot_be_asked_says_so(model: SAM2, make: Any, axes: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Interactive(make(model), ClickBudget(axes=axes))
