"""Networks for predictors: two whose answers are known, and the smallest real one."""

from functools import cache

import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor, nn

from medsam2.modeling.mask_decoder import MaskPredictions
from medsam2.modeling.sam import ImageFeatures
from medsam2.modeling.sam2 import SAM2
from tests.goldens import build_model, draw_weight

SHARP = 100.0  # logit inside, -SHARP outside: the mask's edge lies within a quarter of a pixel
GOOD, WORSE, BAD = 0.9, 0.85, 0.1


@cache
def build_nano(size: int) -> SAM2:
    """With drawn weights: unlike those of a new network they give logits far from 0."""
    model = build_model("sam2_nano", size)
    model.load_state_dict({name: draw_weight(name, x.shape) for name, x in model.state_dict().items()})
    return model


class BrightRegions(nn.Module):
    """Answers a click on a bright region with that region at S/4, twice: IoU GOOD and WORSE; else nothing, BAD.

    A mask prompt, which comes with `multimask_output=False`, is returned eroded by a pixel.
    """

    def __init__(self, image_size: int = 64) -> None:
        super().__init__()
        self.image_size = image_size
        self.weight = nn.Parameter(torch.zeros(1))
        self.images: list[Tensor] = []
        self.prompts: list[int] = []
        self.eval()

    def encode_image(self, images: Tensor) -> ImageFeatures:
        self.images.append(images)
        return ImageFeatures(F.avg_pool2d(images.mean(1, keepdim=True), 4), ())

    def decode(
        self,
        features: ImageFeatures,
        point_coords: Tensor,
        point_labels: Tensor,
        mask_input: Tensor | None = None,
        image_index: Tensor | None = None,
        multimask_output: bool = False,
    ) -> MaskPredictions:
        assert bool((point_labels == 1).all())
        assert len(features.embed) == 1  # shared by all clicks
        count = len(point_coords)
        self.prompts.append(count)
        regions = torch.from_numpy(ndimage.label(features.embed[0, 0].numpy() > 0.5)[0])
        x, y = (point_coords[:, 0] / 4).long().unbind(1)
        clicked = regions[y, x]
        inside = (regions == clicked[:, None, None]) & (clicked > 0)[:, None, None]
        if mask_input is not None:
            assert mask_input.abs().max() == 32  # clamped
            inside = torch.from_numpy(ndimage.binary_erosion(mask_input[:, 0].numpy() > 0, [[[1] * 3] * 3]))
        hit = (clicked > 0).float()[:, None]
        if multimask_output:
            empty = torch.zeros_like(inside)
            inside = torch.stack((inside, inside, empty), dim=1)
            ious = torch.tensor([[GOOD, WORSE, BAD]]) * hit
        else:
            inside, ious = inside[:, None], GOOD * hit
        return MaskPredictions((inside.float() * 2 - 1) * SHARP, ious, torch.ones(count, 1), torch.zeros(count, 1, 1))


class Scripted(nn.Module):
    """Answers N clicks, asked all at once, with the logits and IoUs it was given: N x C x S/4 x S/4 and N x C."""

    def __init__(self, logits: Tensor, ious: Tensor) -> None:
        super().__init__()
        self.image_size = 4 * logits.shape[-1]
        self.weight = nn.Parameter(torch.zeros(1))
        self.logits, self.ious = logits, ious
        self.eval()

    def encode_image(self, images: Tensor) -> ImageFeatures:
        return ImageFeatures(images, ())

    def decode(self, features: ImageFeatures, point_coords: Tensor, *_: object) -> MaskPredictions:
        count = len(self.ious)
        assert len(point_coords) == count
        return MaskPredictions(self.logits, self.ious, torch.ones(count, 1), torch.zeros(count, 1, 1))


def paint(height: int, width: int, *boxes: tuple[int, int, int, int]) -> Tensor:
    """H x W bool, true within boxes (x0, y0, x1, y1), ends exclusive."""
    mask = torch.zeros(height, width, dtype=torch.bool)
    for x0, y0, x1, y1 in boxes:
        mask[y0:y1, x0:x1] = True
    return mask
