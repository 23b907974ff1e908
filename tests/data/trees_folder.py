"""Small trees as people have them themselves: in folders and tables, as images and as volumes."""

from __future__ import annotations

import csv
import locale
from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np
import SimpleITK
from helpers_data import save_grey
from numpy.typing import NDArray
from PIL import Image
from trees_flat import blob, grey_of, photo_of, save_pixels, tree

VOLUME = (24, 20, 6)  # voxels along the file's axes
# x runs to the left, y backwards, slices of 4 mm tilted by 15 degrees: what scanners write
ANGLE = np.deg2rad(15)
AFFINE = np.array(
    [
        [-1.5, 0, 0, 20],
        [0, -1.2 * np.cos(ANGLE), -4 * np.sin(ANGLE), 30],
        [0, -1.2 * np.sin(ANGLE), 4 * np.cos(ANGLE), -10],
        [0, 0, 0, 1],
    ]
)


def write_flat(root: Path, count: int = 12, prefix: str = "case", jpeg: bool = False, first: int = 0) -> Path:
    """images/ and masks/ of 0 and 255; ``jpeg`` masks have a smeared edge."""
    for number in range(first, first + count):
        save_pixels(root / f"images/{prefix}{number:02d}.jpg", photo_of(blob(number), number))
        save_grey(root / f"masks/{prefix}{number:02d}.{'jpg' if jpeg else 'png'}", blob(number) * 255)
    (root / "images/Thumbs.db").write_bytes(b"Windows")
    return root


def write_labels(root: Path, count: int = 12) -> Path:
    """Grey images of 12 bits in 16, masks of 16 bits: 1 rim, 2 cup; two eyes of each patient."""
    for number in range(count):
        name = f"P{number // 2:02d}_{'LR'[number % 2]}"
        values = blob(number).astype(np.uint16) + blob(number, -3)
        for folder, pixels in (("images", grey_of(values, number).astype(np.uint16) * 16), ("masks", values)):
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(root / folder / f"{name}.png")
    return root


def write_rated(root: Path, count: int = 12) -> Path:
    """masks/<structure>/<rater>/: rater b draws two pixels more."""
    for number in range(count):
        save_pixels(root / f"images/{number}.tif", photo_of(blob(number), number))
        for structure, less in (("cup", 3), ("disc", 0)):
            for rater, more in (("a", 0), ("b", 2)):
                save_grey(root / "masks" / structure / rater / f"{number}.bmp", blob(number, more - less))
    return root


def write_splits(root: Path) -> Path:
    """train/, valid/ and test/, each with files of the same names."""
    for split, first, count in (("train", 0, 8), ("valid", 8, 2), ("test", 10, 3)):
        write_flat(root / split, count, "", first=first)
        for number in range(first, first + count):
            for folder, suffix in (("images", ".jpg"), ("masks", ".png")):
                path = root / split / folder / f"{number:02d}{suffix}"
                path.rename(path.with_name(f"{number - first}{suffix}"))
    return root


def write_table(root: Path, count: int = 12, delimiter: str = ",") -> Path:
    """cases.csv in a folder of its own, with patients, splits and two raters of the cup."""
    write_rated(root / "data", count)
    (root / "tables").mkdir()
    with (root / "tables/cases.csv").open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(["Case", "age", "image", "mask_cup", "mask_disc", "patient", "split"])
        for number in range(count):
            split = "test" if number >= count - 4 else "train"
            cup = "; ".join(f"../data/masks/cup/{rater}/{number}.bmp" for rater in "ab")
            disc = rf"..\data\masks\disc\a\{number}.bmp"  # as Windows writes it
            image = f"../data/images/{number}.tif"
            writer.writerow([f"eye {number}", 50, image, cup, disc, f"P{number // 2}", split])
    return root


def volume_of(number: int) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
    """HU and label X×Y×Z: 1 the organ, 2 what lies in it, on the slices 1 to 4."""
    label = np.zeros(VOLUME, dtype=np.uint8)
    outer, inner = (blob(number, grow, VOLUME[1::-1]).T for grow in (-2, -5))
    label[..., 1:5] = (outer.astype(np.uint8) + inner)[..., None]
    noise = np.random.default_rng(number).integers(0, 20, VOLUME)
    return (-100 + 120 * label.astype(np.int16) + noise).astype(np.int16), label


def save_nifti(path: Path, array: NDArray[np.generic], affine: NDArray[np.float64] = AFFINE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, affine), path)


def to_itk(array: NDArray[np.generic]) -> SimpleITK.Image:
    """X×Y×Z on the grid of AFFINE."""
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(array.transpose(2, 1, 0)))
    affine = np.diag([-1.0, -1, 1, 1]) @ AFFINE
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
    return image


def save_dicom(folder: Path, array: NDArray[np.int16]) -> None:
    """A CT series, one file for each slice."""
    folder.mkdir(parents=True)
    before = locale.setlocale(locale.LC_ALL)  # GDCM leaves it as C
    image = to_itk(array)
    writer = SimpleITK.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    directions = np.reshape(image.GetDirection(), (3, 3))
    for z in range(image.GetDepth()):
        part = image[:, :, z]
        tags = {
            "0008|0060": "CT",
            "0020|000e": "1.2.3." + "".join(filter(str.isdigit, folder.name)),
            "0020|0013": str(z + 1),
            "0020|0032": "\\".join(f"{v:.6f}" for v in image.TransformIndexToPhysicalPoint((0, 0, z))),
            "0020|0037": "\\".join(f"{v:.8f}" for v in directions[:, :2].T.ravel()),
        }
        for tag, value in tags.items():
            part.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{z:03d}.dcm"))
        writer.Execute(part)
    locale.setlocale(locale.LC_ALL, before)


def write_volumes(
    root: Path, count: int = 10, dicom: Sequence[int] = (), image: str = ".nii.gz", first: int = 0
) -> Path:
    """Volumes as NIfTI (or ``image``, a suffix of ITK), those numbered in ``dicom`` as DICOM series; masks as NIfTI."""
    for number in range(first, first + count):
        hu, label = volume_of(number)
        name = f"scan{number}"
        if number in dicom:
            save_dicom(root / "images" / name, hu)
        elif image.startswith(".nii"):
            save_nifti(root / f"images/{name}{image}", hu)
        else:
            (root / "images").mkdir(parents=True, exist_ok=True)
            SimpleITK.WriteImage(to_itk(hu), str(root / f"images/{name}{image}"))
        save_nifti(root / f"masks/{name}_seg.nii.gz", label)
    return root


def write_volume_splits(root: Path) -> Path:
    """train/ and test/, in NRRD."""
    write_volumes(root / "train", 6, image=".nrrd")
    write_volumes(root / "test", 3, image=".nrrd", first=6)
    return root


TWO = "release.labels={cup: 2, disc: [1, 2]}"
CT = ("release.modality=ct", "release.labels={organ: [1, 2], tumour: 2}", "release.mask_ending=_seg")
TREES = [
    tree("folder", "folder", "folder", write_flat),
    tree("folder_jpeg", "folder", "folder", write_flat, "release.threshold=128", jpeg=True),
    tree("folder_labels", "folder", "folder", write_labels, TWO, "release.patient_pattern='(P[0-9]+)_'"),
    tree("folder_rated", "folder", "folder", write_rated),
    tree("folder_splits", "folder", "folder", write_splits),
    tree("folder_table", "folder", "folder", write_table, "release.table=tables/cases.csv"),
    tree("folder_volumes", "folder_volumes", "folder_volumes", write_volumes, *CT),
    tree("folder_volumes_dicom", "folder_volumes", "folder_volumes", write_volumes, *CT, dicom=range(10)),
    tree("folder_volumes_splits", "folder_volumes", "folder_volumes", write_volume_splits, *CT),
]
