"""What a predictor accepts, what it makes of it, and what it says to the rest."""

import numpy as np
import pytest
import torch
from PIL import Image

from medsam2.predictors.inputs import read_image, read_prompts, resize_image

RGB = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
GREY = RGB[..., 0]
CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (RGB, RGB),
        (Image.fromarray(RGB), RGB),
        (Image.fromarray(np.dstack((RGB, GREY))), RGB),  # alpha goes
        (RGB[::-1, ::-1], RGB[::-1, ::-1]),
        (GREY, np.dstack((GREY,) * 3)),
        (GREY[..., None], np.dstack((GREY,) * 3)),
        (Image.fromarray(GREY), np.dstack((GREY,) * 3)),
        (RGB / 64, (RGB / 64).astype(np.float32)),
        ((RGB / 64).astype(np.float16), (RGB / 64).astype(np.float32)),
        (Image.fromarray((GREY / 64).astype(np.float32)), np.dstack(((GREY / 64).astype(np.float32),) * 3)),
    ],
)
def test_images_become_rgb(image: np.ndarray, expected: np.ndarray) -> None:
    pixels = read_image(image)
    assert pixels.dtype == expected.dtype
    assert np.array_equal(pixels, expected)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(4, 5, 3), "image is a Tensor: pass a NumPy array"),
        ("slice.png", "image is a str: pass a NumPy array"),
        (np.zeros((3, 4, 5), np.uint8), "image is 3 x 4 x 5: pass H x W x 3"),
        (np.zeros((1, 4, 5, 3), np.uint8), "image is 1 x 4 x 5 x 3: pass H x W x 3"),
        (np.zeros((4, 5, 4), np.uint8), "image is 4 x 5 x 4"),
        (np.zeros((0, 5, 3), np.uint8), "image is 0 x 5 x 3"),
        (np.zeros(5, np.uint8), r"image is of shape \(5,\): pass"),
        (np.zeros((4, 5), np.int16), "image is int16: window it to uint8"),
        (Image.fromarray(np.full((4, 5), 1000, np.uint16)), "image is uint16: window it"),
        (np.zeros((4, 5), bool), "image is bool"),
        (RGB * 1.0, "image ranges from 0 to 59: .*divide by 255"),
        (RGB / 59 - 0.5, r"image ranges from -0\.5 to 0\.5"),
        (np.where(GREY == 3, np.nan, 0.5), "image holds 1 values that are NaN or infinite"),
        (np.where(GREY > 50, np.inf, 0.5), "image holds 3 values that are NaN or infinite"),
    ],
)
def test_other_images_are_refused(image: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_image(image)


def test_resizing_averages_when_shrinking_and_keeps_values() -> None:
    step = np.zeros((64, 96, 3), np.uint8)
    step[:, 48:] = 255
    small = resize_image(step, 32, CPU)
    assert small.shape == (3, 32, 32)
    assert small.dtype == torch.float32
    columns = small[0, 16]
    assert columns[[0, 10, 21, 31]].tolist() == pytest.approx([0, 0, 1, 1], abs=1e-6)
    # Centre 46.5, a triangle 3 pixels to either side: weights 1 2 3 2 1 of 9, the last of them on pixel 48.
    assert columns[15].item() == pytest.approx(1 / 9, abs=1e-6)
    assert columns[15] + columns[16] == pytest.approx(1)
    same = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert torch.equal(resize_image(same, 32, CPU), torch.from_numpy(same).permute(2, 0, 1) / 255)
    grey = (same / 255).astype(np.float32)
    torch.testing.assert_close(resize_image(grey, 48, CPU), resize_image(same, 48, CPU))


def test_pixels_are_scaled_per_axis_boxes_before_clicks() -> None:
    prompts = read_prompts((50, 200), 64, [[100, 25], [200, 0]], [1, 0], [20, 10, 60, 50])
    torch.testing.assert_close(prompts.coords, torch.tensor([[[6.4, 12.8], [19.2, 64], [32, 32], [64, 0]]]))
    assert prompts.labels.tolist() == [[2, 3, 1, 0]]
    assert (prompts.masks, prompts.batched, prompts.num_objects, prompts.layout) == (None, False, 1, (4, False))


def test_unit_coordinates_are_scaled_by_the_network_alone() -> None:
    prompts = read_prompts((50, 200), 64, [[0.5, 0.25]], [1], normalize_coords=False)
    assert prompts.coords.tolist() == [[[32.0, 16.0]]]


@pytest.mark.parametrize(
    ("arguments", "num_objects", "batched", "layout"),
    [
        ({}, 1, False, (0, False)),
        ({"box": np.array([[0, 0, 5, 5], [1, 1, 2, 2], [0, 0, 1, 1]])}, 3, True, (2, False)),
        ({"box": [[0, 0, 5, 5]]}, 1, True, (2, False)),
        ({"point_coords": np.zeros((4, 3, 2)), "point_labels": np.ones((4, 3))}, 4, True, (3, False)),
        ({"mask_input": np.zeros((1, 16, 16), np.float32)}, 1, False, (0, True)),
        ({"mask_input": np.zeros((2, 1, 16, 16)), "box": np.zeros((2, 4))}, 2, True, (2, True)),
        ({"point_coords": [[1, 1]], "point_labels": [True], "box": (0, 0, 1, 1)}, 1, False, (3, False)),
    ],
)
def test_objects_and_layout(arguments: dict, num_objects: int, batched: bool, layout: tuple[int, bool]) -> None:
    prompts = read_prompts((50, 200), 64, **arguments)
    assert (prompts.num_objects, prompts.batched, prompts.layout) == (num_objects, batched, layout)
    for tensor, shape in ((prompts.coords, (layout[0], 2)), (prompts.labels, layout[:1]), (prompts.masks, (1, 16, 16))):
        assert tensor is None or tuple(tensor.shape) == (num_objects, *shape)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"point_coords": [[1, 1]]}, "come together: point_labels is None"),
        ({"point_labels": [1]}, "come together: point_coords is None"),
        ({"point_coords": [1, 1], "point_labels": [1]}, r"point_coords is of shape \(2,\): pass P x 2"),
        ({"point_coords": np.zeros((0, 2)), "point_labels": []}, "point_coords is 0 x 2: .*None for none"),
        ({"point_coords": np.zeros((2, 3)), "point_labels": [1, 1]}, "point_coords is 2 x 3"),
        (
            {"point_coords": np.zeros((2, 2)), "point_labels": [1]},
            r"point_labels is of shape \(1,\), point_coords 2 x 2: pass a label",
        ),
        ({"point_coords": [[1, 1]], "point_labels": [2]}, "point_labels holds 2: .*pass boxes as box"),
        ({"point_coords": [[1, 1]], "point_labels": [-1]}, "point_labels holds -1"),
        ({"point_coords": [[1, 1]], "point_labels": [0.5]}, "point_labels holds 0.5"),
        ({"point_coords": [[60, 51]], "point_labels": [1]}, r"\(60, 51\) outside \[0, 200\] x \[0, 50\].*normalize"),
        ({"point_coords": [[-1, 5]], "point_labels": [1]}, r"\(-1, 5\) outside"),
        ({"point_coords": [[np.nan, 5]], "point_labels": [1]}, r"\(nan, 5\) outside"),
        (
            {"point_coords": [[60, 5]], "point_labels": [1], "normalize_coords": False},
            r"\(60, 5\) outside \[0, 1\] x \[0, 1\]",
        ),
        ({"box": "5 5 9 9"}, "box='5 5 9 9' is no array of numbers"),
        ({"point_coords": [[1, 1], [2]], "point_labels": [1, 1]}, r"point_coords=\[\[1, 1\], \[2\]\] is ragged: pass"),
        ({"box": [0, 0, 5]}, r"box is of shape \(3,\): pass 4 numbers"),
        ({"box": [[1, None, 2, 3]]}, r"box=\[\[1, None, 2, 3\]\] is no array of numbers"),
        ({"point_coords": [[1, 1]], "point_labels": ["1"]}, r"point_labels=\['1'\] is no array of numbers"),
        ({"mask_input": [[[1.0], [1.0, 2.0]]]}, "mask_input=.* is ragged"),
        ({"box": np.zeros((0, 4))}, "box is 0 x 4"),
        ({"box": np.zeros((1, 1, 4))}, "box is 1 x 1 x 4"),
        ({"box": [0, 0, 201, 5]}, r"box has a point \(201, 5\) outside"),
        ({"box": [[0, 0, 9, 5], [9, 0, 4, 5]]}, r"box \[9.0, 0.0, 4.0, 5.0\] ends before it starts.*not \(x, y, width"),
        ({"mask_input": np.zeros((1, 16, 16), bool)}, "mask_input is bool .*pass logits"),
        ({"mask_input": np.full((1, 16, 16), np.nan)}, "not finite: pass logits"),
        ({"mask_input": np.zeros((16, 16))}, "mask_input is 16 x 16: pass logits as predict returns"),
        ({"mask_input": np.zeros((3, 16, 16))}, "mask_input is 3 x 16 x 16"),
        (
            {"box": np.zeros((3, 4)), "point_coords": [[1, 1]], "point_labels": [1]},
            "'box': 3, 'point_coords': 1.*the same number",
        ),
        ({"box": np.zeros((3, 4)), "mask_input": np.zeros((2, 1, 16, 16))}, "'box': 3, 'mask_input': 2"),
    ],
)
def test_other_prompts_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_prompts((50, 200), 64, **arguments)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_tensors_with_gradients_are_prompts(dtype: torch.dtype) -> None:
    box = torch.tensor([1.0, 2.0, 30.0, 40.0], dtype=dtype, requires_grad=True)
    clicks = [torch.tensor([5.0, 6.0], dtype=dtype, requires_grad=True)]  # a list of tensors
    logits = torch.full((1, 16, 16), -3.0, dtype=dtype).requires_grad_()
    given = read_prompts((64, 64), 64, clicks, torch.tensor([1]), list(box), mask_input=logits)
    assert given.coords is not None
    assert given.coords.tolist() == [[[1.0, 2.0], [30.0, 40.0], [5.0, 6.0]]]
    assert given.labels is not None
    assert given.labels.tolist() == [[2, 3, 1]]
    assert torch.equal(given.masks, torch.full((1, 1, 16, 16), -3.0))  # type: ignore[arg-type]
