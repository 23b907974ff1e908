"""What raters become in training: the target, and what the prompt is drawn from."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers_data import MemoryDataset, square

from medsam2.data.loader import Batch, PromptedCases, build_loader, collate
from medsam2.data.prompts import BoxPrompt, ClickPrompt, LearnedPrompt, NoPrompt
from medsam2.data.records import DatasetError
from medsam2.data.targets import Majority, RandomRater, SingleRater, Soft

SIZE = 60
# Raters of "one" on the 20×30 grid: each draws another square, on the 20×20 pixels of (4, 4) all agree.
TOPS = (2, 4, 6)
RATERS = np.stack([square(top, top, 8, 8) for top in TOPS])


class Rated(MemoryDataset):
    """Three raters of "one", none of them alike, the third without "two"; ``without`` lacks "one" in case 1."""

    def load(self, record):  # type: ignore[no-untyped-def]
        case = super().load(record)
        case.raters["one"] = RATERS & ~((record.index, "one") in self.absent)
        case.raters["two"] = np.stack([case.labels["two"], case.labels["two"], np.zeros_like(case.labels["two"])])
        return case


def cases(targets: Any, prompt: Any = None, count: int = 4, training: bool = True, **settings: Any) -> PromptedCases:
    dataset = Rated(count, absent=[(1, "one")])
    prompt = prompt or BoxPrompt()
    return PromptedCases(dataset, dataset.records(), prompt, SIZE, 0, training=training, targets=targets, **settings)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize(
    ("target", "expected", "drawn", "kind"),
    [
        (Majority(), RATERS.sum(0) >= 2, RATERS.sum(0) / 3, np.bool_),
        (Soft(), RATERS.sum(0) / 3, RATERS.sum(0) / 3, np.float32),
        (SingleRater(), RATERS[0], RATERS[0], np.bool_),
        (SingleRater(3), RATERS[2], RATERS[2], np.bool_),
    ],
)
def test_three_raters(target: Any, expected: Any, drawn: Any, kind: Any) -> None:
    made, source = target(RATERS, rng())
    assert made.dtype == kind
    assert np.allclose(made, expected)
    assert np.allclose(source, drawn)


@pytest.mark.parametrize(("target", "kind"), [(Majority(), np.bool_), (Soft(), np.float32), (RandomRater(), np.bool_)])
def test_one_rater_is_the_target(target: Any, kind: Any) -> None:
    made, source = target(RATERS[:1], rng())
    assert made.dtype == kind
    assert np.array_equal(made, RATERS[0])
    assert np.array_equal(source, RATERS[0])


def test_a_random_rater_is_each_of_them_in_turn() -> None:
    made = [RandomRater()(RATERS, rng(seed)) for seed in range(60)]
    assert all(np.array_equal(*pair) for pair in made)
    drawn = [int(np.argwhere(mask)[0, 0]) for mask, _ in made]
    assert {top: 10 < drawn.count(top) < 30 for top in TOPS} == dict.fromkeys(TOPS, True)


@pytest.mark.parametrize(("raters", "has"), [(1, "there is 1 rater"), (3, "there are 3 raters")])
def test_a_rater_that_is_not_there(raters: int, has: str) -> None:
    with pytest.raises(DatasetError, match=rf"target\.rater=4, but {has}; choose a lower one"):
        SingleRater(4)(RATERS[:raters], rng())
    with pytest.raises(ValueError, match=r"target\.rater=0 must be 1 or more"):
        SingleRater(0)


# ------------------------------------------------------------------------------------------------- in samples


def corners(sample: Any) -> dict[str, list[int]]:
    """structure -> the first corner of its box in native pixels, x alone."""
    infos = zip(sample.objects, sample.point_coords, strict=True)
    return {
        info.structure: [round(float(v) * s / SIZE) for v, s in zip(xy[0], (30, 20), strict=True)] for info, xy in infos
    }


@pytest.mark.parametrize(
    ("target", "boxes"),
    [
        (None, {"one": [4, 4], "two": [3, 10]}),
        (Majority(), {"one": [4, 4], "two": [3, 10]}),
        (Soft(), {"one": [4, 4], "two": [3, 10]}),  # the box of the majority
        (SingleRater(1), {"one": [2, 2], "two": [3, 10]}),
        (SingleRater(3), {"one": [6, 6]}),  # who saw no "two": a box of nothing cannot be drawn
    ],
)
def test_prompts_are_drawn_from_what_the_target_says(target: Any, boxes: dict[str, list[int]]) -> None:
    sample = cases(target)[0]
    assert corners(sample) == boxes
    assert sample.targets.dtype == (torch.float32 if isinstance(target, Soft) else torch.bool)


def test_soft_targets_reach_the_batch() -> None:
    batch = collate([cases(Soft())[i] for i in range(3)])
    assert batch.targets.dtype == torch.float32
    values = batch.to("cpu").targets[0].unique()
    torch.testing.assert_close(values, torch.tensor([0, 1 / 3, 2 / 3, 1]))
    area = RATERS.sum() / 3 / RATERS[0].size
    assert batch.targets[0].mean() == pytest.approx(area)


def test_a_random_rater_is_one_for_all_structures_of_a_case_and_another_in_the_next_epoch() -> None:
    data, seen = cases(RandomRater(), ClickPrompt()), []
    for epoch in range(30):
        sample = data[(epoch, 0)]
        top = int(sample.targets[0].nonzero()[0, 0]) * 20 // SIZE
        assert (len(sample.objects) == 1) is (top == 6)  # the third rater drew no "two"
        x, y = sample.point_coords[0][0].tolist()
        assert sample.targets[0][int(y + 0.5), int(x + 0.5)]  # and the click is on that rater's mask
        seen.append(top)
    assert set(seen) == set(TOPS)
    assert [int(data[(epoch, 0)].targets[0].nonzero()[0, 0]) * 20 // SIZE for epoch in range(30)] == seen


def test_cases_draw_their_raters_independently() -> None:
    data = cases(RandomRater(), count=12)
    tops = {int(data[(0, i)].targets[0].nonzero()[0, 0]) for i in range(12) if i != 1}
    assert len(tops) == 3


def test_too_few_raters_name_the_case() -> None:
    with pytest.raises(DatasetError, match=r"^case case0: target\.rater=4, but there are 3 raters"):
        cases(SingleRater(4))[0]
    with pytest.raises(DatasetError, match=r"^case case0: target\.rater=4"):  # from a worker too
        next(iter(build_loader(cases(SingleRater(4)), 2, 1, False, 0)))


@pytest.mark.parametrize("target", [None, Soft(), RandomRater(), SingleRater(2)])
def test_an_evaluation_is_the_same_whatever_is_trained_on(target: Any) -> None:
    plain, other = (collate([cases(t, training=False)[i] for i in range(3)]) for t in (None, target))
    assert torch.equal(plain.targets, other.targets)
    assert torch.equal(plain.point_coords, other.point_coords)
    assert plain.targets.dtype == torch.bool


def test_every_raters_mask_travels_for_evaluation_where_there_are_several() -> None:
    one, two = cases(None, training=False)[0].objects
    assert one.raters is not None
    assert np.array_equal(one.raters.native(), RATERS)
    assert two.raters is not None
    assert two.raters.shape == (3, 20, 30)
    assert all(info.raters is None for info in cases(None)[0].objects)
    single = MemoryDataset(1)
    assert PromptedCases(single, single.records(), BoxPrompt(), SIZE, 0)[0].objects[0].raters is None


# -------------------------------------------------------------------------------- prompts that need no object


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("prompt", [NoPrompt(), LearnedPrompt()])
def test_without_a_user_every_structure_is_asked_for(training: bool, prompt: Any) -> None:
    batch = collate([cases(None, prompt, training=training)[i] for i in range(2)])
    assert [(o.case_id, o.structure, o.present) for o in batch.objects] == [
        ("case0", "one", True),
        ("case0", "two", True),
        ("case1", "one", False),
        ("case1", "two", True),
    ]
    assert batch.targets.flatten(1).any(1).tolist() == [True, True, False, True]
    assert batch.point_labels.tolist() == [[-1]] * 4
    assert {o.prompt.budget for o in batch.objects} == {"none"}


@pytest.mark.parametrize("training", [True, False])
def test_a_user_is_asked_for_what_is_there(training: bool) -> None:
    sample = cases(None, training=training)[1]
    assert [(o.structure, o.present) for o in sample.objects] == [("two", True)]


@pytest.mark.parametrize("target", [Majority(), Soft(), RandomRater(), SingleRater(3)])
def test_what_has_left_the_image_or_was_never_drawn_is_an_empty_target(target: Any) -> None:
    def empty(image: torch.Tensor, masks: torch.Tensor, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        return image, torch.zeros_like(masks)

    sample = cases(target, LearnedPrompt(), transforms=empty)[0]
    assert [(o.structure, o.present) for o in sample.objects] == [("one", False), ("two", False)]
    assert sample.targets.shape == (2, SIZE, SIZE)
    assert not sample.targets.any()
    assert sample.targets.dtype == (torch.float32 if isinstance(target, Soft) else torch.bool)


@pytest.mark.parametrize(
    ("prompt", "exclusive", "expected"),
    [
        (LearnedPrompt(), True, True),
        (LearnedPrompt(), False, False),
        (NoPrompt(), True, False),
        (BoxPrompt(), True, False),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_learned_answers_are_merged_where_structures_exclude_each_other(
    prompt: Any, exclusive: bool, expected: bool, training: bool
) -> None:
    data = cases(None, prompt, training=training)
    data.dataset.exclusive = exclusive  # type: ignore[misc]
    assert {info.exclusive for info in data[0].objects} == {expected}


def test_workers_change_nothing() -> None:
    runs: list[list[Batch]] = []
    for workers in (0, 2):
        loader = build_loader(cases(RandomRater(), LearnedPrompt()), 2, workers, True, 0)
        loader.sampler.set_epoch(1)  # type: ignore[attr-defined]
        runs.append(list(loader))  # type: ignore[arg-type]
    for one, other in zip(*runs, strict=True):
        assert torch.equal(one.targets, other.targets)
        assert [o.structure for o in one.objects] == [o.structure for o in other.objects]
