"""Slices as radiologists see them, from grids that are flipped, permuted, anisotropic and oblique, and back."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
from nibabel.orientations import axcodes2ornt, ornt_transform
from trees_volumes import MM, affine_of, turned

from medsam2.data.geometry import PLANES, Geometry, find_geometry
from medsam2.data.records import DatasetError

PHANTOM = np.arange(4 * 3 * 5, dtype=np.int16).reshape(4, 3, 5)  # right, front, up; every voxel another value
FLIPPED = PHANTOM[::-1, ::-1]  # left, back, up
SHOWN = {  # slice, row, column
    "axial": FLIPPED.transpose(2, 1, 0),
    "coronal": FLIPPED[:, :, ::-1].transpose(1, 2, 0),
    "sagittal": FLIPPED[:, :, ::-1].transpose(0, 2, 1),
}
ORIENTATIONS = [
    "".join(pair[flip] for pair, flip in zip(order, flips, strict=True))
    for order in permutations(("RL", "AP", "SI"))
    for flips in product((0, 1), repeat=3)
]


@pytest.mark.parametrize("plane", PLANES)
def test_every_orientation_shows_the_same_picture(plane: str) -> None:
    assert len(set(ORIENTATIONS)) == 48
    for codes in ORIENTATIONS:
        image = turned(PHANTOM, codes, affine_of(tilt=0.3))
        stored = np.asarray(image.dataobj)
        geometry = find_geometry(stored.shape, image.affine, plane, "file")
        assert np.array_equal(geometry.to_slices(stored), SHOWN[plane]), codes
        assert np.array_equal(geometry.from_slices(SHOWN[plane]), stored), codes
        right, front, up = MM
        expected = {"axial": (up, front, right), "coronal": (front, up, right), "sagittal": (right, up, front)}
        assert geometry.spacing == pytest.approx(expected[plane])


def test_axial_slices_run_upwards_rows_to_the_back_columns_to_the_left() -> None:
    """Voxels at known millimetres, through grids turned at random."""
    rng = np.random.default_rng(0)
    for _ in range(100):
        turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        affine = np.eye(4)
        affine[:3, :3] = turn @ np.diag(rng.uniform(0.3, 5, 3))
        affine[:3, 3] = rng.uniform(-200, 200, 3)
        index = np.indices((3, 4, 5))
        mm = (np.tensordot(affine[:3, :3], index, axes=1) + affine[:3, 3, None, None, None]).transpose(1, 2, 3, 0)
        geometry = find_geometry((3, 4, 5), affine, "axial", "file")
        slices = geometry.to_slices(mm)
        assert np.array_equal(geometry.from_slices(slices), mm)
        for axis, (world, direction) in enumerate(((2, 1), (1, -1), (0, -1))):
            steps = np.diff(slices, axis=axis)
            assert (direction * steps[..., world] > 0).all()
            assert np.linalg.norm(steps, axis=-1) == pytest.approx(geometry.spacing[axis])


@pytest.mark.parametrize(
    ("mm", "plane"),
    [
        ((0.7, 0.7, 5.0), "axial"),
        ((0.7, 5.0, 0.7), "coronal"),
        ((5.0, 0.7, 0.7), "sagittal"),
        ((1.0, 1.0, 1.0), "axial"),
        ((1.05, 1.0, 1.0), "axial"),
        ((0.5, 5.0, 5.0), "axial"),
    ],
)
@pytest.mark.parametrize("codes", ["RAS", "PIR", "LSA"])
def test_acquired_is_across_the_thickest_slices(mm: tuple[float, ...], plane: str, codes: str) -> None:
    image = turned(PHANTOM, codes, affine_of(mm))
    geometry = find_geometry(image.shape, image.affine, "acquired", "file")
    assert geometry == find_geometry(image.shape, image.affine, plane, "file")
    assert np.array_equal(geometry.to_slices(np.asarray(image.dataobj)), SHOWN[plane])


def test_channels_come_last() -> None:
    image = turned(PHANTOM, "PIR")
    stored = np.asarray(image.dataobj)
    colours = np.stack([stored, stored + 100, stored + 200], axis=-1)
    geometry = find_geometry(colours.shape, image.affine, "axial", "file")
    slices = geometry.to_slices(colours)
    assert np.array_equal(slices[..., 1], SHOWN["axial"] + 100)
    assert np.array_equal(geometry.from_slices(slices), colours)
    assert slices.base is not None  # nothing is copied


def test_without_an_affine_the_array_is_slices_already() -> None:
    for plane in ("axial", "acquired"):
        assert find_geometry(PHANTOM.shape, None, plane, "file") == Geometry((4, 3, 5))
    assert np.array_equal(Geometry((4, 3, 5)).to_slices(PHANTOM), PHANTOM)
    with pytest.raises(DatasetError, match="plane=coronal: case1 does not say where its axes point") as error:
        find_geometry(PHANTOM.shape, None, "coronal", "case1")
    assert error.value.kind == "orientation"


@pytest.mark.parametrize(
    "columns",
    [
        ([0, 0, 0], [0, 1, 0], [0, 0, 1]),
        ([1, 1, 0], [2, 2, 0], [0, 0, 1]),
        ([1, 0, 0], [0, 1, 0], [1, 1, 0]),
        ([np.nan, 0, 0], [0, 1, 0], [0, 0, 1]),
        ([np.inf, 0, 0], [0, 1, 0], [0, 0, 1]),
    ],
)
def test_an_affine_without_three_directions_is_refused(columns: tuple[list[float], ...]) -> None:
    affine = np.eye(4)
    affine[:3, :3] = np.array(columns, dtype=float).T
    with pytest.raises(DatasetError, match=r"liver\.nii: its affine is not invertible") as error:
        find_geometry((2, 2, 2), affine, "axial", "liver.nii")
    assert error.value.kind == "non-invertible affine"


def test_the_phantoms_of_the_tests_are_turned_by_nibabel() -> None:
    """One orientation by hand: P is the reverse of A, so y comes first and backwards; I and R likewise."""
    stored = np.asarray(turned(PHANTOM, "PIR").dataobj)
    assert np.array_equal(stored, PHANTOM[:, ::-1, ::-1].transpose(1, 2, 0))
    assert ornt_transform(axcodes2ornt("RAS"), axcodes2ornt("PIR")).shape == (3, 2)
