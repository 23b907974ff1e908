"""Grids and crops against numbers computed by hand."""

import numpy as np
import pytest

from medsam2.predictors.crops import make_crops, make_point_grid, make_point_grids


def test_grid_has_the_centres_of_cells_x_fastest() -> None:
    assert make_point_grid(2).tolist() == [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]


def test_grids_shrink_per_layer_and_round_down() -> None:
    assert [len(grid) for grid in make_point_grids(7, None, 2, 2)] == [49, 9, 1]
    given = [np.array([[0.5, 0.5]])]
    assert make_point_grids(None, given, 0, 1) == given


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((None, None, 0, 1), "either points_per_side or point_grids"),
        ((4, [np.zeros((1, 2))], 0, 1), "either points_per_side or point_grids"),
        ((3, None, 2, 2), r"\[9, 1, 0\] points.*raise points_per_side"),
        ((0, None, 0, 1), r"\[0\] points"),
        ((None, [np.zeros((1, 2))], 1, 1), "crop_n_layers=1 needs 2 grids"),
        ((4, None, -1, 1), "crop_n_layers=-1 must be at least 0"),
        ((4, None, 1, 0), "downscale_factor=0 at least 1"),
    ],
)
def test_grids_that_cannot_be_are_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_point_grids(*arguments)


def test_crops_without_layers_are_the_image() -> None:
    assert make_crops((480, 640), 0, 0.3) == [([0, 0, 640, 480], 0)]


def test_crops_of_the_first_layer() -> None:
    # overlap int(512/1500 * 480 * 2/2) = 163; widths ceil((163 + 640) / 2) = 402, heights ceil((163 + 480) / 2) = 322
    assert make_crops((480, 640), 1, 512 / 1500)[1:] == [
        ([0, 0, 402, 322], 1),
        ([0, 159, 402, 480], 1),  # starts at 322 - 163; its end, 481, is clipped
        ([239, 0, 640, 322], 1),
        ([239, 159, 640, 480], 1),
    ]


def test_crops_of_the_second_layer() -> None:
    crops = [box for box, layer in make_crops((100, 200), 2, 0.2) if layer == 2]
    # overlap int(0.2 * 100 * 2/4) = 10; widths ceil((30 + 200) / 4) = 58, heights ceil((30 + 100) / 4) = 33
    assert len(crops) == 16
    assert crops[:5] == [[0, 0, 58, 33], [0, 23, 58, 56], [0, 46, 58, 79], [0, 69, 58, 100], [48, 0, 106, 33]]
    assert crops[-1] == [144, 69, 200, 100]
