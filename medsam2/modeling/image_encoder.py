"""SAM 2's image encoder: a trunk and a feature pyramid neck, both received built (2408.00714, section 4)."""

from collections import OrderedDict
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from medsam2.modeling.hiera import Hiera
from medsam2.modeling.position import PositionEmbeddingSine


def check_image_size(key: str, size: int, stride: int) -> None:
    """Raise ValueError with key, value and the nearest valid values unless size is a multiple of stride."""
    if size > 0 and size % stride == 0:
        return
    below = max(size // stride, 0) * stride
    valid = [value for value in (below, below + stride) if value > 0]
    raise ValueError(
        f"{key}={size} is not a positive multiple of {stride}; nearest valid: {' or '.join(map(str, valid))}"
    )


class FpnNeck(nn.Module):
    """Bring all trunk levels to d_model channels and add coarse ones into finer ones where told.

    Args:
        d_model: channels of every output level.
        backbone_channel_list: trunk channels, coarse to fine; `convs.0` serves the coarsest level.
        fpn_top_down_levels: levels (0 is the finest) that receive the next coarser one.
        position_encoding: encodes an output level for memory attention.
    """

    def __init__(
        self,
        d_model: int,
        backbone_channel_list: Sequence[int],
        fpn_top_down_levels: Sequence[int],
        position_encoding: PositionEmbeddingSine,
    ) -> None:
        super().__init__()
        self.d_model = d_model
        self.backbone_channel_list = list(backbone_channel_list)
        self.fpn_top_down_levels = list(fpn_top_down_levels)
        self.position_encoding = position_encoding
        self.convs = nn.ModuleList(
            nn.Sequential(OrderedDict(conv=nn.Conv2d(channels, d_model, 1))) for channels in backbone_channel_list
        )

    def forward(self, stages: list[Tensor]) -> list[Tensor]:
        """Trunk outputs B x C_s x H_s x W_s, fine to coarse -> as many maps B x d_model x H_s x W_s."""
        outputs: list[Tensor] = []
        for level in range(len(stages) - 1, -1, -1):
            x = self.convs[len(stages) - 1 - level](stages[level])
            if outputs and level in self.fpn_top_down_levels:
                # float32 because the sum runs over levels: rounding the coarse map twice costs accuracy.
                x = x + F.interpolate(outputs[0].float(), scale_factor=2.0, mode="nearest")
            outputs.insert(0, x)
        return outputs


class ImageEncoder(nn.Module):
    """Trunk, then neck: pixels B x 3 x H x W -> maps B x d_model at strides 4, 8, 16, fine to coarse.

    H and W are multiples of 32 and may differ. `scalp` coarsest levels are dropped after the neck used them.
    """

    def __init__(self, trunk: Hiera, neck: FpnNeck, scalp: int) -> None:
        super().__init__()
        if trunk.channel_list != neck.backbone_channel_list:
            raise ValueError(
                f"neck.backbone_channel_list={neck.backbone_channel_list} does not fit the trunk, "
                f"whose stages have (coarse to fine) {trunk.channel_list} channels"
            )
        self.trunk, self.neck, self.scalp = trunk, neck, scalp
        self.stride = trunk.stride

    def forward(self, pixels: Tensor) -> list[Tensor]:
        check_image_size("image_size (height)", pixels.shape[-2], self.stride)
        check_image_size("image_size (width)", pixels.shape[-1], self.stride)
        levels = self.neck(self.trunk(pixels))
        return levels[: len(levels) - self.scalp]
