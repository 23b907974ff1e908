"""Samples and batches: geometry, targets, order, and independence of workers."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_data import MemoryDataset, square
from torch import Tensor

from medsam2.data.cache import DiskCache
from medsam2.data.chest_ct import ChestCT
from medsam2.data.loader import (
    Batch,
    EpochSampler,
    PromptedCases,
    build_loader,
    collate,
    scale_points,
)
from medsam2.data.prompts import BoxPrompt, ClickPrompt
from medsam2.data.records import DatasetError, of_split


def prompted(dataset: MemoryDataset | None = None, **settings: object) -> PromptedCases:
    dataset = dataset or MemoryDataset()
    defaults: dict[str, object] = {"prompt": ClickPrompt(), "image_size": 64, "seed": 0}
    return PromptedCases(dataset, dataset.records(), **(defaults | settings))  # type: ignore[arg-type]


def same(one: Batch, other: Batch) -> bool:
    tensors = ("images", "image_index", "point_coords", "point_labels", "targets")
    return one.case_ids == other.case_ids and all(torch.equal(getattr(one, t), getattr(other, t)) for t in tensors)


def test_batch_shapes_and_types() -> None:
    batch = collate([prompted()[i] for i in range(3)]).to("cpu")
    assert batch.images.shape == (3, 3, 64, 64)
    assert batch.images.dtype == torch.float32
    assert batch.images.min() >= 0
    assert batch.images.max() <= 1
    assert batch.image_index.tolist() == [0, 0, 1, 1, 2, 2]
    assert batch.image_index.dtype == torch.int64
    assert batch.point_coords.shape == (6, 1, 2)
    assert batch.point_coords.dtype == torch.float32
    assert batch.point_labels.tolist() == [[1]] * 6
    assert batch.point_labels.dtype == torch.int64
    assert batch.targets.shape == (6, 1, 64, 64)
    assert batch.targets.unique().tolist() == [0, 1]
    assert [info.structure for info in batch.objects] == ["one", "two"] * 3
    assert batch.case_ids == ["case0", "case1", "case2"]


def test_coordinates_scale_per_axis_on_images_that_are_not_square() -> None:
    sample = prompted(prompt=BoxPrompt())[0]
    # native 20 rows × 30 columns; "one" covers columns 20…27 and rows 2…6
    assert sample.objects[0].prompt.points.tolist() == [[20, 2], [27, 6]]
    expected = torch.tensor([[20 * 64 / 30, 2 * 64 / 20], [27 * 64 / 30, 6 * 64 / 20]])
    assert torch.allclose(sample.point_coords[0], expected)
    assert scale_points(np.array([[15, 10]], dtype=np.float32), (20, 30), 64).tolist() == [[32, 32]]


def test_scaled_clicks_lie_on_the_target() -> None:
    for i in range(6):
        sample = prompted()[i]
        for points, target in zip(sample.point_coords, sample.targets, strict=True):
            x, y = (points[0] + 0.5 * 64 / 30).long().tolist()  # the middle of the clicked pixel
            assert target[y, x] == 1


def test_absent_structures_are_no_objects() -> None:
    dataset = MemoryDataset(3, absent=[(0, "one"), (1, "one"), (1, "two")])
    batch = collate([prompted(dataset)[i] for i in range(3)])
    assert batch.image_index.tolist() == [0, 2, 2]
    assert [(o.case_id, o.structure) for o in batch.objects] == [
        ("case0", "two"),
        ("case2", "one"),
        ("case2", "two"),
    ]
    assert batch.case_ids == ["case0", "case1", "case2"]


def test_a_batch_without_objects() -> None:
    dataset = MemoryDataset(1, absent=[(0, "one"), (0, "two")])
    batch = collate([prompted(dataset)[0]])
    assert batch.images.shape == (1, 3, 64, 64)
    assert batch.targets.shape == (0, 1, 64, 64)
    assert batch.point_coords.shape == (0, 1, 2)
    assert batch.point_labels.shape == (0, 1)
    assert batch.image_index.tolist() == []
    assert batch.objects == []


def test_prompts_of_unequal_length_are_padded() -> None:
    samples = [prompted(prompt=ClickPrompt(3))[0], prompted(prompt=BoxPrompt())[1]]
    batch = collate(samples)
    assert batch.point_labels.tolist() == [[1, 1, 1]] * 2 + [[2, 3, -1]] * 2
    assert batch.point_coords[2, 2].tolist() == [0, 0]
    assert torch.equal(batch.point_coords[2, :2], samples[1].point_coords[0])


def test_native_labels_travel_for_evaluation_and_native_images_where_something_is_drawn() -> None:
    assert prompted()[0].objects[0].image is None
    drawn = prompted()
    drawn.pictures = True
    info = drawn[0].objects[0]
    assert info.label is not None
    assert info.image is not None
    assert info.label.shape == (20, 30)
    assert info.label.sum() == 40
    assert info.image.shape == (20, 30, 3)
    assert info.image.dtype == np.uint8
    assert info.image[-1, 0, 0] == 230
    assert info.spacing == (2.0, 3.0)
    train = prompted(training=True)[0].objects[0]
    assert train.label is None
    assert train.image is None


def test_to_moves_tensors_only() -> None:
    batch = collate([prompted()[0]])
    moved = batch.to("meta")
    assert moved.images.is_meta
    assert moved.image_index.is_meta
    assert moved.targets.is_meta
    assert moved.objects is batch.objects
    assert not batch.images.is_meta
    assert batch.to(torch.device("cpu"), non_blocking=True).images.device.type == "cpu"


def test_an_object_that_vanishes_at_model_size_is_no_training_object() -> None:
    class Speck(MemoryDataset):
        def load(self, record):  # type: ignore[no-untyped-def]
            case = super().load(record)
            case.labels["one"] = case.raters["one"][0] = square(0, 0, 1, 1)
            case.raters["one"] = case.labels["one"][None]
            return case

    assert [o.structure for o in prompted(Speck(), image_size=8, training=True)[0].objects] == ["two"]
    assert [o.structure for o in prompted(Speck(), image_size=8)[0].objects] == ["one", "two"]


def test_evaluation_prompts_never_change() -> None:
    data = prompted()
    assert same(collate([data[(0, 1)]]), collate([data[(5, 1)]]))
    assert same(collate([data[(0, 1)]]), collate([prompted()[1]]))
    assert not same(collate([data[(0, 1)]]), collate([prompted(seed=1)[1]]))


def test_training_prompts_follow_the_epoch() -> None:
    data = prompted(training=True)
    coords = [data[(epoch, 0)].point_coords[0].tolist() for epoch in range(6)]
    assert len({str(c) for c in coords}) > 3
    data.set_epoch(4)
    assert data[0].point_coords[0].tolist() == coords[4] == prompted(training=True)[(4, 0)].point_coords[0].tolist()


def test_transforms_are_applied_in_training_only() -> None:
    def darken(image: Tensor, masks: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        return image * float(rng.uniform(0, 0.5)), masks

    plain = prompted()[0].image
    assert torch.equal(prompted(transforms=darken)[0].image, plain)
    first, second = (prompted(transforms=darken, training=True)[(epoch, 0)].image for epoch in (0, 1))
    assert not torch.equal(first, plain)
    assert not torch.equal(first, second)
    assert torch.equal(first, prompted(transforms=darken, training=True)[(0, 0)].image)


def test_prompts_and_targets_follow_the_transforms() -> None:
    def mirror(image: Tensor, masks: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        return image.flip(-1), masks.flip(-1)

    plain = prompted(prompt=BoxPrompt(), training=True)[0]
    mirrored = prompted(prompt=BoxPrompt(), training=True, transforms=mirror)[0]
    assert torch.equal(mirrored.targets, plain.targets.flip(-1))
    (x0, y0), (x1, y1) = plain.point_coords[0].tolist()
    assert mirrored.point_coords[0].tolist() == [[63 - x1, y0], [63 - x0, y1]]


def test_a_structure_that_left_the_image_is_no_object() -> None:
    def cut(image: Tensor, masks: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        masks[..., 32:] = 0
        return image, masks

    assert [o.structure for o in prompted(training=True, transforms=cut)[0].objects] == ["two"]


def test_training_prompts_are_drawn_where_the_model_sees_the_object() -> None:
    sample = prompted(prompt=BoxPrompt(), training=True)[0]
    rows, columns = sample.targets[0].nonzero().T
    corners = [[columns.min(), rows.min()], [columns.max(), rows.max()]]
    assert sample.point_coords[0].tolist() == [[float(v) for v in corner] for corner in corners]


def test_grey_images_become_three_equal_channels() -> None:
    class Grey(MemoryDataset):
        def load(self, record):  # type: ignore[no-untyped-def]
            case = super().load(record)
            case.image = case.image[..., :1]
            return case

    drawn = prompted(Grey())
    drawn.pictures = True
    sample = drawn[0]
    images = collate([sample]).to("cpu").images
    assert images.shape == (1, 3, 64, 64)
    assert torch.equal(images[0, 0], images[0, 2])
    picture = sample.objects[0].image
    assert picture is not None
    assert picture.shape == (20, 30, 3)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (torch.tensor([[[0, 51, 255]]] * 3, dtype=torch.uint8), [0.0, 0.2, 1.0]),
        (torch.tensor([[[0, 13107, 65535]]], dtype=torch.uint16), [0.0, 0.2, 1.0]),
        (torch.tensor([[[0.0, 0.2, 1.0]]]), [0.0, 0.2, 1.0]),
    ],
    ids=["colour", "grey", "float"],
)
def test_kept_pixels_become_floats_on_the_device(image: Tensor, expected: list[float]) -> None:
    batch = collate([replace(prompted()[0], image=image)] * 2)
    assert batch.images.dtype == image.dtype  # small until then
    assert batch.targets.dtype == torch.bool
    moved = batch.to("cpu")
    assert moved.images.shape == (2, 3, 1, 3)
    assert moved.images[1, 2, 0].tolist() == pytest.approx(expected)
    assert moved.targets.dtype == torch.float32
    assert torch.equal(moved.to("cpu").images, moved.images)


def test_grey_beside_colour_in_a_batch() -> None:
    sample = prompted()[0]
    grey = torch.full((1, 64, 64), 65535, dtype=torch.uint16)
    images = collate([replace(sample, image=grey), replace(sample, image=torch.zeros(3, 64, 64))]).to("cpu").images
    assert images[0].unique().tolist() == [1.0]
    assert images[1].unique().tolist() == [0.0]


def test_samples_are_the_same_with_a_cache_cold_and_warm(tmp_path: Path) -> None:
    cached = prompted(cache=DiskCache(tmp_path))
    plain = collate([prompted()[i] for i in range(6)])
    assert same(plain, collate([cached[i] for i in range(6)]))
    assert same(plain, collate([cached[i] for i in range(6)]))
    assert len(list(tmp_path.rglob("*.case"))) == 6


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("training", [True, False])
def test_an_image_that_is_not_finite_names_its_case(value: float, training: bool) -> None:
    class Broken(MemoryDataset):
        def load(self, record):  # type: ignore[no-untyped-def]
            case = super().load(record)
            if record.index == 2:
                case.image[19, 29, 1] = value
            return case

    data = prompted(Broken(), training=training)
    with pytest.raises(DatasetError, match=r"^dataset=memory, case case2"):  # from a worker too
        list(build_loader(data, 2, 1, False, 0))
    assert data[1].image.max() > 0
    with pytest.raises(DatasetError, match=r"dataset=memory, case case2: its image holds NaN or infinite .*correct it"):
        data[2]


def test_clicks_use_the_agreement_of_raters() -> None:
    class Raters(MemoryDataset):
        def load(self, record):  # type: ignore[no-untyped-def]
            case = super().load(record)
            core = square(4, 24, 1, 1)
            case.raters["one"] = np.stack([case.labels["one"], case.labels["one"], core])
            return case

    assert prompted(Raters())[0].objects[0].prompt.points.tolist() == [[24, 4]]


@pytest.mark.parametrize("training", [False, True])
def test_workers_change_nothing_over_two_epochs(training: bool) -> None:
    runs: list[list[Batch]] = []
    for num_workers in (0, 2):
        loader = build_loader(prompted(training=training), 4, num_workers, shuffle=training, seed=3)
        runs.append([])
        for epoch in (0, 1):
            loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
            runs[-1].extend(loader)  # type: ignore[arg-type]
    assert len(runs[0]) == len(runs[1]) == 4
    assert all(same(alone, with_workers) for alone, with_workers in zip(*runs, strict=True))
    assert same(runs[0][0], runs[0][2]) is not training  # epochs differ in training only


def test_workers_and_batch_size_leave_samples_alone_on_real_data() -> None:
    dataset = ChestCT()
    data = PromptedCases(dataset, of_split(dataset.records(), "val"), ClickPrompt(), 128, 0)
    whole = [info for batch in build_loader(data, 5, 2, False, 0) for info in batch.objects]  # type: ignore[attr-defined]
    single = [info for batch in build_loader(data, 1, 0, False, 0) for info in batch.objects]  # type: ignore[attr-defined]
    assert len(whole) == 8
    for one, other in zip(whole, single, strict=True):
        assert (one.case_id, one.structure) == (other.case_id, other.structure)
        assert np.array_equal(one.prompt.points, other.prompt.points)
        assert np.array_equal(one.label, other.label)


def test_the_global_generators_are_left_alone() -> None:
    torch.manual_seed(1)
    np.random.seed(1)
    before = torch.get_rng_state(), pickle.dumps(np.random.get_state())
    for workers in (0, 1):
        list(build_loader(prompted(training=True), 2, workers, True, 0))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert pickle.dumps(np.random.get_state()) == before[1]


def test_sampler_order_depends_on_seed_and_epoch() -> None:
    sampler = EpochSampler(20, seed=0)
    first = list(sampler)
    assert sorted(index for _, index in first) == list(range(20))
    assert {epoch for epoch, _ in first} == {0}
    sampler.set_epoch(1)
    second = list(sampler)
    assert {epoch for epoch, _ in second} == {1}
    assert [i for _, i in first] != [i for _, i in second]
    assert list(EpochSampler(20, seed=0)) == first != list(EpochSampler(20, seed=1))
    assert [i for _, i in EpochSampler(5, seed=0, shuffle=False)] == [0, 1, 2, 3, 4]


def test_an_epoch_can_be_resumed_in_the_middle() -> None:
    loader = build_loader(prompted(training=True), 2, 0, True, 0)
    sampler = loader.sampler
    assert isinstance(sampler, EpochSampler)
    sampler.set_epoch(3)
    whole = list(loader)
    sampler.set_epoch(3, start=2)
    assert len(sampler) == 4
    assert len(loader) == 2
    rest = list(loader)
    assert all(same(one, other) for one, other in zip(whole[1:], rest, strict=True))  # type: ignore[arg-type]
    sampler.set_epoch(4)
    assert len(list(loader)) == 3
    sampler.set_epoch(4, start=8)  # past the end, as after a smaller last batch: the epoch is over
    assert list(loader) == []
    assert len(loader) == 0
    with pytest.raises(ValueError, match="start=-1"):
        sampler.set_epoch(4, start=-1)
