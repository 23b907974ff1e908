"""Reading and writing volumes with their geometry: NIfTI by nibabel; NRRD, MetaImage and DICOM series by SimpleITK."""

from __future__ import annotations

import locale
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medsam2.data.geometry import Geometry
from medsam2.data.records import DatasetError
from medsam2.data.releases.base import Volume

NIFTI = (".nii", ".nii.gz")
ITK = (".nrrd", ".nhdr", ".mha", ".mhd")
# ITK and DICOM count millimetres to the left and back, NIfTI to the right and front
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
POSITION = "0020|0032"  # the DICOM tag that says where a slice lies


def is_volume(path: Path) -> bool:
    """Whether a file (by its name) or folder (by its DICOM files) is read as a volume."""
    if path.is_dir():
        return any(_is_dicom(file) for file in sorted(path.iterdir()))
    return path.name.lower().endswith(NIFTI + ITK)


def read_volume(path: Path, channels: tuple[int, ...] | None = None) -> Volume:
    """The array X×Y×Z in its stored type where it is not scaled, and the affine to (right, anterior, superior) mm.

    ``channels`` chooses from the fourth axis of a 4-D file and makes it X×Y×Z×C; without it a file must be 3-D. Raises
    DatasetError naming the file if it is damaged, or has another number of axes or channels.
    """
    try:
        if path.is_dir():
            volume = _read_dicom(path)
        else:
            volume = _read_nifti(path) if path.name.lower().endswith(NIFTI) else _read_itk(path)
    except DatasetError:
        raise
    except PermissionError as error:
        raise DatasetError(f"{path} cannot be read (no permission): ask its owner for it, or copy it") from error
    except Exception as error:  # nibabel, zlib and ITK raise many kinds for a damaged file
        lines = [line for line in str(error).splitlines() if line.strip()]
        reason = lines[-1].strip() if lines else type(error).__name__
        raise DatasetError(f"{path} cannot be read ({reason}): unpack or download it again") from error
    return Volume(_choose(volume.array, channels, path), volume.affine)


def _choose(array: NDArray[Any], channels: tuple[int, ...] | None, path: Path) -> NDArray[Any]:
    if array.dtype.kind not in "biuf":
        raise DatasetError(f"{path}: holds {array.dtype}, expected one number per voxel", kind="channels")
    count = array.shape[3] if array.ndim == 4 else 1
    if array.ndim not in (3, 4) or (count > 1 and channels is None):
        raise DatasetError(
            f"{path}: is {'×'.join(map(str, array.shape))}, expected three axes; of a fourth name the channels to use",
            kind="channels",
        )
    if not all(0 <= c < count for c in channels or ()):
        raise DatasetError(f"{path}: has {count} channels from 0 on, asked for {list(channels or ())}", kind="channels")
    if array.ndim == 3:
        return array
    return array[..., list(channels)] if channels else array[..., 0]


def _read_nifti(path: Path) -> Volume:
    import nibabel

    image: Any = nibabel.load(path)
    header = image.header
    if header["sform_code"] == 0 and header["qform_code"] == 0:
        raise DatasetError(
            f"{path}: says nothing about its orientation (sform_code and qform_code are 0), so left may be right. Set "
            "the affine that the scanner's files have, or that of the image the label belongs to.",
            kind="orientation",
        )
    stored = image.dataobj
    scaled = (stored.slope, stored.inter) != (1.0, 0.0)  # which nibabel's header has forgotten by now
    array = image.get_fdata(dtype=np.float32) if scaled else np.asanyarray(stored)
    return Volume(array, nifti_affine(header))


def nifti_affine(header: Any) -> NDArray[np.float64]:
    """The sform, or the qform without one; where the sform counts voxels instead of millimetres, as in ACDC, by pixdim.

    Such an sform has columns of length 1, and pixdim, from which the qform is built, another size. Where both state
    sizes in millimetres the sform is meant: it is what other programs read, and some leave pixdim as it was.
    """
    affine = np.asarray(header.get_best_affine(), dtype=np.float64)
    sizes, stated = np.linalg.norm(affine[:3, :3], axis=0), header["pixdim"][1:4].astype(np.float64)
    counts_voxels = np.allclose(sizes, 1, rtol=0.01) and not np.allclose(sizes, stated, rtol=0.01)
    if not counts_voxels or not (stated > 0).all():
        return affine
    if header["qform_code"] > 0:
        return np.asarray(header.get_qform(), dtype=np.float64)
    return affine @ np.diag([*stated / sizes, 1.0])


def _read_itk(path: Path) -> Volume:
    import SimpleITK

    image = SimpleITK.ReadImage(str(path))
    if path.suffix.lower() in (".nrrd", ".nhdr") and not image.HasMetaDataKey("NRRD_space"):
        raise DatasetError(
            f"{path}: says nothing about its orientation (no field `space`), so left may be right. Export it again "
            "with its orientation, as 3D Slicer does.",
            kind="orientation",
        )
    return _from_itk(image, path)


def _read_dicom(folder: Path) -> Volume:
    import SimpleITK

    with _locale():
        return _read_series(folder, SimpleITK.ImageSeriesReader())


@contextmanager
def _locale() -> Iterator[None]:
    """GDCM leaves the process with the locale C, where text files are ASCII."""
    kept = locale.setlocale(locale.LC_ALL)
    try:
        yield
    finally:
        locale.setlocale(locale.LC_ALL, kept)


def _read_series(folder: Path, reader: Any) -> Volume:
    series = reader.GetGDCMSeriesIDs(str(folder))
    if len(series) != 1:
        raise DatasetError(
            f"{folder}: holds {len(series)} DICOM series, expected one; put each series into a folder of its own",
            kind="dicom series",
        )
    names = reader.GetGDCMSeriesFileNames(str(folder), series[0])
    reader.SetFileNames(names)
    reader.LoadPrivateTagsOff()
    reader.MetaDataDictionaryArrayUpdateOn()
    image = reader.Execute()
    if all(reader.HasMetaDataKey(i, POSITION) for i in range(len(names))):  # pictures of several frames lack it
        _check_gaps([reader.GetMetaData(i, POSITION) for i in range(len(names))], folder)
    return _from_itk(image, folder)


def _check_gaps(positions: list[str], folder: Path) -> None:
    """Raises DatasetError unless the slices lie evenly: ITK puts others at equal distances and only warns."""
    places = np.array([[float(mm) for mm in position.split("\\")] for position in positions])
    gaps = np.linalg.norm(np.diff(places, axis=0), axis=1)
    if len(np.unique(places.round(3), axis=0)) < len(places):
        raise DatasetError(
            f"{folder}: several slices lie in the same place: export each phase or echo as a series of its own",
            kind="dicom series",
        )
    if len(gaps) and gaps.max() > 1.5 * np.median(gaps):
        raise DatasetError(
            f"{folder}: slices are missing, {gaps.max():.4g} mm apart where {np.median(gaps):.4g} is usual: export the "
            "whole series",
            kind="dicom series",
        )


def _from_itk(image: Any, path: Path) -> Volume:
    import SimpleITK

    if image.GetDimension() != 3:
        raise DatasetError(f"{path}: has {image.GetDimension()} axes, expected three", kind="channels")
    array = SimpleITK.GetArrayFromImage(image)  # Z×Y×X(×C)
    array = array.transpose(2, 1, 0, *range(3, array.ndim))
    return Volume(array, itk_affine(image.GetDirection(), image.GetSpacing(), image.GetOrigin()))


def itk_affine(direction: Sequence[float], spacing: Sequence[float], origin: Sequence[float]) -> NDArray[np.float64]:
    """4×4 to (right, anterior, superior) mm from what ITK states of three axes: 9 cosines, 3 mm and 3 mm."""
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(direction, (3, 3)) * np.array(spacing)
    affine[:3, 3] = origin
    return LPS @ affine


def _is_dicom(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def save_label(path: Path, slices: NDArray[Any], geometry: Geometry, like: Path) -> None:
    """Write label values slice×row×column (integers, 0…65535) as a file on the very grid of the file ``like``.

    The ending of ``path`` decides the format. NIfTI keeps the header of a NIfTI ``like``; NRRD and MetaImage keep
    origin, spacing and directions. Raises ValueError if the slices do not fit the geometry.
    """
    if not path.name.lower().endswith(NIFTI + ITK):
        raise ValueError(f"{path}: a label is written as one of {', '.join(NIFTI + ITK)}")
    array = geometry.from_slices(slices)
    if array.shape != geometry.shape or array.dtype.kind not in "biu" or array.min() < 0 or array.max() > 65535:
        raise ValueError(
            f"labels of {array.shape} voxels, {array.dtype} {array.min()}…{array.max()}, do not fit {like}: "
            f"{geometry.shape} whole numbers from 0 to 65535"
        )
    array = np.ascontiguousarray(array, dtype=np.uint8 if array.max() < 256 else np.uint16)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name.lower().endswith(NIFTI):
        _save_nifti(path, array, like)
    else:
        _save_itk(path, array, like)


def _save_nifti(path: Path, array: NDArray[Any], like: Path) -> None:
    import nibabel

    if like.name.lower().endswith(NIFTI):
        source: Any = nibabel.load(like)
        header = source.header.copy()
        header.set_data_dtype(array.dtype)
        header["cal_min"] = header["cal_max"] = 0  # the window of the image would hide the labels in viewers
        nibabel.save(type(source)(array, source.affine, header), path)
    else:
        image = nibabel.Nifti1Image(array, read_volume(like, channels=(0,)).affine)
        image.header.set_xyzt_units("mm")
        image.set_sform(image.affine, code="scanner")
        image.set_qform(image.affine, code="scanner")  # where the grid is sheared: its nearest
        nibabel.save(image, path)


def _save_itk(path: Path, array: NDArray[Any], like: Path) -> None:
    import SimpleITK

    affine = read_volume(like, channels=(0,)).affine
    assert affine is not None
    affine = LPS @ affine
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image = SimpleITK.GetImageFromArray(array.transpose(2, 1, 0))
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetSpacing(spacing.tolist())
    image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
    SimpleITK.WriteImage(image, str(path), True)
