"""What headers say, of files as cameras, drawing programs and scanners write them."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from helpers_planted import affine, patch_header, save_volume, scan
from PIL import Image

from medsam2.data.volumes import read_volume
from medsam2.doctor.inspect_files import axis_codes, exif_orientation, palette_colours, read_affine

PIXELS = np.arange(12, dtype=np.uint8).reshape(3, 4)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
@pytest.mark.parametrize("orientation", [3, 6])
def test_exif_orientation(tmp_path: Path, suffix: str, orientation: int) -> None:
    path, tags = tmp_path / f"a{suffix}", Image.Exif()
    Image.fromarray(PIXELS).save(path)
    assert exif_orientation(path) == 1
    tags[0x0112] = orientation
    Image.fromarray(PIXELS).save(path, exif=tags)
    assert exif_orientation(path) == orientation


def test_files_that_say_nothing(tmp_path: Path) -> None:
    for name, content in (
        ("a.png", b""),
        ("b.jpg", b"\xff\xd8\xff"),
        ("c.nii", b"12"),
        ("d.npz", b"PK"),
        ("e.mha", b""),
    ):
        (tmp_path / name).write_bytes(content)
    for path in (*tmp_path.iterdir(), tmp_path / "missing.png", tmp_path / "missing.nii", tmp_path):
        assert exif_orientation(path) == 1
        assert palette_colours(path) == {}
        assert read_affine(path) is None


@pytest.mark.parametrize(
    ("palette", "colours"),
    [
        ([0, 0, 0, 255, 0, 0, 0, 0, 255], {0: (0, 0, 0), 1: (255, 0, 0)}),
        ([0, 0, 0, 255, 255, 255, 0, 0, 255], {}),  # the colour is not used
        ([9, 9, 9, 7, 7, 7], {}),
    ],
)
@pytest.mark.parametrize("suffix", [".png", ".gif", ".tif"])
def test_colours_of_a_palette(
    tmp_path: Path, suffix: str, palette: list[int], colours: dict[int, tuple[int, int, int]]
) -> None:
    image = Image.fromarray((PIXELS > 5).astype(np.uint8), mode="P")
    image.putpalette(palette)
    image.save(tmp_path / f"a{suffix}")
    assert palette_colours(tmp_path / f"a{suffix}") == colours


def test_grey_images_have_no_palette(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    assert palette_colours(tmp_path / "a.png") == {}


@pytest.mark.parametrize(("directions", "codes"), [((1, 1, 1), "RAS"), ((-1, 1, 1), "LAS"), ((-1, -1, 1), "LPS")])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_axes_of_nifti(tmp_path: Path, suffix: str, directions: tuple[int, ...], codes: str) -> None:
    path = tmp_path / f"a{suffix}"
    save_volume(path, scan(0), affine(*directions))
    found = read_affine(path)
    assert found is not None
    np.testing.assert_allclose(found, affine(*directions))
    assert axis_codes(found) == codes


def test_axes_of_nifti_are_those_of_the_loader(tmp_path: Path) -> None:
    """Where the sform counts voxels, and the qform says that they are turned."""
    save_volume(tmp_path / "a.nii", scan(0), affine(-1, -1, 1))
    patch_header(tmp_path / "a.nii", qform_code=1, srow_x=(1, 0, 0, 0), srow_y=(0, 1, 0, 0), srow_z=(0, 0, 1, 0))
    found, loaded = read_affine(tmp_path / "a.nii"), read_volume(tmp_path / "a.nii").affine
    assert found is not None
    assert loaded is not None
    np.testing.assert_allclose(found, loaded)
    np.testing.assert_allclose(found, affine(-1, -1, 1), atol=1e-5)
    assert axis_codes(found) == "LPS"


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_axes_of_other_formats_are_those_of_the_loader(tmp_path: Path, suffix: str) -> None:
    import SimpleITK

    image = SimpleITK.GetImageFromArray(scan(0))
    image.SetSpacing((2.0, 3.0, 4.0))
    image.SetOrigin((5.0, 6.0, 7.0))
    image.SetDirection((0, 1, 0, -1, 0, 0, 0, 0, 1))
    path = tmp_path / f"a{suffix}"
    SimpleITK.WriteImage(image, str(path))
    found, loaded = read_affine(path), read_volume(path).affine
    assert found is not None
    assert loaded is not None
    np.testing.assert_allclose(found, loaded)
    assert axis_codes(found) == "ALS"  # ITK counts to the left and back


def test_nifti_without_orientation(tmp_path: Path) -> None:
    save_volume(tmp_path / "a.nii", scan(0))
    patch_header(tmp_path / "a.nii", sform_code=0, qform_code=0)
    assert nibabel.load(tmp_path / "a.nii").affine is not None  # nibabel makes one up
    assert read_affine(tmp_path / "a.nii") is None
