"""The generator finds exactly the regions that are there, through networks whose answers are known."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from medsam2.predictors import rle
from medsam2.predictors.automatic_masks import SAM2AutomaticMaskGenerator
from medsam2.predictors.image import SAM2ImagePredictor
from tests.predictors.fakes_predictors import GOOD, SHARP, BrightRegions, Scripted, build_nano, paint

REGIONS = ((8, 8, 24, 24), (40, 12, 60, 20), (20, 44, 28, 60))  # x0, y0, x1, y1, ends exclusive


def picture(height: int, width: int, *boxes: tuple[int, int, int, int]) -> np.ndarray:
    """Bright boxes on black; boxes lie on the grid of the low-resolution mask."""
    return np.repeat(paint(height, width, *boxes).numpy()[..., None] * np.uint8(255), 3, axis=2)


def without_corners(mask: Tensor) -> Tensor:
    """What bilinear resizing by 4 leaves of a region: its convex corners round off by a pixel."""
    neighbours = torch.nn.functional.avg_pool2d(mask[None].float(), 3, 1, 1, count_include_pad=True)[0] * 9
    return mask & (neighbours > 4.5)


def test_every_region_is_found_once() -> None:
    model = BrightRegions()
    records = SAM2AutomaticMaskGenerator(model, points_per_side=8).generate(picture(64, 64, *REGIONS))
    assert [record["bbox"] for record in records] == [[8, 8, 15, 15], [40, 12, 19, 7], [20, 44, 7, 15]]
    assert [record["area"] for record in records] == [16 * 16 - 4, 20 * 8 - 4, 8 * 16 - 4]
    assert [record["point_coords"] for record in records] == [[[12.0, 12.0]], [[44.0, 12.0]], [[20.0, 44.0]]]
    for record, region in zip(records, REGIONS, strict=True):
        assert np.array_equal(record["segmentation"], without_corners(paint(64, 64, region)).numpy())
        assert record["predicted_iou"] == pytest.approx(GOOD)
        assert record["stability_score"] == 1.0
        assert record["crop_box"] == [0, 0, 64, 64]
    assert len(model.images) == 1


@pytest.mark.parametrize(("points_per_batch", "batches"), [(64, [64]), (30, [30, 30, 4])])
def test_clicks_go_in_batches_and_do_not_change_the_result(points_per_batch: int, batches: list[int]) -> None:
    model = BrightRegions()
    generator = SAM2AutomaticMaskGenerator(model, points_per_side=8, points_per_batch=points_per_batch)
    assert [record["area"] for record in generator.generate(picture(64, 64, *REGIONS))] == [252, 156, 124]
    assert model.prompts == batches


def test_images_of_any_size_keep_their_pixels() -> None:
    regions = ((12, 24, 60, 42), (120, 48, 180, 90))  # on the grid of 16 x 16 cells, 12 x 6 pixels each
    records = SAM2AutomaticMaskGenerator(BrightRegions(), points_per_side=8).generate(picture(96, 192, *regions))
    assert [record["bbox"] for record in records] == [[12, 24, 47, 17], [120, 48, 59, 41]]
    for record, region in zip(records, regions, strict=True):
        missing = paint(96, 192, region).numpy() & ~record["segmentation"]
        assert record["segmentation"].sum() + missing.sum() == paint(96, 192, region).sum()
        assert missing.sum() == 4 * 7  # corners, where the product of the two weights is below a half


def test_output_modes_hold_the_same_masks() -> None:
    answers = {
        mode: SAM2AutomaticMaskGenerator(BrightRegions(), points_per_side=8, output_mode=mode).generate(
            picture(64, 64, *REGIONS)
        )
        for mode in ("binary_mask", "uncompressed_rle", "coco_rle")
    }
    for binary, plain, coco in zip(*answers.values(), strict=True):
        assert plain["segmentation"]["size"] == coco["segmentation"]["size"] == [64, 64]
        assert np.array_equal(rle.decode_mask(plain["segmentation"]), binary["segmentation"])
        assert rle.decompress_counts(coco["segmentation"]["counts"]) == plain["segmentation"]["counts"]
        assert binary["area"] == plain["area"] == coco["area"] == binary["segmentation"].sum()


@pytest.mark.parametrize("settings", [{}, {"crop_n_layers": 1}, {"min_mask_region_area": 5}, {"use_m2m": True}])
def test_nothing_gives_an_empty_list(settings: dict[str, Any]) -> None:
    assert SAM2AutomaticMaskGenerator(BrightRegions(), points_per_side=4, **settings).generate(picture(64, 64)) == []


def test_crops_find_what_they_hold_and_leave_what_they_cut() -> None:
    inside, across = (24, 24, 40, 40), (48, 80, 80, 96)
    model = BrightRegions()
    generator = SAM2AutomaticMaskGenerator(model, points_per_side=16, crop_n_layers=1, crop_overlap_ratio=0)
    small, large = generator.generate(picture(128, 128, inside, across))
    assert (small["crop_box"], small["bbox"]) == ([0, 0, 64, 64], [24, 24, 15, 15])  # of the smaller crop
    assert small["point_coords"] == [[26.0, 26.0]]
    assert small["area"] == 16 * 16 - 4  # at the crop's resolution
    assert (large["crop_box"], large["bbox"]) == ([0, 0, 128, 128], [48, 80, 31, 15])
    assert [tuple(image.shape) for image in model.images] == [(1, 3, 64, 64)] * 5


def test_masks_of_a_crop_lie_where_the_crop_lies() -> None:
    region = (88, 96, 104, 104)
    generator = SAM2AutomaticMaskGenerator(
        BrightRegions(), points_per_side=16, crop_n_layers=1, crop_overlap_ratio=0, crop_n_points_downscale_factor=2
    )
    (record,) = generator.generate(picture(128, 128, region))
    assert record["crop_box"] == [64, 64, 64, 64]
    assert np.array_equal(record["segmentation"], without_corners(paint(128, 128, region)).numpy())
    assert record["point_coords"] == [[92.0, 100.0]]  # the grid has 68, 76, 84, ...


def blocks(*boxes: tuple[int, int, int, int], inside: float = SHARP, outside: float = -SHARP) -> Tensor:
    """Logits at 16 x 16."""
    return torch.where(paint(16, 16, *boxes), inside, outside)


def ask(logits: list[Tensor], ious: list[float], **settings: Any) -> list[dict[str, Any]]:
    """Records of a network that answers click i with logits[i], one mask each."""
    model = Scripted(torch.stack(logits)[:, None], torch.tensor(ious)[:, None])
    grid = np.full((len(ious), 2), 0.5)
    generator = SAM2AutomaticMaskGenerator(
        model, points_per_side=None, point_grids=[grid], multimask_output=False, **settings
    )
    return generator.generate(picture(64, 64))


def test_the_best_of_overlapping_masks_stays() -> None:
    masks = [blocks((0, 0, 8, 8)), blocks((0, 0, 8, 7)), blocks((8, 8, 12, 12)), blocks((0, 0, 4, 8))]
    records = ask(masks, [0.85, 0.95, 0.9, 0.81])
    assert [record["bbox"] for record in records] == [[0, 0, 31, 27], [32, 32, 15, 15], [0, 0, 15, 31]]
    records = ask(masks, [0.85, 0.95, 0.9, 0.81], box_nms_thresh=0.9)
    assert [record["predicted_iou"] for record in records] == pytest.approx([0.95, 0.9, 0.85, 0.81])
    records = ask(masks, [0.85, 0.95, 0.8, 0.81], box_nms_thresh=0.9)  # above the threshold, not equal to it
    assert [record["predicted_iou"] for record in records] == pytest.approx([0.95, 0.85, 0.81])


def test_unstable_masks_go() -> None:
    fuzzy = blocks((0, 0, 16, 8), inside=5.0, outside=-5.0)
    fuzzy[8:10] = 0.5  # inside at 0 and at -1, outside at +1
    fuzzy[10:] = -5.0
    (record,) = ask([fuzzy], [0.9], stability_score_thresh=0.5)
    score = record["stability_score"]
    # Row i of 16 lies at 4 i + 1.5 of 64: 5 at 29.5 falls below 1 at 33.06, 0.5 at 37.5 below 0 at 37.9, -1 at 38.6.
    assert score == pytest.approx(34 / 39)
    assert record["area"] == 38 * 64
    assert ask([fuzzy], [0.9]) == []
    assert len(ask([fuzzy], [0.9], stability_score_thresh=score)) == 1
    sharp = ask([fuzzy], [0.9], stability_score_thresh=0.5, stability_score_offset=0.1)
    assert sharp[0]["stability_score"] > 0.95


def test_threshold_reaches_mask_and_stability() -> None:
    step = blocks((0, 0, 16, 4), inside=20.0, outside=-20.0)
    step[4:8] = 3.0
    (low,) = ask([step], [0.9], stability_score_thresh=0)
    (high,) = ask([step], [0.9], mask_threshold=10.0, stability_score_thresh=0, stability_score_offset=8)
    assert low["bbox"] == [0, 0, 63, 30]  # 3 to -20 crosses 0 at 30.5
    assert high["bbox"] == [0, 0, 63, 15]  # 20 to 3 crosses 10 at 16.4
    assert low["stability_score"] > 0.95
    assert high["stability_score"] == pytest.approx(14 / 30)  # rows above 18 and above 2


def test_small_regions_go_and_boxes_are_compared_again() -> None:
    clean = blocks((2, 2, 8, 8))
    with_island = blocks((2, 2, 8, 8), (12, 12, 13, 13))
    with_hole = blocks((9, 2, 14, 8))
    with_hole[4, 11] = -SHARP  # 12 pixels of 16: corners round off
    islands_only = blocks((2, 12, 3, 13), (5, 12, 6, 13))
    masks, ious = [with_island, clean, with_hole, islands_only], [0.95, 0.9, 0.85, 0.82]
    assert [record["bbox"] for record in ask(masks, ious)] == [
        [8, 8, 43, 43],
        [8, 8, 23, 23],
        [36, 8, 19, 23],
        [8, 48, 15, 3],
    ]
    kept = ask(masks, ious, min_mask_region_area=12)  # regions of 12 are not smaller
    assert [record["area"] for record in kept] == [record["area"] for record in ask(masks, ious)]
    cleaned = ask(masks, ious, min_mask_region_area=13)
    assert [record["bbox"] for record in cleaned] == [[8, 8, 23, 23], [36, 8, 19, 23]]
    assert [record["predicted_iou"] for record in cleaned] == pytest.approx([0.9, 0.85])  # the unchanged one stays
    assert [record["area"] for record in cleaned] == [24 * 24 - 4, 20 * 24 - 4]


def test_refinement_replaces_every_mask_before_filtering() -> None:
    generator = SAM2AutomaticMaskGenerator(BrightRegions(), points_per_side=8, points_per_batch=10, use_m2m=True)
    records = generator.generate(picture(64, 64, (8, 8, 24, 24)))
    assert [record["bbox"] for record in records] == [[12, 12, 7, 7]]  # eroded by one of 4 cells on every side


@torch.no_grad()
def test_records_are_predictions_of_the_network() -> None:
    model = build_nano(64)
    image = np.random.default_rng(0).integers(0, 256, (48, 80, 3), dtype=np.uint8)
    keep_all = {"pred_iou_thresh": 0, "stability_score_thresh": 0, "box_nms_thresh": 1.0}
    records = SAM2AutomaticMaskGenerator(model, points_per_side=3, points_per_batch=4, **keep_all).generate(image)
    predictor = SAM2ImagePredictor(model)
    predictor.set_image(image)
    assert len(records) == 3 * 9
    for record in records:
        masks, ious, _ = predictor.predict(record["point_coords"], [1])
        best = np.abs(ious - record["predicted_iou"]).argmin()
        assert ious[best] == pytest.approx(record["predicted_iou"], abs=1e-5)
        assert (masks[best] != record["segmentation"]).mean() < 1e-3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"output_mode": "png"}, "output_mode='png': choose one of binary_mask, uncompressed_rle, coco_rle"),
        ({"points_per_batch": 0}, "points_per_batch=0: must be at least 1"),
        ({"min_mask_region_area": -1}, "min_mask_region_area=-1: must be at least 0"),
        ({"crop_n_layers": 2, "crop_n_points_downscale_factor": 8}, r"\[1024, 16, 0\] points"),
        ({"point_grids": [np.zeros((1, 2))]}, "either points_per_side or point_grids"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SAM2AutomaticMaskGenerator(BrightRegions(), **settings)
