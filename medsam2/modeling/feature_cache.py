"""A frozen encoder computes an image once: epochs after the first find its features by the image's content."""

import hashlib
from collections import OrderedDict
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from medsam2.modeling.layers import DropPath


def is_constant(encoder: nn.Module) -> bool:
    """Whether equal images give equal features: no parameter trains and no branch is dropped at random.

    Tensors made in inference mode do not tell when they are written to: an encoder that holds any is not constant.
    """
    drops = encoder.training and any(isinstance(m, DropPath) and m.rate > 0 for m in encoder.modules())
    return not drops and not any(x.requires_grad or x.is_inference() for x in _tensors(encoder))


def _tensors(encoder: nn.Module) -> Iterator[Tensor]:
    yield from encoder.parameters()
    yield from encoder.buffers()


class FeatureCache:
    """Keeps what an encoder made of the last `limit` images (0: none) for as long as it stays as it is.

    Each image is encoded alone: what is kept must not depend on the batch in which it came first. Augmented images
    differ in content, so they are computed anew and only take up room.

    What is seen of the encoder: operations in place on its parameters and buffers, loading a state dict, and values at
    another address (.to(device), p.data = other). Not seen: writing to the same memory under another name, as
    p.data.copy_(other) or a NumPy view does; after that, `kept.clear()`.

    Raises:
        ValueError: limit is negative.
    """

    def __init__(self, limit: int) -> None:
        if limit < 0:
            raise ValueError(f"keep_features={limit} must be a number of images, 0 for none")
        self.limit = limit
        self.kept: OrderedDict[tuple[object, ...], list[Tensor]] = OrderedDict()
        self.state: list[tuple[int, int]] = []

    def encode(self, encoder: nn.Module, pixels: Tensor) -> list[Tensor]:
        """encoder(pixels), from the cache where possible; pixels B x 3 x H x W."""
        if self.limit == 0 or pixels.requires_grad or not is_constant(encoder):
            return encoder(pixels)
        state = [(x.data_ptr(), x._version) for x in _tensors(encoder)]
        if state != self.state:
            self.kept.clear()
            self.state = state
        images = [self._recall(encoder, image) for image in pixels.split(1)]
        return [torch.cat(level) for level in zip(*images, strict=True)]

    def _recall(self, encoder: nn.Module, image: Tensor) -> list[Tensor]:
        kind = image.device.type
        precision = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else image.dtype
        content = hashlib.blake2b(image.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()).digest()
        # inference tensors are kept apart: autograd refuses them
        key = (content, image.shape, image.device, precision, torch.is_inference_mode_enabled())
        if key not in self.kept:
            self.kept[key] = encoder(image)
        self.kept.move_to_end(key)
        features = self.kept[key]
        if len(self.kept) > self.limit:
            self.kept.popitem(last=False)
        return features
