"""Clips: the right slices in the right order, targets and prompts that fit them, whole volumes in an evaluation."""

from __future__ import annotations

import pickle
from dataclasses import fields
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from helpers_clips import Stacks, clips
from helpers_data import SHAPE, MemoryDataset
from torch import Tensor

from medsam2.data.chest_ct import ChestCT
from medsam2.data.clip_batch import Clip, ClipBatch
from medsam2.data.clip_policy import ClipPolicy
from medsam2.data.loader import PromptedCases, build_loader
from medsam2.data.prompts import BoxPrompt, ClickPrompt, LearnedPrompt, MaskPrompt, MixedPrompt, NoPrompt
from medsam2.data.targets import RandomRater, SingleRater, Soft

FORWARD = {"reverse_share": 0.0}


def indices(clip: Clip) -> list[int]:
    """Which slices these are, by their grey."""
    white = {torch.uint16: 65535, torch.float32: 1}[clip.images.dtype]
    return (clip.images[:, 0, 0, 0].float() / white * 100).round().int().tolist()


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor | np.ndarray):
        return bool((torch.as_tensor(one) == torch.as_tensor(other)).all())
    if hasattr(one, "__dataclass_fields__"):
        return all(same(getattr(one, field.name), getattr(other, field.name)) for field in fields(one))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


# --------------------------------------------------------------------------------------------------- training


def test_a_training_clip_holds_neighbouring_slices_with_their_targets() -> None:
    dataset = Stacks()
    cases = clips(dataset, ClipPolicy(frames=4), training=True)
    assert len(cases) == 3 + 2
    starts = set()
    for epoch in range(6):
        clip = cases[epoch, 0]
        shown = indices(clip)
        starts.add(tuple(shown))
        assert {b - a for a, b in pairwise(shown)} in ({1}, {-1})
        assert clip.images.shape == (4, 1, 64, 64)
        structures = [infos[0].structure for infos in clip.objects]
        for row, structure in enumerate(structures):
            seen = [dataset.mask("a", structure, i).any() for i in shown]
            assert clip.present[row].tolist() == seen
            assert clip.targets is not None
            assert clip.targets[row].flatten(1).any(1).tolist() == seen
        expected = [s for s in dataset.structures if any(dataset.mask("a", s, i).any() for i in shown)]
        assert structures == expected
    assert len(starts) > 3


def test_objects_are_prompted_where_they_are_largest_by_their_target() -> None:
    cases = clips(policy=ClipPolicy(frames=12, **FORWARD), training=True)
    clip = cases[0]
    assert indices(clip) == list(range(12))
    assert [list(prompts) for prompts in clip.prompts] == [[9], [6]]
    (box,) = clip.prompts[0].values()
    assert box.labels.tolist() == [2, 3]
    assert clip.targets is not None
    rows, columns = clip.targets[0, 9].nonzero(as_tuple=True)
    assert box.coords.tolist() == [[columns.min(), rows.min()], [columns.max(), rows.max()]]
    assert [infos[0].case_id for infos in clip.objects] == ["a_z09", "a_z06"]
    assert clip.objects[0][0].volume == "a"


def test_a_batch_is_as_many_clips_as_its_slices_make() -> None:
    cases = clips(policy=ClipPolicy(frames=4), training=True)
    assert [cases.count_samples(images) for images in (1, 4, 7, 8, 16)] == [1, 1, 1, 2, 4]
    assert clips().count_samples(16) == 1


def test_indices_may_have_holes() -> None:
    cases = clips(Stacks(missing=(3, 4)), ClipPolicy(frames=10, **FORWARD), training=True)
    assert indices(cases[0]) == [0, 1, 2, 5, 6, 7, 8, 9, 10, 11]


def test_a_clip_shows_an_object_though_most_slices_are_empty() -> None:
    dataset = Stacks({"b": 40})
    dataset.structures = ("three",)  # on slice 0 alone
    cases = clips(dataset, ClipPolicy(frames=8), training=True)
    shown = [indices(cases[epoch, 0]) for epoch in range(12)]
    assert sum(0 in frames for frames in shown) >= 4  # of 33 clips one shows it


def test_a_clip_without_any_object_is_a_clip() -> None:
    dataset = Stacks({"a": 4})
    dataset.structures = ("three",)
    clip = clips(dataset, training=True)[0]
    assert (clip.prompts, clip.objects, clip.targets, clip.present.shape) == ([], [], None, (0, 4))
    assert ClipBatch([clip]).objects == []


def test_what_is_drawn_depends_on_seed_volume_epoch_and_number_alone() -> None:
    policy = ClipPolicy(frames=4, stride=[1, 2], max_objects=1)
    settings: dict[str, Any] = {"policy": policy, "prompt": ClickPrompt(), "training": True}
    cases = clips(**settings)
    drawn = {key: cases[key] for key in [(2, 1), (0, 0), (1, 1), (0, 1)]}
    copy = pickle.loads(pickle.dumps(cases))
    assert all(same(copy[key], clip) for key, clip in reversed(drawn.items()))
    assert same(clips(Stacks({"a": 12}), **settings)[0, 1], drawn[0, 1])  # whatever other volumes there are
    assert not same(drawn[0, 1], drawn[1, 1])
    assert not same(drawn[0, 1], drawn[0, 0])
    assert not same(drawn[0, 1], clips(seed=1, **settings)[0, 1])


def test_workers_change_nothing() -> None:
    batches = []
    for num_workers in (0, 2):
        loader = build_loader(clips(training=True), 2, num_workers, shuffle=True, seed=0)
        loader.sampler.set_epoch(3)  # type: ignore[attr-defined]
        batches.append(list(loader))
    assert same(*batches)
    assert isinstance(batches[0][0], ClipBatch)


class RandomFlip:
    """Mirrors a slice with probability one half, and notes what it was given."""

    def __init__(self) -> None:
        self.flipped: list[bool] = []

    def __call__(self, image: Tensor, masks: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        self.flipped.append(bool(rng.random() < 0.5))
        return (image.flip(-1), masks.flip(-1)) if self.flipped[-1] else (image, masks)


def test_all_slices_of_a_clip_are_transformed_alike_and_prompts_follow() -> None:
    flip = RandomFlip()
    cases = clips(policy=ClipPolicy(frames=12, **FORWARD), training=True, transforms=flip)
    plain = clips(policy=ClipPolicy(frames=12, **FORWARD), training=True)[0]
    seen = set()
    for epoch in range(6):
        clip = cases[epoch, 0]
        (flipped,) = set(flip.flipped)
        flip.flipped.clear()
        seen.add(flipped)
        assert torch.equal(clip.targets, plain.targets.flip(-1) if flipped else plain.targets)
        (box,), (straight,) = clip.prompts[0].values(), plain.prompts[0].values()
        left, right = straight.coords[:, 0].tolist()
        assert box.coords[:, 0].tolist() == ([63 - right, 63 - left] if flipped else [left, right])
        assert clip.images.dtype == torch.float32
    assert seen == {False, True}


def test_one_rater_is_followed_through_a_clip() -> None:
    dataset = Stacks(num_raters=2)
    plain = clips(Stacks(), ClipPolicy(frames=12, **FORWARD), training=True)[0]
    seen = set()
    for epoch in range(8):
        clip = clips(dataset, ClipPolicy(frames=12, **FORWARD), training=True, targets=RandomRater())[epoch, 0]
        whole = (clip.targets == plain.targets).flatten(2).all(2)
        assert whole[plain.present].unique().numel() == 1
        seen.add(bool(whole.all()))
    assert seen == {False, True}


def test_soft_targets_and_the_majority_that_makes_an_object_present() -> None:
    dataset = Stacks(num_raters=3)
    clip = clips(dataset, ClipPolicy(frames=12, **FORWARD), training=True, targets=Soft())[0]
    assert clip.targets is not None
    assert clip.targets.dtype == torch.float32
    assert torch.allclose(clip.targets.unique(), torch.tensor([0, 2 / 3, 1]))
    other = clips(dataset, ClipPolicy(frames=12, **FORWARD), training=True, targets=SingleRater(2))[0]
    assert other.targets is not None
    assert 0 < other.targets.sum() < (clip.targets > 0).sum()


def test_a_mask_is_given_as_a_mask() -> None:
    clip = clips(prompt=MaskPrompt(), policy=ClipPolicy(frames=12, **FORWARD), training=True)[0]
    (prompt,) = clip.prompts[0].values()
    assert clip.targets is not None
    assert torch.equal(prompt.mask[0], clip.targets[0, 9])  # type: ignore[index]
    assert prompt.labels.numel() == 0
    native = clips(prompt=MaskPrompt())[0].prompts[0][9].mask
    assert native.shape == (1, 64, 64)
    assert 0.9 < float(native.sum() / clip.targets[0, 9].sum()) < 1.1


# ------------------------------------------------------------------------------------------------- evaluation


def test_a15_the_whole_volume_is_evaluated() -> None:
    cases = clips()
    assert len(cases) == 2
    clip = cases[0]
    assert indices(clip) == list(range(12))
    assert [[info.index for info in infos] for infos in clip.objects] == [list(range(12))] * 2
    quarter = clips(policy=ClipPolicy(legacy_quarter=True))
    assert [indices(quarter[i]) for i in range(2)] == [[0, 1, 2], [0]]


def test_objects_of_an_evaluation_carry_native_labels_and_say_where_they_are() -> None:
    dataset = Stacks()
    clip = clips(dataset)[0]
    assert clip.targets is None
    for structure, infos in zip(("one", "two"), clip.objects, strict=True):
        for i, info in enumerate(infos):
            assert (info.case_id, info.patient_id, info.structure) == (f"a_z{i:02d}", "pa", structure)
            assert (info.volume, info.index, info.spacing, info.thickness) == ("a", i, (2.0, 3.0), 5.0)
            assert np.array_equal(info.label, dataset.mask("a", structure, i))  # type: ignore[arg-type]
            assert info.present == dataset.mask("a", structure, i).any()
    assert [info.index for info in ClipBatch([clip]).objects] == [i for i in range(12) for _ in range(2)]
    assert clips(dataset)[1].objects[2][0].structure == "three"  # volume b has it, volume a is not asked for it


def test_prompts_of_an_evaluation_are_those_of_the_slice_as_an_image() -> None:
    dataset = Stacks()
    policy = ClipPolicy(prompted="every", step=3, num_prompts=None)
    clip = clips(dataset, policy, prompt=ClickPrompt())[0]
    alone = PromptedCases(dataset, dataset.records(), ClickPrompt(), 64, 0)
    assert sorted(clip.prompts[0]) == [1, 4, 7, 10]
    for t, prompt in clip.prompts[0].items():
        sample = alone[t]
        assert torch.equal(prompt.coords, sample.point_coords[0])
        assert torch.equal(prompt.labels, sample.point_labels[0])
        assert np.array_equal(clip.objects[0][t].prompt.points, sample.objects[0].prompt.points)


def test_an_unprompted_slice_bears_the_kind_of_prompt_of_its_object() -> None:
    for infos in clips(prompt=BoxPrompt())[0].objects:
        assert {(info.prompt.name, info.prompt.budget) for info in infos} == {("box", "box")}
        for info in infos:
            assert len(info.prompt.labels) == (2 if info.prompted else 0)
        assert sum(info.prompted for info in infos) == 1


def test_a16_the_oracle_tells_where_an_object_is_not() -> None:
    policy = ClipPolicy(prompted="every", step=2, num_prompts=None, legacy_absent_oracle=True)
    clip = clips(policy=policy)[0]
    for row, prompts in enumerate(clip.prompts):
        assert sorted(prompts) == [0, 2, 4, 6, 8, 10]
        for t, prompt in prompts.items():
            assert (prompt.mask is None) == bool(clip.present[row, t])
            assert prompt.mask is None or not prompt.mask.any()
            assert clip.objects[row][t].prompted
    without = clips(policy=ClipPolicy(prompted="every", step=2, num_prompts=None))[0]
    assert all(p.mask is None for prompts in without.prompts for p in prompts.values())


def test_raters_travel_where_there_are_several() -> None:
    (one, _) = clips(Stacks(num_raters=3))[0].objects
    assert one[4].raters is not None
    assert one[4].raters.native().shape == (3, *SHAPE)
    assert clips()[0].objects[0][4].raters is None


def test_pictures_are_native_and_shared() -> None:
    cases = clips()
    cases.pictures = True
    one, two = cases[0].objects
    assert one[3].image is two[3].image
    assert one[3].image.shape == (*SHAPE, 3)  # type: ignore[union-attr]
    assert one[3].image[0, 0, 0] == round(0.03 * 255)  # type: ignore[index]


def test_slices_without_a_volume_are_runs_of_neighbours() -> None:
    dataset = ChestCT()
    cases = clips(dataset, ClipPolicy(frames=4), training=True)
    lengths = [len(slices) for slices in cases.volumes]
    assert sum(lengths) == len(dataset.records())
    assert all(b.index - a.index == 1 for v in cases.volumes for a, b in pairwise(v))
    assert len(lengths) == 5  # blocks of the split
    infos = clips(dataset)[0].objects[0]
    assert {info.volume for info in infos} == {f"{infos[0].case_id}-{infos[-1].case_id}"}


# --------------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        (NoPrompt(), "none"),
        (LearnedPrompt(), "learned"),
        (MixedPrompt({"box": BoxPrompt(), "none": NoPrompt()}, {"box": 0.5, "none": 0.5}), "none"),
    ],
)
def test_a_prompt_that_shows_nothing_is_refused(prompt: Any, name: str) -> None:
    with pytest.raises(ValueError, match=f"prompt={name} shows no object to follow: .* use method=image"):
        clips(prompt=prompt)


def test_images_that_are_no_volume_are_refused_for_training() -> None:
    with pytest.raises(ValueError, match="dataset=memory has no neighbouring slices to train on"):
        clips(MemoryDataset(1), training=True)


def test_a_quarter_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="legacy_quarter=true leaves nothing"):
        clips(Stacks({"a": 3}), ClipPolicy(legacy_quarter=True))


def test_a_batch_moves_with_its_images_as_they_are_kept() -> None:
    batch = ClipBatch([clips(training=True)[0], clips()[0]])
    moved = batch.to("meta")
    assert [clip.images.device.type for clip in moved.clips] == ["meta", "meta"]
    assert moved.clips[0].targets.device.type == "meta"  # type: ignore[union-attr]
    assert moved.clips[0].present.device.type == "cpu"
    assert moved.case_ids == batch.case_ids
    assert batch.case_ids[1] == "a_z00 to a_z11"
