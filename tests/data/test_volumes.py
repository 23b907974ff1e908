"""Volumes in every format: where their voxels lie, what is refused, and labels written back on the very same grid."""

from __future__ import annotations

import locale
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK
from numpy.typing import NDArray
from trees_volumes import CODES, INTENSITY, MM, SHAPE, affine_of, organs, save_volume, scan, turned, write_nnunet

from medsam2.data.geometry import find_geometry
from medsam2.data.records import DatasetError
from medsam2.data.releases.nnunet import NNUNet
from medsam2.data.volume_dataset import VolumeDataset
from medsam2.data.volumes import is_volume, nifti_affine, read_volume, save_label

FORMATS = (".nii.gz", ".nii", ".nrrd", ".mha")


def refused(path: Path, kind: str, *parts: str, channels: tuple[int, ...] | None = None) -> None:
    with pytest.raises(DatasetError) as error:
        read_volume(path, channels)
    assert error.value.kind == kind
    assert str(path) in str(error.value)
    for part in parts:
        assert part in str(error.value)


def save_series(folder: Path, array: NDArray[np.int16], affine: NDArray[np.float64], uid: str = "1.2.3") -> Path:
    """Slices along the third axis as DICOM files, with the slope and intercept of a CT."""
    moved = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    sizes = np.linalg.norm(moved[:3, :3], axis=0)
    directions = moved[:3, :3] / sizes
    before = locale.setlocale(locale.LC_ALL)
    writer = SimpleITK.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    folder.mkdir(parents=True, exist_ok=True)
    for z in range(array.shape[2]):
        image = SimpleITK.GetImageFromArray(array[:, :, z : z + 1].T)  # the writer stores it by slope and intercept
        image.SetSpacing(sizes.tolist())
        origin = moved[:3, 3] + z * moved[:3, 2]
        tags = {
            "0008|0016": "1.2.840.10008.5.1.4.1.1.2",
            "0008|0018": f"{uid}.{z + 1}",
            "0008|0060": "CT",
            "0010|0020": "patient",
            "0020|000d": "1.2",
            "0020|000e": uid,
            "0020|0013": str(z + 1),
            "0020|0032": "\\".join(f"{mm:.6f}" for mm in origin),
            "0020|0037": "\\".join(f"{value:.9f}" for value in directions[:, :2].T.ravel()),
            "0018|0050": str(sizes[2]),
            "0028|1052": "-1024",
            "0028|1053": "1",
        }
        for tag, value in tags.items():
            image.SetMetaData(tag, value)
        name = folder / f"IM{array.shape[2] - z:03d}.dcm"
        writer.SetFileName(str(name))
        writer.Execute(image)
        name.rename(name.with_suffix(".dcm" if z % 2 else ""))  # scanners often leave the ending out
    locale.setlocale(locale.LC_ALL, before)  # writing DICOM makes it "C", and other tests read text as ASCII
    return folder


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize("codes", ["RAS", "PIR", "SRA"])
def test_every_format_tells_the_same_voxels_and_places(tmp_path: Path, ending: str, codes: str) -> None:
    phantom = scan(1, organs(1, 3))
    path = save_volume(tmp_path / f"scan{ending}", phantom, codes)
    expected = turned(phantom, codes)
    volume = read_volume(path)
    assert volume.array.dtype == np.int16
    assert np.array_equal(volume.array, np.asarray(expected.dataobj))
    assert volume.affine == pytest.approx(expected.affine, abs=1e-4)


def test_intensities_are_scaled_by_the_header(tmp_path: Path) -> None:
    path = save_volume(tmp_path / "ct.nii", np.arange(60, dtype=np.int16).reshape(3, 4, 5))
    content = bytearray(path.read_bytes())
    content[112:120] = struct.pack("<ff", 2, -1024)  # scl_slope, scl_inter
    path.write_bytes(content)
    volume = read_volume(path)
    assert volume.array.dtype == np.float32
    assert volume.array.ravel()[:3].tolist() == [-1024, -1022, -1020]


@pytest.mark.parametrize("qform", [True, False])
def test_pixdim_is_believed_where_the_sform_counts_voxels(tmp_path: Path, qform: bool) -> None:
    """As in ACDC."""
    path = save_volume(tmp_path / "heart.nii.gz", np.zeros(SHAPE, np.uint8), "LPS", affine_of((1.5, 1.4, 10), 0))
    header = nibabel.load(path).header
    header.set_sform(np.diag([-1.0, -1.0, 1.0, 1.0]), code=1)
    header["qform_code"] = int(qform)
    nibabel.save(nibabel.Nifti1Image(np.zeros(SHAPE, np.uint8), None, header), path)
    affine = read_volume(path).affine
    assert affine is not None
    assert affine[:3, :3] == pytest.approx(np.diag([-1.5, -1.4, 10]), abs=1e-6)
    geometry = find_geometry(SHAPE, affine, "acquired", path)
    assert geometry.spacing == pytest.approx((10, 1.4, 1.5))
    assert geometry.order == (2, 1, 0)


@pytest.mark.parametrize(
    ("pixdim", "sizes"),
    [((0, 0, 0), (2, 2, 3)), ((1, 1, 1), (2, 2, 3)), ((1.5, 1.4, 10), (2, 2, 3)), ((0, 0, 0), (1, 1, 1))],
)
def test_an_sform_in_millimetres_is_kept(tmp_path: Path, pixdim: tuple[float, ...], sizes: tuple[float, ...]) -> None:
    path = save_volume(tmp_path / "scan.nii", np.zeros(SHAPE, np.uint8), "RAS", np.diag([*sizes, 1.0]))
    content = bytearray(path.read_bytes())
    content[80:92] = struct.pack("<fff", *pixdim)  # pixdim[1:4], as other programs leave it
    path.write_bytes(content)
    assert read_volume(path).affine == pytest.approx(np.diag([*sizes, 1.0]))


def test_a_pixdim_that_states_no_size_is_not_believed() -> None:
    header = nibabel.Nifti1Header()
    header.set_sform(np.eye(4), code=1)
    header["pixdim"][1:4] = (0, 1.4, 10)
    assert np.array_equal(nifti_affine(header), np.eye(4))


def test_the_qform_is_used_alone(tmp_path: Path) -> None:
    image = turned(np.zeros(SHAPE, np.uint8), "PIR")
    image.set_qform(image.affine, code=1)
    image.set_sform(None, code=0)
    nibabel.save(image, tmp_path / "scan.nii.gz")
    assert read_volume(tmp_path / "scan.nii.gz").affine == pytest.approx(
        turned(np.zeros(SHAPE), "PIR").affine, abs=1e-4
    )


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd"])
def test_channels_of_a_fourth_axis(tmp_path: Path, ending: str) -> None:
    array = np.stack([np.full((3, 4, 5), value, np.int16) for value in (7, 8, 9)], axis=-1)
    path = tmp_path / f"scan{ending}"
    if ending == ".nrrd":
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array.transpose(2, 1, 0, 3), isVector=True), str(path))
    else:
        save_volume(path, array)
    one, three = read_volume(path, (1,)).array, read_volume(path, (2, 1, 0)).array
    assert (one.shape, three.shape) == ((3, 4, 5, 1), (3, 4, 5, 3))
    assert (one == 8).all()
    assert three[0, 0, 0].tolist() == [9, 8, 7]
    refused(path, "channels", "is 3×4×5×3, expected three axes", "name the channels")
    refused(path, "channels", "has 3 channels from 0 on, asked for [3]", channels=(3,))


def test_a_fourth_axis_of_one_is_none(tmp_path: Path) -> None:
    path = save_volume(tmp_path / "scan.nii.gz", np.ones((3, 4, 5, 1), np.int16))
    assert read_volume(path).array.shape == (3, 4, 5)
    assert read_volume(save_volume(tmp_path / "b.nii", np.ones((3, 4, 5), np.int16)), (0,)).array.shape == (3, 4, 5)
    refused(tmp_path / "b.nii", "channels", "has 1 channels from 0 on, asked for [1]", channels=(1,))


def test_what_is_no_volume_is_refused(tmp_path: Path) -> None:
    flat = save_volume(tmp_path / "flat.nii.gz", np.ones((3, 4, 1), np.int16))
    nibabel.save(nibabel.Nifti1Image(np.ones((3, 4), np.int16), np.eye(4)), flat)
    refused(flat, "channels", "is 3×4, expected three axes")
    colours = np.zeros((3, 4, 5), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nibabel.save(nibabel.Nifti1Image(colours, np.eye(4)), tmp_path / "rgb.nii.gz")
    refused(tmp_path / "rgb.nii.gz", "channels", "expected one number per voxel")
    SimpleITK.WriteImage(SimpleITK.Image([3, 4], SimpleITK.sitkInt16), str(tmp_path / "flat.mha"))
    refused(tmp_path / "flat.mha", "channels", "has 2 axes")


def test_files_without_an_orientation_are_refused(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.ones((3, 4, 5), np.int16), None)
    image.header.set_sform(None, 0)
    nibabel.save(image, tmp_path / "scan.nii.gz")
    refused(tmp_path / "scan.nii.gz", "orientation", "sform_code and qform_code are 0", "left may be right")
    text = "NRRD0004\ntype: short\ndimension: 3\nsizes: 2 2 2\nspacings: 1 1 1\nendian: little\nencoding: raw\n\n"
    (tmp_path / "scan.nrrd").write_bytes(text.encode() + bytes(16))
    refused(tmp_path / "scan.nrrd", "orientation", "no field `space`")


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize("keep", [0, 5, 400])
def test_a_damaged_file_is_named(tmp_path: Path, ending: str, keep: int) -> None:
    path = save_volume(tmp_path / f"scan{ending}", scan(1, organs(1, 3)))
    path.write_bytes(path.read_bytes()[:keep])
    refused(path, "unreadable", "cannot be read (", "download it again")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    refused(tmp_path / "gone.nii.gz", "unreadable", "gone.nii.gz cannot be read")


def test_a_dicom_series_and_the_label_drawn_on_it(tmp_path: Path) -> None:
    """Slices of a tilted scan, named in no order, in HU; its label is written as NIfTI in the same place."""
    phantom = organs(0, 3)
    image = turned(scan(0, phantom), "LPS")
    folder = save_series(tmp_path / "series", np.asarray(image.dataobj), image.affine)
    assert is_volume(folder)
    volume = read_volume(folder)
    assert np.array_equal(volume.array, np.asarray(image.dataobj))
    assert volume.affine == pytest.approx(image.affine, abs=1e-4)
    stored = np.asarray(turned(phantom, "LPS").dataobj)
    geometry = find_geometry(volume.array.shape, volume.affine, "axial", folder)
    slices = geometry.to_slices(stored)
    assert np.array_equal(slices, phantom[::-1, ::-1].transpose(2, 1, 0))
    save_label(tmp_path / "label.nii.gz", slices, geometry, folder)
    label = nibabel.load(tmp_path / "label.nii.gz")
    assert np.array_equal(np.asarray(label.dataobj), stored)
    assert label.affine == pytest.approx(image.affine, abs=1e-4)
    assert label.get_qform() == pytest.approx(image.affine, abs=1e-4)
    assert (int(label.header["sform_code"]), int(label.header["qform_code"])) == (1, 1)
    again = SimpleITK.ReadImage(str(tmp_path / "label.nii.gz"))
    assert again.GetSpacing() == pytest.approx(MM, abs=1e-4)
    assert again.GetOrigin() == pytest.approx((image.affine[:3, 3] * [-1, -1, 1]).tolist(), abs=1e-4)


def test_two_dicom_series_in_a_folder_are_refused(tmp_path: Path) -> None:
    for uid in ("1.2.3", "1.2.4"):
        save_series(tmp_path / "series" / uid, scan(0, organs(0, 1))[:, :, :2], affine_of(), uid)
        for file in (tmp_path / "series" / uid).iterdir():
            file.rename(tmp_path / "series" / f"{uid}_{file.name}")
        (tmp_path / "series" / uid).rmdir()
    refused(tmp_path / "series", "dicom series", "holds 2 DICOM series, expected one")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "dicom series", "holds 0 DICOM series")


@pytest.mark.parametrize("gone", [(4, 5), (1,)])
def test_a_dicom_series_with_missing_slices_is_refused(tmp_path: Path, gone: tuple[int, ...]) -> None:
    folder = save_series(tmp_path / "series", np.zeros((6, 5, 10), np.int16), np.diag([0.5, 0.5, 2.0, 1.0]))
    affine = read_volume(folder).affine
    assert affine is not None
    assert np.linalg.norm(affine[:3, :3], axis=0) == pytest.approx((0.5, 0.5, 2.0))
    for z in gone:
        next(folder.glob(f"IM{10 - z:03d}*")).unlink()
    refused(folder, "dicom series", f"missing, {2 * len(gone) + 2} mm apart where 2 is usual: export the whole series")


def test_dicom_slices_in_the_same_place_are_refused(tmp_path: Path) -> None:
    """Two phases of a scan in one series."""
    folder, array = tmp_path / "series", np.zeros((6, 5, 3), np.int16)
    for phase in ("a", "b"):
        for file in save_series(tmp_path / phase, array, affine_of()).iterdir():
            folder.mkdir(exist_ok=True)
            file.rename(folder / f"{phase}{file.name}")
    refused(folder, "dicom series", "several slices lie in the same place", "each phase")


def test_dicom_of_one_slice_or_all_slices_in_one_file(tmp_path: Path) -> None:
    one = save_series(tmp_path / "one", np.zeros((6, 5, 1), np.int16), affine_of())
    assert read_volume(one).array.shape == (6, 5, 1)
    (tmp_path / "all").mkdir()
    image, before = SimpleITK.Image([6, 5, 4], SimpleITK.sitkUInt8), locale.setlocale(locale.LC_ALL)
    SimpleITK.WriteImage(image, str(tmp_path / "all" / "a.dcm"))
    locale.setlocale(locale.LC_ALL, before)
    refused(tmp_path / "all", "channels", "has 4 axes, expected three")


def test_a_volume_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(nibabel, "load", refuse)
    refused(tmp_path / "scan.nii", "unreadable", "no permission", "ask its owner")


def test_what_counts_as_a_volume(tmp_path: Path) -> None:
    for name in ("a.nii", "b.NII.GZ", "c.nrrd", "d.nhdr", "e.mha", "f.mhd"):
        assert is_volume(tmp_path / name)
    assert not is_volume(tmp_path / "g.png")
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.dcm").write_bytes(b"no DICOM at all")
    assert not is_volume(tmp_path / "pictures")


# ----------------------------------------------------------------------------------------- from slices to files


def open_cases(root: Path, plane: str) -> VolumeDataset:
    return VolumeDataset(root, NNUNet(patient_pattern="(heart[0-9]+)"), INTENSITY, plane=plane, slices="all")


def predict(dataset: VolumeDataset, volume: str) -> tuple[NDArray[Any], Any, Path]:
    """A perfect prediction, slice by slice as a model sees them, with the volume's geometry and image file."""
    records = [record for record in dataset.records() if record.volume == volume]
    slices = []
    for record in sorted(records, key=lambda record: record.index):
        labels = dataset.load(record).labels
        slices.append(sum(labels[s] * np.uint8(v) for v, s in enumerate(dataset.structures, start=1)))
    return np.stack(slices), dataset.open(records[0]).geometry, dataset.root / records[0].image


@pytest.fixture(scope="module")
def hearts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_nnunet(tmp_path_factory.mktemp("hearts") / "set", count=len(CODES))


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal", pytest.param("acquired", marks=pytest.mark.slow)])
def test_a_label_read_as_slices_is_written_as_the_same_file(hearts: Path, tmp_path: Path, plane: str) -> None:
    """Voxel-identical with an identical header, for the grids of CODES: turned, flipped, anisotropic, oblique."""
    root, dataset = hearts, open_cases(hearts, plane)
    for number in range(len(CODES)):
        case = f"heart{number // 2 + 1:02d}_t{number % 2 + 1}"
        slices, geometry, image = predict(dataset, case)
        save_label(tmp_path / f"{case}.nii.gz", slices, geometry, image)
        source, saved = nibabel.load(root / "labelsTr" / f"{case}.nii.gz"), nibabel.load(tmp_path / f"{case}.nii.gz")
        assert np.array_equal(np.asarray(saved.dataobj), np.asarray(source.dataobj))
        assert saved.get_data_dtype() == np.uint8
        assert np.array_equal(saved.affine, source.affine)
        for key in (
            "dim",
            "pixdim",
            "sform_code",
            "qform_code",
            "srow_x",
            "srow_y",
            "srow_z",
            "quatern_b",
            "xyzt_units",
        ):
            assert np.array_equal(saved.header[key], source.header[key]), key
        assert saved.header.get_slope_inter() in ((1.0, 0.0), (None, None))
        assert np.array_equal(read_volume(tmp_path / f"{case}.nii.gz").array, np.asarray(source.dataobj))


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
@pytest.mark.parametrize("plane", ["axial", pytest.param("sagittal", marks=pytest.mark.slow)])
def test_so_is_one_of_nrrd_and_metaimage(tmp_path: Path, ending: str, plane: str) -> None:
    root = write_nnunet(tmp_path / "set", count=6, ending=ending)
    dataset = open_cases(root, plane)
    for case in ("heart01_t2", "heart02_t1"):
        slices, geometry, image = predict(dataset, case)
        saved = tmp_path / f"{case}{ending}"
        save_label(saved, slices, geometry, image)
        one, other = (SimpleITK.ReadImage(str(path)) for path in (root / "labelsTr" / saved.name, saved))
        assert np.array_equal(SimpleITK.GetArrayFromImage(one), SimpleITK.GetArrayFromImage(other))
        assert one.GetPixelID() == other.GetPixelID()
        for get in (SimpleITK.Image.GetSpacing, SimpleITK.Image.GetOrigin, SimpleITK.Image.GetDirection):
            assert get(one) == pytest.approx(get(other), abs=1e-9)


@pytest.mark.parametrize(("like", "ending"), [(".nii.gz", ".nrrd"), (".nrrd", ".nii.gz"), (".mha", ".nii")])
def test_a_label_in_another_format_lies_in_the_same_place(tmp_path: Path, like: str, ending: str) -> None:
    phantom = organs(2, 5)
    image = save_volume(tmp_path / f"scan{like}", scan(2, phantom), "PIR")
    volume = read_volume(image)
    geometry = find_geometry(volume.array.shape, volume.affine, "axial", image)
    save_label(tmp_path / f"label{ending}", phantom[::-1, ::-1].transpose(2, 1, 0), geometry, image)
    label = read_volume(tmp_path / f"label{ending}")
    assert np.array_equal(label.array, np.asarray(turned(phantom, "PIR").dataobj))
    assert label.affine == pytest.approx(volume.affine, abs=1e-4)


def test_the_header_of_an_image_becomes_that_of_a_label(tmp_path: Path) -> None:
    """The sform of ACDC stays as it is; scaling, window and a fourth axis go; values above 255 take 16 bits."""
    header = nibabel.Nifti1Header()
    header.set_sform(np.diag([-1.0, -1.0, 1.0, 1.0]), code=2)
    header["descrip"], header["cal_max"] = b"scanner", 200
    image = nibabel.Nifti1Image(np.zeros((3, 4, 5, 2), np.float32), None, header)
    image.header.set_zooms((1.5, 1.4, 10, 1))
    image.header.set_slope_inter(0.5, 3)
    nibabel.save(image, tmp_path / "image.nii.gz")
    volume = read_volume(tmp_path / "image.nii.gz", (0,))
    geometry = find_geometry(volume.array.shape, volume.affine, "axial", "image")
    slices = np.zeros((5, 4, 3), np.int64)
    slices[4, 0, 2] = 300
    save_label(tmp_path / "new" / "label.nii.gz", slices, geometry, tmp_path / "image.nii.gz")
    label = nibabel.load(tmp_path / "new" / "label.nii.gz")
    assert label.shape == (3, 4, 5)
    assert label.get_data_dtype() == np.uint16
    assert np.argwhere(np.asarray(label.dataobj) == 300).tolist() == [[2, 0, 4]]  # left, front, up: LPS in the file
    assert label.header["sform_code"] == 2
    assert np.array_equal(label.get_sform(), np.diag([-1.0, -1.0, 1.0, 1.0]))
    assert label.header.get_zooms() == pytest.approx((1.5, 1.4, 10))
    assert (label.header["cal_max"], bytes(label.header["descrip"].item())) == (0, b"scanner")


@pytest.mark.parametrize(
    ("change", "name", "message"),
    [
        (lambda slices: slices[:-1], "a.nii", "do not fit"),
        (lambda slices: slices.swapaxes(1, 2), "a.nii", "do not fit"),
        (lambda slices: slices - 1, "a.nii", "-1…"),
        (lambda slices: slices.astype(np.int32) + 70000, "a.nii", "70000…"),
        (lambda slices: slices / 2, "a.nii", "whole numbers"),
        (lambda slices: slices, "a.png", "is written as one of .nii"),
    ],
)
def test_labels_that_cannot_be_written(tmp_path: Path, change: Callable[[Any], Any], name: str, message: str) -> None:
    phantom = organs(0, 2).astype(np.int16)
    image = save_volume(tmp_path / "scan.nii.gz", phantom)
    geometry = find_geometry(SHAPE, read_volume(image).affine, "axial", image)
    with pytest.raises(ValueError, match=message):
        save_label(tmp_path / name, change(geometry.to_slices(phantom)), geometry, image)
    assert not (tmp_path / name).exists()
