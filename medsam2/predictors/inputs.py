"""What people pass to a predictor, checked and brought to what the network takes. (x, y) goes to pixels it sees."""

import reprlib
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from PIL.Image import Image
from torch import Tensor, nn

BOX_LABELS = (2, 3)  # top-left and bottom-right corner


def read_image(image: np.ndarray | Image) -> np.ndarray:
    """An image as H x W x 3, uint8 or float32 in [0, 1].

    Args:
        image: a PIL image or an array, H x W x 3 RGB, or H x W (x 1) grey, which becomes three equal channels;
            uint8, or floating point in [0, 1].

    Raises:
        ValueError: another type or shape, no pixels, or floats that are not finite or not in [0, 1].
    """
    if isinstance(image, Image) and not image.mode.startswith(("I", "F")):  # more than 8 bits: convert() would clip
        image = image.convert("RGB")
    elif not isinstance(image, np.ndarray | Image):
        raise ValueError(f"image is a {type(image).__name__}: pass a NumPy array, H x W x 3, or a PIL image")
    pixels = np.array(image, order="C")
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3) or pixels.size == 0:
        raise ValueError(f"image is {describe(pixels)}: pass H x W x 3 (RGB, channels last), or H x W for grey")
    if pixels.dtype != np.uint8:
        check_floats(pixels, np.issubdtype(pixels.dtype, np.floating))
        pixels = pixels.astype(np.float32)
    return pixels.repeat(3, axis=2) if pixels.shape[2] == 1 else pixels


def read_tensor(image: Tensor) -> Tensor:
    """A tensor 3 x H x W, 1 x H x W or H x W as read_image would return it, H x W x 3, on its own device."""
    pixels = image.detach().movedim(0, -1) if image.ndim == 3 else image.detach()[..., None]
    if pixels.dtype != torch.uint8:
        check_floats(pixels, pixels.is_floating_point())
        pixels = pixels.float()
    return pixels.expand(-1, -1, 3)


def describe(array: np.ndarray) -> str:
    """Shape of an array in words; of one axis as NumPy says it, for "is 3" would be its value."""
    if array.ndim == 1:
        return f"of shape {array.shape}"
    return " x ".join(map(str, array.shape)) or "a single number"


def check_floats(pixels: np.ndarray | Tensor, is_floating: bool) -> None:
    """ValueError unless these are floats in [0, 1]."""
    if not is_floating:
        dtype = str(pixels.dtype).removeprefix("torch.")
        raise ValueError(f"image is {dtype}: window it to uint8, or to floats in [0, 1]")
    finite = torch.isfinite(pixels) if isinstance(pixels, Tensor) else np.isfinite(pixels)
    if not finite.all():
        raise ValueError(f"image holds {int((~finite).sum())} values that are NaN or infinite: replace them")
    low, high = float(pixels.min()), float(pixels.max())
    if low < 0 or high > 1:
        raise ValueError(
            f"image ranges from {low:g} to {high:g}: floats must lie in [0, 1]; "
            "divide by 255, window them, or pass uint8"
        )


def check_evaluation(model: nn.Module) -> None:
    """RuntimeError where dropout would make the answers random."""
    if model.training:
        raise RuntimeError("the model is in training mode and would answer at random: call model.eval() first")


def resize_image(pixels: np.ndarray | Tensor, image_size: int, device: torch.device) -> Tensor:
    """H x W x 3, as read_image returns it -> 3 x S x S in [0, 1]: bilinear, antialiased, sides on their own."""
    images = torch.as_tensor(pixels).to(device).permute(2, 0, 1)[None]
    images = images / 255 if images.dtype == torch.uint8 else images
    return F.interpolate(images, (image_size, image_size), mode="bilinear", antialias=True)[0]


def to_array(x: ArrayLike | Tensor) -> np.ndarray:
    """Anything like an array, tensors of any device and with gradients included, also in lists."""
    if isinstance(x, Tensor):
        return (x.float() if x.dtype == torch.bfloat16 else x).detach().cpu().numpy()  # NumPy has no bfloat16
    return np.asarray([to_array(row) for row in x] if isinstance(x, list | tuple) else x)


def to_numbers(name: str, x: ArrayLike | Tensor) -> np.ndarray:
    """The argument `name` as an array; ValueError where it holds no numbers, or rows of different lengths."""
    try:
        array = to_array(x)
    except ValueError:
        raise ValueError(f"{name}={reprlib.repr(x)} is ragged: pass rows of equal length") from None
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{name}={reprlib.repr(x)} is no array of numbers: pass numbers, or None for none")
    return array


class Prompts(NamedTuple):
    """Prompts of N objects in one image: pixels the network sees, on its device.

    coords: N x P x 2, box corners before clicks; labels: N x P; masks: N x 1 x 4n x 4n logits, n the side of the
    image embedding; each may be None.
    batched: whether any was given with an axis of objects, which the answer then has, too.
    """

    coords: Tensor | None
    labels: Tensor | None
    masks: Tensor | None
    batched: bool = True

    @property
    def num_objects(self) -> int:
        """N; no prompt at all asks for one object."""
        given = self.masks if self.coords is None else self.coords
        return 1 if given is None else given.shape[0]

    @property
    def layout(self) -> tuple[int, bool]:
        """Prompts of equal layout decode as one batch: padding to equal lengths would change the answer."""
        return 0 if self.coords is None else self.coords.shape[1], self.masks is not None


def read_prompts(
    size: tuple[int, int],
    image_size: int,
    point_coords: ArrayLike | None = None,
    point_labels: ArrayLike | None = None,
    box: ArrayLike | None = None,
    mask_input: ArrayLike | None = None,
    *,
    normalize_coords: bool = True,
    device: torch.device | None = None,
) -> Prompts:
    """Check the prompts of one image of `size` (height, width); their arguments as SAM2ImagePredictor.predict.

    Raises:
        ValueError: a prompt of another shape, outside the image, with unknown labels or without any, a box inside
            out, logits that are none, or different numbers of objects.
    """
    extent = np.array(size[::-1]) if normalize_coords else np.ones(2)
    points: dict[str, tuple[np.ndarray, np.ndarray]] = {}  # coords N x P x 2 and labels N x P
    if box is not None:
        points["box"] = read_boxes(box, extent)
    if point_coords is not None or point_labels is not None:
        points["point_coords"] = read_points(point_coords, point_labels, extent)
    masks = None if mask_input is None else read_masks(mask_input, device)
    counts = {name: len(coords) for name, (coords, _) in points.items()}
    counts |= {} if masks is None else {"mask_input": len(masks)}
    if len(set(counts.values())) > 1:
        raise ValueError(f"numbers of objects differ: {counts}; give every prompt the same number of them")
    batched = any(
        to_array(x).ndim == ndim for x, ndim in ((point_coords, 3), (box, 2), (mask_input, 4)) if x is not None
    )
    if not points:
        return Prompts(None, None, masks, batched)
    coords, labels = (np.concatenate(column, axis=1) for column in zip(*points.values(), strict=True))
    scaled = torch.tensor(coords * image_size / extent, dtype=torch.float32, device=device)
    return Prompts(scaled, torch.tensor(labels, dtype=torch.long, device=device), masks, batched)


def read_boxes(box: ArrayLike, extent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (x0, y0, x1, y1), 4 or N x 4, as corners N x 2 x 2 with labels N x 2."""
    boxes = to_numbers("box", box).astype(np.float64)
    if boxes.ndim not in (1, 2) or boxes.shape[-1] != 4 or boxes.size == 0:
        raise ValueError(f"box is {describe(boxes)}: pass 4 numbers (x0, y0, x1, y1), or N x 4 for N objects")
    corners = boxes.reshape(-1, 2, 2)
    check_inside("box", corners, extent)
    inverted = (corners[:, 1] < corners[:, 0]).any(1)
    if inverted.any():
        raise ValueError(
            f"box {corners[inverted][0].ravel().tolist()} ends before it starts: pass (x0, y0, x1, y1), "
            "top-left corner first, not (x, y, width, height)"
        )
    return corners, np.tile(BOX_LABELS, (len(corners), 1))


def read_points(
    point_coords: ArrayLike | None, point_labels: ArrayLike | None, extent: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Clicks P x 2 or N x P x 2 with labels P or N x P, as N x P x 2 and N x P."""
    if point_coords is None or point_labels is None:
        missing = "point_coords" if point_coords is None else "point_labels"
        raise ValueError(f"point_coords and point_labels come together: {missing} is None")
    coords = to_numbers("point_coords", point_coords).astype(np.float64)
    labels = to_numbers("point_labels", point_labels)
    if coords.ndim not in (2, 3) or coords.shape[-1] != 2 or coords.size == 0:
        raise ValueError(
            f"point_coords is {describe(coords)}: pass P x 2, (x, y) each, or N x P x 2 for N objects; None for none"
        )
    if labels.shape != coords.shape[:-1]:
        raise ValueError(f"point_labels is {describe(labels)}, point_coords {describe(coords)}: pass a label per point")
    unknown = labels[~np.isin(labels, (0, 1))]
    if unknown.size:
        raise ValueError(
            f"point_labels holds {unknown[0]}: a click is 1 (inside) or 0 (outside); -1, 2 and 3 mark padding and "
            "box corners inside the network, pass boxes as box"
        )
    check_inside("point_coords", coords, extent)
    return (coords, labels) if coords.ndim == 3 else (coords[None], labels[None])


def check_inside(name: str, coords: np.ndarray, extent: np.ndarray) -> None:
    """Coordinates ... x 2 lie in [0, extent]; NaN does not."""
    outside = ~((coords >= 0) & (coords <= extent)).all(-1)
    if outside.any():
        (x, y), (width, height) = coords[outside][0], extent
        raise ValueError(
            f"{name} has a point ({x:g}, {y:g}) outside [0, {width:g}] x [0, {height:g}]: pass (x, y) in the image, "
            "in pixels, or in [0, 1] with normalize_coords=False"
        )


def read_masks(mask_input: ArrayLike, device: torch.device | None) -> Tensor:
    """Logits 1 x h x w or N x 1 x h x w as the latter; the network checks h and w."""
    masks = to_numbers("mask_input", mask_input)
    if not np.issubdtype(masks.dtype, np.floating) or not np.isfinite(masks).all():
        raise ValueError(
            f"mask_input is {masks.dtype} or not finite: pass logits, one of the low_res_masks of an earlier predict"
        )
    if masks.ndim not in (3, 4) or masks.shape[-3] != 1:
        raise ValueError(
            f"mask_input is {describe(masks)}: pass logits as predict returns them, 1 x h x w, or N x 1 x h x w"
        )
    logits = torch.tensor(masks, dtype=torch.float32, device=device)
    return logits if masks.ndim == 4 else logits[None]
