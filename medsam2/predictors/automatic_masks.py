"""Masks of everything in an image, without prompts (SAM 2304.02643, appendix B): click on a grid, keep the good.

What costs is done for candidates that survive the predicted IoU only, in batches; masks wait as run lengths. n is the
side of the image embedding.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from PIL.Image import Image
from torch import Tensor

from medsam2.modeling.mask_decoder import compute_stability
from medsam2.modeling.sam import LOGIT_LIMIT, SAM
from medsam2.predictors import rle
from medsam2.predictors.boxes import compute_mask_boxes, suppress_overlaps, touch_crop
from medsam2.predictors.components import clean_masks
from medsam2.predictors.crops import make_crops, make_point_grids
from medsam2.predictors.image import SAM2ImagePredictor
from medsam2.predictors.inputs import Prompts, read_image

OutputMode = Literal["binary_mask", "uncompressed_rle", "coco_rle"]


@dataclass
class Candidates:
    """N masks of an image, all in its pixels.

    rles: the masks. boxes: N x 4. predicted_iou, stability: N. points: N x 2, the clicks. crop_boxes: N x 4.
    """

    rles: list[rle.Rle]
    boxes: Tensor
    predicted_iou: Tensor
    stability: Tensor
    points: Tensor
    crop_boxes: Tensor

    def tensors(self) -> tuple[Tensor, ...]:
        return self.boxes, self.predicted_iou, self.stability, self.points, self.crop_boxes

    def select(self, index: Tensor) -> "Candidates":
        """Those at the positions `index`, in that order."""
        return Candidates([self.rles[i] for i in index.tolist()], *(x[index] for x in self.tensors()))

    @staticmethod
    def join(parts: Sequence["Candidates"]) -> "Candidates":
        columns = zip(*(part.tensors() for part in parts), strict=True)
        return Candidates([code for part in parts for code in part.rles], *(torch.cat(column) for column in columns))


class SAM2AutomaticMaskGenerator:
    """Find the masks of all objects in an image.

    Args:
        model: the network, in evaluation mode.
        points_per_side: the grid of clicks, points_per_side^2 of them; None with point_grids.
        points_per_batch: clicks decoded at once; more need more memory.
        pred_iou_thresh: masks of a predicted IoU above it stay (0...1; 0 keeps all).
        stability_score_thresh: masks at least so stable stay (0...1): their IoU with themselves at thresholds
            mask_threshold +- stability_score_offset.
        mask_threshold: a pixel is inside where its logit is greater.
        box_nms_thresh: among masks of a crop whose boxes have an IoU above it, the best by predicted IoU stays.
        crop_n_layers: additional layers of crops, 2^l x 2^l in layer l = 1, 2, ...
        crop_nms_thresh: as box_nms_thresh among crops, where the mask of the smaller crop stays.
        crop_overlap_ratio: overlap of the crops in layer 1, as a fraction of the image's shorter side.
        crop_n_points_downscale_factor: points per side in layer l are divided by factor^l.
        point_grids: points (x, y) in [0, 1] per layer, crop_n_layers + 1 arrays N x 2, instead of a regular grid.
        min_mask_region_area: holes and islands smaller than this many pixels of the image are filled and removed;
            a mask of such islands only is dropped.
        output_mode: "binary_mask", "uncompressed_rle" or "coco_rle".
        use_m2m: refine every mask once by giving it back to the decoder.
        multimask_output: three candidates per click instead of one.

    Raises:
        ValueError: values that cannot be.
    """

    def __init__(
        self,
        model: SAM,
        points_per_side: int | None = 32,
        points_per_batch: int = 64,
        pred_iou_thresh: float = 0.8,
        stability_score_thresh: float = 0.95,
        stability_score_offset: float = 1.0,
        mask_threshold: float = 0.0,
        box_nms_thresh: float = 0.7,
        crop_n_layers: int = 0,
        crop_nms_thresh: float = 0.7,
        crop_overlap_ratio: float = 512 / 1500,
        crop_n_points_downscale_factor: int = 1,
        point_grids: Sequence[np.ndarray] | None = None,
        min_mask_region_area: int = 0,
        output_mode: OutputMode = "binary_mask",
        use_m2m: bool = False,
        multimask_output: bool = True,
    ) -> None:
        if output_mode not in get_args(OutputMode):
            raise ValueError(f"output_mode={output_mode!r}: choose one of {', '.join(get_args(OutputMode))}")
        check_at_least("points_per_batch", points_per_batch, 1)
        check_at_least("min_mask_region_area", min_mask_region_area, 0)
        self.point_grids = make_point_grids(points_per_side, point_grids, crop_n_layers, crop_n_points_downscale_factor)
        self.predictor = SAM2ImagePredictor(model, mask_threshold)
        self.points_per_batch = points_per_batch
        self.pred_iou_thresh = pred_iou_thresh
        self.stability_score_thresh = stability_score_thresh
        self.stability_score_offset = stability_score_offset
        self.box_nms_thresh = box_nms_thresh
        self.crop_n_layers = crop_n_layers
        self.crop_nms_thresh = crop_nms_thresh
        self.crop_overlap_ratio = crop_overlap_ratio
        self.min_mask_region_area = min_mask_region_area
        self.output_mode = output_mode
        self.use_m2m = use_m2m
        self.multimask_output = multimask_output

    @torch.inference_mode()
    def generate(self, image: np.ndarray | Image) -> list[dict[str, Any]]:
        """Masks of an image, as SAM2ImagePredictor.set_image takes it.

        Returns:
            A record per mask, an empty list where none is good enough:
            segmentation: H x W bool, or a code of medsam2.predictors.rle; area: its pixels;
            bbox: [x, y, width, height] from the first to the last column and row, so one pixel less than it covers;
            predicted_iou, stability_score: numbers; point_coords: [[x, y]], the click;
            crop_box: [x, y, width, height] of the crop it was found in.
        """
        pixels = read_image(image)
        size = (pixels.shape[0], pixels.shape[1])
        crops = make_crops(size, self.crop_n_layers, self.crop_overlap_ratio)
        found = Candidates.join([self._search_crop(pixels, box, self.point_grids[layer]) for box, layer in crops])
        self.predictor.reset_predictor()
        if len(crops) > 1:
            sides = found.crop_boxes[:, 2:] - found.crop_boxes[:, :2]
            found = found.select(suppress_overlaps(found.boxes, 1 / sides.prod(1), self.crop_nms_thresh))
        if self.min_mask_region_area > 0:
            found = self._remove_small_regions(found)
        return self._make_records(found)

    def _search_crop(self, pixels: np.ndarray, crop_box: list[int], grid: np.ndarray) -> Candidates:
        """Good masks of one crop, each object once, best first."""
        x0, y0, x1, y1 = crop_box
        self.predictor.set_image(pixels[y0:y1, x0:x1])
        points = torch.tensor(grid, dtype=torch.float32, device=self.predictor.device)
        batches = points.split(self.points_per_batch)
        found = Candidates.join([self._search_points(batch, crop_box, pixels.shape[:2]) for batch in batches])
        return found.select(suppress_overlaps(found.boxes, found.predicted_iou, self.box_nms_thresh))

    def _search_points(self, points: Tensor, crop_box: list[int], size: tuple[int, ...]) -> Candidates:
        """Good masks of one batch of clicks, N x 2 in [0, 1] of the crop."""
        low_res_masks, ious, points = self._decode(points)
        if self.pred_iou_thresh > 0:  # before masks are resized: that costs most
            good = ious > self.pred_iou_thresh
            low_res_masks, ious, points = low_res_masks[good], ious[good], points[good]
        logits = self.predictor.resize_masks(low_res_masks[:, None])[:, 0]
        threshold = self.predictor.mask_threshold
        stability = compute_stability(logits - threshold, self.stability_score_offset)
        masks = logits > threshold

        (height, width), (x0, y0, x1, y1) = size, crop_box
        boxes = compute_mask_boxes(masks)
        crop, whole = (boxes.new_tensor(box) for box in (crop_box, [0, 0, width, height]))
        boxes += crop[:2].repeat(2)
        good = (stability >= self.stability_score_thresh) & masks.any(2).any(1) & ~touch_crop(boxes, crop, whole)
        masks = F.pad(masks[good], (x0, width - x1, y0, height - y1))
        points = points[good] * (crop[2:] - crop[:2]) + crop[:2]
        return Candidates(
            rle.encode_masks(masks), boxes[good], ious[good], stability[good], points, crop.expand(len(points), 4)
        )

    def _decode(self, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Low-resolution logits N*C x 4n x 4n of N clicks, their predicted IoU and their clicks, N*C each."""
        masks, ious = self._ask(points, None, self.multimask_output)
        points = points.repeat_interleave(masks.shape[1], dim=0)
        masks, ious = masks.flatten(0, 1), ious.flatten()
        if self.use_m2m:
            again = masks[:, None].clamp(-LOGIT_LIMIT, LOGIT_LIMIT)
            parts = zip(points.split(self.points_per_batch), again.split(self.points_per_batch), strict=True)
            refined = [self._ask(*part, multimask_output=False) for part in parts]
            masks, ious = (torch.cat(column)[:, 0] for column in zip(*refined, strict=True))
        return masks, ious, points

    def _ask(self, points: Tensor, masks: Tensor | None, multimask_output: bool) -> tuple[Tensor, Tensor]:
        """One positive click each, N x 2 in [0, 1], and masks to improve -> N x C x 4n x 4n and N x C."""
        coords = points[:, None] * self.predictor.model.image_size
        labels = torch.ones(coords.shape[:2], dtype=torch.long, device=coords.device)
        return self.predictor.decode_prompts([Prompts(coords, labels, masks)], [0], multimask_output)

    def _remove_small_regions(self, found: Candidates) -> Candidates:
        """Fill small holes and drop small islands; of boxes that overlap now, those of unchanged masks come first."""
        area, boxes = self.min_mask_region_area - 1, [found.boxes[:0]]
        codes: list[rle.Rle] = []
        for start in range(0, len(found.rles), self.points_per_batch):
            masks = [rle.decode_mask(code) for code in found.rles[start : start + self.points_per_batch]]
            cleaned = clean_masks(torch.from_numpy(np.stack(masks)), area, area)
            codes += rle.encode_masks(cleaned)
            boxes.append(compute_mask_boxes(cleaned).to(found.boxes))
        left = [i for i, code in enumerate(codes) if rle.compute_area(code) > 0]
        unchanged = found.stability.new_tensor([codes[i] == found.rles[i] for i in left])
        found = replace(found, rles=codes, boxes=torch.cat(boxes)).select(found.boxes.new_tensor(left))
        return found.select(suppress_overlaps(found.boxes, unchanged, self.box_nms_thresh))

    def _make_records(self, found: Candidates) -> list[dict[str, Any]]:
        boxes, crop_boxes = (torch.cat((x[:, :2], x[:, 2:] - x[:, :2]), 1) for x in (found.boxes, found.crop_boxes))
        columns = (boxes, found.predicted_iou, found.stability, found.points, crop_boxes)
        return [
            {
                "segmentation": encode(code, self.output_mode),
                "area": rle.compute_area(code),
                "bbox": box,
                "predicted_iou": iou,
                "point_coords": [point],
                "stability_score": stability,
                "crop_box": crop_box,
            }
            for code, box, iou, stability, point, crop_box in zip(
                found.rles, *(column.tolist() for column in columns), strict=True
            )
        ]


def check_at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"{name}={value}: must be at least {least}")


def encode(code: rle.Rle, output_mode: OutputMode) -> np.ndarray | rle.Rle | rle.CocoRle:
    """A mask in the form asked for."""
    if output_mode == "binary_mask":
        return rle.decode_mask(code)
    return rle.compress(code) if output_mode == "coco_rle" else code
